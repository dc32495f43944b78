"""The frame that all pages stand in, and the few plain elements that they are made of.

Every text goes in as an element's text or attribute, never as markup; `words` and `button` also take away characters
that could turn a line around.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode

from fastapi import Response
from markupsafe import escape
from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from agent.card import templates
from eval.app.context import MAX_UPLOAD_BYTES, Jobs, ServeContext, item_page
from retrieval.errors import VisualMemoryError
from retrieval.support.terminal import counted, printable

if TYPE_CHECKING:
    import jinja2

_PAGES: Final = {"/": "Query", "/memory": "Memory", "/runs": "Runs"}
_VALUE: Final = "event => emit(event.target.value)"
_STYLE: Final = '<link rel="stylesheet" href="/serve.css">'  # beside the page's own, which NiceGUI brings
_NO_PICTURE: Final = '<svg xmlns="http://www.w3.org/2000/svg" width="96" height="96"/>'
T = TypeVar("T")
Dressed = TypeVar("Dressed", bound=Element)
Handler = Callable[..., Awaitable[None] | None]


@contextmanager
def frame(context: ServeContext, title: str, *, here: str) -> Iterator[None]:
    """Draw the header with its navigation, and give the main area.

    Args:
        context: of the server.
        title: the page's heading.
        here: the page's address, one of those in the navigation.
    """
    ui.page_title(f"{title} · {printable(context.name)}")
    ui.add_head_html(_STYLE)
    with tag("header", "top"):
        with tag("div", "row"):
            words("strong", context.name)
            state = words("span", _state(context), "soft")
        with tag("nav", "row", aria_label="Pages"):
            for address, name in _PAGES.items():
                link = words("a", name)
                link.props["href"] = address
                if address == here:
                    link.props["aria-current"] = "page"
    ui.timer(1.0, lambda: state.set_text(_state(context)))
    with tag("div", "page", "vmem") as main:
        words("h1", title)
        yield
    ui.skip_link(target=main)


def _state(context: ServeContext) -> str:
    items = f"{len(context.memory):,} pictures, version {context.memory.version}"
    return items + (", read only" if context.read_only else "")


def tag(name: str, *classes: str, **attributes: str) -> Element:
    """Return an element to be used as a context; ``aria_label`` becomes ``aria-label``."""
    return _dressed(Element(name), classes, attributes)


def words(name: str, text: str, *classes: str, **attributes: str) -> TextElement:
    """Return an element that holds a text on one line, whatever is in it."""
    return _dressed(TextElement(tag=name, text=printable(text, longest=2000)), classes, attributes)


def button(text: str, on_click: Handler, *classes: str, **attributes: str) -> TextElement:
    """Return a button."""
    return words("button", text, *classes, type="button", **attributes).on("click", on_click, args=[])


def picture(address: str | None, description: str, *classes: str) -> Element:
    """Return a picture with a text in its place for who does not see it; hatching where there is no address."""
    if address is None:
        return tag("span", "nothing", *classes, role="img", aria_label=f"{description}, no picture kept")
    return tag("img", *classes, src=address, alt=description, loading="lazy", decoding="async")


def picture_response(jpeg: bytes | None, *, kept_seconds: int) -> Response:
    """Answer with a picture that a browser may keep for so long, or with a transparent one where there is none.

    A page cannot know of each picture whether it is there (an item of vectors alone, a file deleted since), and
    browsers log an answer of 404 as an error of the page. The pages' style shows hatching behind every picture.
    """
    if jpeg is None:
        return Response(_NO_PICTURE, media_type="image/svg+xml", headers={"Cache-Control": "no-store"})
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": f"private, max-age={kept_seconds}"})


def choice(label: str, options: Mapping[str, str], value: str, on_change: Callable[[str], Any]) -> None:
    """Draw a list to choose from, under a label; ``on_change`` is told the value."""
    with tag("label", "field"):
        words("span", label)
        with tag("select").on("change", lambda event: on_change(event.args), js_handler=_VALUE):
            for option, name in options.items():
                entry = words("option", name)
                entry.props["value"] = option
                if option == value:
                    entry.props["selected"] = True


async def told(work: Callable[[], T]) -> T | None:
    """Do something in a thread; what goes wrong is told as one sentence, and None comes back."""
    try:
        return await asyncio.to_thread(work)
    except VisualMemoryError as error:
        tell(str(error))
        return None


def tell(sentence: str) -> None:
    """Show what went wrong, until it is closed."""
    ui.notify(printable(sentence, longest=2000), color="negative", position="top", timeout=0, close_button="Close")


def _dressed(element: Dressed, classes: Sequence[str], attributes: Mapping[str, str]) -> Dressed:
    element.classes(" ".join(classes))
    for name, value in attributes.items():  # one by one: text for `props` would be parsed
        element.props[name.replace("_", "-")] = printable(value, longest=2000)
    return element


@dataclass(frozen=True, slots=True)
class Paging:
    """One page of a list."""

    number: int  # from 1
    size: int  # of a page
    total: int  # of the list

    @classmethod
    def of(cls, parameters: Mapping[str, str], *, size: int, total: int) -> "Paging":
        """Return the page that an address asks for: the nearest there is, the first where it asks for nonsense."""
        asked = parameters.get("page", "")
        number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 1
        return cls(min(max(number, 1), max(-(-total // size), 1)), size, total)

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return max(-(-self.total // self.size), 1)

    @property
    def shown(self) -> slice:
        """The part of the list on this page."""
        return slice((self.number - 1) * self.size, min(self.number * self.size, self.total))


def address(path: str, parameters: Mapping[str, object]) -> str:
    """Return the address of a page with the parameters that are not empty."""
    given = {name: value for name, value in parameters.items() if value not in ("", None)}
    return f"{path}?{urlencode(given)}" if given else path


_LOOKS: Final = 0.25  # seconds between two looks at work that is under way
# The address is made here and not by the browser, so that it holds the fields alone that are filled in.
_ASK: Final = """event => {
    event.preventDefault();
    const given = [...new FormData(event.target)].filter(([, value]) => value);
    location.assign(event.target.getAttribute('action') + '?' + new URLSearchParams(given));
}"""
_EDIT: Final = """event => {
    const button = event.target.closest('[data-edit]');
    if (button) emit(button.dataset.edit);
}"""


def draw(template: str, macro: str, *, on_edit: Callable[[str], Awaitable[None]] | None = None, **values: Any) -> None:  # noqa: ANN401
    """Draw a macro of a template of this folder.

    Args:
        template: its name, without its ending.
        macro: the macro's name.
        on_edit: told the id of the item whose edit button is clicked.
        values: what the macro asks for; texts may hold anything and stay texts.
    """
    part = getattr(_environment().get_template(f"{template}.html.jinja").module, macro)(**values)
    drawn = ui.html(str(part), sanitize=False).on("submit", js_handler=_ASK)
    if on_edit is not None:
        drawn.on("click", lambda event: on_edit(str(event.args)), js_handler=_EDIT)


@lru_cache(maxsize=1)
def _environment() -> "jinja2.Environment":
    environment = templates(Path(__file__).parent)
    environment.globals |= {
        "counted": counted,
        "item_page": item_page,
        "link": lambda path, parameters: escape(address(path, parameters)),
    }
    return environment


class WorkPanel:
    """Draws what comes of work in a thread, if it is done; else a button to begin it, then how far it is."""

    def __init__(
        self,
        jobs: Jobs,
        name: str,
        version: str,
        do: Callable[[], T],
        show: Callable[[T], None],
        *,
        offer: str,
        about: str = "",
        at_once: bool = False,
    ) -> None:
        """Draw the panel.

        Args:
            jobs: the work on the memory.
            name: of the work.
            version: of what it is done on.
            do: does it.
            show: draws its result.
            offer: on the button, and while it is done.
            about: what a person should know before.
            at_once: whether it begins without being asked.
        """
        self._find = partial(jobs.find, name, version)
        self._start = partial(jobs.start, name, version, do)
        self._draw, self._offer, self._about = show, offer, about
        self._bar: Element | None = None
        if at_once:
            self._start()
        self._area = tag("section")
        self._show()
        job = self._find()
        self._timer = ui.timer(_LOOKS, self._look, active=job is not None and not job.ended)

    def _show(self) -> None:
        self._area.clear()
        with self._area:
            job = self._find()
            if job is None:
                words("p", self._about)
                button(self._offer, self._begin, "main")
            elif job.error:
                words("p", job.error, role="alert")
                button("Try again", self._begin)
            elif job.ended:
                self._draw(job.result)
            else:
                words("p", f"{self._offer} …", "soft", role="status")
                self._bar = tag("progress", aria_label=self._offer, max="1")

    def _begin(self) -> None:
        self._start()
        self._show()
        self._timer.activate()

    def _look(self) -> None:
        job = self._find()
        if job is None or job.ended:
            self._timer.deactivate()
            self._show()
        elif self._bar is not None and job.part is not None and self._bar.props.get("value") != job.part:
            self._bar.props["value"] = job.part
            self._bar.update()


_MOST_LABELS: Final = 2_000  # offered; others can be typed
Told = Callable[[str], Awaitable[None] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture of a list."""

    key: str  # what `PictureList` tells when it is chosen: an item's id
    source: str | None  # address of the picture; None where there is none
    title: str  # beneath it
    note: str = ""  # beneath that
    spoken: str  # the button's name for who does not see it
    mark: str = ""  # classes: "same" and "evidence" are outlined


