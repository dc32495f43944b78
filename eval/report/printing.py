"""Tables that the command line prints of runs."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Final

import typer
from markupsafe import Markup

from eval.comparing import (
    KINDS,
    Comparison,
    PairedFigures,
    RunComparison,
    Side,
    conclude,
    describe_setting,
    format_difference,
)
from eval.metrics.intervals import mcnemar_power, needed_queries
from eval.runs.finished import find_unfinished, lacks_classes, lacks_pictures, say_unusable
from eval.runs.runner import Estimate
from eval.types import Interval, Metrics, Run, Summary
from retrieval.labels import display_name
from retrieval.support.html import heading, table, text_line
from retrieval.support.terminal import counted, points, print_table, printable
from retrieval.voting import DEFAULT_METHOD, METHODS

_MASKED: Final = (
    "Masked to the data set's own classes, as its authors score: neighbours of others have no vote, and ranks stay"
)


def print_summary(run: Run, summary: Summary) -> None:
    """Print a run's figures: accuracies by voting method, the second look, and what is missing in them."""
    print_metrics(summary.metrics)
    _print_masked(summary.metrics)
    _print_chosen(summary.metrics)
    _print_rerank(summary)
    if run.info.centred:
        typer.echo(f"† centred by {run.info.centred}: transductive, the queries' own embeddings were used beforehand")
    for name, figures in summary.metrics.items():
        for lacking in _say_lacking(name, figures):
            typer.echo(f"{printable(name)}: {lacking}")
    for sentence in say_unusable(run):
        typer.echo(printable(sentence, longest=500))
    for dataset in find_unfinished(run):
        typer.echo(f"{printable(dataset)}; the same `vmem eval run` goes on")


def _say_lacking(name: str, figures: Metrics) -> Iterator[str]:
    """Yield what a data set's figures leave out, and why they do not compare with published ones."""
    if figures.unreadable:
        yield f"without {counted(figures.unreadable, 'file')} that could not be used"
    if figures.excluded:
        yield f"without {counted(figures.excluded, 'picture')} for which no label is right"
    if partial := lacks_pictures(name, figures.queries):
        yield f"{partial}, so that figures do not compare with published ones"
    if lacking := lacks_classes(figures.labels_not_in_memory, figures.per_class):
        yield f"{lacking} ({', '.join(map(printable, figures.labels_not_in_memory[:10]))})"


def print_metrics(metrics: Mapping[str, Metrics]) -> None:
    """Print top-1 accuracy by voting method."""
    rows = [
        [
            _marked(name, figures),
            f"{figures.count:,}",
            *(_percent(figures.top1[method], figures.interval[method]) for method in METHODS),
            f"{figures.hit_rate:.1f}",
        ]
        for name, figures in metrics.items()
    ]
    title = "Top-1 accuracy in percent (95 % interval) by voting method"
    print_table(["queries", "n", *METHODS, "hit rate"], rows, title=title)


def _print_masked(metrics: Mapping[str, Metrics]) -> None:
    rows = [
        [
            _marked(name, figures),
            f"{figures.masked_classes:,}",
            f"{len(figures.labels_not_in_memory):,}",
            *(f"{figures.masked[method]:.1f}" for method in METHODS),
        ]
        for name, figures in metrics.items()
        if figures.masked
    ]
    if rows:
        print_table(["queries", "classes", "not in the memory", *METHODS], rows, title=_MASKED)


def _print_chosen(metrics: Mapping[str, Metrics]) -> None:
    for name, figures in metrics.items():
        if chosen := figures.chosen:
            held_out = f"chosen on {printable(chosen.chosen_on)}"
            how = "the best on the very pictures that are scored: optimistic" if chosen.optimistic else held_out
            accuracy = _percent(chosen.top1[DEFAULT_METHOD], chosen.interval[DEFAULT_METHOD])
            typer.echo(f"{_marked(name, figures)} at k = {chosen.k}, {how}: {accuracy} by {DEFAULT_METHOD} voting")


def _marked(name: str, figures: Metrics | Side) -> str:
    return printable(name) + (" †" if figures.centred else "")


