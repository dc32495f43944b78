"""A model's files, found but not yet read: what a converted copy of the model is recognised by."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.cachedir import cache_key
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
    recipe: str  # what is made of the weights: class, preprocessing and pooling, in words
    packages: tuple[str, ...]  # whose code they run in, beside torch
    load: Callable[[], LoadedModel]

    @property
    def key(self) -> str:
        """Everything that the loaded model is made of, in one word: the same as long as nothing was replaced.

        Files stand in it by place, size and time of change: reading gigabytes of weights for their digest would take
        longer than starting the model.
        """
        files = []
        for file in self.files:
            place = file.resolve()  # in the hub's cache the name of the content itself
            status = place.stat()
            files.append([os.fsencode(place).hex(), status.st_size, status.st_mtime_ns])
        return cache_key(name=self.name, origin=self.origin, recipe=self.recipe, files=files, by=self.libraries)

    @property
    def libraries(self) -> str:
        """The libraries that its code comes from, with their versions."""
        return ", ".join(f"{package} {version(package)}" for package in ("torch", *self.packages))
