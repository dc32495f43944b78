"""Tables that the command line prints of runs."""

from collections.abc import Mapping

import typer

from eval.estimate import Estimate
from eval.types import Metrics
from retrieval.terminal import print_table
from retrieval.voting import METHODS


def print_metrics(metrics: Mapping[str, Metrics]) -> None:
    """Print top-1 accuracy by voting method."""

    def cells(name: str, figures: Metrics) -> list[str]:
        intervals = [(figures.top1[method], *figures.interval[method]) for method in METHODS]
        return [
            name,
            str(figures.count),
            *(f"{top:.1f} ({low:.0f}–{high:.0f})" for top, low, high in intervals),
        ]

    rows = [cells(name, figures) for name, figures in metrics.items()]
    print_table(["queries", "n", *METHODS], rows, title="Top-1 accuracy in percent (95 % interval) by voting method")


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


def print_rerank(metrics: Mapping[str, Metrics]) -> None:
    """Print what the second look did, where there was one."""
    reranked = {name: figures.rerank for name, figures in metrics.items() if figures.rerank}
    if not reranked:
        return
    rows = [
        [
            name,
            f"{figures.vote_top1:.1f}",
            f"{figures.top1:.1f} ({figures.interval[0]:.0f}–{figures.interval[1]:.0f})",
            f"{figures.fixed:,}",
            f"{figures.broken:,}",
            ", ".join(f"{code} {count:,}" for code, count in figures.reasons.items()),
            f"{figures.calls:,}",
            f"{figures.calls_saved:,}",
            "?" if figures.cost is None else f"${figures.cost:.4f}",
        ]
        for name, figures in reranked.items()
    ]
    columns = ["queries", "vote", "with the model", "fixed", "broken", "by reason", "calls", "from cache", "cost"]
    print_table(columns, rows, title="Second look: top-1 accuracy in percent (95 % interval)")
