"""Tables as CSV, LaTeX and Markdown: names stay text in each."""

import csv
import io
import re
from pathlib import Path

import pytest

from eval.report.tables import Table, format_table, make_table
from tests.eval.finished import OURS, figures, finished_run


def read_csv(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(format_table(table, "csv"))))


def test_csv_holds_a_line_a_figure_with_interval_and_source(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", {"imagenet-a": figures(40)})
    lines = read_csv(make_table(2, [run]))
    assert lines[0] == {
        "table": "2",
        "row": "DINOv2 ViT-L14, linear probe",
        "column": "IN-val",
        "top1": "86.3",
        "low": "",
        "high": "",
        "queries": "",
        "transductive": "",
        "remarks": "",
        "source": "Geirhos et al., ICML 2025, section 2.2",
    }
    ours = {"row": OURS, "column": "IN-A", "top1": "40.0", "low": "38.0", "high": "42.0", "queries": "100000"}
    assert lines[-1] == ours | {"table": "2", "transductive": "", "remarks": "", "source": str(run)}


@pytest.mark.parametrize("first", list("=+-@"))
def test_no_name_is_a_formula_in_a_spreadsheet(tmp_path: Path, first: str) -> None:
    hostile = f'{first}HYPERLINK("http://x")'
    run = finished_run(tmp_path / "run", {hostile: figures(40)})
    line = read_csv(make_table(2, [run]))[-1]
    assert line["column"] == f"'{hostile}" and line["low"] == "38.0"


HOSTILE = "a|b_c%d$e&f#g{h}i~j^k\\l<script>[x](y)*`\x1b[31m\n\\end{tabular}"


def test_names_stay_text_in_latex(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", {"imagenet-a": figures(40, reranked=50)}, model=HOSTILE, embedder=HOSTILE)
    text = format_table(make_table(2, [run]), "latex")
    assert text.count(r"\end{tabular}") == 1 and "\x1b" not in text
    body = text[text.index(r"\midrule") :]
    assert len(re.findall(r"(?<!\\)&", body)) == body.count(r" \\") * 6
    assert r"a\textbar{}b\_c\%d\$e\&f\#g\{h\}i\textasciitilde{}j\textasciicircum{}k\textbackslash{}l\textless{}" in body


def test_names_stay_text_in_markdown(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", {"imagenet-a": figures(40)}, embedder=HOSTILE)
    text = format_table(make_table(2, [run]), "md")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {8}
    assert "\x1b" not in text and not re.search(r"(?<!\\)[<`*_\[](?!\*|Table|Top)", rows[-1])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_transductive_figures_and_no_others_are_marked_in_every_form(tmp_path: Path, number: int) -> None:
    plain = finished_run(tmp_path / "plain", {"imagenet-val": figures(79)})
    run = finished_run(tmp_path / "run", {"imagenet-val": figures(90)}, centre="queries")
    table = make_table(number, [plain, run])
    assert any("Transductive" in note for note in table.notes)
    for form, mark in (("md", ") †"), ("latex", r") \textdagger{}")):
        text = format_table(table, form)
        assert text.count(f"92.0{mark}") == 1 and text.count(f"81.0{mark}") == 0 and "79.0 (77.0" in text
    ours = [line for line in read_csv(table) if line["queries"]]
    assert {(float(line["top1"]) > 83, line["transductive"]) for line in ours} == {(False, ""), (True, "queries")}
    assert not any("Transductive" in note for note in make_table(2, [plain]).notes)


def test_what_does_not_compare_with_published_figures_is_marked_in_every_form(tmp_path: Path) -> None:
    absent = [f"class {number}" for number in range(206)]
    run = finished_run(
        tmp_path / "run",
        {
            "imagenet-val": figures(80, count=300, absent=absent),
            "imagenet-a": figures(40),
            "mine": figures(50, count=3),
        },
        classes=794,
    )
    table = make_table(2, [run])
    assert table.notes[-2:] == [
        "[1] Not comparable with what is published: 300 of 50,000 pictures.",
        "[2] Not comparable with what is published: 206 of 1,000 classes are not in the memory.",
    ]
    for form in ("md", "latex"):
        text = format_table(table, form).replace("\\[", "[").replace("\\]", "]")
        assert "80.0 (78.0" in text and ") [1] [2] " in text and text.count("[1]") == 2
    told = [line["remarks"] for line in read_csv(table) if line["queries"]]
    assert told == ["300 of 50,000 pictures; 206 of 1,000 classes are not in the memory", "", ""]
    assert table.ours[0].name == "ours: dinov2-vits14, 1,281,167 items of 794 classes, k 50"
    assert not any("1000-way" in note for note in table.notes)
