"""Forgetting from the command line: what is said and asked, what a receipt proves, and which runs it took part in."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from eval.cli.vmem import app
from eval.runs.log import predictions_with
from eval.types import RunError, Sample
from retrieval.erasing.secrets import Forgotten
from retrieval.erasing.traces import ReplyTraces
from retrieval.errors import InvalidArgument, NotAMemory, StorageError, UnknownItem
from retrieval.memory import VisualMemory
from retrieval.storage.table import ItemTable
from tests.runs import evaluate

Say = Callable[..., str]


@pytest.fixture
def memory(built: Path, tmp_path: Path) -> Path:
    """Return a memory of its own: red/0.png, …, blue/5.png."""
    return shutil.copytree(built, tmp_path / "pets")


@pytest.fixture
def say() -> Say:
    """Return what runs a command and returns what it says; an error is raised, as `vmem` catches it."""

    def run(*arguments: object, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["memory", *map(str, arguments)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return " ".join(result.output.split())

    return run


def ids_in(memory: Path) -> set[str]:
    return set(ItemTable.open(memory).dataset.to_table(columns=["id"])["id"].to_pylist())


def receipt_in(memory: Path) -> Path:
    (receipt,) = (memory / "receipts").iterdir()
    return receipt


def test_a_proof_says_what_a_memory_without_its_account_cannot_know(memory: Path, say: Say) -> None:
    opened = VisualMemory.open(memory)
    opened.forget(ids=["blue/5.png"])
    opened.compact(keep=1)
    (memory / "dropped.rows").unlink()
    say("forget", memory, "--id", "red/0.png", "--erase", "--yes")
    assert "nothing is left of what this memory knows" in say("verify-forgotten", receipt_in(memory))


def test_forgotten_items_are_out_of_the_memory_and_stay_in_its_versions(memory: Path, say: Say) -> None:
    before = ItemTable.open(memory).version
    said = say("forget", memory, "--id", "red/0.png", "--id", "red/1.png")
    assert "forgot 2 items, 16 left" in said and "--erase" in said
    assert "red/0.png" not in ids_in(memory)
    assert len(ItemTable.open(memory).at(before)) == 18


def test_features_of_the_same_picture_under_another_digest_go_too(memory: Path, pictures: Path, say: Say) -> None:
    with Image.open(pictures / "red" / "0.png") as picture:
        VisualMemory.open(memory).embed([picture.copy(), pictures / "red" / "0.png"])
    say("forget", memory, "--id", "red/0.png", "--erase", "--yes")
    assert "Proven: nothing is left" in say("verify-forgotten", receipt_in(memory))


def test_erasing_writes_a_receipt_that_proves_it(memory: Path, say: Say) -> None:
    said = say("forget", memory, "--label", "red", "--erase", "--yes")
    assert "erased 6 items" in said and "Receipt:" in said
    assert ids_in(memory) == {f"{label}/{n}.png" for label in ("green", "blue") for n in range(6)}
    assert "Proven: nothing is left" in say("verify-forgotten", receipt_in(memory))
    checks = json.loads(say("verify-forgotten", receipt_in(memory), "--json"))
    assert checks["proven"] and {"rows", "bytes", "features", "replies"} <= {
        check["what"] for check in checks["checks"]
    }


def test_what_was_forgotten_before_can_be_erased_by_its_id(memory: Path, say: Say) -> None:
    say("forget", memory, "--id", "red/0.png")
    assert "erased 1 item," in say("forget", memory, "--id", "red/0.png", "--erase", "--yes")


def test_without_a_terminal_erasing_needs_a_yes_and_says_what_goes_with_it(memory: Path, say: Say) -> None:
    VisualMemory.open(memory).tag("release")
    with pytest.raises(InvalidArgument, match="say --yes"):
        say("forget", memory, "--id", "red/0.png", "--erase")
    result = CliRunner().invoke(app, ["memory", "forget", str(memory), "--id", "red/0.png", "--erase"])
    assert "The tag release of version" in result.output and "red/0.png" in ids_in(memory)


def test_ids_come_from_a_file_one_a_line(memory: Path, say: Say, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text('red/0.png\r\n"red/1.png"\n\n')
    assert "forgot 2 items" in say("forget", memory, "--ids-from", tmp_path / "ids")


def test_items_are_chosen_by_a_condition(memory: Path, say: Say) -> None:
    assert "forgot 12 items" in say("forget", memory, "--where", "label != 'red'")


def test_what_cannot_be_chosen_is_refused_and_nothing_changes(memory: Path, say: Say, tmp_path: Path) -> None:
    for arguments, error, words in (
        ([], InvalidArgument, "say which items"),
        (["--erase"], InvalidArgument, "say which items"),
        (["--id", "a", "--label", "red"], InvalidArgument, "say which items"),
        (["--id", "nobody"], UnknownItem, "has no item 'nobody'"),
        (["--id", "nobody", "--erase"], UnknownItem, "no version of"),
        (["--where", "nonsense ="], InvalidArgument, "is no condition"),
        (["--ids-from", tmp_path / "none"], InvalidArgument, "is no file of ids"),
    ):
        with pytest.raises(error, match=words):
            say("forget", memory, *arguments)
    assert len(ids_in(memory)) == 18


def test_verifying_fails_where_the_item_is_back(memory: Path, say: Say, pictures: Path) -> None:
    say("forget", memory, "--id", "red/0.png", "--erase", "--yes")
    VisualMemory.open(memory, cache=False).add([("red/0.png", "red", pictures / "red" / "0.png")])
    said = say("verify-forgotten", receipt_in(memory), code=1)
    assert "LEFT added again" in said and "Not proven" in said


def test_a_receipt_that_lies_elsewhere_finds_its_memory(memory: Path, say: Say, tmp_path: Path) -> None:
    say("forget", memory, "--id", "red/0.png", "--erase", "--yes")
    away = Path(shutil.copy(receipt_in(memory), tmp_path / "receipt.json"))
    assert "Proven" in say("verify-forgotten", away)
    moved = memory.rename(tmp_path / "moved")
    assert "Proven" in say("verify-forgotten", away, "--memory", moved)


def test_nothing_to_resume_is_said(memory: Path, say: Say) -> None:
    assert "nothing was cut off" in say("forget", memory, "--resume")


def test_going_on_takes_no_further_items(memory: Path, say: Say) -> None:
    with pytest.raises(InvalidArgument, match="takes no items"):
        say("forget", memory, "--id", "red/0.png", "--resume")
    with pytest.raises(NotAMemory, match="there is nothing"):
        say("forget", memory / "none", "--resume")


def test_what_waits_for_python_is_said(memory: Path, say: Say) -> None:
    class Own(ReplyTraces):
        name = "own"

        def drop(self, items: Forgotten) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        VisualMemory.open(memory).erase(ids=["red/0.png"], traces=[Own()], progress=False)
    assert "1 others were begun in Python" in say("forget", memory, "--resume")


def test_runs_that_are_none_are_told_before_anything_is_done(memory: Path, say: Say) -> None:
    with pytest.raises(RunError, match="holds no run"):
        say("forget", memory, "--id", "red/0.png", "--erase", "--yes", "--runs", memory)
    assert "red/0.png" in ids_in(memory)


def test_erasing_from_an_object_store_is_refused(say: Say) -> None:
    with pytest.raises(StorageError, match=r"s3://bucket/pets cannot be searched byte by byte"):
        say("forget", "s3://bucket/pets", "--id", "a", "--erase", "--yes")


def test_past_predictions_in_which_it_took_part_are_listed(
    memory: Path, say: Say, pictures: Path, tmp_path: Path
) -> None:
    opened = VisualMemory.open(memory)
    queries = [Sample("q1", pictures / "red" / "0.png", frozenset({"red"}))]
    queries += [Sample("q2", pictures / "blue" / "0.png", frozenset({"blue"}))]
    evaluate(opened, {"some": queries}, tmp_path / "runs" / "first", k=3)
    memory_id = opened.settings.memory_id
    (found,) = predictions_with([tmp_path / "runs"], {"red/0.png"}.__contains__, memory_id=memory_id)
    assert (found.query, found.rank, found.items, found.named) == ("q1", 1, ("red/0.png",), False)
    assert not list(predictions_with([tmp_path / "runs"], {"red/0.png"}.__contains__, memory_id="another"))
    said = say("forget", memory, "--label", "blue", "--runs", tmp_path / "runs")
    assert "1 prediction of these runs" in said and "q2" in said
    said = say("forget", memory, "--id", "red/0.png", "--erase", "--yes", "--runs", tmp_path / "runs")
    assert "1 prediction of these runs" in said and "q1" in said
    assert "1 prediction of" in say("verify-forgotten", receipt_in(memory), "--runs", tmp_path / "runs" / "first")
    with pytest.raises(RunError, match="holds no run"):
        say("verify-forgotten", receipt_in(memory), "--runs", memory)
