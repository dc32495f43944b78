"""vmem eval analyse and vmem eval neighbors, as a user types them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.cli.vmem import app
from eval.datasets.trees import read_folder
from eval.neighbors import read_neighbors, write_neighbors
from eval.runs.runner import run_evaluation
from eval.types import Dataset
from retrieval import VisualMemory
from retrieval.errors import InvalidArgument
from tests.eval.experiments.found import made_neighborhoods

COMMANDS = CliRunner()


@pytest.fixture
def neighbor_file(tmp_path: Path) -> Path:
    path = tmp_path / "made.parquet"
    write_neighbors(made_neighborhoods(), path)
    return path


def typed(*arguments: object) -> str:
    """Return what a command prints."""
    done = COMMANDS.invoke(app, ["eval", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_the_list_names_every_analysis_and_what_it_needs() -> None:
    listed = typed("analyse", "--list")
    assert all(name in listed for name in ("aggregation", "label_noise", "latency_storage", "--unknown"))


def test_one_analysis_of_a_neighbour_file_is_four_files_and_a_sentence(neighbor_file: Path, tmp_path: Path) -> None:
    said = typed("analyse", "hit_rate", "--neighbors", neighbor_file, "--out", tmp_path / "out", "--k", 7)
    assert "With 7 neighbours a right label is among theirs" in said
    assert sorted(path.suffix for path in (tmp_path / "out" / "val").iterdir()) == [".csv", ".md", ".png", ".svg"]
    assert (tmp_path / "out" / "val" / "hit_rate.csv").read_text().count("\n") == 8


def test_all_runs_what_it_can_and_says_once_what_the_rest_needs(built: Path, pictures: Path, tmp_path: Path) -> None:
    run_evaluation(
        VisualMemory.open(built),
        {name: Dataset(read_folder(pictures)) for name in ("one", "two")},
        tmp_path / "run",
        k=9,
        paths={"one": str(pictures), "two": str(pictures)},
        progress=False,
    )
    said = typed("analyse", "all", "--run", tmp_path / "run", "--out", tmp_path / "out", "--k", 7)
    assert all(said.count(f"{name} is left out") == 1 for name in ("distances", "pruning"))
    for dataset in ("one", "two"):
        made = {path.stem for path in (tmp_path / "out" / dataset).iterdir()}
        assert {"aggregation", "hyperparameters", "hit_rate", "label_noise", "calibration"} <= made
        assert (tmp_path / "out" / dataset / "hit_rate.csv").read_text().count("\n") == 8


def test_a_memory_is_searched_for_several_data_sets_and_unknown_queries(
    built: Path, pictures: Path, tmp_path: Path
) -> None:
    sets = ("--dataset", f"one={pictures}", "--dataset", f"two={pictures}", "--unknown", f"three={pictures}")
    said = typed("analyse", "distances", "--memory", built, *sets, "--out", tmp_path / "out", "--k", 5)
    assert "AUROC of 50.0 %" in said  # the same pictures
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one", "two"}


def test_an_analysis_that_varies_the_memory_runs_from_the_memory(built: Path, pictures: Path, tmp_path: Path) -> None:
    typed("analyse", "pruning", "--memory", built, "--dataset", f"one={pictures}", "--out", tmp_path)
    assert (tmp_path / "one" / "pruning.md").is_file()


def test_a_run_is_analysed_and_written_as_the_reference_release_has_it(
    built: Path, pictures: Path, tmp_path: Path
) -> None:
    typed("run", "--memory", built, "--dataset", f"one={pictures}", "--out", tmp_path / "run", "--k", 6)
    typed("analyse", "hit_rate", "--run", tmp_path / "run", "--out", tmp_path / "out")
    said = typed("neighbors", tmp_path / "run", "--out", tmp_path / "files")
    path, listing = sorted((tmp_path / "files").iterdir())
    assert path.name == "memory-built_msplit-train_query-one_qsplit-validation_small-dinov2_full_neighbor_info.json"
    assert listing.name == f"{path.stem}_classes.json"
    assert "_classes.json tells which is which" in " ".join(said.split())
    again = read_neighbors(path)
    assert again.results.k == 6 and len(again.results) == 18
    assert json.loads(listing.read_text()) == {"1": "blue", "2": "green", "3": "red"}


def test_names_of_memory_queries_and_model_can_be_given(neighbor_file: Path, tmp_path: Path) -> None:
    names = ("--memory-name", "image_net", "--query-name", "mine", "--model-name", "dinov2_vitl14")
    typed("neighbors", neighbor_file, "--out", tmp_path, *names, "--query-split", "test")
    (path,) = tmp_path.glob("*_info.json")
    assert path.name == "memory-image_net_msplit-train_query-mine_qsplit-test_dinov2_vitl14_full_neighbor_info.json"
    assert read_neighbors(path).embedder == "dinov2_vitl14"


def test_files_are_converted_both_ways(neighbor_file: Path, tmp_path: Path) -> None:
    typed("neighbors", neighbor_file, "--out", tmp_path / "x.json")
    typed("neighbors", tmp_path / "x.json", "--out", tmp_path / "y.parquet")
    one, two = read_neighbors(tmp_path / "x.json"), read_neighbors(tmp_path / "y.parquet")
    assert one.results.neighbor_labels.of(0) == two.results.neighbor_labels.of(0)


@pytest.mark.parametrize(
    "arguments, why",
    [
        (["aggregation"], "give one of --run"),
        (["--run", "x"], "which analysis"),
        (["nonsense", "--run", "x"], "no analysis 'nonsense'"),
        (["aggregation", "--memory", "m"], "--memory and --dataset go together"),
        (["aggregation", "--run", "x", "--neighbors", "y"], "give one of --run"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        typed("analyse", *arguments)


def test_one_analysis_without_what_it_needs_fails(neighbor_file: Path) -> None:
    with pytest.raises(InvalidArgument, match="pruning: it varies the memory"):
        typed("analyse", "pruning", "--neighbors", neighbor_file)
