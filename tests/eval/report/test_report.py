"""The page of a run, as a file: complete, self-contained, and closed to what labels would like to be."""

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent import ScriptedModel
from agent.classify import prepare
from eval.comparing import compare_with_vote
from eval.datasets.trees import read_folder
from eval.metrics.rerank import sum_spending
from eval.metrics.votes import measure
from eval.report.cases import FIRST_RIGHT, SECOND_RIGHT, choose_pictured, share_out
from eval.report.comparison_page import write_comparison
from eval.report.page import write_report
from eval.runs.runner import run_evaluation
from eval.types import Dataset, Run, Sample, Summary
from retrieval import VisualMemory
from tests.conftest import draw
from tests.eval.made_runs import made_run
from tests.eval.report_page import Page
from tests.markup import HOSTILE


def report(path: Path, run: Run, *, folder: Path | None = None, **options: Any) -> Page:
    spending = {name: sum_spending(results.outcomes) for name, results in run.results.items() if results.outcomes}
    given: dict[str, Any] = {"memory": None, "datasets": {}, "folder": folder or path} | options
    write_report(path / "report.html", run, Summary(measure(run), spending), **given)
    return Page(path / "report.html")


@pytest.fixture
def hostile(tmp_path: Path) -> Page:
    return report(tmp_path, made_run({"$\\frac<b>": 60}, rerank=True, labels=HOSTILE))


@pytest.fixture
def asked(built: Path, tmp_path: Path) -> Callable[..., Page]:
    """Return a maker of the page of a small real run in which a model was asked."""
    memory = VisualMemory.open(built)
    samples = [Sample(f"red/{number}", draw((190, 40, 40), number), frozenset(["red"])) for number in range(6)]
    replies = iter(['{"evidence": [2, 15], "ranking": ["B"], "confidence": 0.4}', "no <b>JSON</b>\nat all"])
    model = ScriptedModel(lambda prompt: next(replies, '{"ranking": ["A"], "confidence": 0.9}'))
    stages = prepare(memory, model=model, neighbors=18)
    out = tmp_path / "run"
    run = run_evaluation(memory, {"q": Dataset(samples)}, out, k=18, stages=stages, concurrency=1, progress=False)

    def make(change: Callable[[Run], Run] = lambda run: run, **options: Any) -> Page:
        given: dict[str, Any] = {"memory": memory, "datasets": {"q": Dataset(samples)}, "folder": out} | options
        return report(tmp_path, change(run), **given)

    return make


def test_hostile_labels_make_no_element_and_no_script_of_their_own(hostile: Page) -> None:
    assert len(hostile.scripts) == 4 and hostile.count("script") == 4
    assert not any(name.startswith("on") for _, attributes in hostile.elements for name in attributes)
    assert all((attributes["src"] or "").startswith("data:") for tag, attributes in hostile.elements if tag == "img")
    assert "{{ 7 * 7 }}" in hostile.text and "document.title = 'owned'" in hostile.text


def test_no_label_turns_the_direction_of_the_text_or_fills_the_page(hostile: Page) -> None:
    assert "\u202e" not in hostile.source and "\\u202e" not in hostile.source
    assert "x" * 201 not in hostile.source
    assert "�gnp.exe" in hostile.data("gallery-data")["labels"]


def test_the_policy_lets_nothing_run_but_the_page_s_own_script(hostile: Page) -> None:
    policy = next(found["content"] for tag, found in hostile.elements if tag == "meta" and "http-equiv" in found)
    digest = base64.b64encode(hashlib.sha256(hostile.scripts[-1].encode()).digest()).decode()
    assert policy and f"script-src 'sha256-{digest}';" in policy and policy.startswith("default-src 'none'")
    assert "unsafe" not in policy and not re.search(r"https?:", hostile.source.replace("http-equiv", ""))


