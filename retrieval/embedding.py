"""How a memory's pictures become vectors: its embedder, loaded when first needed, and what it computed before."""

import itertools
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from retrieval.embedders import load_embedder
from retrieval.embedders.base import Embedder, check_embedder, expect_embedder
from retrieval.embedders.execution import Execution, Requested
from retrieval.embedders.int8 import Calibration, pick
from retrieval.errors import InvalidArgument, MissingWeights, UnknownEmbedder, VisualMemoryWarning
from retrieval.features import FeatureCache
from retrieval.images import ImageLike
from retrieval.pipeline import EmbeddedBatch, embed_images
from retrieval.storage.table import ItemTable

Item = TypeVar("Item")
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
        """Yield items in batches with their vectors; see `retrieval.pipeline.embed_images`."""
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
