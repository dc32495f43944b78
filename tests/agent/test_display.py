"""A prediction as a notebook shows it, with and without its pictures."""

from dataclasses import replace

import pytest

from agent import Prediction, ScriptedModel, classify_with_rerank, show
from agent.card import prediction_html
from prompts.types import Prompt
from retrieval import VisualMemory
from retrieval.errors import ImageError
from retrieval.types import Neighbor, Votes
from tests.conftest import draw
from tests.hostile import HOSTILE, ordered
from tests.markup import Markup, read_harmless


def decided(count: int, *, evidence: tuple[int, ...] = ()) -> Prediction:
    """Return a decision of a model on some neighbours, of which it names some by rank; rank 0 is one from beyond."""
    near = tuple(Neighbor(f"item {rank}", "cat", rank / 100, 999) for rank in range(1, count + 1))
    beyond = Neighbor("item beyond", "dog", 0.99, 999)
    return Prediction(
        "cat",
        "rerank",
        "reranked: the model chose",
        Votes(("cat",), (1.0,)),
        near,
        confidence=0.75,
        ranking=("cat", "dog"),
        evidence=tuple(near[rank - 1] if rank else beyond for rank in evidence),
    )


def test_a_prediction_shows_who_decided_and_why() -> None:
    text = read_harmless(decided(3)._repr_html_()).text
    lines = [line for line in text.split("\n") if line]
    assert lines[:4] == [
        "cat, says the model",
        "reranked: the model chose",
        "confidence 0.75",
        "the model's ranking: cat, dog",
    ]
    assert "cat100 %" in lines and "evidence" not in text
    assert "cat, says the vote" in read_harmless(replace(decided(3), source="vote", ranking=())._repr_html_()).text


def voted(votes: Votes) -> Markup:
    """Return what a notebook shows of some votes alone."""
    return read_harmless(prediction_html(Prediction(votes.winner, "vote", "no_model: as asked", votes, ())))


def test_labels_that_are_no_text_are_shown_too() -> None:
    assert "[0]" in voted(Votes(((0,), [0]), (2.0, 1.0))).text.replace("(0,)", "[0]")


def test_votes_are_bars_with_their_percentages() -> None:
    found = voted(Votes(tuple("abcdefghij"), (4.0, *[1.0] * 9)))
    assert "a31 %b8 %" in found.text and found.text.strip().endswith("… 2 more labels")
    assert found.tags.count("progress") == 8 and ("value", "31") in found.attributes


def test_evidence_is_shown_however_far_away_it_lies() -> None:
    text = read_harmless(decided(50, evidence=(40, 10, 0))._repr_html_()).text.strip()
    rows = ("10catitem 100.100★ evidence", "40catitem 400.400★ evidence", "beyond kdogitem beyond0.990★ evidence")
    assert "\n".join(rows) in text
    assert "7catitem 70.070" in text and "item 9" not in text.replace("item beyond", "")
    assert text.endswith("… 41 more neighbours")


def test_hostile_texts_in_a_prediction_stay_texts() -> None:
    for text in HOSTILE:
        near = (Neighbor(text, text, 0.1, 0),)
        said = Prediction(text, "vote", f"blocked: {text}", Votes((text,), (1.0,)), near, ranking=(text, text))
        read_harmless(said._repr_html_())


def test_pictures_of_query_and_neighbours_stand_beside_the_decision(hostile_memory: VisualMemory) -> None:
    def name_the_second(prompt: Prompt) -> str:
        return f'{{"evidence": [2], "ranking": ["{next(iter(prompt.candidates))}"], "confidence": 0.5}}'

    query = ordered("which?")
    prediction = classify_with_rerank(
        query, hostile_memory, model=ScriptedModel(name_the_second), k=len(hostile_memory)
    )
    found = read_harmless(show(prediction, hostile_memory, query, most=5)._repr_html_())
    assert found.tags.count("img") == 6 and found.text.count("★ evidence") == 1
    assert sum(value.split()[-1:] == ["evidence"] for name, value in found.attributes if name == "class") == 1
    assert f"… {len(hostile_memory) - 5} more neighbours" in found.text
    assert read_harmless(show(prediction, hostile_memory)._repr_html_()).tags.count("img") == 10


def test_items_that_a_memory_no_longer_has_leave_a_box(hostile_memory: VisualMemory) -> None:
    found = read_harmless(show(decided(2), hostile_memory)._repr_html_())
    assert sum(value.endswith(": no picture") for name, value in found.attributes if name == "aria-label") == 2


def test_a_query_that_is_no_picture_is_refused(hostile_memory: VisualMemory) -> None:
    with pytest.raises(ImageError, match="is not a picture"):
        show(decided(2), hostile_memory, b"words")
    assert show(decided(2), hostile_memory, draw((1, 2, 3), 1))
