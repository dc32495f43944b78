"""Hard queries, prompts tried on them, and what changed, as the notebooks use them."""

from pathlib import Path

import pytest

from agent import ScriptedModel
from agent.calls.ready import LoadedModel, make_ready
from agent.classify import Stages
from agent.settings import Settings
from eval.comparing import compare_runs
from eval.trial import hard_queries, show_flips, show_prompts, try_prompts
from eval.types import Dataset, RunError, Sample
from eval.workbench import answer_by_pixels, open_workbench
from prompts.answer import parse_answer
from prompts.template import load_template
from prompts.types import Prompt
from retrieval import VisualMemory
from retrieval.errors import InvalidArgument
from tests.conftest import COLOURS, draw
from tests.eval.made_runs import made_run
from tests.markup import read_harmless

PROMPTS = ["rerank_v1", "rerank_scores_v1"]


@pytest.fixture
def mixed(queries: list[Sample]) -> Dataset:
    """Return queries the last of which have a label that no vote can give, and one that is no picture."""
    wrong = [Sample(f"odd/{number}", draw((40, 160, 70), number), frozenset(["<odd>"])) for number in range(6)]
    return Dataset([*queries, Sample("broken", b"words", frozenset(["red"])), *wrong])


def second_prompt_differs(prompt: Prompt) -> str:
    """Answer with the first candidate, or with the last one where the prompt tells shares of the vote."""
    codes = list(prompt.candidates)
    return f'{{"evidence": [3], "ranking": ["{codes[-1 if prompt.template == PROMPTS[1] else 0]}"], "confidence": 1}}'


@pytest.fixture
def model() -> LoadedModel:
    return make_ready(ScriptedModel(second_prompt_differs))


def test_wrong_votes_are_found_and_pictures_that_cannot_be_used_left_out(memory: VisualMemory, mixed: Dataset) -> None:
    found = hard_queries(memory, mixed, k=6, count=40, kind="wrong vote", progress=False)
    assert {sample.id for sample in found.samples} >= {f"odd/{number}" for number in range(6)}
    assert all(query.wrong for query in found.queries)
    assert found.of == len(mixed.samples) - 1


def test_low_margins_come_in_order_and_the_same_seed_chooses_the_same(memory: VisualMemory, mixed: Dataset) -> None:
    found = hard_queries(memory, mixed, k=6, count=10, kind="low margin", seed=3, progress=False)
    margins = [query.margin for query in found.queries]
    assert margins == sorted(margins) and len(margins) == 10
    again = hard_queries(memory, mixed, k=6, count=10, kind="low margin", seed=3, progress=False)
    assert [sample.id for sample in again.samples] == [sample.id for sample in found.samples]


def test_both_kinds_share_the_count_without_a_query_twice(memory: VisualMemory, mixed: Dataset) -> None:
    found = hard_queries(memory, mixed, k=6, count=9, kind="both", progress=False)
    assert all(query.wrong for query in found.queries[:5])
    assert len({sample.id for sample in found.samples}) == 9


def test_hard_queries_show_themselves_with_hostile_labels_as_text(memory: VisualMemory, mixed: Dataset) -> None:
    found = read_harmless(hard_queries(memory, mixed, k=6, count=12, kind="wrong vote", progress=False)._repr_html_())
    assert "is <odd>" in found.text and "say nothing of the others" in found.text


@pytest.mark.parametrize(("count", "kind"), [(0, "both"), (5, "easy")])
def test_no_such_kind_or_count_of_hard_queries_is_refused(
    memory: VisualMemory, mixed: Dataset, count: int, kind: str
) -> None:
    with pytest.raises(InvalidArgument, match="low margin, wrong vote, both expected"):
        hard_queries(memory, mixed, count=count, kind=kind)  # type: ignore[arg-type]


def test_prompts_are_compared_on_the_same_queries(
    memory: VisualMemory, queries: list[Sample], model: LoadedModel, tmp_path: Path
) -> None:
    trial = try_prompts(memory, queries, PROMPTS, model=model, neighbors=18, out=tmp_path, progress=False)
    alone = compare_runs([(name, run) for name, (_, run) in zip(PROMPTS, trial.runs, strict=True)])
    assert trial.comparison.others[0].overall == alone.others[0].overall
    assert trial.comparison.others[0].overall.broken == len(queries)
    assert trial.top1 == {"rerank_v1": 100.0, "rerank_scores_v1": 0.0} and trial.winner == "rerank_v1"
    assert trial.spending["rerank_v1"].calls == len(queries)
    text = read_harmless(trial._repr_html_()).text
    assert f"{len(queries)} broken" in text and "rerank_scores_v1 is worse than rerank_v1 by 100.0 points" in text
    assert len(repr(trial)) < 200


def test_a_trial_that_is_repeated_asks_nothing_again_and_another_one_lies_beside_it(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path
) -> None:
    asked: list[str] = []

    def count(prompt: Prompt) -> str:
        asked.append(prompt.template)
        return second_prompt_differs(prompt)

    for k, expected in ((6, 2), (6, 2), (7, 4)):
        try_prompts(
            memory, queries, PROMPTS, model=make_ready(ScriptedModel(count)), neighbors=k, out=tmp_path, progress=False
        )
        assert len(asked) == expected * len(queries)
    assert len(list(tmp_path.iterdir())) == 4


