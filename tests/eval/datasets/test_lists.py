"""Lists of pictures as people write them: CSV, TSV and JSONL."""

from pathlib import Path

import pytest

from eval.datasets.loading import load_dataset
from retrieval.errors import FolderError
from tests.eval.datasets.making import SHARK, TENCH, contents, encoded, truths, write_files

LISTS = {
    "list.csv": 'path,label\npictures/1.jpg,"cat, black"\npictures/2.jpg,007\n',
    "list.tsv": "path\tlabel\npictures/1.jpg\tcat, black\npictures/2.jpg\t007\n",
    "list.jsonl": '{"path": "pictures/1.jpg", "label": "cat, black"}\n{"path": "pictures/2.jpg", "label": "007"}\n',
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_names_pictures_below_its_own_folder_and_labels_stay_text(name: str, tmp_path: Path) -> None:
    write_files(tmp_path / "pictures", ["1.jpg", "2.jpg"])
    (tmp_path / name).write_text("\ufeff" * (name == "list.csv") + LISTS[name])  # Excel writes a mark first
    dataset = load_dataset("mine", tmp_path / name)
    assert truths(dataset) == {"pictures/1.jpg": {"cat, black"}, "pictures/2.jpg": {"007"}}
    assert contents(dataset) == {"pictures/1.jpg": encoded(0), "pictures/2.jpg": encoded(1)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'id,path,labels\nx,1.jpg,"[""cat"", ""dog""]"\ny,2.jpg,[]\n'),
        (
            "a.jsonl",
            '{"id": "x", "path": "1.jpg", "labels": ["cat", "dog"]}\n{"id": "y", "path": "2.jpg", "labels": []}',
        ),
    ],
)
def test_a_row_may_have_several_labels_or_none(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    dataset = load_dataset("mine", tmp_path / name)
    assert truths(dataset) == {"x": {"cat", "dog"}} and dataset.excluded == 1


def test_a_list_of_an_official_sets_pictures_must_have_its_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"path,label\nx.jpg,{TENCH}\n")
    assert truths(load_dataset("imagenet-val", tmp_path / "a.csv")) == {"x.jpg": {TENCH}}
    (tmp_path / "b.csv").write_text("path,label\nx.jpg,tench\n")
    with pytest.raises(FolderError, match="tench is no class of ImageNet-1k"):
        load_dataset("imagenet-val", tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.csv", "", "has no rows"),
        ("a.csv", "file name,class\nx,y\n", "has the columns file_name, class: path, label or labels, .* expected"),
        ("a.csv", "path,label\n,cat\n", "line 2 of .* names no picture"),
        ("a.jsonl", "[1]\n", "line 1 of .* is no JSON object"),
        ("a.jsonl", "\n{nothing\n", "line 2 of .* is no JSON .Expecting"),
        ("a.jsonl", '{"path": "x.jpg", "label": 1.5}\n', "has the label 1.5: text or a number from 0 expected"),
        ("a.jsonl", '{"path": "x", "label": 1}\n{"path": "y", "label": "cat"}\n', "all of one kind expected"),
        ("a.jsonl", '{"path": "x", "label": {"a": 1}}\n', "line 1 of .* has the label {'a': 1}: text"),
        ("a.jsonl", '{"path": "x", "labels": [["a"]]}\n', r"has the label \['a'\]: text"),
        ("a.jsonl", '{"path": "x", "labels": ["a", null]}\n', "line 1 of .* has no label"),
        ("a.jsonl", "[" * 100_000, "line 1 of .* is no JSON .it nests too deep"),
        ("a.jsonl", '{"path": "x", "label": -1}\n', "has the label -1, which test sets without labels have"),
        (
            "a.jsonl",
            '{"path": "x", "label": true}\n',
            "line 1 of .* has the label True: text or a number from 0",
        ),
        (
            "a.jsonl",
            '{"id": 7.0, "path": "x", "label": "a"}\n',
            r"line 1 of .*: got id 7.0 \(float\): text, or",
        ),
        ("a.csv", "path,file,Path,label\nx,y,z,cat\n", "has two columns called path"),
        ("a.csv", 'path,label\n"x\ny.jpg",cat\nz.jpg,\n', "line 4 of .* has no label"),
        ("a.csv", "path,label\nx.jpg\n", "line 2 of .* has no label"),
        ("a.csv", "path,label\nx.jpg,a,b\n", "line 2 of .* has 3 cells, but there are 2 columns"),
        ("a.csv", "path,labels\nx.jpg,cat|dog\n", "line 2 of .* has labels that are no JSON list"),
        ("a.csv", "path,label\nx\0.jpg,cat\n", "line 2 of .* names no picture"),
        ("a.csv", "path,label\nx.jpg,cat\nx.jpg,dog\n", r"rows with the same id \(x.jpg\)"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_in_a_sentence(
    name: str, text: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(FolderError, match=problem):
        load_dataset("mine", tmp_path / name)


def test_a_list_in_another_encoding_says_which_is_expected(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label\nx.jpg,café\n", "latin-1")
    with pytest.raises(FolderError, match="is not written in UTF-8: save it in that encoding"):
        load_dataset("mine", tmp_path / "a.csv")


@pytest.mark.parametrize(
    "header", ["Path, Label", "filename,label", "File Name,label", "FILE,label", "image,label", "filepath,LABEL"]
)
def test_columns_go_by_name_however_it_is_spelled(header: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\nx.jpg, cat\n")
    assert truths(load_dataset("mine", tmp_path / "a.csv")) == {"x.jpg": {"cat"}}


def test_a_list_as_a_german_excel_writes_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Path;Label\nx.jpg;cafe\u0301\n", "utf-16")
    assert truths(load_dataset("mine", tmp_path / "a.csv")) == {"x.jpg": {"caf\u00e9"}}


def test_a_row_whose_wnid_is_another_classs_than_its_label_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"path,label,wnid\nx.jpg,0,{TENCH}\ny.jpg,1,{SHARK}\n")
    with pytest.raises(FolderError, match=f"filed under n01443537, but its name says {SHARK}"):
        load_dataset("imagenet-val", tmp_path / "a.csv")


def test_class_numbers_that_begin_at_1_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label\n" + "".join(f"{n}.jpg,{n}\n" for n in range(1, 1000)))
    with pytest.raises(FolderError, match="labels in .* are numbered 1 to 999, and ImageNet-1k val begins at 0"):
        load_dataset("imagenet-val", tmp_path / "a.csv")


def test_one_line_may_have_a_label_and_the_next_several_and_an_id(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"path": "x", "label": "a"}\n\n{"path": "y", "labels": ["b", "c"], "id": "z"}\n')
    assert truths(load_dataset("mine", tmp_path / "a.jsonl")) == {"x": {"a"}, "z": {"b", "c"}}


def test_halves_of_characters_are_written_as_escapes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"path": "\\ud800.jpg", "label": "\\udfff"}\n')
    assert truths(load_dataset("mine", tmp_path / "a.jsonl")) == {"\\ud800.jpg": {"\\udfff"}}


def test_numbers_in_the_list_of_an_official_set_are_class_indices(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label\nx.jpg,0\ny.jpg,2\n")
    assert truths(load_dataset("imagenet-val", tmp_path / "a.csv")) == {"x.jpg": {TENCH}, "y.jpg": {SHARK}}
    (tmp_path / "b.csv").write_text("path,label\nx.jpg,1000\n")
    with pytest.raises(FolderError, match="has the label 1000: indices from 0 to 999 expected"):
        load_dataset("imagenet-val", tmp_path / "b.csv")
