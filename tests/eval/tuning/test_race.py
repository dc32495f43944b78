"""Races of prompts and numbers of neighbours: who wins, who is asked how much, and when a race ends early."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agent import ScriptedModel
from agent.calls.metered import Meter
from agent.calls.ready import LoadedModel, make_ready
from agent.classify import prepare
from agent.errors import EveryRequestFails, RequestFailure
from agent.types import Usage
from eval.tuning.race import Course, Query, Race, Rung, Setting, draw_queries, make_settings, plan_rungs, run_race
from eval.tuning.verdict import expect_baseline, judge
from eval.types import Dataset, OtherSettings, RunError
from prompts.types import ImagePart, Prompt
from retrieval import VisualMemory
from retrieval.errors import InvalidArgument
from tests.conftest import COLOURS

KS = (14, 18)  # of 18 items, six of each label: every label is a candidate
PROMPTS = ("rerank_v1", "rerank_scores_v1")


def skilled(skill: Mapping[tuple[str, int], float]) -> ScriptedModel:
    """Return a model that is right about so many queries, by the prompt and the number of neighbours it shows."""

    def answer(prompt: Prompt) -> str:
        *neighbors, query = (part.encoded for part in prompt.parts if isinstance(part, ImagePart))
        truth = dominant(query)
        codes = {str(label): code for code, label in prompt.candidates.items()}
        luck = hashlib.sha256(query).digest()[0] / 256
        other = next(label for label in sorted(codes) if label != truth)
        said = truth if luck < skill[prompt.template, len(neighbors)] else other
        return json.dumps({"ranking": [codes[said]], "confidence": 0.9})

    return ScriptedModel(answer)


def dominant(encoded: bytes) -> str:
    mean = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"), float)[-10:].mean((0, 1))
    return min(COLOURS, key=lambda label: float(np.abs(mean - np.array(COLOURS[label])).sum()))


def course(
    memory: VisualMemory, queries: list[Query], rungs: list[Rung], out: Path, model: LoadedModel, **more: Any
) -> Course:
    def stages_of(setting: Setting) -> Any:
        return prepare(memory, model=model, prompt=setting.prompt, neighbors=setting.neighbors)

    return Course(
        memory=memory, queries=queries, rungs=rungs, out=out, model=model, stages_of=stages_of, progress=False, **more
    )


def race(memory: VisualMemory, held_out: dict[str, Dataset], out: Path, model: ScriptedModel, eta: int = 2) -> Race:
    settings, queries = make_settings(PROMPTS, KS), draw_queries(held_out, None, seed=0)
    rungs = plan_rungs(len(settings), len(queries), eta=eta)
    return run_race(settings, course(memory, queries, rungs, out, make_ready(model)))


ONE_IS_BEST = {
    ("rerank_v1", 14): 0.4,
    ("rerank_v1", 18): 0.3,
    ("rerank_scores_v1", 14): 0.95,
    ("rerank_scores_v1", 18): 0.5,
}
ALL_THE_SAME = dict.fromkeys(ONE_IS_BEST, 0.7)


@pytest.mark.parametrize(
    ("settings", "queries", "eta", "rungs"),
    [
        (1, 100, 2, [(1, 100)]),
        (2, 100, 2, [(2, 100)]),
        (8, 100, 2, [(8, 25), (4, 50), (2, 100)]),
        (9, 90, 3, [(9, 30), (3, 90)]),
        (28, 1000, 3, [(28, 38), (10, 112), (4, 334), (2, 1000)]),
        (28, 1000, 1, [(28, 1000)]),
    ],
)
def test_rungs_grow_as_settings_leave(settings: int, queries: int, eta: int, rungs: list[tuple[int, int]]) -> None:
    planned = plan_rungs(settings, queries, eta=eta)
    assert [(rung.settings, rung.stop) for rung in planned] == rungs
    assert sum(rung.fresh for rung in planned) == queries


def test_a_race_needs_queries_for_every_rung() -> None:
    with pytest.raises(InvalidArgument, match="7 queries for 16 settings: 8 or more expected"):
        plan_rungs(16, 7, eta=2)
    with pytest.raises(InvalidArgument, match="--queries 0: 1 or more expected"):
        draw_queries({}, 0, seed=0)


def test_fewer_queries_are_the_beginning_of_more(held_out: dict[str, Dataset]) -> None:
    whole = draw_queries(held_out, None, seed=0)
    assert draw_queries(held_out, 10, seed=0) == whole[:10] != draw_queries(held_out, 10, seed=1)
    assert {name for name, _ in whole[:10]} == {"a", "b"}


def test_a_prompt_without_neighbours_is_tried_with_one_k(tmp_path: Path) -> None:
    assert [setting.name for setting in make_settings(["zero_shot_v1", "rerank_v1", "rerank_v1"], [5, 10, 5])] == [
        "zero_shot_v1 k=10",
        "rerank_v1 k=10",
        "rerank_v1 k=5",
    ]
    own = tmp_path / "rerank_v1.md"
    own.write_text("---\nabout: mine\n---\n{{ query }}")
    with pytest.raises(InvalidArgument, match=r"--prompt rerank_v1 and .*rerank_v1\.md have one name"):
        make_settings(["rerank_v1", str(own)], [5])


def test_the_best_setting_wins_and_the_others_are_asked_less(
    memory: VisualMemory, held_out: dict[str, Dataset], tmp_path: Path
) -> None:
    model = skilled(ONE_IS_BEST)
    found = race(memory, held_out, tmp_path / "race", model)
    assert found.tried[0].setting.name == "rerank_scores_v1 k=14" and not found.stopped
    asked = Counter((p.template, sum(isinstance(part, ImagePart) for part in p.parts) - 1) for p in model.prompts)
    assert sorted(asked.values()) == [24, 24, 48, 48] and asked["rerank_scores_v1", 14] == 48
    verdict = judge(found)
    assert verdict.recommended is not None and verdict.recommended.name == "rerank_scores_v1 k=14"
    best, worst = verdict.rows[0], min(verdict.rows, key=lambda row: row.top1)
    assert best.beside is None and best.queries == 48 and best.in_race and best.top1 > 85
    assert worst.beside and worst.beside.count == worst.queries == 24 and worst.beside.adjusted < 0.05
    assert [(row.prompt, row.neighbors, row.queries) for row in verdict.rows[4:]] == [
        ("vote", 14, 48),
        ("vote", 18, 48),
    ]


def test_of_settings_that_cannot_be_told_apart_the_cheapest_is_recommended(
    memory: VisualMemory, held_out: dict[str, Dataset], tmp_path: Path
) -> None:
    verdict = judge(race(memory, held_out, tmp_path / "race", skilled(ALL_THE_SAME)))
    assert verdict.recommended is not None and verdict.recommended.neighbors == 14
    assert "measure it on others" in verdict.sentences[-1]
    assert any("vote k=14" in sentence for sentence in verdict.sentences)  # a model that loses to the vote is seen


def test_an_experiment_asks_all_and_compares_with_one_prompt(
    memory: VisualMemory, held_out: dict[str, Dataset], tmp_path: Path
) -> None:
    found = race(memory, held_out, tmp_path / "race", skilled(ONE_IS_BEST), eta=1)
    settings = make_settings(PROMPTS, KS)
    verdict = judge(found, baseline=expect_baseline(settings, "rerank_v1"))
    assert verdict.recommended is None and verdict.reference.name == "rerank_v1 k=18"
    assert [row.queries for row in verdict.rows] == [48] * 6
    assert any("rerank_scores_v1 k=14 is better than rerank_v1 k=18" in sentence for sentence in verdict.sentences)
    with pytest.raises(InvalidArgument, match="--baseline mosaic_v1: give it as --prompt too"):
        expect_baseline(settings, "mosaic_v1")


def test_a_race_that_is_run_again_asks_nothing_and_one_with_other_queries_is_another(
    memory: VisualMemory, held_out: dict[str, Dataset], tmp_path: Path
) -> None:
    model = skilled(ONE_IS_BEST)
    first = judge(race(memory, held_out, tmp_path / "race", model))
    asked = len(model.prompts)
    again = judge(race(memory, held_out, tmp_path / "race", model))
    assert len(model.prompts) == asked and again == first
    with pytest.raises(OtherSettings, match="was begun with other settings"):
        race(memory, {"a": held_out["a"]}, tmp_path / "race", model)


def test_a_rung_that_would_not_fit_is_not_begun(
    memory: VisualMemory, held_out: dict[str, Dataset], tmp_path: Path
) -> None:
    settings, queries = make_settings(PROMPTS, KS), draw_queries(held_out, None, seed=0)
    rungs, scripted = plan_rungs(4, 48, eta=2), skilled(ONE_IS_BEST)

    def run(max_calls: int) -> Race:
        meter = Meter(max_calls=max_calls, ledger=tmp_path / "race" / "spent.jsonl")
        return run_race(settings, course(memory, queries, rungs, tmp_path / "race", make_ready(scripted, meter=meter)))

    with pytest.raises(RunError, match="not got through its first rung: it would take about 96 calls, and 95 of"):
        run(95)
    found = run(96)
    assert "ended before rung 2 of 2: it would take about 48 calls, and 0 of --max-calls 96 are left" in found.stopped
    assert [tried.in_race for tried in found.tried] == [True, True, False, False]
    assert judge(found).rows[0].queries == 24 and len(scripted.prompts) == 96
    assert not run(96 + 48).stopped and len(scripted.prompts) == 96 + 48


def test_a_limit_of_calls_holds_over_processes(tmp_path: Path) -> None:
    ledger = tmp_path / "spent.jsonl"
    first = Meter(max_calls=2, ledger=ledger)
    first.begin_calls()
    first.count(Usage(prompt_tokens=7, reply_tokens=3, thought_tokens=1))
    with ledger.open("a") as torn:
        torn.write('\n{"calls"')
    second = Meter(max_calls=2, ledger=ledger)
    assert (second.calls, second.prompt_tokens, second.reply_tokens) == (1, 7, 4)
    second.begin_calls()
    with pytest.raises(EveryRequestFails, match="--max-calls 2 are made"):
        Meter(max_calls=2, ledger=ledger).reserve(Any)  # type: ignore[arg-type]


def test_a_limit_that_is_met_in_the_middle_of_a_rung_is_kept(
    memory: VisualMemory, held_out: dict[str, Dataset], tmp_path: Path
) -> None:
    settings, queries = make_settings(PROMPTS, KS), draw_queries(held_out, None, seed=0)
    model = ScriptedModel(lambda prompt: "no candidate")  # each is asked for once more
    ready = make_ready(model, meter=Meter(max_calls=100))
    with pytest.raises(RunError, match="not got through its first rung: --max-calls 100 are made"):
        run_race(settings, course(memory, queries, plan_rungs(4, 48, eta=2), tmp_path / "race", ready))
    assert len(model.prompts) == 100


def test_answers_that_failed_are_told(memory: VisualMemory, held_out: dict[str, Dataset], tmp_path: Path) -> None:
    def refuse(prompt: Prompt) -> str:
        if len(model.prompts) > 100:
            raise RequestFailure("the service refused it", code="request_refused")
        return next(iter(prompt.candidates))

    model = ScriptedModel(refuse)
    told = judge(race(memory, held_out, tmp_path / "race", model)).sentences[0]
    assert "44 of 144 answers failed, and the vote stood in (request_refused 44)" in told


def test_a_folder_that_holds_a_run_is_left_alone(
    memory: VisualMemory, held_out: dict[str, Dataset], tmp_path: Path
) -> None:
    (tmp_path / "log.jsonl").write_text("{}")
    with pytest.raises(RunError, match="holds a run: choose another --out"):
        race(memory, held_out, tmp_path, skilled(ONE_IS_BEST))
