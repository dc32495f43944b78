"""The catalogue, and analyses as files."""

import csv
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from eval import experiments
from eval.experiments import CATALOGUE, find_entry
from eval.experiments.base import Analysis, as_csv, as_markdown, write_analysis
from eval.experiments.inputs import Inputs
from retrieval.errors import InvalidArgument, StorageError
from tests.eval.experiments.found import made_neighborhoods

FROM_NEIGHBORS = [name for name, entry in CATALOGUE.items() if entry.needs != "memory"]


@pytest.fixture(scope="module")
def given() -> Inputs:
    return Inputs(made_neighborhoods(), unknown=made_neighborhoods(50, name="<script>alert(1)</script>|x"))


@pytest.mark.parametrize("name", FROM_NEIGHBORS)
def test_an_analysis_is_written_as_two_tables_and_two_pictures(name: str, given: Inputs, tmp_path: Path) -> None:
    analysis = given.analyse(find_entry(name))
    written = write_analysis(analysis, tmp_path / "new" / "folder")
    assert [path.name for path in written] == [f"{name}.{ending}" for ending in ("md", "csv", "png", "svg")]
    with Image.open(written[2]) as picture:
        assert picture.width >= 750
    assert ElementTree.parse(written[3]).getroot().tag.endswith("svg")
    with written[1].open(newline="") as file:
        lines = list(csv.reader(file))
    assert tuple(lines[0]) == analysis.columns and len(lines) == len(analysis.rows) + 1


@pytest.mark.parametrize("name", FROM_NEIGHBORS)
def test_an_analysis_says_its_name_where_it_stands_in_the_paper_and_what_its_axes_measure(
    name: str, given: Inputs
) -> None:
    analysis = given.analyse(find_entry(name))
    assert analysis.name == name and analysis.source and analysis.finding.endswith(".")
    assert all(axes.get_ylabel() or axes.get_xlabel() for axes in analysis.draw().axes if axes.axison)
    assert all(len(row) == len(analysis.columns) for row in analysis.rows)


def test_the_same_analysis_gives_the_same_bytes(given: Inputs, tmp_path: Path) -> None:
    twice = [write_analysis(given.analyse(find_entry("reliability")), tmp_path / name) for name in ("one", "two")]
    assert [path.read_bytes() for path in twice[0]] == [path.read_bytes() for path in twice[1]]


def test_names_are_text_in_tables(given: Inputs) -> None:
    told = given.analyse(find_entry("distances"))
    assert "\\<script\\>" in as_markdown(told) and "<script" not in as_markdown(told).replace("\\<", "")
    hostile = replace(told, columns=("=1+1", "b"), rows=[("=cmd()", None), ("a\nb", 0.123456789)])
    assert as_csv(hostile) == "'=1+1,b\n'=cmd(),\na�b,0.123456789\n"


def test_a_missing_figure_is_a_dash_for_reading() -> None:
    told = Analysis("a", "t", "s", ("x", "y"), [(None, 0.000123)], "f.", lambda: None)  # type: ignore[arg-type, return-value]
    assert "| – | 0.000123 |" in as_markdown(told)


def test_a_disk_that_refuses_is_named_in_one_sentence(given: Inputs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_analysis(given.analyse(find_entry("hit_rate")), tmp_path / "file" / "folder")


def test_every_analysis_of_the_catalogue_is_a_function_of_the_package() -> None:
    assert all(getattr(experiments, name) is entry.function for name, entry in CATALOGUE.items())
    assert {*CATALOGUE, "CATALOGUE", "find_entry"} == set(experiments.__all__)


def test_an_unknown_analysis_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(InvalidArgument, match="aggregation, hyperparameters"):
        find_entry("nonsense")


@pytest.mark.parametrize("name, needed", [("pruning", "--memory"), ("distances", "--unknown")])
def test_an_analysis_without_what_it_needs_says_so(name: str, needed: str) -> None:
    with pytest.raises(InvalidArgument, match=needed):
        Inputs(made_neighborhoods(20)).analyse(find_entry(name))
