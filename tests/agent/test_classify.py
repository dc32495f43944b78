"""The two stages together, with the scripted model as the second."""

import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from agent import Prediction, Preset, ScriptedModel, classify_batch, classify_with_rerank
from agent.types import VisionModel
from eval.cli.vmem import app
from prompts.types import ImagePart, Prompt, UnknownPrompt
from retrieval import VisualMemory
from retrieval.errors import InvalidArgument, NotAnImage
from tests.agent.queries import Colours
from tests.conftest import draw


@pytest.fixture
def query(pictures: Path) -> Path:
    return pictures / "red" / "3.png"


def test_without_a_model_the_vote_decides_and_says_why(memory: VisualMemory, query: Path) -> None:
    prediction = classify_with_rerank(query, memory, k=6)
    assert (prediction.label, prediction.source, prediction.reply) == ("red", "vote", None)
    assert prediction.reason.startswith("no_model: no model was given")
    assert prediction.neighbors[0].id == "red/3.png" and len(prediction.neighbors) == 6
    assert prediction.votes.winner == "red"


def test_the_second_stage_runs_whole_and_its_answer_decides(memory: VisualMemory, query: Path) -> None:
    model = ScriptedModel(lambda prompt: json.dumps({"ranking": ["B", "A"], "confidence": 0.9, "evidence": [2]}))
    prediction = classify_with_rerank(query, memory, model=model, k=18)
    assert prediction.source == "rerank" and prediction.label == prediction.votes.labels[1] != "red"
    assert (prediction.confidence, prediction.evidence) == (0.9, (prediction.neighbors[1],))
    assert prediction.ranking == (prediction.votes.labels[1], "red")
    assert prediction.reason == "reranked: scripted chose among 3 candidates"
    assert prediction.reply is not None and prediction.reply.model == "scripted"


def test_the_model_sees_every_neighbour_with_its_label_and_then_the_query(memory: VisualMemory, query: Path) -> None:
    model = ScriptedModel("A")
    prediction = classify_with_rerank(query, memory, model=model, k=4)
    (prompt,) = model.prompts
    assert prompt.template == "rerank_v1"
    assert tuple(prompt.candidates.values()) == prediction.votes.labels
    pictures = [part.encoded for part in prompt.parts if isinstance(part, ImagePart)]
    assert pictures[:4] == memory.thumbnails([n.id for n in prediction.neighbors])
    assert len(pictures) == 5 and prompt.text.count("labelled") >= 4


@pytest.mark.parametrize("reply", ['{"answer": "zebra"}', "no idea", ""])
def test_a_reply_outside_the_candidates_falls_back_to_the_vote(memory: VisualMemory, query: Path, reply: str) -> None:
    prediction = classify_with_rerank(query, memory, model=ScriptedModel([reply]), k=6)
    assert (prediction.label, prediction.source) == ("red", "vote")
    assert prediction.reason.startswith("unusable_reply: the reply is none of the")
    assert prediction.reply is not None and prediction.reply.text == reply


def test_a_model_that_fails_falls_back_to_the_vote(memory: VisualMemory, query: Path) -> None:
    prediction = classify_with_rerank(query, memory, model=ScriptedModel([]), k=6)
    assert (prediction.label, prediction.source) == ("red", "vote")
    assert prediction.reason.startswith("model_failed: the scripted model has no replies left")


def test_a_model_of_ones_own_that_breaks_falls_back_without_its_words(memory: VisualMemory, query: Path) -> None:
    def broken(prompt: Prompt) -> str:
        raise TimeoutError("with a secret key in it")

    prediction = classify_with_rerank(query, memory, model=ScriptedModel(broken), k=6)
    assert (prediction.label, prediction.reason) == ("red", "model_failed: TimeoutError")
    silent = classify_with_rerank(query, memory, model=ScriptedModel(lambda _: None), k=6)  # type: ignore[arg-type,return-value]
    assert silent.reason == "unusable_reply: the reply holds no text"


def test_evidence_names_neighbours_that_were_shown(memory: VisualMemory, query: Path) -> None:
    model = ScriptedModel('{"ranking": ["A"], "evidence": [0, 2, 7, 999]}')
    prediction = classify_with_rerank(query, memory, model=model, k=6)
    assert prediction.evidence == (prediction.neighbors[1],)


