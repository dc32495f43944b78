"""What the pages of one server share: the memory, runs, the model, thumbnails by address, and edits."""

import hashlib
import logging
import secrets
import threading
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from prompts.types import ImagePart, Prompt
from retrieval.errors import StorageError, VisualMemoryError
from retrieval.images import ImageLike, decode, thumbnail
from retrieval.labels import full_name
from retrieval.memory import VisualMemory
from retrieval.support.allocator import return_freed_memory
from retrieval.support.terminal import watched
from retrieval.types import Neighbor
from retrieval.version import Snapshot
from retrieval.view import DEFAULT_NEIGHBORS, MemoryView
from retrieval.voting import DEFAULT_METHOD

if TYPE_CHECKING:
    from agent.calls.ready import LoadedModel
    from agent.cli.options import SecondStage


T = TypeVar("T")


class Kept(Generic[T]):
    """The latest things by name, as many as together are no larger than a limit; threads may share it."""

    def __init__(self, *, most: int, size: Callable[[T], int]) -> None:
        """Begin with nothing; ``most`` is the limit of all sizes together, and one thing alone may be larger."""
        self._most, self._size = most, size
        self._by_name: OrderedDict[str, T] = OrderedDict()
        self._changing = threading.Lock()

    def put(self, thing: T, name: str = "") -> str:
        """Keep a thing under a name, or under one that nobody can guess, and return the name."""
        name = name or secrets.token_urlsafe(16)
        with self._changing:
            self._by_name[name] = thing
            self._by_name.move_to_end(name)
            while sum(map(self._size, self._by_name.values())) > self._most and len(self._by_name) > 1:
                self._by_name.popitem(last=False)
        return name

    def get(self, name: str) -> T | None:
        """Return a thing; None where it is not kept any more."""
        with self._changing:
            return self._by_name.get(name)


_log: Final = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """A piece of work: under way, done, or failed."""

    version: str  # of the memory that it is of
    began: float  # by `time.monotonic`
    what: str = ""  # is being done
    part: float | None = None  # done of it, 0 to 1; None where that is not known
    seconds: float = 0.0  # that it took, once it has ended
    ended: bool = False
    result: Any = None
    error: str = ""  # one sentence, where it failed

    def run(self, work: Callable[[], Any]) -> None:
        """Do it; what goes wrong is kept as a sentence."""
        try:
            with watched(self._watch):
                self.result = work()
        except VisualMemoryError as error:
            self.error = str(error)
        except Exception:
            _log.exception("Work behind a page failed")
            self.error = "It failed; the server's terminal says why."
        self.seconds = time.monotonic() - self.began
        self.ended = True  # last: who reads it finds the rest in place

    def _watch(self, what: str, part: float) -> None:
        self.what, self.part = what, part


class Jobs:
    """The work on one memory. The last of each name is kept, so that a page that is opened again shows it at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}

    def find(self, name: str, version: str) -> Job | None:
        """Return the work of a name on a version, if it was begun."""
        job = self._jobs.get(name)
        return job if job and job.version == version else None

    def start(self, name: str, version: str, work: Callable[[], Any]) -> Job:
        """Begin work, or join in where it is under way or done; what failed is tried again."""
        with self._lock:
            job = self.find(name, version)
            if job is None or job.error:
                job = self._jobs[name] = Job(version, time.monotonic())
                # A daemon: who ends the server does not wait for a projection.
                threading.Thread(target=job.run, args=(work,), name=name, daemon=True).start()
            return job


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit that was made here."""

    words: str  # what was done, untrusted names included
    before: int  # the version that undoing goes back to
    when: datetime


class Edits:
    """Edits one after the other, each one version; the last that was not undone can be."""

    def __init__(self, memory: VisualMemory) -> None:
        self._memory = memory
        self._made: list[Edit] = []
        self._left_at = 0  # the version that the last edit or undoing of ours made
        self._turn = threading.RLock()

    @property
    def made(self) -> tuple[Edit, ...]:
        """The edits that were not undone, oldest first."""
        return tuple(self._made)

    def relabel(self, item_id: str, label: str) -> Edit:
        """Give an item another label, known or new.

        Raises:
            UnknownItem, InvalidArgument, StorageError: as for `VisualMemory.relabel`.
        """
        return self._edit(
            f"{item_id} relabelled {full_name(label)}", lambda: self._memory.relabel(label, ids=[item_id])
        )

    def forget(self, item_id: str) -> Edit:
        """Take an item out of every decision.

        Raises:
            UnknownItem, StorageError: as for `VisualMemory.forget`.
        """
        return self._edit(f"{item_id} forgotten", lambda: self._memory.forget(ids=[item_id]))

    def undo(self) -> Edit:
        """Go back to before the last edit, by its version, and return that edit.

        Raises:
            StorageError: there is none, somebody else edited the memory since, or the disk refuses.
            UnknownVersion: the version is gone, by `compact` or `erase`.
        """
        with self._turn:
            if not self._made:
                raise StorageError(
                    "nothing was edited here that could be undone: `vmem memory checkout` goes back further"
                )
            self._memory.refresh()
            if self._memory.version != self._left_at:
                raise StorageError(
                    f"the memory was edited elsewhere since, which going back would undo too: `vmem memory checkout"
                    f" {self._memory.path} {self._made[-1].before}` does that all the same"
                )
            self._memory.checkout(self._made[-1].before)
            self._left_at = self._memory.version
            return self._made.pop()

    def _edit(self, words: str, do: Callable[[], object]) -> Edit:
        with self._turn:
            self._memory.refresh()
            edit = Edit(words, self._memory.version, datetime.now().astimezone())
            do()
            self._left_at = self._memory.version
            self._made.append(edit)
            return edit


