"""A comparison of runs as one self-contained page: differences, moved classes, and every query with a new answer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agent.card import View
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
    Pictures,
    Queries,
    Words,
    file_source,
    find_samples,
    make_views,
    share_out,
)
from eval.report.page import Gallery, choose_listed, svg_address, write_page
from eval.report.plots import as_svg, differences
from eval.runs.finished import find_dataset, find_memory, say_damage
from eval.types import QueryResults, Run
from retrieval.support.terminal import printable


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
    sources = [file_source(folder, find_memory(run.info), run.info.settings, pictures) for folder, run in runs]
    pairs = [(other, dataset) for other in comparison.others for dataset in other.datasets]
    found = {name: find_dataset(name, [run.info for _, run in runs]) for name in {dataset.name for _, dataset in pairs}}
    gallery: Gallery = []
    for (other, dataset), count in zip(pairs, share_out(PICTURED, len(pairs)), strict=True):
        sides = (comparison.before, other.after)
        results = [runs[side.run][1].results[dataset.name] for side in sides]
        queries = _queries(dataset, sides, results[1], several=len(comparison.others) > 1)
        listed, places = choose_listed(queries, count, second_look=True)
        samples = find_samples(found[dataset.name], [listed.ids[place] for place in places])
        views = [
            make_views(sources[side.run], seen, rows.tolist(), title=side.name, second_look=not side.vote)
            for side, seen, rows in zip(sides, results, listed.rows[places].T, strict=True)
        ]
        cards = {
            place: listed.card(place, _told_apart(*seen), pictures.query(sample, (dataset.name, listed.ids[place])))
            for place, sample, *seen in zip(places, samples, *views, strict=True)
        }
        gallery.append((listed, cards))
    write_page(
        path,
        "comparison.html.jinja",
        gallery,
        pictures,
        [_classes(dataset.classes, words) for _, dataset in pairs],
        words,
        BETWEEN_RUNS,
        comparison=comparison,
        conclusions=[printable(conclude(comparison.before, other), longest=1000) for other in comparison.others],
        gaps=[printable(gap, longest=500) for gap in (*_say_unfinished(comparison), *_say_damage(runs))],
        format_p=format_p,
        format_difference=format_difference,
        describe_setting=describe_setting,
        plot=svg_address(as_svg(differences(list(_difference_rows(comparison))))),
    )


def _say_unfinished(comparison: Comparison) -> Iterator[str]:
    for side in (comparison.before, *(other.after for other in comparison.others)):
        if not side.vote:  # which is of the run beside it
            yield from (f"{side.name} is {gap}; what it has not answered does not count" for gap in side.unfinished)


def _say_damage(runs: Sequence[tuple[Path, Run]]) -> Iterator[str]:
    for folder, run in runs:
        yield from (f"{folder.name}: {said}" for said in say_damage(run))


def _queries(dataset: DatasetComparison, sides: Sequence[Side], after: QueryResults, *, several: bool) -> Queries:
    """Return the queries that got another answer; ``several``: the name must tell whose answer it is."""
    flips = dataset.flips
    told = None if sides[1].vote else after.outcomes
    kinds = {one.name: one.value for one in BETWEEN_RUNS}
    outcomes = [told[flip.after_row] if told else None for flip in flips]
    return Queries(
        name=printable(dataset.name) + (f" · {sides[1].name}" if several else ""),
        heads=tuple(side.name for side in sides),
        rows=np.array([(flip.before_row, flip.after_row) for flip in flips], np.int64).reshape(-1, 2),
        ids=[flip.id for flip in flips],
        truths=[flip.truth for flip in flips],
        answers=[[flip.before for flip in flips], [flip.after for flip in flips]],
        flags=np.array([kinds[flip.kind] for flip in flips], np.int64),
        reasons=[outcome.reason if outcome else "" for outcome in outcomes],
        confidences=[outcome.confidence if outcome else None for outcome in outcomes],
    )


def _told_apart(before: View, after: View) -> list[View]:
    """Return the views of both sides; where they saw the same neighbours these are shown once."""
    was, now = ([replace(near, evidence="") for near in seen.neighbors] for seen in (before, after))
    if was != now:
        return [before, after]
    if not before.replies:
        return [replace(after, title="")]
    return [replace(before, neighbors=(), votes=(), more_labels=0, more_neighbors=0), after]


def _classes(classes: Sequence[MovedClass], words: Words) -> dict[str, Any]:
    rows = [[words.label(c.label), c.count, c.fixed, c.broken, c.net, round(c.p, 3), round(c.q, 3)] for c in classes]
    columns = ["queries", "fixed", "broken", "net", "p", "q"]
    return {"columns": columns, "rows": rows, "by": None, "whole": 4, "decimals": 3}


def _difference_rows(comparison: Comparison) -> Iterator[tuple[str, float, tuple[float, float]]]:
    several = len(comparison.others) > 1
    for other in comparison.others:
        named = f"{other.after.name}: " if several else ""
        for dataset in other.datasets:
            yield named + dataset.name, dataset.figures.difference, dataset.figures.difference_interval
        if len(other.datasets) > 1:
            yield f"{named}all", other.overall.difference, other.overall.difference_interval