def test_the_winners_settings_make_a_preset(
    memory: VisualMemory, queries: list[Sample], model: LoadedModel, tmp_path: Path
) -> None:
    trial = try_prompts(memory, queries, PROMPTS, model=model, neighbors=18, out=tmp_path, progress=False)
    preset = trial.preset("found")
    assert (preset.name, preset.prompt, preset.neighbors, preset.model) == ("found", "rerank_v1", 18, "scripted")
    assert preset.about.startswith("trial on 24 queries: top-1 rerank_v1 100.0 %, rerank_scores_v1 0.0 %")


@pytest.mark.parametrize("prompts", [[], ["rerank_v1"], ["rerank_v1", "rerank_v1"]])
def test_a_trial_of_fewer_than_two_prompts_is_refused(
    memory: VisualMemory, queries: list[Sample], model: LoadedModel, tmp_path: Path, prompts: list[str]
) -> None:
    with pytest.raises(InvalidArgument, match="two or more of different names expected"):
        try_prompts(memory, queries, prompts, model=model, out=tmp_path)


def test_a_trial_without_queries_is_refused(memory: VisualMemory, model: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no queries"):
        try_prompts(memory, [], PROMPTS, model=model, out=tmp_path)


def test_flips_are_pictures_with_both_answers_and_the_evidence(
    memory: VisualMemory, queries: list[Sample], model: LoadedModel, tmp_path: Path
) -> None:
    trial = try_prompts(memory, queries, PROMPTS, model=model, neighbors=18, out=tmp_path, progress=False)
    found = read_harmless(show_flips(trial, count=2, neighbors=4)._repr_html_())
    assert found.tags.count("img") == 2 * 5
    assert found.text.count("broken") == 2 and "is red\nrerank_v1: red\nrerank_scores_v1: " in found.text
    assert "#3 · " in found.text and "★ evidence of both" in found.text
    assert found.text.strip().endswith(f"… {len(queries) - 2} more queries")


def test_prompts_that_answer_alike_have_no_flips(memory: VisualMemory, queries: list[Sample], tmp_path: Path) -> None:
    agreeing = make_ready(ScriptedModel(lambda prompt: "A"))
    trial = try_prompts(memory, queries, PROMPTS, model=agreeing, neighbors=6, out=tmp_path, progress=False)
    assert read_harmless(show_flips(trial)._repr_html_()).text.strip() == "No query got another answer."


def test_a_comparison_shows_itself_with_hostile_names_as_text() -> None:
    runs = [
        (name, made_run({"<i>": 50, "q": 40}, rerank=True, k=k)) for name, k in (("<b>one</b>", 3), ("\u202etwo", 9))
    ]
    found = read_harmless(compare_runs(runs)._repr_html_())
    assert "<b>one</b>" in found.text and "�two" in found.text and "Other answers: " in found.text


def test_two_prompts_stand_side_by_side_with_every_picture(memory: VisualMemory, queries: list[Sample]) -> None:
    found = read_harmless(show_prompts(memory, queries[0].picture(), PROMPTS, neighbors=5)._repr_html_())
    assert found.tags.count("img") == 2 * 6
    assert "rerank_v1" in found.text and "of the vote" in found.text


def test_the_stand_in_goes_by_the_pictures_that_a_prompt_shows(memory: VisualMemory) -> None:
    picture = draw(COLOURS["green"], 2)  # one of the memory's own
    for prompt in ("rerank_v1", "rerank_balanced_v1", "describe_then_decide_v1"):
        template, vectors = load_template(prompt), memory.embed([picture])
        (question,) = Stages(memory, Settings(k=18), template).questions([picture], vectors)
        asked, shown = question.prompt(template, memory)
        answer = parse_answer(answer_by_pixels(asked), asked)
        assert answer.ranking[0] == "green" and shown[answer.evidence[0] - 1].label == "green"


def test_the_stand_in_agrees_with_the_vote_where_no_neighbour_is_shown(memory: VisualMemory) -> None:
    picture, template = draw(COLOURS["green"], 2), load_template("zero_shot_v1")
    vectors = memory.embed([picture])
    (question,) = Stages(memory, Settings(k=18), template).questions([picture], vectors)
    assert '"evidence": [], "ranking": ["A"]' in answer_by_pixels(question.prompt(template, memory)[0])


def test_a_workbench_holds_out_its_queries_and_opens_again(pictures: Path, checkpoint: Path, tmp_path: Path) -> None:
    first = open_workbench(tmp_path, images=pictures, embedder=str(checkpoint), queries=6)
    again = open_workbench(tmp_path, images=pictures, embedder=str(checkpoint), queries=6)
    assert again.memory.path == first.memory.path and again.memory.version == first.memory.version
    assert len(first.memory) == 12 and len(first.queries.samples) == 6
    assert not set(first.memory.snapshot().ids) & {sample.id for sample in first.queries.samples}
    assert first.held_back == []


def test_a_workbench_can_hold_back_a_class_to_be_added(pictures: Path, checkpoint: Path, tmp_path: Path) -> None:
    bench = open_workbench(tmp_path, images=pictures, embedder=str(checkpoint), queries=6, hold_back_a_class=True)
    assert set(bench.memory.stats().labels) == {"blue", "green"}
    assert {item.label for item in bench.held_back} == {"red"}
    assert bench.memory.add(bench.held_back).added == 4
    assert any("red" in sample.labels for sample in bench.queries.samples)