def _percent(accuracy: float, interval: Interval) -> str:
    return f"{accuracy:.1f} ({interval[0]:.0f}–{interval[1]:.0f})"


def print_estimate(estimate: Estimate) -> None:
    """Print what a run would take."""
    typer.echo(
        f"{counted(estimate.queries, 'query')}; the gate asks about {estimate.asked:,}, about {estimate.cached:,} of "
        "them answered in the cache"
    )
    dollars = "unknown: give --prices" if estimate.cost is None else f"${estimate.cost:,.2f}"
    counts = {"calls": estimate.calls, "tokens in": estimate.prompt_tokens, "tokens out": estimate.reply_tokens}
    print_table(["about", ""], [*((name, f"{count:,}") for name, count in counts.items()), ("cost", dollars)])
    typer.echo(f"{estimate.basis}. Nothing was asked.")


def _print_rerank(summary: Summary) -> None:
    reranked = {name: figures.rerank for name, figures in summary.metrics.items() if figures.rerank}
    if not reranked:
        return
    marked = {name: _marked(name, summary.metrics[name]) for name in reranked}
    rows = [
        [
            marked[name],
            f"{figures.vote_top1:.1f}",
            _percent(figures.top1, figures.interval),
            "–" if figures.efficiency is None else f"{figures.efficiency:.0%}",
            f"{figures.fixed:,}",
            f"{figures.broken:,}",
        ]
        for name, figures in reranked.items()
    ]
    title = "Second look: top-1 accuracy in percent (95 % interval)"
    print_table(["queries", "vote", "with the model", "efficiency", "fixed", "broken"], rows, title=title)
    rows = [
        [
            marked[name],
            f"{spent.calls:,}",
            f"{spent.calls_saved:,}",
            "?" if spent.cost is None else f"${spent.cost:.4f}",
            *(f"{spent.seconds[part]:.2f} s" if spent.seconds else "–" for part in ("p50", "p95")),
        ]
        for name in reranked
        for spent in [summary.spending[name]]
    ]
    print_table(["queries", "calls", "from cache", "cost", "median", "95th percentile"], rows, title="What it took")
    for name, figures in reranked.items():
        reasons = ", ".join(f"{code} {count:,}" for code, count in figures.reasons.items())
        typer.echo(f"{marked[name]}, by reason: {reasons}")


CAPTION: Final = "Top-1 accuracy in percent, difference in points (95 % intervals, of differences adjusted as p is)"
_SHOWN_CLASSES: Final = 20
_USUAL_DIFFERENCES: Final = (0.5, 1.0, 2.0, 5.0)  # points


def print_comparison(comparison: Comparison) -> None:
    """Print, for each run, its figures beside the baseline's, the classes that moved most, and a conclusion."""
    for other in comparison.others:
        columns, rows = figure_rows(comparison.before, other)
        print_table(columns, rows, title=CAPTION)
        _print_counts(other)
        _print_classes(other)
    for note in list_notes(comparison):
        typer.echo(printable(note, longest=1000))
    for other in comparison.others:
        typer.echo(printable(conclude(comparison.before, other), longest=1000))