class PictureList(Element, component="pictures.js"):
    """Small pictures side by side, each a button."""

    def __init__(self, pictures: Sequence[Picture] = (), *, on_choose: Told) -> None:
        """Show pictures; ``on_choose`` is told the key of the one that is clicked."""
        super().__init__()
        self.show(pictures)
        # A click may come too late.
        self.on("choose", lambda event: on_choose(str(event.args)) if event.args in self._keys else None)

    def show(self, pictures: Sequence[Picture]) -> None:
        """Show other pictures; those that were there already keep the focus."""
        self._keys = {picture.key for picture in pictures}
        self.props["pictures"] = [
            asdict(picture) | {name: printable(getattr(picture, name)) for name in ("title", "note", "spoken")}
            for picture in pictures
        ]


class PictureDrop(Element, component="drop.js"):
    """A place where a picture can be chosen, dropped or pasted; a context for what is shown in it."""

    def __init__(self, *, on_picture: Told, on_refused: Told) -> None:
        """Wait for pictures.

        Args:
            on_picture: told the name under which the server keeps it.
            on_refused: told why a file is none.
        """
        super().__init__()
        self.props["most"] = MAX_UPLOAD_BYTES
        self.on("picture", lambda event: on_picture(str(event.args)))
        self.on("refused", lambda event: on_refused(str(event.args)))


class LabelField(Element, component="labels.js"):
    """A text field that offers labels; ``value`` is what it holds."""

    def __init__(self, name: str, value: str, labels: Sequence[str], *, on_enter: Callable[[], None]) -> None:
        """Begin with a label."""
        super().__init__()
        self.value = value
        self.props.update({"name": name, "value": value, "labels": list(labels[:_MOST_LABELS])})
        self.on("change", lambda event: setattr(self, "value", str(event.args)))
        self.on("enter", on_enter, args=[])
