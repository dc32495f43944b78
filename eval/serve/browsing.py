"""What the pages for browsing are made of: tables, forms whose answers stand in the address, pagers, long work."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastapi.responses import FileResponse
from nicegui import app, ui
from nicegui.element import Element

from eval.page.text import one_line
from eval.serve.jobs import Job, Jobs
from eval.serve.layout import button, picture, tag, words
from eval.serve.paging import Paging, address
from retrieval.labels import full_name


class Head:
    """The head of a column that draws itself."""

    name: str  # on narrow screens
    order: str  # "ascending" or "descending" where the table is sorted by it, else ""

    def __call__(self) -> None:
        """Draw it."""
        words("span", self.name)


Cell = str | Head | Callable[[], Any]  # a text, or what draws something into the cell
_LOOKS: Final = 0.25  # seconds between two looks at work that is under way
_LONGEST_SHOWN: Final = 60  # characters of an id; the whole one stands in its title
_MOST_OFFERED: Final = 2000  # labels that a field offers to choose from; any can be typed
# The address is made here and not by the browser, so that it holds the fields alone that are filled in.
_ASK: Final = """event => {
    event.preventDefault();
    const given = [...new FormData(event.target)].filter(([, value]) => value);
    location.assign(event.target.getAttribute('action') + '?' + new URLSearchParams(given));
}"""


def add_style() -> None:
    """Add the style of the parts to the page."""
    ui.add_head_html('<link rel="stylesheet" href="/browse.css">')


def register_style() -> None:
    """Add the route of the style."""

    @app.get("/browse.css")
    def _style() -> FileResponse:
        return FileResponse(Path(__file__).parent / "browse.css", headers={"Cache-Control": "no-cache"})


def link(text: str, target: str, *classes: str, **attributes: str) -> Element:
    """Return a link; ``target`` is an address within this server."""
    anchor = words("a", text, *classes, **attributes)
    anchor.props["href"] = target
    return anchor


def named(label: str) -> str:
    """Return what a label is called and the label, on one line of bounded length."""
    return one_line(full_name(label))


def label_link(label: str) -> Element:
    """Return a link to the pictures of a label."""
    return link(named(label), address("/memory/class", {"label": label}))


def short(name: str) -> Element:
    """Return an id, cut where it is long."""
    return words("span", one_line(name, longest=_LONGEST_SHOWN), "id", title=name)


def table(
    caption: str, heads: Sequence[str | Head], rows: Iterable[Sequence[Cell]], *, wide: Sequence[int] = ()
) -> None:
    """Draw a table; on a narrow screen each row becomes a card, with the heads beside the cells.

    Args:
        caption: what screen readers say of it.
        heads: of the columns.
        rows: of cells.
        wide: columns that hold numbers, to be set to the right.
    """
    with tag("table", "list", role="table", aria_label=caption):
        with tag("thead", role="rowgroup"), tag("tr", role="row"):
            for place, head in enumerate(heads):
                _cell("th", head, "number" if place in wide else "", scope="col", role="columnheader")
        with tag("tbody", role="rowgroup"):
            for row in rows:
                with tag("tr", role="row"):
                    for place, (head, cell) in enumerate(zip(heads, row, strict=True)):
                        title = head.name if isinstance(head, Head) else str(head)
                        _cell("td", cell, "number" if place in wide else "", role="cell", data_head=title)


def _cell(name: str, cell: Cell, *classes: str, **attributes: str) -> None:
    if isinstance(cell, str):
        words(name, cell, *classes, **attributes)
        return
    with tag(name, *classes, **attributes) as drawn:
        cell()
        if isinstance(cell, Head) and cell.order:
            drawn.props["aria-sort"] = cell.order


def pager(paging: Paging, path: str, parameters: Mapping[str, object], what: str) -> None:
    """Draw where in a list a page stands, with links to those beside it."""
    if paging.pages == 1:
        return
    with tag("nav", "pager", aria_label=f"Pages of {what}"):
        for number, text in ((paging.number - 1, "← previous"), (paging.number + 1, "next →")):
            if 1 <= number <= paging.pages:
                link(text, address(path, {**parameters, "page": number}), aria_label=f"{text.strip('← →')} page")
            else:
                words("span", text, "soft", aria_hidden="true")
            if number < paging.number:
                words("span", f"page {paging.number:,} of {paging.pages:,}")


def form(path: str) -> Element:
    """Return a form whose fields become the parameters of a page's address."""
    shape = tag("form", "filters", role="search").on("submit", js_handler=_ASK)
    shape.props["action"] = path
    return shape