MAX_UPLOAD_BYTES: Final = 32 * 2**20  # photographs of 100 megapixels stay below
_KEPT_BYTES: Final = 4 * MAX_UPLOAD_BYTES  # of all pictures that were sent, and of all prompts that were made
_SHOWN_PIXELS: Final = 640  # longest side of a query's picture
_VERSIONS: Final = 4  # whose thumbnails pages may still ask for after edits
_STAMP: Final = 16  # characters


class Thumbnails:
    """Thumbnails by address: ``/thumbnail/<version>/<row>``, so that nothing of an id stands in it."""

    def __init__(self, memory: VisualMemory) -> None:
        self._memory = memory
        self._versions: Kept[Snapshot] = Kept(most=_VERSIONS, size=lambda snapshot: 1)

    def urls(self, ids: Sequence[str]) -> list[Markup | None]:
        """Return the addresses of some items' thumbnails; None for ids that are not there."""
        snapshot = self._memory.snapshot()
        rows = snapshot.rows_of(ids).tolist()
        stamp = self._stamp(snapshot)
        return [Markup(f"/thumbnail/{stamp}/{row}") if row >= 0 else None for row in rows]

    def urls_found(self, neighbors: Sequence[Neighbor], view: MemoryView) -> list[str]:
        """Return the addresses of neighbours' thumbnails, without a look-up, from the view in which they were found."""
        stamp = self._stamp(view.snapshot())
        return [f"/thumbnail/{stamp}/{neighbor.row}" for neighbor in neighbors]

    def _stamp(self, snapshot: Snapshot) -> str:
        """Keep a version for its thumbnails to be asked for, and return its name in their addresses."""
        return self._versions.put(snapshot, hashlib.sha256(snapshot.version.encode()).hexdigest()[:_STAMP])

    def read(self, stamp: str, row: int) -> bytes | None:
        """Return the JPEG behind an address; None where there is none, or none any more."""
        snapshot = self._versions.get(stamp)
        if snapshot is None or not 0 <= row < len(snapshot.rows):
            return None
        return snapshot.pictures(np.array([row], np.int64))[1][0]


@dataclass(slots=True, kw_only=True)
class ServeContext:
    """What every page is given."""

    memory: VisualMemory  # the latest version that was noticed
    second: "SecondStage"  # how the model is asked
    runs: tuple[Path, ...] = ()
    model: "LoadedModel | None" = None  # None: nobody can be asked
    read_only: bool = False
    neighbors: int = DEFAULT_NEIGHBORS  # as the query page begins
    voting: str = DEFAULT_METHOD
    thumbnails: Thumbnails = field(init=False)
    edits: Edits = field(init=False)
    uploads: Kept[bytes] = field(default_factory=lambda: Kept(most=_KEPT_BYTES, size=len))
    prompts: Kept[Prompt] = field(default_factory=lambda: Kept(most=_KEPT_BYTES, size=_prompt_bytes))
    _decoding: threading.Lock = field(default_factory=threading.Lock)  # one picture at a time, however many are sent

    def __post_init__(self) -> None:
        self.thumbnails = Thumbnails(self.memory)
        self.edits = Edits(self.memory)

    @property
    def name(self) -> str:
        """What the memory is called: its folder."""
        return self.memory.path.resolve().name or str(self.memory.path)

    def embed(self, image: ImageLike) -> Float[np.ndarray, "1 dimension"]:
        """Return a picture's vector; one thread at a time.

        Raises:
            ImageError, EmbedderError: as for `MemoryView.embed`.
        """
        with self._decoding:
            return self.memory.embed([image])

    def keep(self, encoded: bytes) -> str:
        """Keep a query's picture for a while after a look at whether it is one, and return its name.

        Raises:
            ImageError: it cannot be used.
        """
        with self._decoding:
            decode(encoded)
            return_freed_memory()  # or each of the server's threads would keep as much as its largest picture took
        return self.uploads.put(encoded)

    def shown(self, name: str) -> bytes | None:
        """Return a kept picture as JPEG without metadata, at a size to be looked at."""
        encoded = self.uploads.get(name)
        if encoded is None:
            return None
        with self._decoding:
            return thumbnail(decode(encoded), longest_side=_SHOWN_PIXELS)

    def warm(self) -> None:
        """Load index and embedder, so that the first picture needs not wait for them."""
        try:
            self.memory.build_index()
            self.embed(self.memory.any_picture())
        except VisualMemoryError:  # who asks is told then
            return


def item_page(item_id: str) -> str:
    """Return the address of the query page with an item of the memory as its picture."""
    return "/?" + urllib.parse.urlencode({"item": item_id})


def _prompt_bytes(prompt: Prompt) -> int:
    return sum(len(part.encoded) for part in prompt.parts if isinstance(part, ImagePart))
