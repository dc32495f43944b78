"""When the model is asked, in which orders, and how its answer meets the vote."""

import json
import math
import random
from typing import Any

import pytest

from agent import Prediction, ScriptedModel, classify_with_rerank, fit_fusion_weight
from agent.rerank import fuse
from agent.settings import Gate, measure_vote, parse_gate
from prompts.types import ImagePart, Prompt
from retrieval import VisualMemory
from retrieval.errors import InvalidArgument
from retrieval.types import Votes
from tests.agent.queries import noise
from tests.conftest import draw

VOTES = Votes(("cat", "dog", "cow"), (5.0, 3.0, 2.0))


def test_a_vote_is_measured_by_its_shares() -> None:
    assert measure_vote(VOTES, "share") == pytest.approx(0.5)
    assert measure_vote(VOTES, "margin") == pytest.approx(0.2)
    entropy = -(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2))
    assert measure_vote(VOTES, "entropy") == pytest.approx(entropy)
    alone = Votes(("cat",), (4.0,))
    assert [measure_vote(alone, name) for name in ("share", "margin", "entropy")] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "asks"),
    [("always", True), ("margin<0.3", True), ("margin < .1", False), ("share<0.6", True), ("entropy>1.1", False)],
)
def test_a_gate_asks_about_open_votes(text: str, asks: bool) -> None:
    gate = parse_gate(text)
    assert gate.asks(VOTES) is asks and parse_gate(str(gate)) == gate


@pytest.mark.parametrize("text", ["", "margin", "margin>0.3", "entropy<0.5", "margin<x", "margin<1.2.3", "sometimes"])
def test_a_gate_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"--when .*: always, margin<NUMBER, share<NUMBER or entropy>NUMBER"):
        parse_gate(text)


def test_a_decisive_vote_is_not_asked_about(memory: VisualMemory) -> None:
    model = ScriptedModel(lambda prompt: "A")
    sure = classify_with_rerank(draw((200, 30, 30), 3), memory, model=model, k=3, when="margin<0.3")
    assert (sure.source, sure.code) == ("vote", "decisive") and model.prompts == []
    assert classify_with_rerank(noise(1), memory, model=model, k=18, when="margin<0.9").code == "reranked"
    assert Gate("always").asks(sure.votes)


def test_fusion_multiplies_the_vote_by_the_models_probability() -> None:
    fused = dict(fuse(VOTES, "dog", 0.8, weight=1.0))
    products = {"cat": 0.5 * 0.1, "dog": 0.3 * 0.8, "cow": 0.2 * 0.1}
    assert fused == pytest.approx({label: product / sum(products.values()) for label, product in products.items()})
    label, probability = fuse(VOTES, "dog", 0.8, weight=0.0)[0]
    assert label == "cat" and probability == pytest.approx(0.5)
    assert fuse(VOTES, "cow", 1.0, weight=9.0)[0][0] == "cow"
    assert fuse(Votes(("cat",), (1.0,)), "cat", None, weight=1.0) == [("cat", 1.0)]


def test_a_fused_prediction_may_keep_the_votes_label(memory: VisualMemory) -> None:
    model = ScriptedModel(lambda prompt: json.dumps({"ranking": ["B"], "confidence": 0.4}))
    prediction = classify_with_rerank(draw((200, 30, 30), 3), memory, model=model, k=18, fusion_weight=0.3)
    assert prediction.label == "red" and prediction.source == "rerank" and prediction.ranking[0] != "red"
    assert prediction.reason.endswith("combined with the vote by a weight of 0.3")
    assert prediction.confidence is not None and 0.33 < prediction.confidence < 1


def test_a_fitted_weight_trusts_a_model_as_far_as_it_is_right() -> None:
    def weight(right: float) -> float:
        draw_from = random.Random(0)
        votes, labels, claims, truths = [], [], [], []
        for _ in range(400):
            truth = draw_from.choice(VOTES.labels)
            votes.append(VOTES)
            labels.append(truth if draw_from.random() < right else draw_from.choice(VOTES.labels))
            claims.append(0.8)
            truths.append({truth})
        return fit_fusion_weight(votes, labels, claims, truths)

    assert weight(0.0) < 0.2 < weight(0.6) < weight(0.95)


