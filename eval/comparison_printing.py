"""What the command line prints and writes of a comparison."""

import dataclasses
import json
from typing import Final

import typer

from eval.compare import KINDS, Comparison, PairedFigures, RunComparison, Side
from eval.conclusion import conclude, describe_setting, format_difference
from eval.power import mcnemar_power, needed_queries
from eval.types import Interval
from eval.wording import counted, points
from retrieval.labels import display_name
from retrieval.terminal import print_table, printable

CAPTION: Final = "Top-1 accuracy in percent, difference in points (95 % intervals, of differences adjusted as p is)"
_SHOWN_CLASSES: Final = 20
_USUAL_DIFFERENCES: Final = (0.5, 1.0, 2.0, 5.0)  # points


def print_comparison(comparison: Comparison) -> None:
    """Print, for each run, its figures beside the baseline's, the classes that moved most, and a conclusion."""
    for other in comparison.others:
        _print_figures(comparison.before, other)
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
    columns = ["queries", "n", _marked(before), _marked(other.after), "difference", "fixed", "broken", "p", "p (Holm)"]
    return columns, rows


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
    asked = needed_queries(difference=difference, discordant=discordant, power=power, alpha=alpha)
    needed = {
        usual: needed_queries(difference=usual, discordant=discordant, power=power, alpha=alpha)
        for usual in _USUAL_DIFFERENCES
        if usual <= discordant
    } | {difference: asked}
    exact = {
        usual: mcnemar_power(queries, difference=usual, discordant=discordant, alpha=alpha)
        for usual, queries in needed.items()
    }
    rows = [(f"{usual:g}", f"{queries:,}", f"{exact[usual]:.1f}") for usual, queries in sorted(needed.items())]
    print_table(["difference in points", "queries needed", "power in percent"], rows)
    typer.echo(
        f"A difference of {points(difference)} takes {counted(asked, 'query')} where the two differ in being right on "
        f"{discordant:.3g} % of them: then {exact[difference]:.1f} % of tests tell it, where {power:g} % are asked for "
        f"(exact McNemar test, alpha {alpha:g})."
    )


def _print_figures(before: Side, other: RunComparison) -> None:
    columns, rows = figure_rows(before, other)
    print_table(columns, rows, title=CAPTION)


def _cells(name: str, figures: PairedFigures) -> list[str]:
    return [
        name,
        f"{figures.count:,}",
        f"{figures.before:.1f} {_spread(figures.before_interval)}",
        f"{figures.after:.1f} {_spread(figures.after_interval)}",
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


def _marked(side: Side) -> str:
    return printable(side.name) + (" †" if side.centred else "")


def _spread(interval: Interval) -> str:
    low, high = interval
    return f"({low:.1f} to {high:.1f})"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def _as_json(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(value)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"JSON has no form for {type(value)}")
