"""Random edits of a memory, what they leave, and a process that makes them one after the other until it is killed.

Run as a program: ``python edits.py MEMORY LOG SEED KIND``: half the edits are of that kind. To the log go each edit
before it is begun, and, once it has returned, the version that it made.
"""

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.embedders.base import foreign_vectors
from retrieval.erasing.erase import erase_items
from retrieval.erasing.files import TableFiles
from retrieval.errors import UnknownVersion
from retrieval.memory import VisualMemory
from retrieval.storage.history import find_undone
from retrieval.storage.table import reliability_column
from retrieval.storage.versions import version_numbers
from retrieval.vectors import to_fixed_point, to_unit_vectors

DIMENSION = 16
CLUSTERS = 200
ITEMS = 10_500  # enough for a tree
MANY = 4_200  # more than are searched beside an index
FEW = 12
WITHOUT_TREE = 1_500  # items, whose index is made in a tenth of a second
KINDS = (
    *("add", "forget", "relabel", "replace", "prune", "checkout", "undo", "erase"),
    *("compact", "tag", "grow", "shrink", "index", "rebuild"),
)
WEIGHTS = (8, 8, 6, 6, 2, 2, 3, 2, 1, 2, 1, 1, 3, 1)

EXACT_SHARE = 0.9  # of the ten nearest, that a tree finds
WIDE = 200  # neighbours, for which it looks so far that it misses no item: for ten it may miss 2 of 1,000 themselves


@dataclass(frozen=True)
class Made:
    """An item by how it was made."""

    label: str
    seed: int
    place: int
    reliability: float = 1.0


State = Mapping[str, Made]
Edit = dict[str, Any]  # as JSON has it


def vectors(count: int, seed: int) -> np.ndarray:
    """Return vectors in clusters; the first ones are the same whatever the count."""
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, DIMENSION))
    noise = np.random.default_rng(seed).standard_normal((count, DIMENSION))
    return (centres[np.arange(count) % CLUSTERS] + noise / 3).astype(np.float32)


def first_state(items: int = ITEMS) -> dict[str, Made]:
    """Return what a memory holds at first."""
    return {f"first {place}": Made(f"class {place % 10}", 1, place) for place in range(items)}


def create(path: Path, items: int = ITEMS) -> VisualMemory:
    """Make a memory with an index: a tree, where there are `ITEMS`, and its rows alone for a few thousand."""
    memory = VisualMemory.create(path, embedder=foreign_vectors("made", DIMENSION), index="scann")
    state = first_state(items)
    memory.add_vectors(list(state), [made.label for made in state.values()], vectors(items, 1))
    memory.build_index()
    return memory


def random_edit(
    chance: random.Random,
    ids: list[str],
    versions: Sequence[int],
    often: str,
    undone: Callable[[], int | None],
) -> Edit:
    """Return an edit of a memory that holds some ids, often of one kind, as JSON has it.

    ``undone`` tells the version that `undo` would go back to.
    """
    kind = chance.choice([often, *chance.choices(KINDS, WEIGHTS)])
    if kind == "undo" and (before := undone()) in versions:
        return {"kind": kind, "version": before}
    kind = "add" if kind == "undo" else kind
    seed = chance.getrandbits(40)
    if (kind == "grow" and len(ids) > ITEMS + MANY) or (kind == "shrink" and len(ids) < ITEMS):
        kind = "add"
    if kind in ("add", "grow"):
        return {"kind": kind, "seed": seed, "ids": [f"{seed} {i}" for i in range(MANY if kind == "grow" else FEW)]}
    if kind == "checkout":
        return {"kind": kind, "version": chance.choice(versions)}
    count = MANY if kind == "shrink" else chance.randint(1, FEW)
    return {"kind": kind, "seed": seed, "ids": chance.sample(ids, count)}


def after(state: State, edit: Edit, states: Mapping[int, State]) -> State:
    """Return what is there after an edit.

    Args:
        state: before it.
        edit: as `random_edit` returned it.
        states: by version.
    """
    kind, ids, seed = edit["kind"], edit.get("ids", ()), edit.get("seed", 0)
    new = {id_: Made(f"class {seed % 10}", seed, place) for place, id_ in enumerate(ids)}
    match kind:
        case "add" | "grow":
            return {**state, **new}
        case "replace":  # which makes it another item, not pruned
            return {**state, **new}
        case "relabel":
            return {**state, **{id_: replace(state[id_], label=f"label {seed}") for id_ in ids}}
        case "forget" | "shrink" | "erase":
            gone = set(ids)
            return {id_: made for id_, made in state.items() if id_ not in gone}
        case "prune":
            pruned = dict(zip(ids, reliabilities(len(ids)), strict=True))
            return {id_: replace(made, reliability=pruned.get(id_, 1.0)) for id_, made in state.items()}
        case "checkout" | "undo":
            return states[edit["version"]]
    return state


def reliabilities(count: int) -> list[float]:
    return [0.0, 0.5, 0.25, 0.75][:count] + [0.125] * (count - 4)


