"""One file that holds everything: style, script and data; nothing from elsewhere, nothing that a label could run."""

import base64
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eval.page.text import one_line
from eval.wording import counted
from retrieval.terminal import write_text

if TYPE_CHECKING:
    from markupsafe import Markup

_FOLDER: Final = Path(__file__).parent
_SCRIPTS: Final = ("gallery.js", "classes.js")  # one after the other
_MARKUP: Final = {ord(c): f"\\u{ord(c):04x}" for c in "<>&"}  # JSON reads them back as they were


def write_page(path: Path, template: str, **values: object) -> None:
    """Write a page from a template of this folder.

    Its policy lets a browser run the one script that stands in the file, by its digest, and load nothing.

    Raises:
        StorageError: the file cannot be written.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "json": embedded_json,
        "line": partial(one_line, longest=80),
        "text": partial(one_line, longest=500),
        "percent": lambda value: "–" if value is None else f"{value:.1f}",
        "count": lambda value: f"{value:,}",
        "dollars": lambda value: "unknown" if value is None else f"${value:,.4f}",
        "seconds": lambda value: "–" if value is None else f"{value:.2f} s",
    }
    script = "".join((_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    environment.globals["counted"] = counted
    page = environment.get_template(template).render(
        script=Markup(script),
        style=Markup(style),
        policy=f"default-src 'none'; img-src data:; script-src '{_digest(script)}'; style-src '{_digest(style)}';"
        " base-uri 'none'; form-action 'none'",
        **values,
    )
    write_text(path, page)


def embedded_json(content: Any) -> "Markup":  # noqa: ANN401
    """Return JSON that may stand inside a script element: it holds no character that HTML reads, and only ASCII."""
    from markupsafe import Markup

    return Markup(json.dumps(content, separators=(",", ":")).translate(_MARKUP))


def svg_address(svg: str) -> str:
    """Return a drawing as an address for an image: there it runs nothing, and its names meet no others."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
