"""Lists of labelled pictures: what is read, what is told, and what may be in them."""

import base64
import io
import json
import random
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval.errors import FolderError, ImageError
from retrieval.images import decode
from retrieval.sources import is_manifest, read_manifest
from tests.conftest import COLOURS, draw

HOSTILE = ['a "quoted", label', "two\nlines", "<script>alert(1)</script>", "'; drop table items; --", "日本 é"]

Form = Literal["NFC", "NFD"]


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    draw(COLOURS["red"], number).save(buffer, "PNG")
    return buffer.getvalue()


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_csv_gives_ids_labels_and_paths_beside_it(tmp_path: Path) -> None:
    rows = [["id", "label", "path", "source"], ["a", "red", "x/1.png", "camera"], ["b", "blue", "2.png", ""]]
    items = list(read_manifest(write_csv(tmp_path / "m.csv", rows)))
    assert [(item.id, item.label, item.image, item.source) for item in items] == [
        ("a", "red", tmp_path / "x" / "1.png", "camera"),
        ("b", "blue", tmp_path / "2.png", "2.png"),
    ]


def test_its_length_is_known_and_it_can_be_read_again(tmp_path: Path) -> None:
    manifest = read_manifest(write_csv(tmp_path / "m.csv", [["label", "path"], ["a", "1"], ["b", "2"]]))
    assert len(manifest) == 2
    assert list(manifest) == list(manifest)


def test_without_ids_the_paths_are_the_ids(tmp_path: Path) -> None:
    (item,) = read_manifest(write_csv(tmp_path / "m.csv", [["file_name", "label"], ["cat/1.jpg", "cat"]]))
    assert item.id == "cat/1.jpg"


def test_hostile_texts_come_through_as_they_are(tmp_path: Path) -> None:
    texts = write_csv(tmp_path / "m.csv", [["id", "label", "path"], *([text, text, "x.png"] for text in HOSTILE)])
    objects = write_jsonl(tmp_path / "m.jsonl", [{"id": text, "label": text, "path": "x"} for text in HOSTILE])
    table = pa.table({"id": HOSTILE, "label": HOSTILE, "path": ["x"] * len(HOSTILE)})
    pq.write_table(table, tmp_path / "m.parquet")
    for path in (texts, objects, tmp_path / "m.parquet"):
        assert [(item.id, item.label) for item in read_manifest(path)] == [(text, text) for text in HOSTILE]


def test_a_picture_may_be_in_the_manifest_itself(tmp_path: Path) -> None:
    rows = [{"id": "a", "label": "red", "bytes": base64.b64encode(encoded(1)).decode()}]
    (first,) = read_manifest(write_jsonl(tmp_path / "m.jsonl", rows))
    assert first.image == encoded(1)
    for column in ("bytes", "image"):
        pq.write_table(pa.table({"id": ["a"], "label": ["red"], column: [encoded(1)]}), tmp_path / "m.parquet")
        (second,) = read_manifest(tmp_path / "m.parquet")
        assert second.image == encoded(1)


def test_hugging_faces_tables_are_read_with_their_class_names(tmp_path: Path) -> None:
    images = [{"bytes": encoded(0), "path": "0.png"}, {"bytes": None, "path": "sub/1.png"}]
    table = pa.table({"image": images, "label": [1, 0]})
    about = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), tmp_path / "m.parquet")
    items = list(read_manifest(tmp_path / "m.parquet"))
    assert [(item.id, item.label) for item in items] == [("0.png", "dog"), ("sub/1.png", "cat")]
    assert (items[0].image, items[1].image) == (encoded(0), tmp_path / "sub" / "1.png")


def test_whole_numbers_are_texts(tmp_path: Path) -> None:
    (item,) = read_manifest(write_jsonl(tmp_path / "m.jsonl", [{"id": 7, "label": 0, "path": "x"}]))
    assert (item.id, item.label) == ("7", "0")


def test_a_byte_order_mark_and_empty_lines_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"\xef\xbb\xbflabel,path\r\n\r\na,1\r\n\r\n")
    (tmp_path / "m.jsonl").write_bytes(b'\xef\xbb\xbf{"label": "a", "path": "1"}\n\n')
    assert len(read_manifest(tmp_path / "m.csv")) == len(read_manifest(tmp_path / "m.jsonl")) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_what_excel_and_windows_write_is_read(tmp_path: Path, ending: str, encoding: str) -> None:
    rows = {"csv": "Label;FilePath\r\ncafé;1.png\r\n", "tsv": "LABEL\tFile Name\r\ncafé\t1.png\r\n"}
    text = rows.get(ending, '{"Label": "café", "image_path": "1.png"}\r\n')
    (tmp_path / f"m.{ending}").write_text(text, encoding)
    (item,) = read_manifest(tmp_path / f"m.{ending}")
    assert (item.id, item.label, item.image) == ("1.png", "café", tmp_path / "1.png")


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_first_line_tells_what_stands_between_cells(tmp_path: Path, mark: str) -> None:
    (tmp_path / "m.csv").write_text(f"path{mark}Label{mark}note\n1.png{mark}a{mark}x\n2.png{mark}b\n")
    assert [item.label for item in read_manifest(tmp_path / "m.csv")] == ["a", "b"]


