"""Files of neighbours: the reference release's JSON and Parquet, read, written and refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.neighbors import Origin, read_neighbors, write_neighbors
from eval.types import Names, NeighborFileError, Neighborhoods, QueryResults
from retrieval.errors import StorageError
from retrieval.labels import imagenet_classes
from tests.eval.experiments.found import made_neighborhoods

NAME = "memory-imagenet_msplit-train_query-imagenet_qsplit-val_dinov2_vitl14_full_neighbor_info.json"


def entry(image_class: Any, classes: list[Any], **other: Any) -> dict[str, Any]:
    """Return a value of the reference release's object."""
    return {
        "featurizer": "dinov2_vitl14",
        "image_id": "?",
        "image_class": image_class,
        "neighbor_image_ids": [f"train_{number}" for number in range(len(classes))],
        "neighbor_classes": classes,
        "neighbor_distances": [0.1 * number for number in range(len(classes))],
        **other,
    }


def written(folder: Path, content: Any, name: str = NAME) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def rows_of(found: Neighborhoods) -> list[tuple[Any, ...]]:
    """Return queries with names in place of numbers, which may differ."""
    r = found.results
    return [
        (r.ids[q], r.truths[q], r.neighbor_ids.of(q), r.neighbor_labels.of(q), r.neighbor_distances[q].tolist())
        for q in range(len(r))
    ]


def test_classes_are_labels_as_text_and_class_0_is_one(tmp_path: Path) -> None:
    found = read_neighbors(written(tmp_path, {"a.JPEG": entry(0, [0, 7]), "b.JPEG": entry(7, [7, 0])}))
    assert found.results.truths == [{"0"}, {"7"}] and found.results.neighbor_labels.of(0) == ["0", "7"]
    assert found.results.ids == ["a.JPEG", "b.JPEG"] and found.results.neighbor_distances[1].tolist() == [0.0, 0.1]


def test_the_file_says_which_embedder_and_its_name_which_data_set(tmp_path: Path) -> None:
    found = read_neighbors(written(tmp_path, {"a": entry(1, [1])}))
    assert (found.name, found.embedder) == ("imagenet-val", "dinov2_vitl14")
    assert read_neighbors(written(tmp_path, {"a": entry(1, [1])}, "mine.json")).name == "mine"


def test_reals_lists_are_several_right_labels_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": entry([], [1]), "b": entry([1, 2], [2]), "c": entry([0], [0])})
    assert read_neighbors(path).results.truths == [{"1", "2"}, {"0"}]
    assert read_neighbors(path, keep_excluded=True).results.truths == [set(), {"1", "2"}, {"0"}]


