"""vmem eval compare, from runs on disk to what it prints."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.cli.vmem import app
from retrieval.errors import InvalidArgument
from tests.eval.made_runs import answers


def write_run(
    folder: Path, answered: Sequence[str], *, asked: bool = False, queries: int = 0, **settings: object
) -> str:
    """Write the log of a run whose data set is q; ``asked``: a model said that every query is "t".

    ``queries``: how many the data set has, if more than are answered.
    """
    reply = {"label": "t", "ranking": ["t"], "reason": "reranked: ", "confidence": None, "replies": []}
    spent = dict.fromkeys(("prompt_tokens", "cached_tokens", "reply_tokens", "thought_tokens"), 0)
    second = {"rerank": reply | {"spent": spent, "cost": 0.0, "full_cost": 0.0}} if asked else {}
    about = {"datasets": {"q": ""}, "queries": {"q": queries or len(answered)}, "embedder": "e", "memory": "/nowhere"}
    about |= {"classes": 2, "subsets": {}, "excluded": {}, "absent": {}}
    lines = [{"format": 2} | settings | {"about": about}]
    for number, label in enumerate(answered):
        found = {"truth": ["t"], "ids": ["n"], "labels": [label], "distances": [0.1]}
        lines.append({"dataset": "q", "id": f"t/{number}.png", "picture": ""} | found | second)
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_the_command_prints_figures_classes_and_a_conclusion(tmp_path: Path) -> None:
    before = write_run(tmp_path / "before", answers(right=50, wrong=50))
    after = write_run(tmp_path / "after", answers(right=60, wrong=40), centre="queries")
    said = CliRunner().invoke(app, ["eval", "compare", before, after, "--json", str(tmp_path / "c.json")])
    assert said.exit_code == 0, said.output
    assert "after †" in said.output and "transductive" in said.output
    assert "Other answers: 10 fixed" in said.output
    assert "after is better than before by 10.0 points" in said.output
    written = json.loads((tmp_path / "c.json").read_text())["others"][0]["datasets"][0]
    assert written["figures"]["fixed"] == 10 and written["flips"][0]["truth"] == ["t"]


def test_the_command_names_the_settings_that_differ_and_no_others(tmp_path: Path) -> None:
    rerank = {"model": "m", "prompt": "p", "shuffles": 0}
    before = write_run(tmp_path / "before", ["t"], asked=True, rerank=rerank)
    after = write_run(tmp_path / "after", ["t"], asked=True, rerank=rerank | {"shuffles": 3})
    alone = write_run(tmp_path / "alone", ["t"])
    said = CliRunner().invoke(app, ["eval", "compare", before, after, alone]).output
    assert "Other settings: rerank shuffles: 0, then 3" in said
    assert "Other settings: rerank: model m, prompt p, shuffles 0, then none" in said


def test_the_command_says_which_run_is_unfinished(tmp_path: Path) -> None:
    before = write_run(tmp_path / "before", ["t", "w"], queries=2506)
    after = write_run(tmp_path / "after", ["t", "t"])
    said = CliRunner().invoke(app, ["eval", "compare", before, after]).output
    assert "before is unfinished: 2 of 2,506 queries of q" in said and "after is unfinished" not in said


def test_the_command_compares_one_run_with_its_vote(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", answers(right=50, wrong=50), asked=True)
    said = CliRunner().invoke(app, ["eval", "compare", one])
    assert said.exit_code == 0, said.output
    assert "one is better than one (vote) by 50.0 points" in said.output


def test_the_command_takes_no_run_twice(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", ["t"])
    twice = CliRunner().invoke(app, ["eval", "compare", one, one])
    assert "a run is given twice" in str(twice.exception)


def test_runs_of_one_name_go_by_their_paths(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    runs = [write_run(tmp_path / name / "run", ["t", "w"]) for name in "ab"]
    said = CliRunner().invoke(app, ["eval", "compare", *runs])
    assert f"{runs[1]} and {runs[0]} are right on the same queries" in said.output.replace("\n", "")


def test_power_takes_the_discordant_share_from_two_runs(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "before", answers(right=45, wrong=55)),
        write_run(tmp_path / "after", answers(right=50, wrong=50)),
    ]
    said = CliRunner().invoke(app, ["eval", "power", "--runs", *runs])
    assert "differ in being right on 5.00 % of 100 queries" in said.output
    alike = write_run(tmp_path / "alike", answers(right=45, wrong=55))
    with pytest.raises(InvalidArgument, match="right on the same queries, which tells no share: give --discordant"):
        CliRunner().invoke(app, ["eval", "power", "--runs", runs[0], alike], catch_exceptions=False)


def test_hostile_names_drive_no_terminal(tmp_path: Path) -> None:
    hostile = "\x1b[2J[red]"
    runs = [write_run(tmp_path / f"{hostile}{number}", [hostile, label]) for number, label in enumerate("tw")]
    for folder in runs:
        log = Path(folder) / "log.jsonl"
        text = log.read_text().replace('"q"', json.dumps(hostile))
        log.write_text(text.replace('"truth": ["t"]', f'"truth": ["t", {json.dumps(hostile)}]'))
    said = CliRunner().invoke(app, ["eval", "compare", *runs])
    assert said.exit_code == 0, said.output
    assert "\x1b" not in said.output and "�[2J[red]" in said.output
