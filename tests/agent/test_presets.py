"""Presets: settings under a name, what they leave to the caller, and what is said of those that cannot be used."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import eval.cli.run_cli
import eval.cli.tune_cli
from agent import GenerationConfig, Preset, ScriptedModel, classify_batch, classify_with_rerank
from agent.classify import prepare
from agent.cli.classify_cli import classify
from agent.errors import PresetError
from agent.presets import load_preset, preset_names, save_preset
from eval.types import Sample
from retrieval import VisualMemory
from retrieval.errors import VisualMemoryError
from tests.commands import runner
from tests.conftest import draw
from tests.runs import evaluate

AGREES = '{"ranking": ["A"], "confidence": 1}'
TEMPLATE = "---\nabout: mine\n---\n{{ query }} {% for code in candidates %}{{ code }} {% endfor %}"


@pytest.fixture
def presets(tmp_path: Path) -> Iterator[Path]:
    """Keep this test's presets out of the user's folder."""
    folder = tmp_path / "presets"
    os.environ["VMEM_PRESETS"] = str(folder)
    yield folder
    del os.environ["VMEM_PRESETS"]


def test_a_preset_is_read_back_as_it_was_saved(presets: Path) -> None:
    saved = Preset(
        name="cheap.one-2",
        prompt="rerank_scores_v1",
        k=7,
        voting="softmax",
        when="margin<0.3",
        fusion_weight=2,
        shuffles=3,
        seed=4,
        generation=GenerationConfig(temperature=None, thinking="low", seed=5, enforce_schema=False),
        model="gemini-3.5-flash-lite",
        about='He said "\\" and\nleft = [1] # \x7f\u202e 😀\t</script>',
    )
    path = save_preset(saved)
    assert path == presets / "cheap.one-2.toml" and list(presets.iterdir()) == [path]
    found = load_preset("cheap.one-2")
    assert found.template_digest and replace(found, template_digest="") == saved
    assert load_preset(path) == found and preset_names() == ["cheap.one-2"]


def test_a_preset_of_an_older_version_is_read(presets: Path) -> None:
    presets.mkdir()
    older = 'prompt = "rerank_v1"\nneighbors = 20\nvoting = "rank"\nwhen = "margin<0.3"\nshuffles = 0\nseed = 0\n'
    older += 'model = ""\nabout = ""\n[generation]\ntemperature = "service"\nmax_reply_tokens = 1024\n'
    (presets / "older.toml").write_text(older)
    generation = GenerationConfig(temperature=None)
    assert load_preset("older") == Preset(name="older", k=20, when="margin<0.3", generation=generation)


def test_a_preset_is_replaced_only_where_that_is_asked_for(presets: Path) -> None:
    save_preset(Preset(name="mine", k=5))
    with pytest.raises(PresetError, match="there is a preset mine already .*choose another name, or replace it"):
        save_preset(Preset(name="mine", k=6))
    assert load_preset("mine").k == 5
    save_preset(Preset(name="mine", k=6), replace=True)
    assert load_preset("mine").k == 6 and len(list(presets.iterdir())) == 1


def test_options_left_out_are_the_presets_and_those_given_go_before_it(presets: Path, memory: VisualMemory) -> None:
    save_preset(Preset(name="mine", prompt="rerank_scores_v1", k=7, generation=GenerationConfig(seed=3)))
    model = ScriptedModel(lambda prompt: AGREES)
    query = draw((190, 40, 40), 1)
    plain = classify_with_rerank(query, memory, model=model, preset="mine")
    beside = classify_with_rerank(query, memory, model=model, preset="mine", k=4, prompt="rerank_v1")
    (batched,) = classify_batch([query], memory, model=model, preset=load_preset("mine"), progress=False)
    assert [len(plain.neighbors), len(beside.neighbors)] == [7, 4] and batched == plain
    assert [prompt.template for prompt in model.prompts] == ["rerank_scores_v1", "rerank_v1", "rerank_scores_v1"]
    stages = prepare(memory, model=model, preset="mine")
    assert stages.settings.generation == GenerationConfig(seed=3)


def test_a_run_is_the_same_whether_its_settings_came_by_preset_or_by_hand(
    presets: Path, memory: VisualMemory, tmp_path: Path
) -> None:
    save_preset(Preset(name="mine", prompt="rerank_scores_v1", k=7, when="margin<0.9", shuffles=1))
    queries = {"q": [Sample(f"red/{number}", draw((190, 40, 40), number), frozenset(["red"])) for number in range(4)]}
    model = ScriptedModel(lambda prompt: AGREES)
    by_hand = prepare(memory, model=model, prompt="rerank_scores_v1", k=7, when="margin<0.9", shuffles=1, voting="rank")
    evaluate(memory, queries, tmp_path / "run", k=7, stages=by_hand)
    asked = len(model.prompts)
    by_preset = prepare(memory, model=model, preset="mine")
    evaluate(memory, queries, tmp_path / "run", k=by_preset.settings.k, stages=by_preset)
    assert len(model.prompts) == asked


def test_a_template_of_ones_own_that_has_changed_since_is_noticed(
    presets: Path, memory: VisualMemory, tmp_path: Path
) -> None:
    own = tmp_path / "own.md"
    own.write_text(TEMPLATE)
    save_preset(Preset(name="mine", prompt=os.path.relpath(own), k=9))
    assert load_preset("mine").prompt == str(own.resolve())
    model = ScriptedModel(lambda prompt: AGREES)
    own.write_text(TEMPLATE + " more")
    with pytest.raises(PresetError, match="the preset mine was saved with another text of .*own.md"):
        classify_with_rerank(draw((190, 40, 40), 1), memory, model=model, preset="mine")
    found = classify_with_rerank(draw((190, 40, 40), 1), memory, model=model, preset="mine", prompt=str(own))
    assert found.source == "rerank" and len(model.prompts) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("neighbors = ", "Invalid value"),
        ("neighbours = 5", "no setting is called neighbours"),
        ("neighbors = 0", "k=0"),
        ("neighbors = true", "neighbors = True"),
        ('neighbors = "5"', "neighbors = '5'"),
        ('voting = "loud"', "loud"),
        ('when = "never"', "never"),
        ("generation = 3", "generation is no table"),
        ('[generation]\ntemperature = "hot"', "temperature = 'hot'"),
        ("[generation]\nkey = 1", "no setting is called key"),
        ("\x00", "Invalid"),
        pytest.param("x = " + "[" * 100_000, "it nests too deep", id="brackets"),
    ],
)
def test_a_damaged_preset_is_one_sentence(presets: Path, text: str, why: str) -> None:
    presets.mkdir()
    (presets / "bad.toml").write_text(text)
    with pytest.raises(PresetError, match=rf"bad\.toml holds no preset \(.*{why}.*: mend it, or save it anew"):
        load_preset("bad")


def test_a_preset_that_is_not_there_is_told_with_those_that_are(presets: Path) -> None:
    with pytest.raises(PresetError, match=r"no preset 'other' .*none yet: `vmem prompt tune --save NAME` makes one"):
        load_preset("other")
    save_preset(Preset(name="mine"))
    with pytest.raises(PresetError, match=r"no preset 'other' .*\(mine\)"):
        load_preset("other")


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a b", "a/b", "x" * 101, "new\nline"])
def test_a_name_cannot_lead_out_of_the_folder(presets: Path, name: str) -> None:
    with pytest.raises(PresetError, match="no preset can be called"):
        save_preset(Preset(name=name))
    assert not presets.exists()


def test_the_command_line_takes_a_preset_and_options_beside_it(presets: Path, built: Path, pictures: Path) -> None:
    save_preset(Preset(name="mine", k=7, voting="plurality", prompt="rerank_scores_v1"))

    def said(*more: str) -> dict[str, Any]:
        return dict(json.loads(runner(classify)("--memory", built, pictures / "red" / "1.png", "--json", *more)))

    taken = [said("--preset", "mine"), said("--preset", "mine", "--k", "3"), said("--k", "3")]
    assert [len(one["neighbors"]) for one in taken] == [7, 3, 3]
    assert "plurality" in taken[1]["reason"] and "rank" in taken[2]["reason"]


def test_the_command_line_says_what_is_wrong_with_a_preset(presets: Path, built: Path, tmp_path: Path) -> None:
    save_preset(Preset(name="soft", voting="softmax"))
    run = ["--memory", built, "--out", tmp_path / "run", "--dataset", f"q={tmp_path / 'queries'}"]
    (tmp_path / "queries" / "red").mkdir(parents=True)
    draw((190, 40, 40), 1).save(tmp_path / "queries" / "red" / "1.png")
    for preset, why in (("none", "^no preset 'none'"), ("soft", "^--preset soft votes by softmax")):
        with pytest.raises(VisualMemoryError, match=why):
            runner(eval.cli.run_cli.run)(*run, "--preset", preset)
    listed = runner(eval.cli.tune_cli.presets)()
    assert "soft" in listed and "rerank_v1" in listed
