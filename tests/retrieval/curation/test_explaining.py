"""What a vote hangs on, against trying every set of neighbours."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from retrieval import VisualMemory
from retrieval.curation.explaining import Flip, attribute, explain
from retrieval.errors import InvalidArgument
from retrieval.types import Neighbor
from retrieval.voting import DEFAULT_METHOD, METHODS, predict_every_k


def line(labels: str, *, seed: int = 0, pruned: bool = False) -> list[Neighbor]:
    draw = np.random.default_rng(seed)
    distances = np.sort(draw.uniform(0.1, 0.6, len(labels))).tolist()
    factors = draw.uniform(0.05, 1.0, len(labels)).tolist() if pruned else [1.0] * len(labels)
    return [
        Neighbor(str(row), label, distance, row, factor)
        for row, (label, distance, factor) in enumerate(zip(labels, distances, factors, strict=True))
    ]


def smallest_flip(near: list[Neighbor], *, k: int, method: str = DEFAULT_METHOD, whole: bool = False) -> Flip | None:
    return attribute(near, k=k, method=method, whole=whole).flip


def vote(near: list[Neighbor], k: int, method: str) -> str:
    some = near[:k]
    labels, distances = np.array([[n.label for n in some]], object), np.array([[n.distance for n in some]])
    factors = np.array([[n.reliability for n in some]])
    return str(predict_every_k(labels, distances, method=method, factors=factors)[0, -1])


def fewest_by_trying(near: list[Neighbor], k: int, method: str, *, whole: bool) -> int | None:
    before = vote(near, k, method)
    for count in range(1, len(near) if whole else len(near) - k + 1):
        for removed in combinations(range(len(near)), count):
            if vote([n for n in near if n.row not in removed], k, method) != before:
                return count
    return None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(24))
def test_no_smaller_set_flips_the_vote(method: str, seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = "".join(draw.choice(list("abc"), size=9, p=(0.55, 0.3, 0.15)))
    near = line(labels, seed=seed, pruned=seed % 3 == 0)
    k, whole = int(draw.integers(1, 8)), bool(seed % 2)
    flip = smallest_flip(near, k=k, method=method, whole=whole)
    fewest = fewest_by_trying(near, k, method, whole=whole)
    assert (flip and len(flip.removed)) == fewest
    if flip:
        assert vote([n for n in near if n.row not in flip.removed], k, method) == flip.label != vote(near, k, method)


def test_those_that_move_in_are_counted() -> None:
    near = line("aaabbb")
    assert smallest_flip(near[:4], k=3, method="plurality") is None  # of a a b the first still wins
    flip = smallest_flip(near, k=3, method="plurality")
    assert flip and len(flip.removed) == 2 and flip.label == "b"


def test_one_label_alone_cannot_be_flipped() -> None:
    assert smallest_flip(line("aaaa"), k=2, whole=True) is None


def test_a_tie_goes_to_the_label_that_reaches_it_first() -> None:
    flip = smallest_flip(line("abba"), k=4, method="plurality", whole=True)
    assert flip and flip.label == "a" and flip.removed in ((1,), (2,))  # a b a, of which a has two


def test_the_effects_are_those_of_voting_anew() -> None:
    near = line("aabab", seed=4)
    found = attribute(near, k=3, method="plurality")
    assert found.label == "a" and found.margin == pytest.approx(1 / 3)
    # Without one of the first two, "a b a" votes, as before; without the third it is "a a a".
    assert found.effects == pytest.approx((0.0, 0.0, 1 / 3 - 1.0))


def test_an_unreliable_neighbour_has_less_effect() -> None:
    near = [Neighbor("x", "a", 0.1, 0, 0.1), Neighbor("y", "a", 0.2, 1), Neighbor("z", "b", 0.3, 2)]
    effects = attribute(near, k=3, method="plurality", whole=True).effects
    assert 0 < effects[0] < effects[1]


def test_a_single_neighbour_is_all_that_its_vote_hangs_on() -> None:
    found = attribute(line("a"), k=5, whole=True)
    assert (found.margin, found.effects, found.flip) == (1.0, (1.0,), None)


def test_a_flip_is_looked_for_among_more_and_more_neighbours(built: Path, pictures: Path) -> None:
    memory = VisualMemory.open(built)
    near, found = explain(memory, pictures / "red" / "0.png", k=1)
    answers = [neighbor.label for neighbor in memory.search(pictures / "red" / "0.png", k=18)[0]]
    first_other = next(place for place, label in enumerate(answers) if label != answers[0])
    assert found.flip and found.flip.removed == tuple(range(first_other))
    assert len(near) > first_other


def test_an_empty_memory_is_refused(pictures: Path, checkpoint: Path, tmp_path: Path) -> None:
    empty = VisualMemory.create(tmp_path / "empty", embedder=str(checkpoint))
    with pytest.raises(InvalidArgument, match="the memory is empty"):
        explain(empty, pictures / "red" / "0.png", k=5)


def test_nothing_to_vote_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="k=0"):
        smallest_flip(line("ab"), k=0)
    with pytest.raises(InvalidArgument, match="0 neighbours"):
        attribute([], k=5)


def test_hundreds_of_neighbours_of_one_label_are_walked_through() -> None:
    near = line("a" * 400 + "b" * 60)
    flip = smallest_flip(near, k=50, method="plurality")
    # 25 of each would be a tie, which the nearer ones, of the winner, take: 24 of them may stay.
    assert flip and len(flip.removed) == 400 - 24
    assert vote([n for n in near if n.row not in flip.removed], 50, "plurality") == "b"