def test_every_query_is_listed_with_those_that_could_not_be_used(tmp_path: Path) -> None:
    run = made_run({"val": 300, "sketch": 50}, rerank=True)
    gallery = report(tmp_path, run, pictured=10).data("gallery-data")
    for group, results in zip(gallery["groups"], run.results.values(), strict=True):
        assert sorted(group["ids"][:-1]) == sorted(results.ids) and group["ids"][-1:] == list(results.unreadable)
        assert {len(group[name]) for name in ("ids", "truths", "flags", "reasons")} == {len(results) + 1}
        answered = dict(zip(group["ids"], (gallery["labels"][code] for code in group["answers"][1]), strict=True))
        assert [answered[query] for query in results.ids] == [outcome.label for outcome in results.outcomes or ()]


def test_the_page_lists_errors_first_and_of_each_kind_those_with_pictures(tmp_path: Path) -> None:
    page = report(tmp_path, made_run({"val": 300}, rerank=True), pictured=20)
    (group,), cards = page.data("gallery-data")["groups"], page.listed()
    order = [FIRST_RIGHT, 0, SECOND_RIGHT, FIRST_RIGHT | SECOND_RIGHT]  # broken, wrong, fixed, right
    kinds = [order.index(flags & 3) for flags in group["flags"][:-1]]
    assert kinds == sorted(kinds) and set(kinds) == {0, 1, 2, 3}
    pictured = [place in cards for place in range(len(kinds))]
    assert sum(pictured) == 20
    for kind in range(4):
        ours = [has for has, its in zip(pictured, kinds, strict=True) if its == kind]
        assert ours == sorted(ours, reverse=True)


def test_figures_intervals_and_what_the_second_look_did_stand_in_tables(tmp_path: Path) -> None:
    run = made_run({"val": 300}, rerank=True)
    figures = measure(run)["val"]
    page = report(tmp_path, run)
    assert figures.rerank and figures.rerank.efficiency is not None
    for shown in (figures.top1["softmax"], figures.hit_rate, figures.top5["rank"], figures.rerank.top1):
        assert f"{shown:.1f}" in page.text
    assert f"{figures.rerank.efficiency:.2f}" in page.text and "unusable_reply" in page.text
    assert f"{figures.interval['rank'][0]:.1f}–{figures.interval['rank'][1]:.1f}" in page.text


def test_masked_accuracy_says_how_many_classes_it_is_about(tmp_path: Path) -> None:
    run = made_run({"val": 100}, rerank=False)
    subset = replace(run.info, about=run.info.about | {"subsets": {"val": ["class 001", "class 002"]}})
    text = report(tmp_path, replace(run, info=subset)).text
    assert "2 classes only" in text and "neighbours of other classes have no vote, and ranks stay" in text
    absent = replace(subset, about=subset.about | {"absent": {"val": ["class 002"]}})
    shown = report(tmp_path, replace(run, info=absent)).text
    assert "2 classes only" in shown and "1 not in the memory" in shown
    assert "classes only" not in report(tmp_path, run).text


def test_figures_of_a_centred_run_are_marked_as_transductive(tmp_path: Path) -> None:
    plain = report(tmp_path, made_run({"val": 60}, rerank=True))
    centred = report(tmp_path, made_run({"val": 60}, rerank=True, centre="queries"))
    headings = sum(centred.count(level) for level in ("h1", "h2"))
    assert plain.count("span", **{"class": "chip"}) == 0
    assert centred.count("span", **{"class": "chip"}) == headings and headings >= 6


def test_queries_show_neighbours_votes_prompt_reply_and_reason(asked: Callable[..., Page]) -> None:
    page = asked()
    gallery, first, second = page.data("gallery-data"), page.listed()[0], page.listed()[1]
    ranks = [re.findall(r"#(\d+) · 0\.\d{3}", near.text) for near in first.neighbors]
    assert ranks == [[str(rank)] for rank in (*range(1, 10), 15)]
    marked = [near.text for near in first.neighbors if "evidence" in near.frame]
    assert len(marked) == 2 and "#2 · " in marked[0] and "#15 · " in marked[1]
    assert all("★ evidence" in text for text in marked)
    assert 'Neighbour 1, labelled "' in first.unfold("Prompt") and "[picture 19]" in first.unfold("Prompt")
    assert '"evidence": [2, 15]' in first.unfold("Reply")
    assert second.unfold("Reply") == "no <b>JSON</b>\nat all"
    assert gallery["reasons"][gallery["groups"][0]["reasons"][1]].startswith("unusable_reply: ")
    assert first.picture is not None and sum(map(int, re.findall(r"(\d+) %", first.text.partition(")")[2]))) == 100


