"""Tables that the command line prints of runs."""

from collections.abc import Mapping

import typer

from eval.estimate import Estimate
from eval.summary import Summary
from eval.types import Interval, Metrics, Run, Spending
from retrieval.terminal import print_table, printable
from retrieval.voting import DEFAULT_METHOD, METHODS


def print_summary(run: Run, summary: Summary) -> None:
    """Print a run's figures: accuracies by voting method, the second look, and what was left out."""
    mark = " †" if run.info.centred else ""
    print_metrics(summary.metrics, mark=mark)
    _print_masked(summary.metrics)
    _print_chosen(summary.metrics)
    _print_rerank(summary)
    if mark:
        typer.echo(f"† centred by {run.info.centred}: transductive, the queries' own embeddings were used beforehand")
    for name, figures in summary.metrics.items():
        if figures.unreadable:
            typer.echo(f"{name}: {figures.unreadable:,} files could not be used and are not counted")
        if figures.excluded:
            typer.echo(f"{name}: {figures.excluded:,} pictures have no right label and are not counted")
        if figures.labels_not_in_memory:
            absent = ", ".join(map(printable, figures.labels_not_in_memory[:10]))
            typer.echo(f"{name}: {len(figures.labels_not_in_memory):,} labels are not in the memory ({absent})")


def print_metrics(metrics: Mapping[str, Metrics], *, mark: str = "") -> None:
    """Print top-1 accuracy by voting method; the mark follows every data set's name."""

    def cells(name: str, figures: Metrics) -> list[str]:
        accuracies = [_percent(figures.top1[method], figures.interval[method]) for method in METHODS]
        return [name + mark, f"{figures.count:,}", *accuracies, f"{figures.hit_rate:.1f}"]

    rows = [cells(name, figures) for name, figures in metrics.items()]
    columns = ["queries", "n", *METHODS, "hit rate"]
    print_table(columns, rows, title="Top-1 accuracy in percent (95 % interval) by voting method")


def _print_masked(metrics: Mapping[str, Metrics]) -> None:
    rows = [
        [name, str(figures.masked_classes), *(f"{figures.masked[method]:.1f}" for method in METHODS)]
        for name, figures in metrics.items()
        if figures.masked
    ]
    if rows:
        title = "Masked: only the data set's own classes vote, as its authors score; above, all do, as in the paper"
        print_table(["queries", "classes", *METHODS], rows, title=title)


def _print_chosen(metrics: Mapping[str, Metrics]) -> None:
    for name, figures in metrics.items():
        if chosen := figures.chosen:
            how = (
                "the best on the test set itself: optimistic" if chosen.optimistic else f"chosen on {chosen.chosen_on}"
            )
            accuracy = _percent(chosen.top1[DEFAULT_METHOD], chosen.interval[DEFAULT_METHOD])
            typer.echo(f"{name} at k = {chosen.k}, {how}: {accuracy} by {DEFAULT_METHOD} voting")


def _percent(accuracy: float, interval: Interval) -> str:
    return f"{accuracy:.1f} ({interval[0]:.0f}–{interval[1]:.0f})"


def print_estimate(estimate: Estimate) -> None:
    """Print what a run would take."""
    typer.echo(
        f"{estimate.queries:,} queries; the gate asks about {estimate.asked:,}, of which about {estimate.cached:,} are"
        " answered in the cache"
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
    rows = [
        [
            name,
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
    spent = [[name, *_spent(summary.spending[name])] for name in reranked]
    print_table(["queries", "calls", "from cache", "cost", "median", "95th percentile"], spent, title="What it took")
    for name, figures in reranked.items():
        reasons = ", ".join(f"{code} {count:,}" for code, count in figures.reasons.items())
        typer.echo(f"{name}, by reason: {reasons}")


def _spent(spending: Spending) -> list[str]:
    cost = "?" if spending.cost is None else f"${spending.cost:.4f}"
    seconds = [f"{spending.seconds[name]:.2f} s" if spending.seconds else "–" for name in ("p50", "p95")]
    return [f"{spending.calls:,}", f"{spending.calls_saved:,}", cost, *seconds]