def make(memory: VisualMemory, edit: Edit) -> None:
    """Make an edit."""
    kind, ids, seed = edit["kind"], edit.get("ids", []), edit.get("seed", 0)
    labels = [f"class {seed % 10}"] * len(ids)
    match kind:
        case "add" | "grow" | "replace":
            on_duplicate = "replace" if kind == "replace" else "error"
            memory.add_vectors(ids, labels, vectors(len(ids), seed), on_duplicate=on_duplicate)
        case "relabel":
            memory.relabel(f"label {seed}", ids=ids)
        case "forget" | "shrink":
            memory.forget(ids=ids)
        case "checkout":
            memory.checkout(edit["version"])
        case _:
            others: dict[str, Callable[[VisualMemory, list[str]], object]] = {
                "erase": erase,
                "prune": prune,
                "index": search,
                "rebuild": rebuild,
                "compact": compact,
                "tag": tag,
                "undo": lambda memory, _: memory.undo(),
            }
            others[kind](memory, ids)


def erase(memory: VisualMemory, ids: list[str]) -> None:
    snapshot = memory.snapshot()
    erase_items(memory.path, snapshot.rows.keys(snapshot.slots_of(ids)), traces=[], progress=False)
    memory.refresh()


def prune(memory: VisualMemory, ids: list[str]) -> None:
    values = np.ones(len(memory))
    values[memory.snapshot().rows_of(ids)] = reliabilities(len(ids))
    memory.set_reliability(values)


def search(memory: VisualMemory, ids: list[str]) -> None:
    memory.search_vectors(vectors(2, len(ids)), k=5)


def compact(memory: VisualMemory, ids: list[str]) -> None:
    memory.compact(keep=len(ids))


def tag(memory: VisualMemory, ids: list[str]) -> None:
    """Take two tags away, and tag some version."""
    versions = memory.history()
    for name in [name for version in versions for name in version.tags][:2]:
        memory.untag(name)
    memory.tag(f"tag-{memory.version}-{len(ids)}", version=versions[len(ids) % len(versions)].number)


def rebuild(memory: VisualMemory, ids: list[str]) -> None:
    (memory.path / "index" / "current").unlink(missing_ok=True)
    VisualMemory.open(memory.path).build_index()


def version_before(memory: VisualMemory) -> int | None:
    """Return the version that `undo` goes back to; None where it is refused."""
    try:
        return find_undone(memory._table)[1]
    except UnknownVersion:
        return None


def holds(memory: VisualMemory) -> dict[str, tuple[object, ...]]:
    """Return label, vector and reliability of each item, as the table has them."""
    dataset = memory._table.dataset
    column = reliability_column(dataset.schema)
    rows = dataset.to_table()
    ids, keys = rows["id"].to_pylist(), rows["key"].to_pylist()
    assert len(ids) == len(set(ids)) == len(set(keys)) == len(memory)
    factors = [1.0 if factor is None else factor for factor in rows[column].to_pylist()] if column else [1.0] * len(ids)
    matrix = rows["vector"].combine_chunks().flatten().to_numpy().reshape(-1, DIMENSION)
    stored = map(bytes, matrix)
    return dict(zip(ids, zip(rows["label"].to_pylist(), stored, factors, strict=True), strict=True))


def expected(state: State) -> dict[str, tuple[object, ...]]:
    """Return the same, as it should be."""
    matrix = map(bytes, matrix_of(state))
    return {id_: (made.label, row, made.reliability) for (id_, made), row in zip(state.items(), matrix, strict=True)}


def matrix_of(state: State) -> np.ndarray:
    """Return the vectors of a state's items as they are stored."""
    longest: dict[int, int] = {}
    for made in state.values():
        longest[made.seed] = max(longest.get(made.seed, 0), made.place + 1)
    by_seed = {seed: vectors(count, seed) for seed, count in longest.items()}
    rows = np.stack([by_seed[made.seed][made.place] for made in state.values()])
    return to_fixed_point(to_unit_vectors(rows, dimension=DIMENSION))


def expect_right_answers(memory: VisualMemory, state: State, erased: set[str]) -> None:
    """Compare a search with exact arithmetic over what should be there."""
    living = {id_: made for id_, made in state.items() if made.reliability > 0}
    unit = matrix_of(living).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    ids = np.array(list(living), object)
    some = np.concatenate([np.arange(len(ids))[-10:], np.random.default_rng().choice(len(ids), 20)])
    assert (memory.search_vectors(unit[some], k=WIDE).ids[:, 0] == ids[some]).all()
    found = memory.search_vectors(unit[some], k=10)
    assert found.labels.tolist() == [[living[id_].label for id_ in row] for row in found.ids]
    exact = 1 - unit[some] @ unit.T
    place = {id_: number for number, id_ in enumerate(ids)}
    chosen = np.array([[place[id_] for id_ in row] for row in found.ids])
    assert np.allclose(np.take_along_axis(exact, chosen, axis=1), found.distances, atol=1e-5)
    nearest = np.argsort(exact, axis=1)[:, :10]
    shares = [len(set(one) & set(other)) / 10 for one, other in zip(nearest.tolist(), chosen.tolist(), strict=True)]
    assert np.mean(shares) >= EXACT_SHARE
    assert not TableFiles(memory._table.uri).keys_of(erased)


def main(path: Path, log: str, seed: int, often: str) -> None:
    chance = random.Random(seed)
    memory = VisualMemory.open(path)
    versions = [memory.version]
    memory.build_index()
    with open(log, "a", encoding="utf-8") as file:

        def say(**entry: Any) -> None:
            print(json.dumps(entry), file=file, flush=True)

        say(done=memory.version)
        while True:
            edit = random_edit(chance, memory.snapshot().ids.tolist(), versions, often, partial(version_before, memory))
            say(begun=edit)
            make(memory, edit)
            say(done=memory.version)
            known = set(version_numbers(path))  # erasing drops some
            versions = [version for version in (*versions, memory.version) if version in known][-20:]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