def test_each_picture_is_in_the_page_once(asked: Callable[..., Page]) -> None:
    page = asked()
    shown = {near.picture for card in page.cards for near in card.neighbors}
    pictures = page.data("picture-data")
    assert len(pictures) == len(set(pictures)) == len(shown) + 6


def test_another_template_by_the_same_name_is_not_taken_for_the_prompt(asked: Callable[..., Page]) -> None:
    def change(run: Run) -> Run:
        rerank = run.info.settings["rerank"] | {"prompt": "rerank_v1 0000000000000000"}
        return replace(run, info=replace(run.info, settings=run.info.settings | {"rerank": rerank}))

    folded = [[title for title, _ in card.folded] for card in asked(change).cards]
    assert folded and all(titles == ["Reply"] for titles in folded)


def test_where_pictures_are_gone_there_are_gaps(asked: Callable[..., Page]) -> None:
    gone = {"q": Dataset([Sample("red/0", Path("/nowhere.png"), frozenset(["red"]))])}
    page = asked(memory=None, datasets=gone)
    assert page.data("picture-data") == [] and page.listed()[0].picture is None
    assert page.count("span", **{"class": "photo nothing", "role": "img"}) > 0


def test_a_comparison_finds_pictures_where_the_runs_say_they_lay(built: Path, pictures: Path, tmp_path: Path) -> None:
    model = ScriptedModel(lambda prompt: '{"ranking": ["B"]}')
    stages = prepare(VisualMemory.open(built), model=model, neighbors=18)
    sets, paths = {"q": Dataset(read_folder(pictures))}, {"q": str(pictures)}
    run = run_evaluation(stages.memory, sets, tmp_path, k=18, stages=stages, paths=paths, progress=False)
    write_comparison(tmp_path / "comparison.html", compare_with_vote("asked", run), [(tmp_path, run)])
    page = Page(tmp_path / "comparison.html")
    group, first = page.data("gallery-data")["groups"][0], page.listed()[0]
    assert group["ids"] == run.results["q"].ids and group["heads"] == ["asked (vote)", "asked"]
    assert set(group["flags"]) == {FIRST_RIGHT} and first.picture is not None
    assert len(first.neighbors) == 10 and all(near.picture is not None for near in first.neighbors)
    assert first.unfold("Reply") == '{"ranking": ["B"]}'


def test_flips_and_errors_are_pictured_first_and_some_right_ones_stay() -> None:
    flags = np.array([FIRST_RIGHT | SECOND_RIGHT] * 900 + [FIRST_RIGHT] * 40 + [0] * 60)
    chosen = choose_pictured(flags, 50, second_look=True)
    kinds = [int(flags[row]) for row in chosen]
    assert (kinds.count(FIRST_RIGHT), kinds.count(0), kinds.count(FIRST_RIGHT | SECOND_RIGHT)) == (20, 20, 10)
    assert chosen == sorted(chosen) == choose_pictured(flags, 50, second_look=True)
    assert len(choose_pictured(flags[:30], 50, second_look=True)) == 30
    assert share_out(200, 3) == [67, 67, 66]


def test_a_browser_without_scripts_still_finds_figures_plots_and_some_queries(tmp_path: Path) -> None:
    page = report(tmp_path, made_run({"val": 300}, rerank=True))
    assert (
        page.count("article") == 3 + len(page.cards)
        and page.count("figure") == 4
        and page.count("form", id="filters") == 1
    )
    assert "with the model" in page.text
