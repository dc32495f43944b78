"""Pictures in tables: Parquet and Hugging Face's folders."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.datasets.loading import load_dataset
from eval.types import Dataset, StoredPicture
from retrieval.errors import FolderError, ImageError
from retrieval.labels import imagenet_classes
from tests.eval.datasets.making import GOLDFISH, SHARK, TENCH, VAL_1, VAL_3, contents, encoded, write_files

WNIDS = [known.wnid for known in imagenet_classes()]
NAMES = [known.name for known in imagenet_classes()]
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def hub_table(labels: list[Any], *, class_names: list[str] | None = None, paths: list[str] | None = None) -> pa.Table:
    """Return a table as Hugging Face lays it out."""
    images = [{"bytes": encoded(n), "path": paths[n] if paths else None} for n in range(len(labels))]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": class_names}}
    table = pa.table({"image": pa.array(images, _IMAGE), "label": labels})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def load_parquet(folder: Path, name: str, table: pa.Table, *, file: str = "a.parquet") -> Dataset:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / file, row_group_size=2)
    return load_dataset(name, folder)


def labels_of(dataset: Dataset) -> list[set[str]]:
    return [set(sample.labels) for sample in dataset.samples]


def test_integer_labels_have_the_names_that_stand_beside_them(tmp_path: Path) -> None:
    dataset = load_parquet(tmp_path, "mine", hub_table([1, 0, 1], class_names=["cat", "dog"]))
    assert labels_of(dataset) == [{"dog"}, {"cat"}, {"dog"}]
    assert list(contents(dataset).values()) == [encoded(0), encoded(1), encoded(2)]


def test_integer_labels_without_names_are_text(tmp_path: Path) -> None:
    assert labels_of(load_parquet(tmp_path, "mine", pa.table({"image": [encoded(0)], "label": [7]}))) == [{"7"}]


@pytest.mark.parametrize("class_names", [None, NAMES, [f"{name}, other word" for name in NAMES]])
def test_integer_labels_of_imagenet_go_by_the_order_of_the_wnids(class_names: list[str] | None, tmp_path: Path) -> None:
    dataset = load_parquet(tmp_path, "imagenet-sketch", hub_table([2, 0, 1], class_names=class_names))
    assert labels_of(dataset) == [{SHARK}, {TENCH}, {GOLDFISH}]


def test_class_names_that_are_wnids_go_before_the_order(tmp_path: Path) -> None:
    dataset = load_parquet(tmp_path, "tiny-imagenet-train", hub_table([0, 1], class_names=[SHARK, TENCH]))
    assert labels_of(dataset) == [{SHARK}, {TENCH}]


def test_class_names_in_another_order_are_refused(tmp_path: Path) -> None:
    names = [NAMES[place] for place in np.random.default_rng(0).permutation(1000)]
    with pytest.raises(FolderError, match="names 1,000 classes .* in another order than the sorted wnids"):
        load_parquet(tmp_path, "imagenet-val", hub_table([0], class_names=names))


@pytest.mark.parametrize(
    "spelt", [lambda name: name, lambda name: f"{name}, other word", lambda name: name.replace(" ", "_")]
)
def test_class_names_of_which_a_third_is_shifted_are_refused(spelt: Callable[[str], str], tmp_path: Path) -> None:
    names = [spelt(name) for name in NAMES]
    names[600:933] = names[601:934]
    with pytest.raises(
        FolderError, match="another order than the sorted wnids: number 60[0-9] is .* and .* in ImageNet"
    ):
        load_parquet(tmp_path, "imagenet-sketch", hub_table([0], class_names=names))


def test_two_class_names_that_changed_places_are_refused(tmp_path: Path) -> None:
    names = [*NAMES[:10], NAMES[11], NAMES[10], *NAMES[12:]]
    with pytest.raises(FolderError, match="number 10 is 'goldfinch' there, where class 11 is called so"):
        load_parquet(tmp_path, "imagenet-sketch", hub_table([0], class_names=names))


def test_terriers_that_changed_places_are_refused_though_their_names_share_a_word(tmp_path: Path) -> None:
    names = [*NAMES[:179], *NAMES[180:196], NAMES[179], *NAMES[196:]]  # as in ImageNet's order, but one place on
    with pytest.raises(FolderError, match="number 179 is .* there, where class 180 is called so"):
        load_parquet(tmp_path, "imagenet-sketch", hub_table([0], class_names=names))


def test_class_names_that_hold_wnids_go_by_them(tmp_path: Path) -> None:
    names = [f"{SHARK} great white shark", f"{TENCH} tench"]
    assert labels_of(load_parquet(tmp_path, "imagenet-sketch", hub_table([0, 1], class_names=names))) == [
        {SHARK},
        {TENCH},
    ]


def test_a_row_whose_file_name_tells_another_wnid_than_its_label_is_refused(tmp_path: Path) -> None:
    table = hub_table([0, 1], paths=[f"{TENCH}_1.JPEG", f"{TENCH}_2.JPEG"])
    with pytest.raises(FolderError, match=f"{TENCH}_2.JPEG is filed under {GOLDFISH}, but its name says {TENCH}"):
        load_parquet(tmp_path, "imagenet-train", table)


def test_two_hundred_classes_numbered_from_nought_are_refused_for_a_and_r(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"n01440764 \(tench\) is none of the 200 classes of ImageNet-A"):
        load_parquet(tmp_path, "imagenet-a", hub_table(list(range(200))))
    with pytest.raises(FolderError, match="names 200 classes"):
        load_parquet(tmp_path, "imagenet-r", hub_table([0], class_names=[f"class {n}" for n in range(200)]))


def test_imagenet_a_with_the_numbers_of_all_thousand_classes_is_read(tmp_path: Path) -> None:
    dataset = load_parquet(tmp_path, "imagenet-a", hub_table([6]))
    assert labels_of(dataset) == [{"n01498041"}] and dataset.subset


def test_a_row_of_the_validation_set_with_another_label_than_published_is_named(tmp_path: Path) -> None:
    table = hub_table([WNIDS.index(VAL_1)], paths=["ILSVRC2012_val_00000003.JPEG"])
    with pytest.raises(FolderError, match=f"00000003.JPEG as {VAL_1}, but the published list says {VAL_3}"):
        load_parquet(tmp_path, "imagenet-val", table)


def test_reassessed_labels_of_rows_go_by_their_pictures_names(tmp_path: Path) -> None:
    table = hub_table(
        [WNIDS.index(VAL_3), WNIDS.index(VAL_1)],
        paths=[f"ILSVRC2012_val_00000003_{VAL_3}.JPEG", f"ILSVRC2012_val_00000001_{VAL_1}.JPEG"],
    )
    dataset = load_parquet(tmp_path, "imagenet-real", table)
    assert labels_of(dataset) == [{VAL_3, "n02106030"}] and dataset.excluded == 1


def test_reassessed_labels_refuse_rows_without_names(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="the reassessed labels go by that number"):
        load_parquet(tmp_path, "imagenet-real", hub_table([0]))


def test_ninco_and_inaturalist_go_by_class_name(tmp_path: Path) -> None:
    table = hub_table([1, 0], class_names=["s_sky", "high_heels"])
    assert labels_of(load_parquet(tmp_path, "ninco", table)) == [{"high heels"}, {"s_sky"}]
    with pytest.raises(FolderError, match="'3' is no class of iNaturalist 2021"):
        load_parquet(tmp_path / "other", "inaturalist-2021-val", hub_table([3]))


def test_of_several_splits_the_named_one_is_taken(tmp_path: Path) -> None:
    for split, label in (("train", 0), ("validation", 1), ("test", 2)):
        for shard in range(2):
            file = tmp_path / "data" / f"{split}-0000{shard}-of-00002.parquet"
            file.parent.mkdir(exist_ok=True)
            pq.write_table(hub_table([label]), file)
    assert labels_of(load_dataset("imagenet-val", tmp_path)) == [{GOLDFISH}, {GOLDFISH}]
    assert labels_of(load_dataset("imagenet-train", tmp_path / "data")) == [{TENCH}, {TENCH}]
    with pytest.raises(FolderError, match=r"holds several splits \(test, train, validation\)"):
        load_dataset("mine", tmp_path)


def test_labels_of_minus_one_are_those_of_a_test_set(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="row 1 of .* has the label -1, which test sets without labels have"):
        load_parquet(tmp_path, "mine", hub_table([0, -1]))


def test_ids_are_file_names_where_they_differ_and_places_where_they_do_not(tmp_path: Path) -> None:
    named = load_parquet(tmp_path / "a", "mine", hub_table([0, 1], paths=["x.jpg", "y.jpg"]))
    assert [sample.id for sample in named.samples] == ["x.jpg", "y.jpg"]
    repeated = load_parquet(tmp_path / "b", "mine", hub_table([0, 1], paths=["x.jpg", "x.jpg"]))
    assert [sample.id for sample in repeated.samples] == ["a.parquet:0", "a.parquet:1"]


def test_the_same_id_twice_is_refused(tmp_path: Path) -> None:
    table = pa.table({"id": ["x", "x"], "image": [encoded(0), encoded(1)], "label": ["cat", "dog"]})
    with pytest.raises(FolderError, match=r"rows with the same id \(x\)"):
        load_parquet(tmp_path, "mine", table)


@pytest.mark.parametrize("file_format", ["stream", "file"])
def test_a_folder_that_save_to_disk_wrote_is_read(file_format: str, tmp_path: Path) -> None:
    table = hub_table([1, 0], class_names=["cat", "dog"])
    new = pa.ipc.new_stream if file_format == "stream" else pa.ipc.new_file
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        with new(str(tmp_path / split / "data-00000-of-00001.arrow"), table.schema) as writer:
            writer.write_table(table)
        (tmp_path / split / "state.json").write_text("{}")
    dataset = load_dataset("mine", tmp_path / "test")
    assert labels_of(dataset) == [{"dog"}, {"cat"}]
    assert list(contents(dataset).values()) == [encoded(0), encoded(1)]
    with pytest.raises(FolderError, match=r"several splits \(test, train\)"):
        load_dataset("mine", tmp_path)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_several_threads_read_the_same_cells_as_one(suffix: str, tmp_path: Path) -> None:
    table = hub_table([n % 3 for n in range(60)], class_names=["a", "b", "c"])
    if suffix == "parquet":
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    else:
        with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    samples = load_dataset("mine", tmp_path).samples
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            assert list(threads.map(lambda sample: sample.picture(), samples)) == [encoded(n) for n in range(60)]


def test_a_cell_has_its_own_fingerprint(tmp_path: Path) -> None:
    images = [sample.image for sample in load_parquet(tmp_path, "mine", hub_table([0, 1])).samples]
    assert len({image.fingerprint for image in images if isinstance(image, StoredPicture)}) == 2


def test_an_empty_cell_is_no_picture(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([None], pa.binary()), "label": ["cat"]})
    (sample,) = load_parquet(tmp_path, "mine", table).samples
    with pytest.raises(ImageError, match="row 0 of .* holds no picture: encoded bytes expected"):
        sample.picture()


def test_a_table_without_labels_or_pictures_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="has the columns image, class: one called label or labels expected"):
        load_parquet(tmp_path, "mine", pa.table({"image": [b""], "class": [1]}))
    with pytest.raises(FolderError, match="has the columns label, text: one called image"):
        load_parquet(tmp_path, "mine", pa.table({"label": [1], "text": ["x"]}))


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="holds no labelled pictures"):
        load_parquet(tmp_path, "mine", hub_table([]))


def test_a_cell_of_many_zeros_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    cells = pa.array([bytes(300_000_000), b"x"], pa.large_binary())
    table = pa.table({"image": cells, "label": ["a", "b"]})
    pq.write_table(table, tmp_path / "a.parquet", write_statistics=False)
    sample, _ = load_dataset("mine", tmp_path).samples
    with pytest.raises(
        ImageError, match="a page of it unpacks to 300,000,00. bytes, more than the limit of 268,435,456"
    ):
        sample.picture()


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_pictures_are_read_in_whatever_encoding_a_table_has_them(encoding: str, tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([b"x1", b"x2"], pa.binary()), "label": ["a", "b"]})
    how = {"use_dictionary": False, "column_encoding": {"image": encoding}}
    pq.write_table(table, tmp_path / "a.parquet", **how)
    first, second = load_dataset("mine", tmp_path).samples
    assert (first.picture(), second.picture()) == (b"x1", b"x2")


def test_a_text_too_long_for_a_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="holds a text of 70,000 bytes: a label, an id or a path expected"):
        load_parquet(tmp_path, "mine", pa.table({"image": [b"x"], "label": ["a" * 70_000]}))


def test_columns_may_be_written_in_capitals_and_what_systems_leave_is_no_table(tmp_path: Path) -> None:
    write_files(tmp_path / "pictures", ["1.jpg"])
    for name in ("._a.parquet", "@eaDir/a.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no table")
    dataset = load_parquet(tmp_path, "mine", pa.table({"FilePath": ["pictures/1.jpg"], "Label": ["cat"], "ID": [7]}))
    assert contents(dataset) == {"7": encoded(0)}


def test_a_damaged_table_is_one_sentence(tmp_path: Path) -> None:
    pq.write_table(hub_table([0, 1]), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "whole.parquet").unlink()
    for damaged in (b"PAR1 and nothing more", whole[:-60] + bytes(50) + whole[-10:]):
        (tmp_path / "a.parquet").write_bytes(damaged)
        with pytest.raises(FolderError, match="cannot be read as a table of pictures") as refused:
            load_dataset("mine", tmp_path)
        assert "\n" not in str(refused.value)


def test_a_parquet_list_of_paths_is_read(tmp_path: Path) -> None:
    write_files(tmp_path / "pictures", ["1.jpg"])
    dataset = load_parquet(tmp_path, "mine", pa.table({"path": ["pictures/1.jpg"], "label": ["cat"]}))
    assert contents(dataset) == {"pictures/1.jpg": encoded(0)}


@pytest.mark.parametrize("beside", ["/etc/hostname", "../secret.jpg", "a/../../secret.jpg", "pipe", "no\0file"])
def test_a_cell_reads_no_file_outside_the_tables_folder_and_no_pipe(beside: str, tmp_path: Path) -> None:
    write_files(tmp_path, ["secret.jpg", "table/inside.jpg"])
    os.mkfifo(tmp_path / "table" / "pipe")
    images = [{"bytes": None, "path": beside}, {"bytes": None, "path": "inside.jpg"}]
    table = pa.table({"image": pa.array(images, _IMAGE), "label": ["a", "b"]})
    outside, inside = load_parquet(tmp_path / "table", "mine", table).samples
    with pytest.raises(ImageError, match="names a picture outside its folder|is not a file|cannot be read"):
        outside.picture()
    assert inside.picture() == encoded(1)


def test_what_hugging_face_keeps_beside_a_saved_table_is_passed_over(tmp_path: Path) -> None:
    table = hub_table([1, 0], class_names=["cat", "dog"])
    for name, held in (("data-00000-of-00001", table), ("cache-0a1b", pa.table({"indices": [0, 1]}))):
        with pa.ipc.new_stream(str(tmp_path / f"{name}.arrow"), held.schema) as writer:
            writer.write_table(held)
    assert labels_of(load_dataset("mine", tmp_path)) == [{"dog"}, {"cat"}]
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert labels_of(load_dataset("mine", tmp_path)) == [{"dog"}, {"cat"}]
    state["_data_files"].append({"filename": "data-00001-of-00001.arrow"})
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(FolderError, match=r"lacks the file data-00001-of-00001.arrow, which its state.json lists"):
        load_dataset("mine", tmp_path)


@pytest.mark.parametrize("metadata", ["[]", '{"info": []}', "[" * 100_000, "{"])
def test_damaged_metadata_are_one_sentence(metadata: str, tmp_path: Path) -> None:
    table = hub_table([0]).replace_schema_metadata({"huggingface": metadata})
    with pytest.raises(FolderError, match="cannot be read as a table of pictures"):
        load_parquet(tmp_path, "mine", table)


def test_an_arrow_stream_that_lacks_its_end_is_refused(tmp_path: Path) -> None:
    table = hub_table([0, 1, 0, 1], class_names=["cat", "dog"])
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    whole = (tmp_path / "a.arrow").read_bytes()
    second = whole.rindex(b"\xff" * 4, 0, len(whole) - 8)
    for damaged in (whole[:-8], whole[:second], whole[:second] + whole[-8:] + whole[second:]):
        (tmp_path / "a.arrow").write_bytes(damaged)
        with pytest.raises(FolderError, match="it breaks off or is damaged at byte"):
            load_dataset("mine", tmp_path)
