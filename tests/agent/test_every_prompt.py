"""Every released prompt through both stages: what is sent, what comes back, and which neighbours it names."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent import ScriptedModel, classify_with_rerank
from agent.calls.cached import ReplyStore
from agent.calls.ready import LoadedModel
from agent.settings import Options
from prompts.answer import answer_schema
from prompts.template import load_template, template_names
from prompts.types import ImagePart, Prompt
from retrieval import VisualMemory
from tests.agent.queries import Colours, noise
from tests.gemini_server import GeminiServer

NAMES = [*template_names(), "mosaic_v1@2x3"]
ANSWER = json.dumps({"description": "Stripes.", "evidence": [2, 3], "ranking": ["B", "A"], "confidence": 0.5})


@pytest.mark.parametrize("name", NAMES)
def test_a_prompts_answer_becomes_the_decision_in_whatever_order_it_is_asked(memory: VisualMemory, name: str) -> None:
    model = ScriptedModel(lambda prompt: ANSWER)
    found = classify_with_rerank(noise(1), memory, model=model, k=18, prompt=name, shuffles=2)
    asked = model.prompts[0]
    assert found.source == "rerank" and len(model.prompts) == 3 and asked.template == name
    assert set(asked.candidates.values()) == {"red", "green", "blue"} and found.ranking[0] == found.label
    assert {prompt.template_digest for prompt in model.prompts} == {load_template(name).digest}


@pytest.mark.parametrize("name", ["labels_only_v1", "mosaic_v1", "mosaic_v1@2x3", "describe_then_decide_v1"])
def test_evidence_names_neighbours_by_the_numbers_that_are_shown(memory: VisualMemory, name: str) -> None:
    found = classify_with_rerank(noise(1), memory, model=ScriptedModel(lambda p: ANSWER), k=9, prompt=name)
    assert found.evidence == (found.neighbors[1], found.neighbors[2])


def test_zero_shot_shows_no_neighbour_and_offers_every_class_by_name(memory: VisualMemory) -> None:
    model = ScriptedModel(lambda prompt: ANSWER)
    found = classify_with_rerank(noise(1), memory, model=model, k=1, prompt="zero_shot_v1")
    (asked,) = model.prompts
    assert list(asked.candidates.values()) == ["blue", "green", "red"]
    assert [type(part) for part in asked.parts].count(ImagePart) == 1 and "Neighbour" not in asked.text
    assert found.label == "green" and found.evidence == () and len(found.neighbors) == 1


def test_an_answer_outside_the_vote_leaves_a_fused_decision_to_the_vote(memory: VisualMemory) -> None:
    model = ScriptedModel(lambda prompt: '{"ranking": ["B"], "confidence": 1}')
    options: Options = {"k": 1, "prompt": "zero_shot_v1", "fusion_weight": 1.0}
    found = classify_with_rerank(noise(1), memory, model=model, **options)
    assert found.label == found.votes.winner and found.ranking == ("green",)


def test_labels_without_pictures_tell_their_distances(memory: VisualMemory) -> None:
    model = ScriptedModel(lambda prompt: ANSWER)
    found = classify_with_rerank(noise(1), memory, model=model, k=4, prompt="labels_only_v1")
    for number, near in enumerate(found.neighbors, 1):
        assert f'{number} = "{near.label}", distance {near.distance:.3f}' in model.prompts[0].text


def test_a_description_is_asked_for_first(
    server: GeminiServer, ready: Callable[..., LoadedModel], memory: VisualMemory
) -> None:
    server.answer = lambda call: ANSWER
    for name in ("describe_then_decide_v1", "rerank_v1"):
        classify_with_rerank(noise(1), memory, model=ready(), k=9, prompt=name, on_error="raise")
    described, plain = (call.body["generationConfig"]["responseJsonSchema"] for call in server.generate_calls())
    order = ["description", "evidence", "ranking", "confidence"]
    assert list(described["properties"]) == described["propertyOrdering"] == described["required"] == order
    assert list(plain["properties"]) == order[1:] and "propertyOrdering" not in plain


@pytest.mark.parametrize("kind", ["gemini", "generativeai", "openai"])
@pytest.mark.parametrize("name", ["describe_then_decide_v1", "zero_shot_v1", "mosaic_v1", "labels_only_v1"])
def test_every_service_takes_the_prompt(
    server: GeminiServer, ready: Callable[..., LoadedModel], memory: VisualMemory, kind: str, name: str
) -> None:
    server.answer = lambda call: ANSWER
    found = classify_with_rerank(noise(1), memory, model=ready(kind), k=9, prompt=name, on_error="raise")
    assert found.source == "rerank"


def test_more_classes_than_a_schema_takes_are_told_in_the_text(
    server: GeminiServer, ready: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    large = VisualMemory.create(tmp_path / "large", embedder=Colours())
    vectors = np.random.default_rng(0).normal(size=(120, 48)).astype(np.float32)
    large.add_vectors([f"{n}" for n in range(120)], [f"class {n:03}" for n in range(120)], vectors)
    server.answer = lambda call: '{"evidence": [], "ranking": ["DP"], "confidence": 1}'
    found = classify_with_rerank(noise(1), large, model=ready(), k=5, prompt="zero_shot_v1", on_error="raise")
    (call,) = server.generate_calls()
    assert found.label == "class 119" and 'DP = "class 119"' in call.text
    assert "enum" not in json.dumps(call.body["generationConfig"]["responseJsonSchema"])
    server.answer = lambda call: '{"evidence": [], "ranking": ["a class of its own"], "confidence": 1}'
    other = classify_with_rerank(noise(2), large, model=ready(), k=5, prompt="zero_shot_v1")
    assert (other.source, other.code) == ("vote", "unusable_reply")


def test_a_schema_of_ninety_codes_is_enforced_and_one_of_more_is_not() -> None:
    ninety = Prompt("p", (), {f"C{n}": n for n in range(90)})
    more = Prompt("p", (), {f"C{n}": n for n in range(91)})
    assert [("enum" in answer_schema(one)["properties"]["ranking"]["items"]) for one in (ninety, more)] == [True, False]


def test_a_layout_makes_another_key_and_a_kept_reply_is_found_again(
    server: GeminiServer, ready: Callable[..., LoadedModel], memory: VisualMemory, fresh_store: ReplyStore
) -> None:
    server.answer = lambda call: ANSWER
    for name in ("mosaic_v1", "mosaic_v1@2x3", "mosaic_v1"):
        last = classify_with_rerank(noise(1), memory, model=ready(store=fresh_store), k=9, prompt=name)
    assert len(server.generate_calls()) == 2 and last.replies[0].from_cache