def test_the_voting_method_is_the_callers(memory: VisualMemory, query: Path) -> None:
    prediction = classify_with_rerank(query, memory, k=6, voting="plurality")
    assert sum(prediction.votes.weights) == 6


def test_pictures_come_as_path_bytes_pillow_or_array(memory: VisualMemory, query: Path) -> None:
    picture = draw((200, 30, 30), 3)
    for image in (str(query), query.read_bytes(), picture, np.asarray(picture)):
        assert classify_with_rerank(image, memory, k=3).neighbors[0].id == "red/3.png"


def test_a_memory_of_ready_features_can_be_reranked_without_pictures(tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "m", embedder=Colours())
    memory.add_vectors(["a", "b"], ["x", "y"], np.random.default_rng(0).normal(size=(2, 48)))
    prediction: Prediction = classify_with_rerank(draw((1, 2, 3), 1), memory, model=ScriptedModel("B"), k=2)
    assert prediction.source == "rerank"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, InvalidArgument, "k=0"),
        ({"voting": "loud"}, InvalidArgument, "no voting method 'loud'"),
        ({"prompt": "v9"}, UnknownPrompt, "no prompt 'v9'"),
    ],
)
def test_options_out_of_range_are_refused(
    memory: VisualMemory, query: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        classify_with_rerank(query, memory, **options)


def test_a_query_that_is_no_picture_is_refused(memory: VisualMemory) -> None:
    with pytest.raises(NotAnImage, match="is not a picture"):
        classify_with_rerank(b"text", memory)


def test_the_scripted_model_is_a_vision_model() -> None:
    assert isinstance(ScriptedModel([]), VisionModel)


def test_a_folder_is_answered_picture_by_picture_and_what_is_none_is_one_line(
    built: Path, pictures: Path, tmp_path: Path
) -> None:
    for name in ("b/red.png", "b/deep/blue.png", "a.png", "@eaDir/a.png/thumb.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((pictures / "red" / "1.png").read_bytes())
    (tmp_path / "notes.txt").write_text("no picture")
    alone = pictures / "blue" / "2.png"
    done = CliRunner().invoke(
        app, ["classify", "--memory", f"{built}", f"{tmp_path}", f"{alone}", "--k", "3", "--json"]
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    (bad,) = [answer for answer in answers if answer["label"] is None]
    answers.remove(bad)
    assert bad["image"].endswith("notes.txt") and bad["reason"].startswith("unreadable: ")
    found = [tmp_path / name for name in ("a.png", "b/red.png", "b/deep/blue.png")]
    assert [answer["image"] for answer in answers] == [*map(str, found), str(alone)]
    assert [answer["label"] for answer in answers] == ["red", "red", "red", "blue"]
    assert done.stderr.count("Error: ") == 1 and "notes.txt is not a picture" in done.stderr and done.exit_code == 2


def test_a_folder_without_files_is_said(built: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["classify", "--memory", f"{built}", f"{tmp_path}"])
    assert "holds no files: a folder of pictures expected" in str(done.exception)


def test_neighbors_is_another_word_for_k(memory: VisualMemory, query: Path) -> None:
    older: dict[str, int] = {"neighbors": 4}
    assert len(classify_with_rerank(query, memory, **older).neighbors) == 4  # type: ignore[arg-type]
    (batched,) = classify_batch([query], memory, progress=False, **older)  # type: ignore[arg-type]
    assert len(batched.neighbors) == 4 if isinstance(batched, Prediction) else False
    assert Preset(name="old", **older) == Preset(name="old", k=4) and Preset(k=4).neighbors == 4  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="neighbors is another word for k: give one of them"):
        classify_with_rerank(query, memory, k=3, **older)  # type: ignore[arg-type]


def test_every_option_is_in_the_signature() -> None:
    shown = list(inspect.signature(classify_with_rerank).parameters)
    assert shown[:5] == ["image", "memory", "model", "preset", "on_error"]
    assert set(shown[5:]) == {f.name for f in fields(Preset)} - {"name", "model", "about", "template_digest"}
