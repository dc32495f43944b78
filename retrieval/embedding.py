"""How a memory's pictures become vectors: its embedder, loaded when first needed, and what it computed before."""

import hashlib
import itertools
import json
import logging
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from retrieval.embedders import load_embedder
from retrieval.embedders.base import (
    Calibration,
    Checked,
    Embedder,
    EmbedderIdentity,
    Execution,
    Requested,
    check_embedder,
    expect_embedder,
    pick,
)
from retrieval.errors import (
    EmbedderError,
    ImageError,
    InvalidArgument,
    MissingWeights,
    UnknownEmbedder,
    UnusableVectors,
    VisualMemoryWarning,
)
from retrieval.images import ImageLike, decode, thumbnail
from retrieval.storage.table import ItemTable
from retrieval.support.cachedir import (
    TROUBLE,
    cache_folder,
    cache_key,
    drop_unused,
    folder_bytes,
    is_of_this_layout,
    note_use,
    open_store,
)

FEATURES_SIZE_LIMIT: Final = 10 * 2**30  # bytes for one embedder; beyond it the oldest features go
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
            self._store = open_store(self.folder, size_limit=FEATURES_SIZE_LIMIT)
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
            with open_store(about.parent, size_limit=FEATURES_SIZE_LIMIT) as store:
                said = about.read_text(encoding="utf-8")
                said += "" if is_of_this_layout(about.parent) else ", of an earlier version: never used"
                found.append((said, len(store), folder_bytes(about.parent)))
        except TROUBLE:
            continue
    return found


Item = TypeVar("Item")
_DECODED_BATCHES = 3  # ahead of the model
_MODEL_THREADS = 2  # one stacks a batch, or feeds a GPU, while the other computes
_NO_VECTOR = "what the model gives for {} is zero or not finite, in float32 too, and no vector: leave it out"
_KNOWN_BATCHES = 2  # a group of pictures whose features are mostly known grows to no more batches than these


@dataclass(frozen=True, slots=True)
class Failure(Generic[Item]):
    """An item whose picture cannot be used, or has no finite vector, and why.

    Read like a prediction it has a reason and no label.
    """

    item: Item
    error: ImageError
    label: ClassVar[None] = None  # nothing was decided
    source: ClassVar[Literal["none"]] = "none"  # neither the model nor the vote decided
    code: ClassVar[str] = "unreadable"  # of the reason

    @property
    def reason(self) -> str:
        """Why there is no label, as "code: sentence"."""
        return f"{self.code}: {self.error}"


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedBatch(Generic[Item]):
    """A batch in the order it came: vectors and thumbnails of the good items, the bad ones apart."""

    items: list[Item]
    vectors: Float[np.ndarray, "items dimension"]
    thumbnails: list[bytes]  # empty when none were asked for
    digests: list[str | None]  # of the pictures (`content_digest`), in the same case
    failures: list[Failure[Item]]


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """A picture on its way: its features where they are known, else what the model is to see."""

    name: str  # for people
    digest: str | None
    thumbnail: bytes
    pixels: UInt8[np.ndarray, "height width 3"] | None
    vector: Float[np.ndarray, " dimension"] | None


_Group = list[tuple[Item, _Prepared | ImageError]]


def embed_images(
    items: Iterable[Item],
    embedder: Embedder,
    *,
    image_of: Callable[[Item], ImageLike],
    thumbnail_pixels: int | None = None,
    features: FeatureCache | None = None,
    threads: int | None = None,
) -> Iterator[EmbeddedBatch[Item]]:
    """Yield the items in batches with their vectors; a bad picture becomes a `Failure`, never an end.

    Memory stays the same however many items come: three batches are decoded and two in the model's hands at most.

    Args:
        items: anything, in any number.
        embedder: makes the vectors.
        image_of: tells an item's picture.
        thumbnail_pixels: longest side of the thumbnails; None for none.
        features: where vectors are looked up before, and kept after, they are computed.
        threads: how many decode; None for one a core.
    """
    checked = embedder if isinstance(embedder, Checked) else Checked(embedder)

    def prepare(item: Item) -> _Prepared | ImageError:
        try:
            return _prepare(image_of(item), checked, thumbnail_pixels, features)
        except ImageError as error:
            return error

    decoders = ThreadPoolExecutor(threads or os.cpu_count(), thread_name_prefix="decode")
    model = ThreadPoolExecutor(_MODEL_THREADS, thread_name_prefix="embed")
    try:
        embedding: deque[Future[EmbeddedBatch[Item]]] = deque()
        batch_size = checked.batch_size
        for group in _groups(_ahead(decoders, prepare, items, _DECODED_BATCHES * batch_size), batch_size):
            embedding.append(model.submit(_embed, checked, group, bool(thumbnail_pixels), features))
            if len(embedding) >= _MODEL_THREADS:
                yield embedding.popleft().result()
        while embedding:
            yield embedding.popleft().result()
    finally:
        decoders.shutdown(wait=False, cancel_futures=True)
        model.shutdown(wait=False, cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor,
    prepare: Callable[[Item], _Prepared | ImageError],
    items: Iterable[Item],
    room: int,
) -> Iterator[tuple[Item, _Prepared | ImageError]]:
    """Yield items with what was prepared for them, in order, while the pool works on those that follow."""
    remaining = iter(items)
    pending = deque((item, pool.submit(prepare, item)) for item in itertools.islice(remaining, room))
    while pending:
        item, future = pending.popleft()
        result = future.result()
        pending.extend((further, pool.submit(prepare, further)) for further in itertools.islice(remaining, 1))
        yield item, result


