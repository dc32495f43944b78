"""A memory and held-out queries to try things on, from any folder of pictures or from nothing: for notebooks."""

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eval.demo import remember, split, write_digits
from eval.types import Dataset, Sample
from retrieval.building import expect_a_picture
from retrieval.embedders import PACKAGED
from retrieval.folder import Item, LabelledFile, expect_outside, list_labelled_files
from retrieval.memory import VisualMemory

PICTURES: Final = 800  # some seconds of embedding on two cores
QUERIES: Final = 200
_SEED: Final = 0


@dataclass(frozen=True, slots=True, eq=False)
class Workbench:
    """What is tried out, and what with."""

    memory: VisualMemory
    queries: Dataset  # pictures that the memory does not hold
    held_back: list[Item]  # those of the last class, where it was held back to be added later


def open_workbench(
    folder: str | Path,
    *,
    images: str | Path | None = None,
    embedder: str = PACKAGED,
    pictures: int = PICTURES,
    queries: int = QUERIES,
    hold_back_a_class: bool = False,
) -> Workbench:
    """Build a memory from some of a folder's pictures, or open the one that was built so before, and hold out queries.

    Args:
        folder: where to keep it; other choices get other memories there.
        images: pictures laid out as ``<label>/<image>``; None takes scikit-learn's 1,797 scanned digits.
        embedder: as `load_embedder` takes it.
        pictures: how many to use at most, drawn at random with a fixed seed.
        queries: how many of them to hold out, evenly over the classes.
        hold_back_a_class: whether to leave the last class out of the memory; its queries stay.

    Raises:
        FolderError: the pictures are missing, too few or laid out otherwise.
        EmbedderError, StorageError: as their names say.
    """
    folder = Path(folder)
    if images is None:
        images = folder / "digits"
        write_digits(images)
    else:
        expect_outside(folder, images)
    files = list_labelled_files(images)
    expect_a_picture((file.path for file in files), images)
    drawn = random.Random(_SEED).sample(files, min(pictures, len(files)))
    remembered, held_out = split(drawn, queries=queries)
    last = max(file.label for file in files) if hold_back_a_class else None
    kept = [file for file in remembered if file.label != last]
    return Workbench(
        memory=remember(folder / f"memory-{_digest(kept, embedder)}", kept, embedder),
        queries=Dataset([Sample(file.id, file.path, frozenset([file.label])) for file in held_out]),
        held_back=[Item(file.id, file.label, file.path, file.source) for file in remembered if file.label == last],
    )


def _digest(files: list[LabelledFile], embedder: str) -> str:
    """Return what tells the memory of other pictures apart, so that no held-out picture lies in one built before."""
    named = json.dumps([embedder, *sorted(file.source for file in files)])
    return hashlib.sha256(named.encode()).hexdigest()[:12]
