"""Commands: what a user asked for once may take many versions, and each of these says which command it belongs to.

It says so in Lance's record of the change that made it: the name of the command, and the first version of that.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from retrieval.outside import parse_json

_MESSAGE: Final = "__lance_commit_message"
_COMMAND: Final = "visual-memory-command"
_NOTE: Final = ".command"  # in the memory's folder while a command runs that may be run again where it is cut off


@dataclass(frozen=True, slots=True)
class Command:
    """What the versions of one command have in common."""

    name: str = ""  # build, add; empty for one that is called by what its versions did
    first: int = 0  # its first version; 0 before there is one, and for versions of before
    to: int = 0  # the version that it went back to, where it did

    @classmethod
    def of(cls, change: Any) -> "Command":  # noqa: ANN401 - Lance is untyped
        """Return the command that a version says it belongs to, by Lance's record of its change."""
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            return cls(**parse_json(change.transaction_properties[_COMMAND]))
        return cls()


@dataclass(slots=True)
class _Running:
    command: Command
    what: str = ""  # it does, where the same command may go on
    note: Path | None = None  # to be written


_running: ContextVar[_Running | None] = ContextVar("running", default=None)


@contextmanager
def command(name: str = "") -> Iterator[None]:
    """Let all versions that are made within belong together; within another command they belong to that."""
    with _run(_Running(Command(name))):
        yield


@contextmanager
def resumable(folder: Path, name: str, what: str, *, newest: Command) -> Iterator[None]:
    """Do the same, and go on with the same command where it was cut off and nothing was done since.

    Args:
        folder: the memory's.
        name: of the command.
        what: it does: only the same goes on.
        newest: what the memory's newest version belongs to.

    Raises:
        OSError: the disk refuses.
    """
    going_on = newest.first > 0 and newest.name == name and _noted(folder) == [what, newest.first]
    with _run(_Running(newest if going_on else Command(name), what, folder / _NOTE)) as outermost:
        yield
    if outermost:
        (folder / _NOTE).unlink(missing_ok=True)


@contextmanager
def _run(running: _Running) -> Iterator[bool]:
    if _running.get():
        yield False
        return
    before = _running.set(running)
    try:
        yield True
    finally:
        _running.reset(before)


def _noted(folder: Path) -> Any:  # noqa: ANN401 - JSON
    with suppress(OSError, ValueError, RecursionError):
        return parse_json((folder / _NOTE).read_bytes())
    return None


def said_of(version: int, deed: str, *, to: int = 0) -> dict[str, str]:
    """Return what Lance's record of a change is to say.

    Args:
        version: that it makes.
        deed: what it does, in a word.
        to: the version that it goes back to, where it does.

    Raises:
        OSError: the disk refuses.
    """
    running = _running.get()
    if running is None:
        return {_MESSAGE: deed}
    if not running.command.first:
        running.command = replace(running.command, first=version)
    if running.note and version > 1:  # a new memory's folder is to be empty
        running.note.write_text(json.dumps([running.what, running.command.first]), encoding="utf-8")
        running.note = None
    return {_MESSAGE: deed, _COMMAND: json.dumps(asdict(replace(running.command, to=to)))}


def deed_said(change: Any) -> str | None:  # noqa: ANN401 - Lance is untyped
    """Return what a change says that it does; None where Lance made it by itself."""
    said = (change.transaction_properties or {}).get(_MESSAGE)
    return None if said is None else str(said)
