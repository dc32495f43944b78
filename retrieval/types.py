"""What flows out of the first stage: neighbours and votes."""

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from retrieval.embedders.base import EmbedderIdentity, Execution
from retrieval.errors import StorageError
from retrieval.support.lazy import shown_by
from retrieval.support.parsing import parse_json

Label = Any  # any hashable value; 0 and "" are labels like others. A memory on disk holds text.


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One remembered picture that lies near a query."""

    id: str
    label: Label
    distance: float  # cosine distance, 1 - cos: 0 is the same direction, 2 the opposite one
    row: int  # position in the memory at the version that was searched
    reliability: float = 1.0  # what its weight in a vote is multiplied by (section 3.6); 1 without pruning


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The neighbours of a batch of queries, nearest first; ``neighbors[i]`` are those of query ``i``.

    The number of neighbours is the ``k`` asked for, or the size of the memory where that is smaller.
    """

    labels: Shaped[np.ndarray, "queries k"]
    distances: Float[np.ndarray, "queries k"]
    rows: Int[np.ndarray, "queries k"]
    look_up: Callable[[], Shaped[np.ndarray, "queries k"]]  # their ids: 9 µs for 50, which labels alone do without
    reliabilities: Float[np.ndarray, "queries k"] | None = None  # as `Neighbor.reliability`; None: all 1

    @cached_property
    def ids(self) -> Shaped[np.ndarray, "queries k"]:
        """The ids, looked up when they are first asked for."""
        return self.look_up()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "ids": self.ids, "look_up": None}  # not the rows of the memory that it looks in

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Neighbor, ...]]:
        return (self[query] for query in range(len(self)))

    def __getitem__(self, query: int) -> tuple[Neighbor, ...]:
        columns = (self.ids, self.labels, self.distances, self.rows, self.reliabilities)
        given = [column[query].tolist() for column in columns if column is not None]
        return tuple(Neighbor(*values) for values in zip(*given, strict=True))

    def nearest(self, k: int) -> "Neighbors":
        """Return the same queries with their nearest k neighbours at most."""
        factors = None if self.reliabilities is None else self.reliabilities[:, :k]
        labels, distances, rows = (column[:, :k] for column in (self.labels, self.distances, self.rows))
        return Neighbors(labels, distances, rows, lambda: self.ids[:, :k], factors)

    _repr_html_ = shown_by("retrieval.support.html", "neighbors_html")

    @property
    def k(self) -> int:
        """Neighbours per query."""
        return int(self.labels.shape[1])


@dataclass(frozen=True, slots=True)
class Votes:
    """The labels among a query's neighbours with their summed weights, heaviest first.

    Equal weights stand in the order in which the labels reached them, walking outwards from the query.
    """

    labels: tuple[Label, ...]
    weights: tuple[float, ...]

    @property
    def winner(self) -> Label:
        """The label with the greatest weight."""
        return self.labels[0]

    @property
    def shares(self) -> tuple[float, ...]:
        """Each label's part of the total weight; they add up to 1, or are 0 where nobody had a vote."""
        total = sum(self.weights) or 1.0
        return tuple(weight / total for weight in self.weights)

    @property
    def percents(self) -> tuple[int, ...]:
        """The shares as they are shown: whole percent that add up to 100, or are 0 where nobody had a vote.

        Each is rounded down, and what is left over goes to those that lost most, of equal ones to the heavier: the
        method of largest remainders (Hamilton). Rounding each by itself shows 84.5 and 15.5 % as 85 and 16 %.
        """
        exact = [100.0 * share for share in self.shares]
        shown = [int(share) for share in exact]
        lost = sorted(range(len(exact)), key=lambda place: shown[place] - exact[place])
        for place in lost[: round(sum(exact)) - sum(shown)]:
            shown[place] += 1
        return tuple(shown)


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """A memory in numbers."""

    items: int
    labels: dict[str, int]  # items of each label, most frequent first
    embedder: str
    index: str  # the kind that serves a memory of this size
    version: int
    bytes_on_disk: int


FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What a memory is built with, stored in the table itself."""

    embedder: EmbedderIdentity
    index: str  # the kind asked for
    thumbnail_pixels: int  # longest side
    built_from: str  # the folder of `vmem memory build`, so that a second run goes on; empty otherwise
    memory_id: str = field(default_factory=lambda: uuid.uuid4().hex)  # tells this memory from every other
    executions: tuple[Execution, ...] = ()  # how its vectors were made, each way once

    def to_json(self) -> str:
        """Return the settings as JSON."""
        return json.dumps({"format": FORMAT} | asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Return the settings that `to_json` wrote."""
        fields = parse_json(text)
        if fields.pop("format") != FORMAT:
            raise StorageError("the memory was written by a newer version of this program: update it")
        fields["embedder"] = EmbedderIdentity.from_json(json.dumps(fields["embedder"]))
        fields["executions"] = tuple(Execution(**execution) for execution in fields.get("executions", ()))
        return cls(**fields)