def test_a_neighbour_more_or_less_is_cut_to_the_shorter(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": entry(1, [1, 2, 3]), "b": entry(1, [4, 5])})
    assert [read_neighbors(path).results.neighbor_labels.of(query) for query in (0, 1)] == [["1", "2"], ["4", "5"]]


@pytest.mark.parametrize("gap", ["", " ", "\n\t "])
def test_a_file_larger_than_what_is_held_at_a_time_is_read_whole(tmp_path: Path, gap: str) -> None:
    texts = [
        f"{gap}{json.dumps(f'{query:0300}')}{gap}:{gap}{json.dumps(entry(0, [0, 1] * 50))}" for query in range(2400)
    ]
    path = written(tmp_path, gap + "{" + ",".join(texts) + gap + "}" + gap)
    assert path.stat().st_size > 2**22
    found = read_neighbors(path)
    assert found.results.ids == [f"{query:0300}" for query in range(2400)] and found.results.k == 100


@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_what_is_written_is_read_again_as_it_was(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path, {"a": entry([], [1, 2]), "“b”\n": entry([3, 2], [2, 0]), "c": entry([0], [0, 5])})
    found = read_neighbors(path, keep_excluded=True)
    assert write_neighbors(found, tmp_path / f"again.{ending}") is None
    again = read_neighbors(tmp_path / f"again.{ending}", keep_excluded=True)
    assert rows_of(again) == rows_of(found) and again.embedder == found.embedder
    assert again.results.neighbor_labels.codes.shape == (3, 2)


def test_parquet_keeps_any_labels_and_the_data_sets_name(tmp_path: Path) -> None:
    found = made_neighborhoods()
    write_neighbors(found, tmp_path / "x.parquet")
    again = read_neighbors(tmp_path / "x.parquet")
    assert (again.name, again.embedder) == (found.name, found.embedder) and rows_of(again) == rows_of(found)


def test_a_run_is_written_as_the_reference_release_has_it(tmp_path: Path) -> None:
    found = labelled([known.wnid for known in imagenet_classes()[:40]])
    assert write_neighbors(found, tmp_path / "x.json") is None
    with (tmp_path / "x.json").open() as file:
        told = json.load(file)
    first = told[found.results.ids[0]]
    assert list(first) == list(entry(0, [])) and first["image_id"] == found.results.ids[0]
    assert first["image_class"] == int(found.results.ids[0].split("/")[0].removeprefix("class "))  # ImageNet's index
    assert isinstance(first["neighbor_classes"][0], int) and len(first["neighbor_image_ids"]) == 20


def labelled(names: list[str]) -> Neighborhoods:
    """Return made neighbours under other labels."""
    found = made_neighborhoods()
    results, old = found.results, found.results.neighbor_labels
    new = dict(zip(old.names, names, strict=True))
    truths = [frozenset(new[label] for label in truth) for truth in results.truths]
    return replace(found, results=replace(results, truths=truths, neighbor_labels=Names(old.codes, names)))


def test_other_labels_are_numbered_and_a_file_beside_it_tells_the_numbers(tmp_path: Path) -> None:
    found = made_neighborhoods()
    listing = write_neighbors(found, tmp_path / "x.json")
    assert listing == tmp_path / "x_classes.json"
    names = json.loads(listing.read_text())
    assert sorted(map(int, names)) == list(range(1, len(names) + 1))  # for the release's notebook 0 is no class
    again = read_neighbors(tmp_path / "x.json")
    assert [names[label] for label in again.results.neighbor_labels.of(3)] == found.results.neighbor_labels.of(3)


def test_file_names_follow_the_release_whatever_the_parts_hold() -> None:
    released = "memory-imagenet_msplit-train_query-imagenet_qsplit-validation_dinov2_vitl14_full_neighbor_info.json"
    assert Origin(memory="imagenet", queries="imagenet", model="dinov2_vitl14").file_name == released
    odd = Origin(memory="../up", queries="art_painting", query_split="a_b", model="a b", size="subsampled_10").file_name
    assert odd == "memory-..-up_msplit-train_query-art_painting_qsplit-a-b_a-b_subsampled_10_neighbor_info.json"


def test_underscores_in_names_are_read_again_as_they_were(tmp_path: Path) -> None:
    name = Origin(memory="my_own", queries="art_painting", model="small_dino").file_name
    nameless = {key: value for key, value in entry(1, [1]).items() if key != "featurizer"}
    found = read_neighbors(written(tmp_path, {"a": nameless}, name))
    assert (found.name, found.embedder) == ("art_painting-validation", "small_dino")


def test_no_half_of_a_file_is_left_where_writing_fails(tmp_path: Path) -> None:
    found = made_neighborhoods(5)
    broken = replace(found, results=replace(found.results, ids=["\udcff"] * 5))
    with pytest.raises(StorageError, match="cannot be written"):
        write_neighbors(broken, tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


GOOD = entry(1, [1, 2])
BAD = {
    "empty": ("", "JSON object keyed by image id"),
    "a list": ("[]", "JSON object keyed by image id"),
    "no image": ("{}", "holds no image"),
    "breaks off": (json.dumps({"a": GOOD})[:-20], "breaks off"),
    "no JSON": ('{"a": nonsense}', "no JSON"),
    "no object": ({"a": [1]}, "an object expected"),
    "missing": ({"a": {"image_class": 1}}, "neighbor_image_ids' is missing"),
    "no class": ({"a": {k: v for k, v in GOOD.items() if k != "image_class"}}, "image_class' is missing"),
    "no list": ({"a": GOOD | {"neighbor_classes": 3}}, "no list"),
    "uneven": ({"a": GOOD | {"neighbor_classes": [3]}}, "differ in length"),
    "no neighbours": ({"a": entry(1, [])}, "empty"),
    "far too few": ({"a": entry(1, [1] * 5), "b": GOOD}, "2 neighbours and others 5"),
    "null": ({"a": entry(None, [1])}, "neither a text nor a whole number"),
    "a class is true": ({"a": entry(1, [True])}, "neither a text nor a whole number"),
    "a text for a distance": ({"a": GOOD | {"neighbor_distances": ["0", "1"]}}, "image 'a'"),
    "not a number": ('{"a": ' + json.dumps(GOOD | {"neighbor_distances": [0.0, float("nan")]}) + "}", "no finite"),
    "descending": ({"a": GOOD | {"neighbor_distances": [0.5, 0.1]}}, "not ascending"),
    "nobody has a label": ({"a": entry([], [1])}, "no image has a right label"),
    "too deep": ('{"a": ' + "[" * 100_000, "breaks off|too deep"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_in_one_sentence_that_names_it(tmp_path: Path, kind: str) -> None:
    content, why = BAD[kind]
    path = written(tmp_path, content)
    with pytest.raises(NeighborFileError, match=why) as refused:
        read_neighbors(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_an_image_that_stands_twice_is_refused(tmp_path: Path) -> None:
    text = json.dumps(GOOD)
    with pytest.raises(NeighborFileError, match="twice"):
        read_neighbors(written(tmp_path, f'{{"a": {text}, "a": {text}}}'))


def test_what_is_no_file_no_text_or_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.json").write_bytes(b"{\xff\xfe")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    for name, why in (("none.json", "No such file"), ("bytes.json", "not UTF-8"), ("x.parquet", "usable file")):
        with pytest.raises(NeighborFileError, match=why):
            read_neighbors(tmp_path / name)


def test_other_parquet_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [1]}), tmp_path / "x.parquet")
    with pytest.raises(NeighborFileError, match="usable file"):
        read_neighbors(tmp_path / "x.parquet")


def test_distances_keep_every_digit(tmp_path: Path) -> None:
    distances = np.array([[1 / 3, 2 / 3]])
    names = Names(np.array([[0, 1]]), ["0", "1"])
    results = QueryResults(["a"], [frozenset("0")], names, names, distances, {})
    for ending in ("json", "parquet"):
        write_neighbors(Neighborhoods("val", "none", results), tmp_path / f"x.{ending}")
        assert (read_neighbors(tmp_path / f"x.{ending}").results.neighbor_distances == distances).all()
