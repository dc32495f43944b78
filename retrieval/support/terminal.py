"""Words for people: numbers in sentences, and what command lines print, where untrusted text stays text."""

import shlex
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from retrieval.errors import StorageError
from retrieval.storage.places import reason_of_refusal

if TYPE_CHECKING:
    from tqdm import tqdm


def printable(text: object, *, longest: int = 200) -> str:
    """Return text on one line without control, format or bidirectional characters, cut to a length.

    Labels and file names come from anywhere; one that carries an escape sequence must not drive the terminal.
    """
    whole = str(text)
    if len(whole) <= longest and whole.isprintable():  # almost all names, and a page may hold hundreds of thousands
        return whole
    # Cut first: a name may be megabytes long.
    clean = "".join("�" if breaks_a_line(c) else c for c in whole[: longest + 1])
    return clean if len(clean) <= longest else clean[:longest] + "…"


def breaks_a_line(character: str) -> bool:
    """Tell whether a character is more than a mark on the line: a control, format or private one, or a line end."""
    category = unicodedata.category(character)
    return category[0] == "C" or category in ("Zl", "Zp")


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", words: Sequence[str] = ()
) -> None:
    """Print a table; every column but the first, and those that hold words, is aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, collapse_padding=True)
    for position, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if position and column not in words else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe has no edge to wrap at
        console.width = max(console.width, 200)
    console.print(table)


def write_text(path: Path, text: str) -> None:
    """Write a file that a user asked for.

    Raises:
        StorageError: the disk refuses.
    """
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {reason_of_refusal(error)}; choose another file") from error


def way_back(memory: Path, version: int | None = None) -> str:
    """Return how the edit that a command just made is taken back: by `undo`, or by going back to a version."""
    path = shlex.quote(printable(memory, longest=1000))
    command = f"undo {path}" if version is None else f"checkout {path} {version}"
    return f"`vmem memory {command}` takes it back"


T = TypeVar("T")
_watcher: Final[ContextVar[Callable[[str, float], None] | None]] = ContextVar("watcher", default=None)


def track(
    items: Iterable[T], what: str, *, total: int | None = None, unit: str = " images", shown: bool = True
) -> Iterator[T]:
    """Yield the items, with a bar on standard error, or in the notebook, once it has taken a second.

    Nothing is shown where standard error is no terminal.
    """
    from tqdm.auto import tqdm

    hidden = None if shown else True  # None: tqdm looks whether there is a terminal
    told = _watcher.get()
    bar = tqdm(items, desc=what, total=total, unit=unit, disable=hidden, delay=1.0, file=sys.stderr)
    for done, item in enumerate(bar):
        if told and total:
            told(what, done / total)
        yield item


@contextmanager
def watched(told: Callable[[str, float], None]) -> Iterator[None]:
    """Have `track` say, in this thread, what it is at and which part is done, 0 to 1: for a page beside a terminal."""
    token = _watcher.set(told)
    try:
        yield
    finally:
        _watcher.reset(token)


def counter(what: str, *, total: int, unit: str = " images", shown: bool = True) -> "tqdm[None]":
    """Return a bar like that of `track`, to be opened by ``with`` and moved by its ``update``."""
    from tqdm.auto import tqdm

    return tqdm(desc=what, total=total, unit=unit, disable=None if shown else True, delay=1.0, file=sys.stderr)


def counted(number: int, thing: str) -> str:
    """Return ``1 query`` or ``2,506 queries``."""
    return f"{number:,} {thing if number == 1 else plural(thing)}"


def points(number: float, form: str = "g") -> str:
    """Return ``1 point`` or ``0.5 points``, the number in a format."""
    shown = format(number, form)
    return f"{shown} point" if shown == "1" else f"{shown} points"


def plural(thing: str) -> str:
    """Return several of a thing by the regular rules of English."""
    if thing.endswith("y"):
        return thing[:-1] + "ies"
    return thing + ("es" if thing.endswith("s") else "s")