def test_a_weight_cannot_be_fitted_to_nothing() -> None:
    with pytest.raises(InvalidArgument, match="a fusion weight cannot be fitted"):
        fit_fusion_weight([VOTES], ["cat"], [0.9], [{"zebra"}])


def test_an_unsure_query_is_asked_in_further_orders_and_most_answers_win(memory: VisualMemory) -> None:
    replies = iter(["red", "blue", "blue", "blue"])

    def reply(prompt: Prompt) -> str:
        wanted = next(replies)
        code = next(code for code, label in prompt.candidates.items() if label == wanted)
        return json.dumps({"ranking": [code], "confidence": 0.6, "evidence": [1]})

    model = ScriptedModel(reply)
    prediction = classify_with_rerank(noise(1), memory, model=model, k=18, shuffles=3, seed=7)
    assert prediction.label == "blue" and [order.label for order in prediction.orders] == [
        "red",
        "blue",
        "blue",
        "blue",
    ]
    assert prediction.confidence == pytest.approx(0.45) and prediction.reason.endswith("in 4 orders")
    assert prediction.orders[0].seed is None and len({order.seed for order in prediction.orders}) == 4
    assert len({_pictures(prompt) for prompt in model.prompts}) == 4  # every order is another one
    assert len({frozenset(_pictures(prompt)) for prompt in model.prompts}) == 1  # of the same pictures
    assert "in no particular order" in model.prompts[1].text and "most similar first" in model.prompts[0].text
    shown = [memory.thumbnails([neighbor.id])[0] for neighbor in prediction.evidence]
    assert set(shown) == {_pictures(prompt)[0] for prompt in model.prompts}


def test_orders_are_the_same_whenever_a_query_is_asked(memory: VisualMemory) -> None:
    def orders(seed: int) -> set[tuple[bytes, ...]]:
        model = ScriptedModel(lambda prompt: json.dumps({"ranking": ["A"], "confidence": 0.1}))
        classify_with_rerank(noise(1), memory, model=model, k=18, shuffles=2, seed=seed)
        return {_pictures(prompt) for prompt in model.prompts}

    assert orders(1) == orders(1) != orders(2)


def test_a_sure_answer_that_agrees_with_the_vote_needs_no_further_order(memory: VisualMemory) -> None:
    model = ScriptedModel(lambda prompt: json.dumps({"ranking": ["A"], "confidence": 0.95}))
    classify_with_rerank(noise(1), memory, model=model, k=18, shuffles=5)
    assert len(model.prompts) == 1


def test_vote_shares_stand_beside_the_candidates_where_the_prompt_has_them(memory: VisualMemory) -> None:
    model = ScriptedModel(lambda prompt: "A")
    prediction = classify_with_rerank(noise(1), memory, model=model, k=18, prompt="rerank_scores_v1")
    for share in prediction.votes.shares:
        assert f"{share:.0%} of the vote" in model.prompts[0].text


def test_a_balanced_prompt_shows_as_many_neighbours_of_each_candidate(memory: VisualMemory) -> None:
    model = ScriptedModel(lambda prompt: '{"ranking": ["A"], "evidence": [1, 2, 3, 4, 5, 6]}')
    prediction: Prediction = classify_with_rerank(
        draw((120, 60, 60), 3), memory, model=model, k=7, prompt="rerank_balanced_v1"
    )
    labels = {label: 0 for label in prediction.votes.labels}
    (prompt,) = model.prompts
    for label in labels:
        labels[label] = prompt.text.count(f'labelled "{label}":')
    assert sum(labels.values()) <= 7 and max(labels.values()) - min(labels.values()) <= 1 or len(labels) == 1
    assert len(prediction.neighbors) == 7 and len(prediction.evidence) == min(6, sum(labels.values()))


@pytest.mark.parametrize("options", [{"shuffles": -1}, {"fusion_weight": -0.5}, {"on_error": "hope"}])
def test_options_out_of_range_are_refused(memory: VisualMemory, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="expected"):
        classify_with_rerank(noise(1), memory, model=ScriptedModel("A"), **options)


def _pictures(prompt: Prompt) -> tuple[bytes, ...]:
    return tuple(part.encoded for part in prompt.parts if isinstance(part, ImagePart))[:-1]