def figure_rows(before: Side, other: RunComparison) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the table of a run's figures beside the baseline's, as people read them."""
    rows = [_cells(dataset.name, dataset.figures) for dataset in other.datasets]
    if len(rows) > 1:
        rows.append(_cells("all", other.overall))
    sides = [_marked(side.name, side) for side in (before, other.after)]
    return ["queries", "n", *sides, "difference", "fixed", "broken", "p", "p (Holm)"], rows


def count_answers(other: RunComparison) -> str:
    """Say how many queries got another answer, by kind."""
    kinds = [flip.kind for dataset in other.datasets for flip in dataset.flips]
    counts = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in KINDS if kind in kinds)
    return f"Other answers: {counts or 'none'}"


def list_notes(comparison: Comparison) -> list[str]:
    """Return what has to be known of the sides: embeddings that were centred, data sets that are not got through."""
    notes = []
    for side in (comparison.before, *(other.after for other in comparison.others)):
        if side.centred:
            notes.append(f"† {side.name} centred the queries' embeddings ({side.centred}): it is transductive")
        if not side.vote:  # which is of the run beside it
            notes += [f"{side.name} is {gap}" for gap in side.unfinished]
    return notes


def comparison_as_json(comparison: Comparison) -> str:
    """Return a comparison as JSON: the fields of its dataclasses by name."""
    return json.dumps(comparison, default=_as_json)


def print_power(difference: float, *, discordant: float, power: float, alpha: float) -> None:
    """Print how many queries tell a difference in points, and some usual ones beside it.

    Raises:
        InvalidArgument: a value out of range.
    """
    shown = (difference, *(usual for usual in _USUAL_DIFFERENCES if usual <= discordant))
    assumed = {"discordant": discordant, "alpha": alpha}
    needed = {one: needed_queries(difference=one, power=power, **assumed) for one in shown}
    exact = {one: mcnemar_power(queries, difference=one, **assumed) for one, queries in needed.items()}
    rows = [(f"{usual:g}", f"{queries:,}", f"{exact[usual]:.1f}") for usual, queries in sorted(needed.items())]
    print_table(["difference in points", "queries needed", "power in percent"], rows)
    typer.echo(
        f"A difference of {points(difference)} takes {counted(needed[difference], 'query')} where the two differ in "
        f"being right on {discordant:.3g} % of them: then {exact[difference]:.1f} % of tests tell it, where {power:g} "
        f"% are asked for (exact McNemar test, alpha {alpha:g})."
    )


def _cells(name: str, figures: PairedFigures) -> list[str]:
    return [
        name,
        f"{figures.count:,}",
        "{:.1f} ({:.1f} to {:.1f})".format(figures.before, *figures.before_interval),
        "{:.1f} ({:.1f} to {:.1f})".format(figures.after, *figures.after_interval),
        "{} ({})".format(*format_difference(figures)),
        f"{figures.fixed:,}",
        f"{figures.broken:,}",
        _p(figures.p),
        _p(figures.adjusted),
    ]


def _print_counts(other: RunComparison) -> None:
    typer.echo(count_answers(other))
    for name, settings in other.changed.items():
        before, after = (printable(describe_setting(setting)) for setting in settings)
        typer.echo(f"Other settings: {printable(name)}: {before}, then {after}")
    for dataset in other.datasets:
        if dataset.only_before or dataset.only_after:
            typer.echo(
                f"{printable(dataset.name)}: without {counted(dataset.only_before, 'query')} that only the first run "
                f"answered, and {counted(dataset.only_after, 'query')} that only the other did"
            )
    if other.missing:
        typer.echo(f"Not compared, for want of shared queries: {', '.join(map(printable, other.missing))}")
    if other.repeated:
        told = counted(other.repeated, "picture")
        typer.echo(f"In several data sets at once: {told}; the line 'all' tests each as one")


def _print_classes(other: RunComparison) -> None:
    moved = [(dataset, one) for dataset in other.datasets for one in dataset.classes]
    moved.sort(key=lambda pair: -abs(pair[1].net))
    rows = [
        (display_name(one.label), dataset.name, one.count, one.fixed, one.broken, f"{one.net:+}", _p(one.p), _p(one.q))
        for dataset, one in moved[:_SHOWN_CLASSES]
    ]
    if rows:
        title = f"Classes that moved: {len(rows)} of {len(moved):,}, most first (q: false discovery rate)"
        print_table(["class", "queries", "n", "fixed", "broken", "net", "p", "q"], rows, title=title)


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def _as_json(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(value)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"JSON has no form for {type(value)}")


def comparison_html(comparison: Comparison) -> str:
    """Return a comparison as tables with its conclusions; names appear as text whatever they hold."""
    before, shown = comparison.before, Markup("")
    for other in comparison.others:
        columns, rows = figure_rows(before, other)
        shown += table(columns, rows, caption=CAPTION) + text_line(count_answers(other))
        if other.changed:
            settings = [(name, *map(describe_setting, pair)) for name, pair in other.changed.items()]
            shown += table(["setting", before.name, other.after.name], settings)
        shown += heading(conclude(before, other))
    return str(shown + Markup("").join(map(text_line, list_notes(comparison))))
