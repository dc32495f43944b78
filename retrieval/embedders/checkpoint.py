"""A model's files, found but not yet read: what a converted copy of the model is recognised by."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.embedders.base import EmbedderIdentity

if TYPE_CHECKING:
    from retrieval.embedders.torch_module import EmbeddingModule


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in torch, in float32 on the CPU."""

    module: "EmbeddingModule"
    identity: EmbedderIdentity


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a model lies, and how torch loads it."""

    name: str
    origin: str  # what `load_embedder` takes to find it again
    files: tuple[Path, ...]
    load: Callable[[], LoadedModel]

    @property
    def key(self) -> str:
        """Name, files, sizes and times of change in one word: the same as long as nothing was replaced.

        Reading gigabytes of weights for their digest would take longer than starting the model.
        """
        digest = hashlib.sha256(f"{self.name}\n{self.origin}\n".encode())
        for file in self.files:
            place = file.resolve()  # in the hub's cache the name of the content itself
            status = place.stat()
            digest.update(f"{place}\n{status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:32]
