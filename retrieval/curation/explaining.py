"""Why a vote came out as it did: what each neighbour does to it, and how few would have to go to turn it (section 3.7).

An item that is taken out of a memory leaves no gap: those farther out move up by a rank, and the next one beyond the k
that voted moves in. All here counts like that.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int

from retrieval.errors import InvalidArgument
from retrieval.types import Label, Neighbor
from retrieval.voting import DEFAULT_METHOD, encode_labels, neighbor_weights, predict_every_k

if TYPE_CHECKING:
    from retrieval.images import ImageLike
    from retrieval.view import MemoryView

_ROUNDING: Final = 1e-9  # of the voters' weight: sums that are closer may be equal, and the vote itself is asked
_RIVAL, _WINNER = 0, 1  # whose vote stands farthest out: of two labels of equal weight the other one wins
_WIDER: Final = 4  # times as many neighbours are searched where no flip was found among them
_WIDEST: Final = 4096  # neighbours; a flip that takes more items says nothing any more, and costs seconds to find


@dataclass(frozen=True, slots=True)
class Flip:
    """The smallest set of neighbours without which a vote has another winner."""

    removed: tuple[int, ...]  # places among the neighbours, from 0
    label: Label  # that wins then


@dataclass(frozen=True, slots=True)
class Attribution:
    """What a vote hangs on."""

    label: Label
    margin: float  # the winner's share of the vote less that of the runner-up
    effects: tuple[float, ...]  # by how much the margin falls when one of the voters is taken out; below 0 it rises
    flip: Flip | None  # None: the neighbours that were looked at tell of none


def explain(
    memory: "MemoryView", image: "ImageLike", *, k: int, method: str = DEFAULT_METHOD
) -> tuple[tuple[Neighbor, ...], Attribution]:
    """Return a picture's nearest neighbours and what their vote hangs on; more of them than k where a flip takes more.

    Raises:
        ImageError: the picture cannot be used.
        InvalidArgument: k below 1, an empty memory, or no such method.
        EmbedderError: the memory's embedder cannot be had.
    """
    vectors, items = memory.embed([image]), memory.snapshot().findable
    wide = min(2 * k, items) if k > 0 and items else k  # nonsense is refused by the search
    while True:
        near = memory.search_vectors(vectors, k=wide)[0]
        whole = wide == items
        found = attribute(near, k=k, method=method, whole=whole)
        if found.flip or whole or wide >= _WIDEST:
            return near, found
        wide = min(_WIDER * wide, items, max(_WIDEST, wide + k))


def attribute(
    neighbors: Sequence[Neighbor], *, k: int, method: str = DEFAULT_METHOD, whole: bool = False
) -> Attribution:
    """Return what the vote of the nearest k neighbours hangs on.

    Args:
        neighbors: of one query, nearest first; more than k, for those that move in.
        k: how many vote.
        method: one of `retrieval.voting.METHODS`.
        whole: whether the neighbours are all that the memory has, so that nobody moves in after the last.

    Raises:
        InvalidArgument: k below 1, no neighbour, or no such method.
    """
    line = _Line(neighbors, k, method)
    margin = line.margin(())
    effects = tuple(margin - line.margin((out,)) for out in range(line.k))
    return Attribution(line.labels[line.winner], margin, effects, _find_flip(line, whole=whole))


class _Line:
    """The neighbours of one query in a row, and what each would weigh at each rank."""

    def __init__(self, neighbors: Sequence[Neighbor], k: int, method: str) -> None:
        if k < 1 or not neighbors:
            raise InvalidArgument(f"k={k} and {len(neighbors)} neighbours: 1 or more of both expected")
        self.k = min(k, len(neighbors))
        self._method = method
        named = np.empty((1, len(neighbors)), object)
        named[0] = [neighbor.label for neighbor in neighbors]
        codes, self.labels = encode_labels(named)
        self.codes: Int[np.ndarray, " items"] = codes[0]
        self._distances = np.array([neighbor.distance for neighbor in neighbors])
        self._factors = np.array([neighbor.reliability for neighbor in neighbors])
        at_each_rank = np.broadcast_to(self._distances[:, None], (len(neighbors), self.k))
        self.weights: Float[np.ndarray, "items k"] = neighbor_weights(at_each_rank, method) * self._factors[:, None]
        self.winner = self.winner_without(())

    def winner_without(self, removed: Iterable[int]) -> int:
        """Return the code of the label that wins when some items are taken out."""
        near = self._voters(removed)[None]
        codes, distances, factors = self.codes[near], self._distances[near], self._factors[near]
        return int(predict_every_k(codes, distances, method=self._method, factors=factors)[0, -1])

    def margin(self, removed: Iterable[int]) -> float:
        """Return the winner's lead over the next label, as a share, when some items are taken out; below 0: behind."""
        voters = self._voters(removed)
        weights = self.weights[voters, np.arange(len(voters))]
        totals = np.bincount(self.codes[voters], weights, len(self.labels))
        next_best = np.delete(totals, self.winner).max(initial=0.0)
        return float((totals[self.winner] - next_best) / (totals.sum() or 1.0))

    def _voters(self, removed: Iterable[int]) -> Int[np.ndarray, " voters"]:
        return np.delete(np.arange(len(self.codes)), list(removed))[: self.k]


