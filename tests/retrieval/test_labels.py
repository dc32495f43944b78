"""Labels and ids: one rule for every way in, one spelling, and names that no two classes share."""

import csv
import json
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval import VisualMemory
from retrieval.building import add_features
from retrieval.embedders.base import foreign_vectors
from retrieval.errors import FolderError, InvalidArgument, UnknownItem
from retrieval.labels import display_name, full_name, imagenet_by_wnid, imagenet_classes
from retrieval.parquet import FeatureFile
from retrieval.sources import read_manifest
from retrieval.storage.table import ItemBatch
from tests.conftest import COLOURS, draw

COMPOSED = "caf\u00e9"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
Way = Callable[[Any, VisualMemory, Path], Iterable[str]]


@pytest.fixture
def memory(tmp_path: Path) -> VisualMemory:
    return VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("mine", 3))


def by_iterable(label: Any, memory: VisualMemory, folder: Path) -> Iterable[str]:
    memory.add_vectors(["x"], [label], np.eye(3)[:1])
    return memory.stats().labels


def by_relabelling(label: Any, memory: VisualMemory, folder: Path) -> Iterable[str]:
    memory.add_vectors(["x"], ["before"], np.eye(3)[:1])
    memory.relabel(label, ids=["x"])
    return memory.stats().labels


def by_features(label: Any, memory: VisualMemory, folder: Path) -> Iterable[str]:
    pq.write_table(pa.table({"id": ["x"], "label": [label], "vector": [[1.0, 0, 0]]}), folder / "f.parquet")
    held = VisualMemory.create(folder / "of features", embedder=foreign_vectors("f", 3))
    add_features(held, FeatureFile.open(folder / "f.parquet"))
    return held.stats().labels


