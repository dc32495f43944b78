"""Build the documentation into site/, and fail at the first thing that is wrong with it.

The pages of reference/ are made here, at build time: the command line from the commands themselves, the Python names
from each room's ``__all__`` and the docstrings of what they stand for. Zensical then builds all pages in its strict
mode, in which a broken link, an unknown name and any warning are errors. What it does not check is checked afterwards:
pictures that are not there, and anything that a reader's browser would have to fetch from elsewhere.
"""

import html
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import typer

from agent.settings import Options
from eval.cli.vmem import app

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
SITE = ROOT / "site"
ROOMS = {
    "retrieval": "Remember: pictures become vectors, near ones are found, their labels vote.",
    "prompts": "Ask: what a model is shown, what it costs, and how its reply is read.",
    "agent": "Decide: both stages, the models, and the settings.",
    "eval": "Measure: data sets in, runs, figures, comparisons and reports out.",
}


def main() -> None:
    """Make the generated pages, build all, and look at what was built."""
    REFERENCE.mkdir(exist_ok=True)
    (REFERENCE / "command-line.md").write_text(_command_line(), encoding="utf-8")
    for room, about in ROOMS.items():
        (REFERENCE / f"{room}.md").write_text(_room(room, about), encoding="utf-8")
    built = subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--clean", "--strict"],
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    # Options that a function takes by `**options: Unpack[Options]` stand in its docstring, but not in its signature.
    known = rf"griffe: .*parameter '({'|'.join(Options.__annotations__)})'.*\n"
    said = re.sub(known, "", built.stdout + built.stderr, flags=re.IGNORECASE)
    pages = sorted(SITE.rglob("*.html"))
    problems = [f"{page.relative_to(SITE)}: {what}" for page in pages for what in _look_at(page)]
    if built.returncode or problems or re.search(r"warning|griffe", said, re.IGNORECASE):
        sys.exit("\n".join([said, *problems, "The documentation is not as it should be: mend what stands above."]))
    print(f"{said.strip()}\nThe documentation is in {SITE / 'index.html'}")


def _command_line() -> str:
    root = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "This page is made from the commands themselves: it is what their `--help` prints.",
        "",
    ]
    lines += _command(root, typer.Context(root, info_name="vmem"))
    return "\n".join(lines) + "\n"


def _command(command: Any, context: Any) -> list[str]:  # noqa: ANN401 - typer brings its own click
    """Return what one command and those below it say of themselves."""
    lines = [f"{'#' * (1 + len(context.command_path.split()))} {context.command_path}", "", _text(command.help), ""]
    names = command.list_commands(context) if hasattr(command, "list_commands") else ()
    if not names:
        lines += ["```text", command.get_usage(context).removeprefix("Usage: "), "```", ""]
        by_panel: dict[str, list[str]] = {}
        for parameter in command.params:
            if record := parameter.get_help_record(context):
                row = f"| `{_cell(record[0])}` | {_cell(_text(record[1]))} |"
                by_panel.setdefault(parameter.rich_help_panel or "Arguments and options", []).append(row)
        for panel, rows in by_panel.items():
            lines += [f"| {panel} | |", "|---|---|", *rows, ""]
    for name in names:
        below = command.get_command(context, name)
        below = below.load() if hasattr(below, "load") else below
        lines += _command(below, typer.Context(below, info_name=name, parent=context))
    return lines


def _text(words: str | None) -> str:
    """Return help as Markdown: its backticks stay, and nothing of it is taken for a tag or for emphasis."""
    outside = (re.sub(r"([*_\[\]])", r"\\\1", html.escape(part, quote=False)) for part in (words or "").split("`")[::2])
    inside = [f"`{part}`" for part in (words or "").split("`")[1::2]]
    return "".join(part for pair in zip_longest(outside, inside, fillvalue="") for part in pair).strip()


def _cell(words: str) -> str:
    return re.sub(r"\s+", " ", words).replace("|", r"\|")


def _room(room: str, about: str) -> str:
    package = import_module(room)
    named: dict[str, list[str]] = {"Functions": [], "Classes": [], "Errors": []}
    for name in sorted(package.__all__, key=lambda name: getattr(package, name).__name__ != name):
        found = getattr(package, name)
        kind = (
            "Functions" if not inspect.isclass(found) else "Errors" if issubclass(found, BaseException) else "Classes"
        )
        address = f"{found.__module__}.{found.__qualname__}"
        if name != found.__name__:
            named[kind] += [f"`{name}` is another name of [`{found.__name__}`][{address}].", ""]
        else:
            named[kind] += [f"::: {address}", "    options:", "      heading_level: 3", ""]
    lines = [
        f"# {room}",
        "",
        about,
        "",
        f"Everything here can be imported from the room itself: `from {room} import …`.",
    ]
    for title, entries in named.items():
        lines += ["", f"## {title}", "", *entries] if entries else []
    return "\n".join(lines)


class _Links(HTMLParser):
    """The addresses in a page: of what a browser loads by itself, and of what a reader may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.followed: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "link" and named.get("rel") in {"canonical", "next", "prev", "alternate"}:
            return
        (self.followed if tag == "a" else self.loaded).extend(
            html.unescape(address) for key in ("src", "href") if (address := named.get(key))
        )


def _look_at(page: Path) -> Iterator[str]:
    links = _Links()
    links.feed(page.read_text(encoding="utf-8"))
    for address in links.loaded:
        if urlsplit(address).netloc:
            yield f"a browser would fetch {address}"
    if page.name == "404.html":  # its addresses begin at the root of a server
        return
    for address in (*links.loaded, *links.followed):
        parts = urlsplit(address)
        if not parts.scheme and not parts.netloc and parts.path and not (page.parent / unquote(parts.path)).exists():
            yield f"there is nothing at {address}"


if __name__ == "__main__":
    main()