def test_columns_of_parquet_may_be_written_in_capitals(tmp_path: Path) -> None:
    pq.write_table(pa.table({"Label": ["a"], "FileName": ["x.png"]}), tmp_path / "m.parquet")
    (item,) = read_manifest(tmp_path / "m.parquet")
    assert (item.id, item.label) == ("x.png", "a")


def test_a_path_keeps_its_spelling_and_the_id_made_of_it_does_not(tmp_path: Path) -> None:
    spelt = unicodedata.normalize("NFD", "café.png")
    (item,) = read_manifest(write_csv(tmp_path / "m.csv", [["label", "path"], ["a", spelt]]))
    assert (item.id, item.image) == ("café.png", tmp_path / spelt)


@pytest.mark.parametrize(("listed", "lies"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_file_is_found_whose_name_the_list_spells_otherwise(listed: Form, lies: Form, tmp_path: Path) -> None:
    there = tmp_path / unicodedata.normalize(lies, "café.png")
    there.touch()
    (item,) = read_manifest(
        write_csv(tmp_path / "m.csv", [["label", "path"], ["a", unicodedata.normalize(listed, "café.png")]])
    )
    assert item.image == there


def test_a_name_longer_than_any_file_s_costs_its_own_row_alone(tmp_path: Path) -> None:
    (item,) = read_manifest(write_csv(tmp_path / "m.csv", [["label", "path"], ["a", "ü" * 130 + ".png"]]))
    with pytest.raises(ImageError, match="cannot be read"):
        decode(item.image)


def test_photographs_of_which_arrow_makes_one_large_page_are_read(tmp_path: Path) -> None:
    cells = [random.Random(number).randbytes(3_000_000) for number in range(90)]
    pq.write_table(pa.table({"id": range(90), "label": ["a"] * 90, "bytes": cells}), tmp_path / "m.parquet")
    items = iter(read_manifest(tmp_path / "m.parquet"))
    assert next(items).image == cells[0]


PEAK = """
import pyarrow.parquet
from pathlib import Path
from retrieval.errors import VisualMemoryError
from {module} import {name}
def peak():  # what getrusage says counts the process that started this one
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
try:
    {call}
except VisualMemoryError as error:
    print(error)
print(peak() - before)
"""


def said_and_peak(module: str, name: str, call: str) -> tuple[str, float]:
    """Return what reading something says, and by how many MB the peak of memory grew in a process of its own."""
    program = PEAK.format(module=module, name=name, call=call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *said, grown = done.stdout.splitlines()
    return " ".join(said), int(grown) / 1024


def test_a_cell_of_400_mb_of_zeros_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    cells = pa.array([bytes(400_000_000), b""], pa.large_binary())
    pq.write_table(pa.table({"id": ["a", "b"], "label": ["x", "y"], "bytes": cells}), tmp_path / "m.parquet")
    said, peak = said_and_peak(
        "retrieval.sources", "read_manifest", f"list(read_manifest({str(tmp_path / 'm.parquet')!r}))"
    )
    assert "a page of it unpacks to 400,000,008 bytes, more than the limit of 268,435,456" in said
    assert peak < 100


def test_a_cell_that_is_repeated_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    cells = pa.array([bytes(50_000_000)] * 16, pa.large_binary())
    pq.write_table(
        pa.table({"id": list(map(str, range(16))), "label": ["x"] * 16, "bytes": cells}), tmp_path / "m.parquet"
    )
    call = f"print(sum(1 for _ in read_manifest({str(tmp_path / 'm.parquet')!r})))"
    said, peak = said_and_peak("retrieval.sources", "read_manifest", call)
    assert said == "16" and peak < 700


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_line_without_an_end_is_refused(tmp_path: Path, ending: str) -> None:
    with (tmp_path / f"m.{ending}").open("wb") as file:
        file.write(b"label,path\n" if ending == "csv" else b"")
        file.truncate(400_000_000)
    call = f"read_manifest({str(tmp_path / f'm.{ending}')!r})"
    said, peak = said_and_peak("retrieval.sources", "read_manifest", call)
    assert "has more than 33,554,432 characters: keep large pictures as files" in said and peak < 300


def test_a_path_may_lead_anywhere(tmp_path: Path) -> None:
    (item,) = read_manifest(write_csv(tmp_path / "m.csv", [["label", "path"], ["a", "/elsewhere/1.png"]]))
    assert item.image == Path("/elsewhere/1.png")


BAD_CSV = {
    "label,id\nx,1\n": "has the columns label, id: it needs label, and path or bytes",
    "": "has no rows below its columns",
    "label,path\n": "has no rows below its columns",
    "label,Label,path\nx,y,1\n": "has two columns called label: rename one of label, Label, path",
    "label,path\nx,1,2\n": "line 2 of .* has 3 cells, but there are 2 columns: quote text that holds ','",
    "klasse;pfad\nx;1\n": "has the columns klasse;pfad: it needs label, and path or bytes;",
    "Category,FilePath\nx,1\n": "has the columns category, filepath: it needs label, and path or bytes;",
    "label,path\nx,1\n,2\n": "line 3 of .* has no label",
    "label,path\n x,1\n ,2\n": "line 3 of .* has no label",
    "label,path\nx\n": "line 2 of .* names no picture",
    "label,path\nx,\n": "line 2 of .* names no picture",
    "label,bytes\nx,####\n": "line 2 of .* no base64",
    "label,bytes\nx,aGFsbG8=\n": "line 2 of .* neither an id nor a path",
    'label,path\n"x,1\n': "cannot be read beyond row 0: unexpected end of data",
}


@pytest.mark.parametrize("text", BAD_CSV)
def test_a_bad_csv_is_told_with_its_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(FolderError, match=BAD_CSV[text]):
        read_manifest(tmp_path / "m.csv")


BAD_JSONL = {
    '{"label": "a", "path": "1"}\n{"label": ': "line 2 of .* is no JSON",
    '{"label": "a", "path": "1"}\n[1]\n': "line 2 of .* is no JSON object",
    '{"label": null, "path": "1"}\n': "line 1 of .* has no label",
    '{"label": true, "path": "1"}\n': r"line 1 of .* has label True \(bool\): text, or a whole number from 0, expected",
    '{"class": "a", "file": "1"}\n': "line 1 of .* has no label, but class, file: it needs label, and path or bytes;",
    '{"id": 1.5, "label": "a", "path": "1"}\n': r"line 1 of .* has id 1.5 \(float\): text, or a whole number from 0",
    '{"label": "a", "image": {"path": null}}\n': "line 1 of .* names no picture",
    '{"id": 1, "label": "a", "bytes": "not base64"}\n': "line 1 of .* no base64",
    "[" * 100_000: "line 1 of|cannot be read beyond row 0",
}


@pytest.mark.parametrize("text", BAD_JSONL, ids=range(len(BAD_JSONL)))
def test_a_bad_jsonl_is_told_with_its_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(FolderError, match=BAD_JSONL[text]):
        read_manifest(tmp_path / "m.jsonl")


def test_a_parquet_row_without_a_label_is_told_by_its_number(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": ["a", None], "path": ["1", "2"]}), tmp_path / "m.parquet")
    with pytest.raises(FolderError, match=r"row 2 of .* has no label"):
        read_manifest(tmp_path / "m.parquet")


def test_what_is_no_manifest_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"label,path\n\xff\xfe,1\n")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(FolderError, match="not UTF-8"):
        read_manifest(tmp_path / "m.csv")
    with pytest.raises(FolderError, match="cannot be read beyond row 0"):
        read_manifest(tmp_path / "m.parquet")
    with pytest.raises(FolderError, match=r"ends with \.csv, \.tsv, \.jsonl, \.parquet"):
        read_manifest(tmp_path / "m.txt")
    with pytest.raises(FolderError, match="is not there"):
        read_manifest(tmp_path / "none.csv")


def test_features_are_no_manifest(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "label": ["x"], "vector": [[1.0]]}), tmp_path / "features.parquet")
    pq.write_table(pa.table({"id": ["a"], "label": ["x"], "path": ["x"]}), tmp_path / "list.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"?")
    assert not is_manifest(tmp_path / "features.parquet")
    assert is_manifest(tmp_path / "list.parquet")
    assert is_manifest(tmp_path / "m.csv") and not is_manifest(tmp_path / "m.txt")
    with pytest.raises(FolderError, match="cannot be read as Parquet"):
        is_manifest(tmp_path / "damaged.parquet")


def test_a_csv_may_hold_large_pictures(tmp_path: Path) -> None:
    rows = [["id", "label", "bytes"], ["a", "red", base64.b64encode(b"x" * 2**20).decode()]]
    (item,) = read_manifest(write_csv(tmp_path / "m.csv", rows))
    assert item.image == b"x" * 2**20


@pytest.mark.parametrize(
    "features", ["[]", '{"info": null}', '{"info": {"features": {"label": []}}}', '{"info": {"features": 5}}', "{"]
)
def test_names_of_classes_in_another_form_are_passed_over(tmp_path: Path, features: str) -> None:
    table = pa.table({"label": ["a"], "path": ["1"]}).replace_schema_metadata({b"huggingface": features.encode()})
    pq.write_table(table, tmp_path / "m.parquet")
    assert [item.label for item in read_manifest(tmp_path / "m.parquet")] == ["a"]
