"""Plots: written whole and the same each time, whatever the data sets are called."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from eval.metrics.rerank import sum_spending
from eval.metrics.votes import measure
from eval.report.plots import (
    accuracy_by_cost,
    accuracy_by_dataset,
    as_svg,
    differences,
    reliability,
    top1_by_k,
    write_plots,
)
from eval.types import Metrics, Spending
from tests.eval.made_runs import made_run

HOSTILE = ["$\\frac{", "--><script>alert(1)</script>", "../../escaped", "‮日本語", "a/b", "a b"]


def figures(names: list[str], *, rerank: bool = True) -> tuple[dict[str, Metrics], dict[str, Spending]]:
    run = made_run(dict.fromkeys(names, 60), rerank=rerank)
    spending = {name: sum_spending(results.outcomes) for name, results in run.results.items() if results.outcomes}
    return measure(run, choose_k_on=names[0]), spending


@pytest.fixture(scope="module")
def one() -> tuple[Metrics, Spending]:
    metrics, spending = figures(["val"])
    return metrics["val"], spending["val"]


def test_every_plot_is_written_as_png_and_as_svg(tmp_path: Path) -> None:
    written = write_plots(tmp_path / "plots", *figures(["val", "sketch"]))
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(path.name for path in written)
    kinds = {path.stem.removesuffix("-val").removesuffix("-sketch") for path in written}
    assert kinds == {"accuracy", "top1-by-k", "reliability", "cost"} and len(written) == 2 * (1 + 2 * 3)
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert min(picture.size) > 200
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_a_run_without_a_model_has_no_plot_of_costs(tmp_path: Path) -> None:
    metrics, _ = figures(["val"], rerank=False)
    assert not [path for path in write_plots(tmp_path, metrics, {}) if path.stem.startswith("cost")]


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    twice = [write_plots(tmp_path / name, *figures(["val"])) for name in ("first", "second")]
    assert [path.read_bytes() for path in twice[0]] == [path.read_bytes() for path in twice[1]]


def test_hostile_names_are_text_in_plots_and_stay_in_the_folder(tmp_path: Path) -> None:
    written = write_plots(tmp_path / "plots", *figures(HOSTILE))
    assert len(set(written)) == 2 * (1 + 3 * len(HOSTILE))
    assert {path.parent for path in written} == {tmp_path / "plots"} and list(tmp_path.iterdir()) == [
        tmp_path / "plots"
    ]
    tags = {node.tag for path in written if path.suffix == ".svg" for node in ElementTree.parse(path).iter()}
    assert not any("script" in str(tag) for tag in tags)


def test_costs_stand_in_dollars_where_prices_are_known_and_in_queries_where_not(one: tuple[Metrics, Spending]) -> None:
    metrics, spending = one
    assert metrics.rerank
    gate = replace(metrics.rerank.gate, cost=[None] * len(metrics.rerank.gate.cost))
    unknown = replace(metrics, rerank=replace(metrics.rerank, gate=gate))
    assert "dollars" in accuracy_by_cost("val", metrics, spending).axes[0].get_xlabel()
    assert "(%)" in accuracy_by_cost("val", unknown).axes[0].get_xlabel()


def test_every_axis_says_what_it_measures(one: tuple[Metrics, Spending]) -> None:
    metrics, _ = one
    for figure in (top1_by_k("val", metrics), reliability("val", metrics), accuracy_by_dataset({"val": metrics})):
        assert all("(%)" in f"{axes.get_xlabel()} {axes.get_ylabel()}" for axes in figure.axes)
    assert "points" in differences([("val", 1.0, (0.5, 1.5))]).axes[0].get_xlabel()


def test_all_voting_methods_the_ceiling_and_the_chosen_k_stand_in_one_plot(one: tuple[Metrics, Spending]) -> None:
    names = [line.get_label() for line in top1_by_k("val", one[0]).axes[0].get_lines()]
    assert names[:5] == ["hit rate (ceiling)", "rank", "plurality", "distance", "softmax"]
    assert str(names[5]).startswith("chosen k = ")


def test_a_model_that_states_no_confidence_has_no_line_of_its_own(one: tuple[Metrics, Spending]) -> None:
    metrics, _ = one
    assert metrics.rerank
    silent = replace(metrics, rerank=replace(metrics.rerank, calibration=None))
    lines = [len(reliability("val", some).axes[0].get_lines()) for some in (metrics, silent)]
    assert lines == [3, 2]


def test_a_drawing_is_small_enough_for_a_page(one: tuple[Metrics, Spending]) -> None:
    assert len(as_svg(top1_by_k("val", one[0]))) < 100_000


def test_centred_figures_are_marked_in_every_plot(one: tuple[Metrics, Spending]) -> None:
    metrics = replace(one[0], centred="queries")
    for draw in (top1_by_k, reliability, accuracy_by_cost):
        assert draw("val", metrics).axes[0].get_title() == "val † centred: transductive"
        assert draw("val", one[0]).axes[0].get_title() == "val"
    axes = accuracy_by_dataset({"val": metrics, "plain": one[0]}).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["val †", "plain"]
    assert "† centred: transductive" in axes.get_xlabel()


def test_accuracies_that_are_all_the_same_have_an_axis_in_points(one: tuple[Metrics, Spending]) -> None:
    metrics, _ = one
    assert metrics.rerank
    nothing = {method: [0.0] * len(curve) for method, curve in metrics.top1_by_k.items()}
    gate = replace(metrics.rerank.gate, top1=[0.0] * len(metrics.rerank.gate.top1))
    flat = replace(
        metrics,
        top1_by_k=nothing,
        hit_rate_by_k=nothing["rank"],
        chosen=None,
        rerank=replace(metrics.rerank, gate=gate),
    )
    for figure in (top1_by_k("val", flat), accuracy_by_cost("val", flat)):
        assert figure.axes[0].get_ylim() == pytest.approx((-1, 1))
    assert differences([("val", 0.0, (0.0, 0.0))]).axes[0].get_xlim() == pytest.approx((-1, 1))


def test_what_a_model_states_and_what_becomes_of_it_go_by_one_name(one: tuple[Metrics, Spending]) -> None:
    names = [str(line.get_label()) for line in reliability("val", one[0]).axes[0].get_lines()]
    assert names[2].startswith("confidence of the answer (ECE ")
