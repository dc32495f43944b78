"""What the pages of one server share: the memory, runs, the model, thumbnails by address, and edits."""

import hashlib
import threading
import urllib.parse
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float

from eval.serve.edits import Edits
from eval.serve.kept import Kept
from prompts.types import ImagePart, Prompt
from retrieval.allocator import return_freed_memory
from retrieval.images import ImageLike, decode, thumbnail
from retrieval.memory import VisualMemory
from retrieval.snapshot import Snapshot
from retrieval.types import Neighbor
from retrieval.view import DEFAULT_NEIGHBORS, MemoryView
from retrieval.voting import DEFAULT_METHOD

if TYPE_CHECKING:
    from agent.loading import LoadedModel
    from agent.options import SecondStage

MAX_UPLOAD_BYTES: Final = 32 * 2**20  # photographs of 100 megapixels stay below
_KEPT_BYTES: Final = 4 * MAX_UPLOAD_BYTES  # of all pictures that were sent, and of all prompts that were made
_SHOWN_PIXELS: Final = 640  # longest side of a query's picture
_VERSIONS: Final = 4  # whose thumbnails pages may still ask for after edits
_STAMP: Final = 16  # characters


class Thumbnails:
    """Thumbnails by address: ``/thumbnail/<version>/<row>``, so that nothing of an id stands in it."""

    def __init__(self, memory: VisualMemory) -> None:
        self._memory = memory
        self._known: OrderedDict[str, Snapshot] = OrderedDict()
        self._changing = threading.Lock()

    def urls(self, ids: Sequence[str]) -> list[str | None]:
        """Return the addresses of some items' thumbnails; None for ids that are not there."""
        snapshot = self._memory.snapshot()
        rows = snapshot.rows_of(ids).tolist()
        stamp = self._stamp(snapshot)
        return [f"/thumbnail/{stamp}/{row}" if row >= 0 else None for row in rows]

    def urls_found(self, neighbors: Sequence[Neighbor], view: MemoryView) -> list[str]:
        """Return the addresses of neighbours' thumbnails, without a look-up, from the view in which they were found."""
        stamp = self._stamp(view.snapshot())
        return [f"/thumbnail/{stamp}/{neighbor.row}" for neighbor in neighbors]

    def _stamp(self, snapshot: Snapshot) -> str:
        """Keep a version for its thumbnails to be asked for, and return its name in their addresses."""
        stamp = hashlib.sha256(snapshot.version.encode()).hexdigest()[:_STAMP]
        with self._changing:
            self._known[stamp] = snapshot
            self._known.move_to_end(stamp)
            while len(self._known) > _VERSIONS:
                self._known.popitem(last=False)
        return stamp

    def read(self, stamp: str, row: int) -> bytes | None:
        """Return the JPEG behind an address; None where there is none, or none any more."""
        with self._changing:
            snapshot = self._known.get(stamp)
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

    def thumbnail_url(self, item_id: str) -> str | None:
        """Return the address of one item's thumbnail at the present version; None where the item is not there."""
        return self.thumbnails.urls([item_id])[0]

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
        from retrieval.errors import VisualMemoryError

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