def by_csv(label: Any, memory: VisualMemory, folder: Path) -> Iterable[str]:
    with (folder / "m.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["label", "path"], [label, "x.png"]])
    return [item.label for item in read_manifest(folder / "m.csv")]


def by_jsonl(label: Any, memory: VisualMemory, folder: Path) -> Iterable[str]:
    (folder / "m.jsonl").write_text(json.dumps({"label": label, "path": "x.png"}))
    return [item.label for item in read_manifest(folder / "m.jsonl")]


def by_parquet(label: Any, memory: VisualMemory, folder: Path) -> Iterable[str]:
    pq.write_table(pa.table({"label": [label], "path": ["x.png"]}), folder / "m.parquet")
    return [item.label for item in read_manifest(folder / "m.parquet")]


WAYS = [by_iterable, by_relabelling, by_features, by_csv, by_jsonl, by_parquet]
KEPT = [("cat", "cat"), (7, "7"), (0, "0"), ("7.0", "7.0"), (DECOMPOSED, COMPOSED)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("label", "kept"), KEPT)
def test_text_and_whole_numbers_are_the_same_label_by_every_way_in(
    way: Way, label: Any, kept: str, memory: VisualMemory, tmp_path: Path
) -> None:
    assert list(way(label, memory, tmp_path)) == [kept]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("label", ["", " ", 7.0, True, None, -1])
def test_anything_else_is_refused_by_every_way_in(way: Way, label: Any, memory: VisualMemory, tmp_path: Path) -> None:
    if way is by_csv and not isinstance(label, str):
        return  # all that stands in a CSV is text
    expected = "text, or a whole number from 0, expected|rows without an id, a label or a vector"
    with pytest.raises((InvalidArgument, FolderError), match=expected):
        way(label, memory, tmp_path)


def test_a_folder_spelt_in_two_ways_is_one_label_and_its_pictures_still_open(tmp_path: Path, checkpoint: Path) -> None:
    for number, name in enumerate((COMPOSED, DECOMPOSED)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        draw(COLOURS["red"], number).save(tmp_path / "photos" / name / f"{number}.png")
    memory = VisualMemory.create(tmp_path / "memory", embedder=str(checkpoint))
    assert memory.add_folder(tmp_path / "photos").added == 2
    assert memory.stats().labels == {COMPOSED: 2}
    assert sorted(memory.snapshot().ids) == [f"{COMPOSED}/0.png", f"{COMPOSED}/1.png"]


def test_two_files_whose_names_differ_in_their_spelling_alone_are_not_lost_in_silence(
    memory: VisualMemory, tmp_path: Path
) -> None:
    for name in (COMPOSED, DECOMPOSED):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").touch()
    with pytest.raises(FolderError, match=f"two files called {COMPOSED}/1.png, whose letters are spelt differently"):
        memory.add_folder(tmp_path / "photos")


@pytest.fixture
def older(memory: VisualMemory) -> VisualMemory:
    """Return a memory as it was made before this rule: one class in two spellings, and ids as they came."""
    ids, labels = [f"{DECOMPOSED}/1", f"{COMPOSED}/2", "z"], [DECOMPOSED, COMPOSED, "z"]
    memory._put(ItemBatch(ids, labels, np.eye(3), *[[None] * 3] * 3), on_duplicate="skip")
    return VisualMemory.open(memory.path)


def test_an_older_memory_votes_with_one_class_for_both_spellings(older: VisualMemory) -> None:
    assert older.stats().labels == {COMPOSED: 2, "z": 1}
    assert sorted(older.search_vectors(np.eye(3)[:1], k=3).labels[0]) == [COMPOSED, COMPOSED, "z"]


def test_an_older_memory_knows_an_item_in_either_spelling(older: VisualMemory) -> None:
    assert older.add_vectors([f"{COMPOSED}/1", f"{DECOMPOSED}/2"], ["a", "b"], np.eye(3)[:2]).skipped == 2
    assert len(older.without([f"{COMPOSED}/1", f"{DECOMPOSED}/2"])) == 1
    assert older.relabel({f"{COMPOSED}/1": "a", f"{DECOMPOSED}/2": "b"}) == 2
    assert older.forget(where=f"id = '{DECOMPOSED}/2'") == 1
    assert older.forget(ids=[f"{COMPOSED}/1"]) == 1


@pytest.mark.parametrize("spelling", [COMPOSED, DECOMPOSED])
def test_an_item_is_erased_in_either_spelling(older: VisualMemory, spelling: str) -> None:
    assert older.erase(ids=[f"{spelling}/1"]).items == 1
    older.forget(ids=[f"{spelling}/2"])
    assert older.erase(ids=[f"{spelling}/2"]).items == 1  # forgotten before: only earlier versions hold it


def test_both_spellings_of_an_older_memorys_class_are_chosen_and_written_as_one(older: VisualMemory) -> None:
    assert older.relabel(DECOMPOSED, label=COMPOSED) == 2
    assert older._table.label_counts() == {COMPOSED: 2, "z": 1}


def test_one_item_is_not_relabelled_twice_under_two_spellings(older: VisualMemory) -> None:
    with pytest.raises(InvalidArgument, match="two of the ids to relabel are one item's, spelt differently"):
        older.relabel({f"{COMPOSED}/1": "a", f"{DECOMPOSED}/1": "b"})


def test_ids_come_from_any_iterable_and_one_text_is_none(memory: VisualMemory) -> None:
    assert memory.add_vectors((str(n) for n in range(3)), iter("abc"), (row for row in np.eye(3))).added == 3
    assert memory.relabel("x", ids=(name for name in ["0", "1"])) == 2
    assert len(memory.without(name for name in ["0"])) == 2
    assert memory.forget(ids=np.array([0])) == 1
    assert memory.erase(ids=(name for name in ["0", "1"])).items == 2
    with pytest.raises(UnknownItem, match="no item 'nobody'"):
        memory.forget(ids=(name for name in ["nobody"]))
    for call in (memory.forget, memory.erase):
        with pytest.raises(InvalidArgument, match="got 'ab' as ids: a list of them expected"):
            call(ids="ab")


def test_the_thousand_classes_stand_in_the_order_of_their_wnids() -> None:
    wnids = [known.wnid for known in imagenet_classes()]
    assert len(wnids) == 1000 and wnids == sorted(set(wnids))
    assert [known.index for known in imagenet_classes()] == list(range(1000))


def test_no_two_classes_have_the_same_name_even_where_others_lists_repeat_one() -> None:
    names = {known.name.lower() for known in imagenet_classes()}
    assert len(names) == 1000
    by_index = imagenet_classes()
    assert {by_index[657].name, by_index[744].name} == {"missile", "projectile"}
    assert {by_index[836].name, by_index[837].name} == {"sunglass", "sunglasses"}
    assert {by_index[134].name, by_index[517].name} == {"crane bird", "construction crane"}
    assert by_index[638].name != by_index[639].name


def test_imagenet_a_and_r_have_200_classes_each_and_share_86() -> None:
    in_a = {known.wnid for known in imagenet_classes() if known.in_a}
    in_r = {known.wnid for known in imagenet_classes() if known.in_r}
    assert (len(in_a), len(in_r), len(in_a & in_r)) == (200, 200, 86)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("n01440764", "tench"),
        ("n99999999", "n99999999"),
        ("dog", "dog"),
        ("", ""),
        (
            "03111_Animalia_Chordata_Aves_Passeriformes_Turdidae_Turdus_migratorius",
            "Turdus migratorius (Turdidae)",
        ),
        ("03111_Animalia_Chordata_Aves", "03111_Animalia_Chordata_Aves"),
    ],
)
def test_a_label_has_a_name_that_people_read(label: str, name: str) -> None:
    assert display_name(label) == name


def test_classes_are_found_by_wnid() -> None:
    assert imagenet_by_wnid()["n02012849"].name == "crane bird"


def test_a_full_name_tells_the_label_too_where_it_differs() -> None:
    assert (full_name("n01440764"), full_name("cat")) == ("tench (n01440764)", "cat")