def _find_flip(line: _Line, *, whole: bool) -> Flip | None:
    """Return the fewest neighbours without which the nearest k of the others give another answer; None: none is told.

    Exact for every method: walking outwards, each neighbour votes or is taken out, and the best lead that a rival can
    have over the winner depends on nothing but how many voted so far and which of the two did so last. Where sums
    are equal but for rounding, one set of that size is tried. Time grows with neighbours × k × labels. Of n neighbours
    sets of up to n - k are looked at, up to n - 1 of a ``whole``.
    """
    rivals = [code for code in range(len(line.labels)) if code != line.winner]
    leads = np.empty(0)
    for items, leads in enumerate(_leads(line, rivals)):
        if items > line.k and (flip := _flip_at(line, rivals, leads, items, line.k)):
            return flip
    for voted in range(line.k - 1, 0, -1) if whole else ():
        if flip := _flip_at(line, rivals, leads, len(line.codes), voted):
            return flip
    return None


def _leads(line: _Line, rivals: Sequence[int]) -> Iterator[Float[np.ndarray, "rivals voted two"]]:
    """Yield, after 0, 1, 2, … items, the most by which each rival can lead, by number voted and by who voted last."""
    row_of = {rival: row for row, rival in enumerate(rivals)}
    best = np.full((len(rivals), line.k + 1, 2), -np.inf)
    best[:, 0, _RIVAL] = 0.0
    yield best
    for code, weights in zip(line.codes.tolist(), line.weights, strict=True):
        voted = best[:, :-1].copy()
        if code == line.winner:
            voted[..., _WINNER], voted[..., _RIVAL] = voted.max(axis=2) - weights, -np.inf
        elif (row := row_of.get(code)) is not None:
            voted[row, :, _RIVAL], voted[row, :, _WINNER] = voted[row].max(axis=1) + weights, -np.inf
        best = best.copy()
        np.maximum(best[:, 1:], voted, out=best[:, 1:])
        yield best


def _flip_at(
    line: _Line, rivals: Sequence[int], leads: Float[np.ndarray, "rivals voted two"], items: int, voted: int
) -> Flip | None:
    """Return the flip that keeps so many of the first items, if there is one."""
    near = _ROUNDING * float(line.weights[: line.k, 0].sum())
    reached = np.argwhere(leads[:, voted] >= -near).tolist()
    for row, last in sorted(reached, key=lambda place: -leads[place[0], voted, place[1]]):
        removed = _trace(line, rivals[row], items, voted, last)
        if (winner := line.winner_without(removed)) != line.winner:
            return Flip(removed, line.labels[winner])
    return None


def _trace(line: _Line, rival: int, items: int, voted: int, last: int) -> tuple[int, ...]:
    """Return which items are taken out on the way to a rival's best lead."""
    steps = [leads[0] for leads, _ in zip(_leads(line, [rival]), range(items + 1), strict=False)]
    removed = []
    for item in range(items - 1, -1, -1):
        before = steps[item]
        if before[voted, last] == steps[item + 1][voted, last]:
            removed.append(item)
            continue
        voted -= 1
        if line.codes[item] in (line.winner, rival):
            last = int(before[voted].argmax())
    return tuple(reversed(removed))