def _groups(prepared: Iterable[tuple[Item, _Prepared | ImageError]], batch_size: int) -> Iterator[_Group[Item]]:
    """Gather items until the model has a full batch to do."""
    group: _Group[Item] = []
    unknown = 0
    for item, result in prepared:
        group.append((item, result))
        unknown += isinstance(result, _Prepared) and result.vector is None
        if unknown == batch_size or len(group) == _KNOWN_BATCHES * batch_size:
            yield group
            group, unknown = [], 0
    if group:
        yield group


def _prepare(
    image: ImageLike, embedder: Embedder, thumbnail_pixels: int | None, features: FeatureCache | None
) -> _Prepared:
    digest = content_digest(image) if features or thumbnail_pixels else None
    name = str(image) if isinstance(image, str | Path) else "the picture"
    vector = features.get(digest) if features and digest else None
    if vector is not None and not thumbnail_pixels:
        return _Prepared(name, digest, b"", None, vector)
    picture = decode(image)
    small = thumbnail(picture, longest_side=thumbnail_pixels) if thumbnail_pixels else b""
    return _Prepared(name, digest, small, embedder.prepare(picture) if vector is None else None, vector)


def _embed(
    embedder: Checked, group: _Group[Item], thumbnails: bool, features: FeatureCache | None
) -> EmbeddedBatch[Item]:
    prepared = [(item, result) for item, result in group if isinstance(result, _Prepared)]
    made = _vectors_of([result for _, result in prepared], embedder, features)
    good = [(item, result) for (item, result), vector in zip(prepared, made, strict=True) if vector is not None]
    vectors = np.empty((len(good), embedder.identity.dimension), np.float32)
    for row, vector in enumerate(vector for vector in made if vector is not None):
        vectors[row] = vector
    failed = iter(made)
    return EmbeddedBatch(
        items=[item for item, _ in good],
        vectors=vectors,
        thumbnails=[result.thumbnail for _, result in good] if thumbnails else [],
        digests=[result.digest for _, result in good] if thumbnails else [],
        failures=[
            Failure(item, result if isinstance(result, ImageError) else ImageError(_NO_VECTOR.format(result.name)))
            for item, result in group
            if isinstance(result, ImageError) or next(failed) is None
        ],
    )


def _vectors_of(
    prepared: list[_Prepared], embedder: Checked, features: FeatureCache | None
) -> list[Float[np.ndarray, " dimension"] | None]:
    """Return the vectors of pictures, computing what is not known; None where there is none."""
    vectors = [result.vector for result in prepared]
    unknown = [row for row, result in enumerate(prepared) if result.pixels is not None]
    if unknown:
        pixels = _stacked([pixels for result in prepared if (pixels := result.pixels) is not None], embedder)
        try:
            made, unusable = embedder.embed(pixels), set[int]()
        except UnusableVectors as error:
            made, unusable = error.vectors, set(error.rows)
        for place, row in enumerate(unknown):
            vectors[row] = None if place in unusable else made[place]
        if features:
            computed = ((prepared[row].digest, vectors[row]) for row in unknown)
            features.put({digest: vector for digest, vector in computed if digest and vector is not None})
    return vectors


def _stacked(
    pictures: list[UInt8[np.ndarray, "height width 3"]], embedder: Checked
) -> UInt8[np.ndarray, "batch height width 3"]:
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        one, other, *_ = sorted(shapes)
        raise EmbedderError(
            f"{embedder.identity.name} prepares pictures of several shapes, such as {one} and {other}: one shape for"
            " all expected"
        )
    return np.stack(pictures)


