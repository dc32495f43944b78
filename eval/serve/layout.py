"""The frame that all pages stand in, and the few plain elements that they are made of.

Every text goes in as an element's text or attribute, never as markup; `words` and `button` also take away characters
that could turn a line around.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from fastapi import Response
from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from eval.page.text import one_line
from eval.serve.context import ServeContext
from retrieval.errors import VisualMemoryError

_PAGES: Final = {"/": "Query", "/memory": "Memory", "/runs": "Runs"}
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
    ui.page_title(f"{title} · {one_line(context.name)}")
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
    with tag("div", "page") as main:
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
    return _dressed(TextElement(tag=name, text=one_line(text, longest=2000)), classes, attributes)


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


def choice(
    label: str, options: Mapping[str, str] | Sequence[str], value: str, on_change: Callable[[str], Any]
) -> Element:
    """Return a list to choose from, under a label; ``on_change`` is told the value."""
    named = options if isinstance(options, Mapping) else {option: option for option in options}
    with tag("label", "field"):
        words("span", label)
        with tag("select").on("change", lambda event: on_change(event.args), js_handler=_VALUE) as select:
            for option, name in named.items():
                entry = words("option", name)
                entry.props["value"] = option
                if option == value:
                    entry.props["selected"] = True
    return select


async def told(work: Callable[[], T]) -> T | None:
    """Do something in a thread; what goes wrong is told as one sentence, and None comes back."""
    try:
        return await asyncio.to_thread(work)
    except VisualMemoryError as error:
        tell(str(error))
        return None


def tell(sentence: str) -> None:
    """Show what went wrong, until it is closed."""
    ui.notify(one_line(sentence, longest=2000), color="negative", position="top", timeout=0, close_button="Close")


_VALUE: Final = "event => emit(event.target.value)"


def _dressed(element: Dressed, classes: Sequence[str], attributes: Mapping[str, str]) -> Dressed:
    element.classes(" ".join(classes))
    for name, value in attributes.items():  # one by one: text for `props` would be parsed
        element.props[name.replace("_", "-")] = one_line(value, longest=2000)
    return element
