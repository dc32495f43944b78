"""Features that were computed once, kept by the picture's content: no picture is embedded twice."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from retrieval.bytestore import TROUBLE, open_store
from retrieval.cachedir import cache_folder, cache_key, drop_unused, folder_bytes, is_of_this_layout, note_use
from retrieval.embedders.base import EmbedderIdentity
from retrieval.embedders.execution import Execution
from retrieval.errors import VisualMemoryWarning
from retrieval.images import ImageLike, decode

SIZE_LIMIT: Final = 10 * 2**30  # bytes for one embedder; beyond it the oldest features go
_FORMAT: Final = 3  # part of every cache's name: raised when pictures come to be decoded or prepared in another way
_LENGTH_ERROR: Final = 1e-3  # of a kept vector's squared length, beyond which it was damaged or is another's
ABOUT: Final = "about.txt"  # beside the store: whose features they are
_HASHED_BYTES: Final = 2**28  # a larger file is no picture of an ordinary kind, and hashing it would take long


class FeatureCache:
    """The features of one embedder as it runs here, shared by memories, data sets and runs, threads and processes.

    They are known by weights, preprocessing, precision, backend, the libraries' versions and the processor: what one
    of these gets wrong, another never takes over.

    A cache that cannot be read or written costs time and nothing else: it says so once and is left alone.
    """

    def __init__(self, identity: EmbedderIdentity, execution: Execution) -> None:
        made_by = json.loads(identity.to_json())
        for only_for_people in ("name", "origin"):
            del made_by[only_for_people]
        ran = [execution.backend, execution.precision, execution.device, execution.calibration, execution.engine]
        self.folder = cache_folder("features") / cache_key(format=_FORMAT, embedder=made_by, execution=ran)
        self._bytes = 4 * identity.dimension  # of a vector
        self._store: Any = None
        try:
            if not self.folder.exists():
                drop_unused(self.folder.parent)
            self._store = open_store(self.folder, size_limit=SIZE_LIMIT)
            note_use(self.folder)
            if not (self.folder / ABOUT).exists():
                about = f"{identity.fingerprint}, {execution.precision}"
                about += f" by {execution.engine}" if execution.engine else ""
                (self.folder / ABOUT).write_text(about, encoding="utf-8")
        except TROUBLE as error:
            self._give_up(error)

    def get(self, digest: str) -> Float[np.ndarray, " dimension"] | None:
        """Return the vector of the picture with this digest; None where there is none."""
        if self._store is None:
            return None
        try:
            found = self._store.get(digest)
        except TROUBLE as error:
            self._give_up(error)
            return None
        if not isinstance(found, bytes) or len(found) != self._bytes:
            return None
        vector = np.frombuffer(found, np.float32)
        is_unit = abs(vector @ vector - 1) < _LENGTH_ERROR  # not so where there is no number
        return vector if is_unit else None

    def put(self, vectors: Mapping[str, Float[np.ndarray, " dimension"]]) -> None:
        """Keep vectors by their pictures' digests, all of them or none."""
        if self._store is None or not vectors:
            return
        try:
            with self._store.transact():
                for digest, vector in vectors.items():
                    self._store.set(digest, vector.astype(np.float32).tobytes())
        except TROUBLE as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._store = None
        warnings.warn(
            f"features are not kept: {self.folder} cannot be used ({error}); `vmem cache clear` makes a new one",
            VisualMemoryWarning,
            stacklevel=3,
        )


def content_digest(image: ImageLike) -> str | None:
    """Return a digest of what a picture holds, of its file's bytes where it has any; None where that cannot be told.

    Raises:
        ImageError: a picture in memory that cannot be used.
    """
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    if isinstance(image, str | Path):
        try:
            path = Path(image)
            if not path.is_file() or path.stat().st_size > _HASHED_BYTES:
                return None
            with path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except (OSError, ValueError):
            return None  # decoding says what is wrong
    picture = decode(image)
    digest = hashlib.sha256(f"pixels {picture.size}".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()


def cached_features() -> list[tuple[str, int, int]]:
    """Return of each embedder and precision: what it is, the number of pictures, the bytes their features take."""
    found = []
    for about in sorted(cache_folder("features").glob(f"*/{ABOUT}")):
        try:
            with open_store(about.parent, size_limit=SIZE_LIMIT) as store:
                said = about.read_text(encoding="utf-8")
                said += "" if is_of_this_layout(about.parent) else ", of an earlier version: never used"
                found.append((said, len(store), folder_bytes(about.parent)))
        except TROUBLE:
            continue
    return found
