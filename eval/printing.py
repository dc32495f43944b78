"""Tables that the command line prints of runs."""

from collections.abc import Iterator, Mapping
from typing import Final

import typer

from eval.estimate import Estimate
from eval.gaps import find_unfinished, lacks_classes, lacks_pictures, say_unusable
from eval.summary import Summary
from eval.types import Interval, Metrics, Run, Spending
from eval.wording import counted
from retrieval.terminal import print_table, printable
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

    def cells(name: str, figures: Metrics) -> list[str]:
        accuracies = [_percent(figures.top1[method], figures.interval[method]) for method in METHODS]
        return [_marked(name, figures), f"{figures.count:,}", *accuracies, f"{figures.hit_rate:.1f}"]

    rows = [cells(name, figures) for name, figures in metrics.items()]
    columns = ["queries", "n", *METHODS, "hit rate"]
    print_table(columns, rows, title="Top-1 accuracy in percent (95 % interval) by voting method")


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


def _marked(name: str, figures: Metrics) -> str:
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
    rows = [
        ("calls", f"{estimate.calls:,}"),
        ("tokens in", f"{estimate.prompt_tokens:,}"),
        ("tokens out", f"{estimate.reply_tokens:,}"),
        ("cost", dollars),
    ]
    print_table(["about", ""], rows)
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
    spent = [[marked[name], *_spent(summary.spending[name])] for name in reranked]
    print_table(["queries", "calls", "from cache", "cost", "median", "95th percentile"], spent, title="What it took")
    for name, figures in reranked.items():
        reasons = ", ".join(f"{code} {count:,}" for code, count in figures.reasons.items())
        typer.echo(f"{marked[name]}, by reason: {reasons}")


def _spent(spending: Spending) -> list[str]:
    cost = "?" if spending.cost is None else f"${spending.cost:.4f}"
    seconds = [f"{spending.seconds[name]:.2f} s" if spending.seconds else "–" for name in ("p50", "p95")]
    return [f"{spending.calls:,}", f"{spending.calls_saved:,}", cost, *seconds]
