"""Work split over machines: by shards that each works off by itself, or by a Ray cluster.

A cluster has one copy of the embedder on each GPU, or where there is none on each machine.
"""

import itertools
import json
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from retrieval import errors
from retrieval.embedders import load_embedder
from retrieval.embedders.base import Calibration, Embedder, EmbedderIdentity, Execution, Requested, check_embedder
from retrieval.embedding import EmbeddedBatch, Failure, FeatureCache, embed_images
from retrieval.errors import EmbedderError, EmbedderMismatch, ImageError, InvalidArgument, VisualMemoryError
from retrieval.images import ImageLike
from retrieval.support.parsing import parse_json

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset


PATH: Final = b"p"  # begins a picture's cell that holds its path, as the system spells it
BYTES: Final = b"b"  # begins one that holds its bytes
LOCAL: Final = "local"  # as an address: a cluster of this machine alone, started for the length of the work
_BLOCK: Final = 512  # pictures that a worker is handed at a time: some seconds' work for the slowest models
_BLOCKS_PER_WORKER: Final = 4  # at least, so that none waits long for the last

Item = TypeVar("Item")
Raised = TypeVar("Raised", bound=VisualMemoryError)


@dataclass(frozen=True, slots=True)
class Shard:
    """One worker's part of the work; parts of the same ``count`` never overlap and leave nothing out."""

    number: int  # from 1
    count: int

    def pick(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this worker's items: every ``count``-th, so that each worker gets some of every label."""
        return items[self.number - 1 :: self.count]

    def stream(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield what `pick` returns, of what is not listed but read."""
        return itertools.islice(items, self.number - 1, None, self.count)

    def size(self, total: int) -> int:
        """Return how many of ``total`` items are this worker's."""
        return len(range(self.number - 1, total, self.count))

    def name(self, file: Path) -> Path:
        """Return the name of this worker's own file beside the others': ``features-2-of-8.parquet``."""
        return file.with_name(f"{file.stem}-{self.number}-of-{self.count}{file.suffix}")


def parse_shard(text: str) -> Shard:
    """Return the shard that ``i/n`` says: worker i of n.

    Raises:
        InvalidArgument: anything else than two whole numbers with 1 <= i <= n.
    """
    parts = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    shard = Shard(int(parts[1]), int(parts[2])) if parts else Shard(0, 0)
    if not 1 <= shard.number <= shard.count:
        raise InvalidArgument(f"shard={text!r}: worker i of n as i/n with 1 <= i <= n expected, such as 2/8")
    return shard


def to_cell(image: ImageLike) -> bytes:
    """Return a picture as it travels: a path, for machines that share their files, or what it holds.

    Raises:
        TypeError: neither a path nor bytes.
    """
    if isinstance(image, str | Path):
        return PATH + os.fsencode(os.path.abspath(image))
    if isinstance(image, bytes):
        return BYTES + image
    raise TypeError(f"got a picture as {type(image).__name__}: a path or bytes can be sent to a cluster")


def _from_cell(cell: bytes) -> ImageLike:
    return Path(os.fsdecode(cell[1:])) if cell[:1] == PATH else cell[1:]


class Worker:
    """An embedder on one machine; Ray makes as many as there is room for."""

    def __init__(
        self, name: str, requested: Requested, calibration: Sequence[bytes], thumbnail_pixels: int | None, cache: bool
    ) -> None:
        self._thumbnail_pixels = thumbnail_pixels
        self._embedder: Embedder | None = None
        pictures = Calibration([_from_cell(cell) for cell in calibration])
        try:
            self._embedder = load_embedder(name, **requested.to_dict(), calibration=pictures)
        except VisualMemoryError as error:  # Ray would make a page of it, three times: it is told with the first block
            self._about = json.dumps({"refused": [type(error).__name__, str(error)]})
            return
        identity, execution = self._embedder.identity, self._embedder.execution
        self._features = FeatureCache(identity, execution) if cache else None
        self._about = json.dumps({"identity": identity.to_json(), "execution": execution.to_dict()})

    def __call__(self, block: "pyarrow.Table") -> "pyarrow.Table":
        """Return vectors, or the reason why there is none, under the pictures' numbers."""
        import pyarrow as pa

        if self._embedder is None:
            return pa.table({"about": [self._about], "batch": [b""]})
        pictures = list(zip(block["number"].to_pylist(), block["image"].to_pylist(), strict=True))
        batches = list(
            embed_images(
                pictures,
                self._embedder,
                image_of=lambda picture: _from_cell(picture[1]),
                thumbnail_pixels=self._thumbnail_pixels,
                features=self._features,
            )
        )
        batch = (
            [number for batch in batches for number, _ in batch.items],
            np.concatenate([batch.vectors for batch in batches]),
            [thumbnail for batch in batches for thumbnail in batch.thumbnails],
            [digest for batch in batches for digest in batch.digests],
            [(bad.item[0], type(bad.error).__name__, str(bad.error)) for batch in batches for bad in batch.failures],
        )
        # A pickle, as all is that Ray sends: its machines run each other's code in any case.
        return pa.table({"about": [self._about], "batch": pa.array([pickle.dumps(batch)], pa.binary())})


@dataclass(frozen=True, slots=True)
class ClusterEmbedder:
    """What the workers' vectors were made by."""

    identity: EmbedderIdentity
    execution: Execution


class RayEmbedding:
    """A named embedder that runs on a cluster, where the pictures' paths must mean the same files on every machine."""

    def __init__(
        self,
        name: str,
        *,
        address: str = LOCAL,
        requested: Requested | None = None,
        calibration: Sequence[ImageLike] = (),
        cache: bool = True,
        expected: EmbedderIdentity | None = None,
    ) -> None:
        """Say what is to run where; nothing is started yet.

        Args:
            name: of the embedder, as `load_embedder` takes it on each machine.
            address: of the cluster (``HOST:PORT``, ``ray://HOST:10001``, ``auto``), or ``local``.
            requested: how the embedder is to run; ``auto`` must come to the same precision on all machines.
            calibration: pictures for int8, as paths or bytes.
            cache: whether each machine looks up and keeps features in its cache.
            expected: what the embedder must be, where its vectors are to join others.
        """
        self._name = name
        self._address = address
        self._requested = requested or Requested()
        self._calibration = [to_cell(picture) for picture in calibration]
        self._cache = cache
        self._expected = expected
        self._made_by: ClusterEmbedder | None = None

    @property
    def embedder(self) -> ClusterEmbedder:
        """What made the vectors: known once the first batch is there.

        Raises:
            InvalidArgument: nothing was embedded yet.
        """
        if self._made_by is None:
            raise InvalidArgument("nothing was embedded on the cluster yet: take a batch from the stream first")
        return self._made_by

    def made_how(self) -> Execution:
        """Return how the workers' embedders ran, once the first batch is there."""
        return self.embedder.execution

    def stream(
        self, items: Iterable[Item], *, image_of: Callable[[Item], ImageLike], thumbnail_pixels: int | None = None
    ) -> Iterator[EmbeddedBatch[Item]]:
        """Yield the items in batches with their vectors, in order; a bad picture becomes a `Failure`, never an end.

        Items are taken all at once: their paths, or bytes, are what the cluster is handed.

        Raises:
            InvalidArgument: Ray is not installed, or no cluster answers.
            EmbedderMismatch: two machines have different weights, or came to different precisions.
            EmbedderError: a machine cannot have the embedder.
        """
        listed = list(items)
        if not listed:
            return
        with _cluster(self._address), _translated():
            dataset = self._dataset(listed, image_of, thumbnail_pixels)
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                for about, batch in zip(block["about"].to_pylist(), block["batch"].to_pylist(), strict=True):
                    self._notice(parse_json(about))
                    numbers, vectors, thumbnails, digests, failed = pickle.loads(batch)
                    failures = [
                        Failure(listed[number], _our_error(name, reason, ImageError)) for number, name, reason in failed
                    ]
                    items = [listed[number] for number in numbers]
                    yield EmbeddedBatch(items, vectors, thumbnails, digests, failures)

    def _dataset(
        self, listed: list[Item], image_of: Callable[[Item], ImageLike], thumbnail_pixels: int | None
    ) -> "Dataset":
        import ray

        workers, share = _workers(self._requested.device)
        size = max(1, min(_BLOCK, len(listed) // (_BLOCKS_PER_WORKER * workers)))
        blocks = [_cells(listed, start, size, image_of) for start in range(0, len(listed), size)]
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        return ray.data.from_arrow(blocks).map_batches(
            Worker,
            fn_constructor_args=(self._name, self._requested, self._calibration, thumbnail_pixels, self._cache),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
            **share,
        )

    def _notice(self, about: dict[str, Any]) -> None:
        """Note what made some vectors; raise where a worker has no embedder, or another one than expected."""
        if "refused" in about:
            kind, sentence = about["refused"]
            raise _our_error(kind, sentence, VisualMemoryError)
        made_by = ClusterEmbedder(EmbedderIdentity.from_json(about["identity"]), Execution(**about["execution"]))
        check_embedder(made_by.identity, self._expected or made_by.identity, "the memory")
        first = self._made_by = self._made_by or made_by
        if made_by != first:
            raise EmbedderMismatch(
                f"one machine of the cluster runs {first.identity.fingerprint} in {first.execution.precision},"
                f" another {made_by.identity.fingerprint} in {made_by.execution.precision}: put the same weights"
                " on all, and say --precision"
            )


def _cells(listed: list[Item], start: int, size: int, image_of: Callable[[Item], ImageLike]) -> "pyarrow.Table":
    import pyarrow as pa

    cells = [to_cell(image_of(item)) for item in listed[start : start + size]]
    return pa.table({"number": np.arange(start, start + len(cells)), "image": pa.array(cells, pa.binary())})


def _our_error(name: str, sentence: str, otherwise: type[Raised]) -> Raised:
    """Return an error that a worker told by name."""
    kind = getattr(errors, name, otherwise)
    return kind(sentence) if issubclass(kind, otherwise) else otherwise(sentence)


def _workers(device: str) -> tuple[int, dict[str, Any]]:
    """Return how many embedders the cluster has room for, and what each of them takes."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    gpus = int(sum(machine.get("GPU", 0) for machine in machines))
    if gpus and device != "cpu":
        return gpus, {"num_gpus": 1}
    # A worker decodes and computes on all of its machine's cores; Ray limits its libraries to those it asked for.
    return max(1, len(machines)), {"num_cpus": int(min((machine["CPU"] for machine in machines), default=1))}


@contextmanager
def _translated() -> Iterator[None]:
    """Translate what Ray raises when a worker or a machine dies."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise EmbedderError(f"a worker of the Ray cluster failed ({lines[-1]}): run the same command again") from error


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Use the cluster that this process is connected to already, or else the one at an address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InvalidArgument("Ray is not installed: pip install 'visual-memory-agent[ray]'") from error
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        quiet |= {"include_dashboard": False}
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what it says of itself is in its own files
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidArgument(
            f"no Ray cluster at {address!r} ({reason}): give HOST:PORT, ray://HOST:10001 or local"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours counts pictures
    try:
        yield
    finally:
        ray.shutdown()
