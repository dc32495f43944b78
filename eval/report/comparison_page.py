"""A comparison of runs as one self-contained page: differences, moved classes, and every query with a new answer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from eval.comparing import (
    Comparison,
    DatasetComparison,
    MovedClass,
    Side,
    conclude,
    describe_setting,
    format_difference,
    format_p,
)
from eval.report import PICTURED
from eval.report.cases import (
    BETWEEN_RUNS,
    FLAGS_OF_KIND,
    Pictures,
    Recomposer,
    Source,
    Words,
    choices,
    choose_pictured,
    confidences,
    find_samples,
    in_order,
    make_views,
    reading_order,
    share_out,
)
from eval.report.page import svg_address, write_page
from eval.report.plots import as_svg, differences
from eval.runs.finished import find_dataset, find_memory
from eval.runs.runner import say_damage
from eval.types import Dataset, QueryResults, Run
from eval.wording import one_line

_TEMPLATE: Final = "comparison.html.jinja"


@dataclass(frozen=True, slots=True)
class _Look:
    """One side at one data set."""

    side: Side
    source: Source
    results: QueryResults

    def views(self, rows: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield what it saw of some queries."""
        title = {"title": one_line(self.side.name, longest=60)}
        return (title | seen for seen in make_views(self.source, self.results, rows, second_look=not self.side.vote))


def write_comparison(path: Path, comparison: Comparison, runs: Sequence[tuple[Path, Run]]) -> None:
    """Write the page. It needs no network, and labels and names appear as text whatever they hold.

    Pictures are looked for where the runs say that memories and data sets lie; those that are not there leave gaps.

    Args:
        path: the file.
        comparison: what to show.
        runs: folder and run of each side, in the comparison's order.

    Raises:
        StorageError: the file cannot be written.
        RunError: a folder's log is not its run's.
    """
    words, pictures = Words(), Pictures()
    sources = [_source(folder, run, words, pictures) for folder, run in runs]
    pairs = [(other, dataset) for other in comparison.others for dataset in other.datasets]
    found = {name: find_dataset(name, [run.info for _, run in runs]) for name in {dataset.name for _, dataset in pairs}}
    groups, cases = [], []
    for (other, dataset), count in zip(pairs, share_out(PICTURED, len(pairs)), strict=True):
        looks = [
            _Look(side, sources[side.run], runs[side.run][1].results[dataset.name])
            for side in (comparison.before, other.after)
        ]
        columns = _columns(dataset, looks, words, several=len(comparison.others) > 1)
        shown = _cases(dataset, looks, found[dataset.name], count)
        order = reading_order(np.array(columns["flags"], np.int64), shown, second_look=True)
        columns, shown = in_order(columns, shown, order)
        groups.append(columns)
        cases.append(shown)
    write_page(
        path,
        _TEMPLATE,
        comparison=comparison,
        conclusions=[one_line(conclude(comparison.before, other), longest=1000) for other in comparison.others],
        gaps=[one_line(gap, longest=500) for gap in (*_say_unfinished(comparison), *_say_damage(runs))],
        format_p=format_p,
        format_difference=format_difference,
        describe_setting=describe_setting,
        plot=svg_address(as_svg(differences(list(_difference_rows(comparison))))),
        classes=[_classes(dataset.classes, words) for _, dataset in pairs],
        gallery=words.tables() | {"groups": groups, "outcomes": choices(BETWEEN_RUNS)},
        cases={"pictures": pictures.encoded, "groups": cases},
    )


def _say_unfinished(comparison: Comparison) -> Iterator[str]:
    for side in (comparison.before, *(other.after for other in comparison.others)):
        if not side.vote:  # which is of the run beside it
            yield from (f"{side.name} is {gap}; what it has not answered does not count" for gap in side.unfinished)


def _say_damage(runs: Sequence[tuple[Path, Run]]) -> Iterator[str]:
    for folder, run in runs:
        yield from (f"{folder.name}: {said}" for said in say_damage(run))


def _source(folder: Path, run: Run, words: Words, pictures: Pictures) -> Source:
    return Source(folder, find_memory(run.info), Recomposer.of(run.info.settings), words, pictures)


def _columns(dataset: DatasetComparison, looks: Sequence[_Look], words: Words, *, several: bool) -> dict[str, Any]:
    """Return the queries that got another answer as columns; ``several``: the name must tell whose answer it is."""
    flips = dataset.flips
    after = looks[1]
    told = None if after.side.vote else after.results.outcomes
    outcomes = [] if told is None else [told[flip.after_row] for flip in flips]
    heads = [one_line(look.side.name, longest=60) for look in looks]
    return {
        "name": one_line(dataset.name) + (f" · {heads[1]}" if several else ""),
        "heads": heads,
        "ids": [one_line(flip.id) for flip in flips],
        "truths": [words.truth(flip.truth) for flip in flips],
        "answers": [[words.label(flip.before) for flip in flips], [words.label(flip.after) for flip in flips]],
        "flags": [FLAGS_OF_KIND[flip.kind] for flip in flips],
        "reasons": [words.reason(outcome.reason) for outcome in outcomes] or [words.reason("")] * len(flips),
        "confidences": confidences(outcomes),
    }


def _cases(
    dataset: DatasetComparison, looks: Sequence[_Look], found: Dataset | None, count: int
) -> dict[int, dict[str, Any]]:
    flags = np.array([FLAGS_OF_KIND[flip.kind] for flip in dataset.flips], np.int64)
    places = choose_pictured(flags, count, second_look=True)
    flips = [dataset.flips[place] for place in places]
    before = looks[0].views([flip.before_row for flip in flips])
    after = looks[1].views([flip.after_row for flip in flips])
    pictures = looks[0].source.pictures
    samples = find_samples(found, [flip.id for flip in flips])
    return {
        place: {"picture": pictures.query(sample, (dataset.name, flip.id)), "views": _told_apart(*views)}
        for place, flip, sample, views in zip(places, flips, samples, zip(before, after, strict=True), strict=True)
    }


def _told_apart(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the views of both sides; where they saw the same neighbours these are shown once."""
    if [near[:4] for near in before["near"]] != [near[:4] for near in after["near"]]:
        return [before, after]
    if "replies" not in before:
        return [{**after, "title": ""}]
    return [{name: told for name, told in before.items() if name not in ("near", "votes")}, after]


def _classes(classes: Sequence[MovedClass], words: Words) -> dict[str, Any]:
    rows = [[words.label(c.label), c.count, c.fixed, c.broken, c.net, round(c.p, 3), round(c.q, 3)] for c in classes]
    return {
        "columns": ["queries", "fixed", "broken", "net", "p", "q"],
        "rows": rows,
        "by": None,
        "whole": 4,
        "decimals": 3,
    }


def _difference_rows(comparison: Comparison) -> Iterator[tuple[str, float, tuple[float, float]]]:
    several = len(comparison.others) > 1
    for other in comparison.others:
        named = f"{other.after.name}: " if several else ""
        for dataset in other.datasets:
            yield named + dataset.name, dataset.figures.difference, dataset.figures.difference_interval
        if len(other.datasets) > 1:
            yield f"{named}all", other.overall.difference, other.overall.difference_interval