def one_of(name: str, title: str, options: Mapping[str, str], value: str) -> None:
    """Draw a list to choose from; "" is everything."""
    with tag("label", "field"):
        words("span", title)
        with tag("select") as select:
            select.props["name"] = name
            for option, text in options.items():
                entry = words("option", text)
                entry.props["value"] = option
                entry.props["selected"] = option == value


def text_field(name: str, title: str, value: str, *, offered: Sequence[str] = ()) -> None:
    """Draw a field to type into, which offers some labels to choose from."""
    with tag("label", "field"):
        words("span", title)
        field = tag("input", type="search", autocomplete="off")
        field.props["name"] = name
        field.props["defaultValue"] = value  # `value` would be set anew whenever something on the page changes
    if offered:
        field.props["list"] = f"offered-{name}"
        with tag("datalist", id=f"offered-{name}"):
            for label in offered[:_MOST_OFFERED]:
                entry = words("option", "" if full_name(label) == label else named(label))
                entry.props["value"] = label


def show_button() -> None:
    """Draw the button that asks for what a form's fields say."""
    words("button", "Show", "main", type="submit")


def tile(url: str | None, description: str, lines: Sequence[Cell], *classes: str) -> None:
    """Draw a picture over some lines."""
    with tag("li", "tile", *classes):
        picture(url, description)
        for line in lines:
            _cell("div", line)


def facts(told: Mapping[str, Cell]) -> None:
    """Draw names with what they stand for."""
    with tag("dl", "facts"):
        for name, what in told.items():
            with tag("div"):
                words("dt", name)
                _cell("dd", what)


@dataclass(frozen=True, slots=True)
class Work:
    """Work that a page waits for."""

    jobs: Jobs
    name: str
    version: str  # of what it is done on
    do: Callable[[], Any]  # in a thread
    offer: str  # on the button, and while it is done
    about: str = ""  # what a person should know before

    @property
    def job(self) -> Job | None:
        """How it stands, if it was begun."""
        return self.jobs.find(self.name, self.version)

    def begin(self) -> None:
        """Begin it, or join in."""
        self.jobs.start(self.name, self.version, self.do)


class WorkPanel:
    """Draws what comes of work, if it is done; else a button to begin it, then how far it is."""

    def __init__(self, work: Work, draw: Callable[[Any], None], *, at_once: bool = False) -> None:
        """Draw the panel.

        Args:
            work: what is to be done.
            draw: draws its result.
            at_once: whether it begins without being asked.
        """
        self._work, self._draw = work, draw
        self._bar: Element | None = None
        if at_once:
            work.begin()
        self._area = tag("section")
        self._show()
        job = work.job
        self._timer = ui.timer(_LOOKS, self._look, active=job is not None and not job.ended)

    def _show(self) -> None:
        self._area.clear()
        with self._area:
            job = self._work.job
            if job is None:
                words("p", self._work.about)
                button(self._work.offer, self._begin, "main")
            elif job.error:
                words("p", job.error, role="alert")
                button("Try again", self._begin)
            elif job.ended:
                self._draw(job.result)
            else:
                words("p", f"{self._work.offer} …", "soft", role="status")
                self._bar = tag("progress", aria_label=self._work.offer, max="1")

    def _begin(self) -> None:
        self._work.begin()
        self._show()
        self._timer.activate()

    def _look(self) -> None:
        job = self._work.job
        if job is None or job.ended:
            self._timer.deactivate()
            self._show()
        elif self._bar is not None and job.part is not None and self._bar.props.get("value") != job.part:
            self._bar.props["value"] = job.part
            self._bar.update()
