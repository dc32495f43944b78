"""Three elements that NiceGUI has not: a list of picture buttons, a place to drop a picture, a field for a label."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from nicegui.element import Element

from eval.page.text import one_line
from eval.serve.context import MAX_UPLOAD_BYTES

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
    mark: str = ""  # classes: "agrees" and "evidence" are outlined


class PictureList(Element, component="pictures.js"):
    """Small pictures side by side, each a button."""

    def __init__(self, pictures: Sequence[Picture] = (), *, on_choose: Told) -> None:
        """Show pictures; ``on_choose`` is told the key of the one that is clicked."""
        super().__init__()
        self.show(pictures)
        self.on("choose", lambda event: self._chosen(event.args, on_choose))

    def show(self, pictures: Sequence[Picture]) -> None:
        """Show other pictures; those that were there already keep the focus."""
        self._keys = {picture.key for picture in pictures}
        self.props["pictures"] = [
            asdict(picture) | {name: one_line(getattr(picture, name)) for name in ("title", "note", "spoken")}
            for picture in pictures
        ]

    def _chosen(self, key: object, on_choose: Told) -> Awaitable[None] | None:
        return on_choose(str(key)) if key in self._keys else None  # a click may come too late


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