Recipe = tuple[str | Embedder | None, Requested, bool]
"""Where the embedder is to be had, how it is to run, and whether features are kept: all that another process needs."""

_log = logging.getLogger(__name__)


class Embedding:
    """The embedder of a memory, held to be the one its vectors were made by."""

    def __init__(
        self,
        table: ItemTable,
        path: Path,
        offered: str | Path | Embedder | None,
        requested: Requested,
        *,
        calibration: Iterable[ImageLike] = (),
        cache: bool = True,
    ) -> None:
        self._table = table
        self._path = path
        self._offered = str(offered) if isinstance(offered, Path) else offered
        self.requested = requested
        self._calibration = calibration
        self._cache = cache
        if offered is not None:
            _ = self.embedder  # what was offered is examined at once

    def recipe(self) -> Recipe:
        """Return what another process makes the same of: no weights, where they can be loaded again, and no secrets."""
        offered = self._offered
        if offered is not None and not isinstance(offered, str) and type(offered).__module__.startswith("retrieval."):
            offered = offered.identity.origin or None
        return offered, self.requested, self._cache

    @classmethod
    def by_recipe(cls, table: ItemTable, path: Path, recipe: Recipe) -> "Embedding":
        """Return what `recipe` was asked of; its embedder is loaded, and examined, when it is first needed."""
        offered, requested, cache = recipe
        made = cls(table, path, None, requested, cache=cache)
        made._offered = offered
        return made

    @cached_property
    def embedder(self) -> Embedder:
        """The embedder, loaded when first needed; see `VisualMemory.embedder`."""
        known = self._table.settings.embedder
        offered = self._offered
        named = offered is None or isinstance(offered, str)
        loaded = self._load(str(offered or known.origin)) if named else expect_embedder(offered)
        check_embedder(loaded.identity, known, self._path)
        _log.info("%s: %s", known.name, loaded.execution)
        self._compare(loaded.execution)
        return loaded

    def made_how(self) -> Execution:
        """Return how the embedder runs."""
        return self.embedder.execution

    @cached_property
    def _features(self) -> FeatureCache | None:
        embedder = self.embedder
        recognisable = bool(embedder.identity.weights_digest)
        return FeatureCache(embedder.identity, embedder.execution) if self._cache and recognisable else None

    def stream(
        self, items: Iterable[Item], *, image_of: Callable[[Item], ImageLike], thumbnail_pixels: int | None = None
    ) -> Iterator[EmbeddedBatch[Item]]:
        """Yield items in batches with their vectors; see `retrieval.embedding.embed_images`."""
        return embed_images(
            items, self.embedder, image_of=image_of, thumbnail_pixels=thumbnail_pixels, features=self._features
        )

    def _load(self, name: str) -> Embedder:
        known = self._table.settings.embedder
        if not name:
            raise InvalidArgument(
                f"{self._path} holds vectors made elsewhere ({known.name}): search it by vectors, or give open() the"
                " embedder that made them"
            )
        digest = next((made.calibration for made in self._table.settings.executions if made.calibration), "")
        calibration = Calibration(itertools.chain(self._calibration, self._some_thumbnails()), digest)
        try:
            return load_embedder(name, **self.requested.to_dict(), calibration=calibration)
        except UnknownEmbedder as error:  # a folder that was moved or deleted
            if self._offered is not None:
                raise
            raise MissingWeights(
                f"{self._path} was built by {known.fingerprint} from {known.origin}, where it is no longer:"
                " say where it is now with --embedder FOLDER"
            ) from error

    def _some_thumbnails(self) -> Iterator[bytes]:
        """Yield thumbnails from all over the memory, for int8 to take its ranges from."""
        rows = np.array(pick(range(len(self._table))), np.int64)
        pictures = self._table.take(rows, ["thumbnail"])["thumbnail"].to_pylist()
        yield from (picture for picture in pictures if picture is not None)

    def _compare(self, execution: Execution) -> None:
        """Warn where int8 meets another precision, or int8 of other ranges: the one mixture that moves votes."""
        for made in self._table.settings.executions:
            if made != execution and "int8" in (made.precision, execution.precision):
                least = next(one.agreement for one in (made, execution) if one.precision == "int8")
                warnings.warn(
                    f"{self._path} holds vectors made in {made.precision}, and pictures are now embedded in"
                    f" {execution.precision}; cosines of int8 to float32 were measured down to {least or 0:.4f}:"
                    " give the same --precision where votes must not differ",
                    VisualMemoryWarning,
                    stacklevel=2,
                )
