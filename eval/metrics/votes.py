"""From a run's neighbours to the figures of its votes: pure functions over arrays."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Int

from eval.metrics.intervals import bootstrap_interval, calibrate, wilson_interval
from eval.metrics.rerank import compute_rerank_metrics
from eval.types import ChosenK, Interval, Metrics, Percent, QueryResults, Run, RunError
from retrieval.voting import DEFAULT_METHOD, METHODS, Factors, heaviest_labels, predict_every_k


def vote_labels(results: QueryResults) -> list[str]:
    """Return the label that rank voting gives each query, at the run's k."""
    names = results.neighbor_labels.names
    return [names[code] for code in winners(results, DEFAULT_METHOD)[:, -1].tolist()]


def final_labels(results: QueryResults) -> list[str]:
    """Return each query's answer: that of the second stage where there was one, else the vote's."""
    return vote_labels(results) if results.outcomes is None else [outcome.label for outcome in results.outcomes]


def are_right(labels: Sequence[str], truths: Sequence[AbstractSet[str]]) -> Bool[np.ndarray, " queries"]:
    """Tell which labels are among the right ones of their query."""
    return np.fromiter((label in truth for label, truth in zip(labels, truths, strict=True)), bool, len(labels))


def is_right(
    predictions: Int[np.ndarray, "queries n"], truths: Int[np.ndarray, "queries allowed"]
) -> Bool[np.ndarray, "queries n"]:
    """Tell which predictions are among the right labels of their query; a truth below 0 is none."""
    right = np.zeros(predictions.shape, bool)
    for column in truths.T:
        right |= (predictions == column[:, None]) & (column >= 0)[:, None]
    return right


def truth_codes(results: QueryResults) -> Int[np.ndarray, "queries allowed"]:
    """Number the right labels as the neighbours' are; -1 where a query has fewer, or where no neighbour has one."""
    codes = {label: code for code, label in enumerate(results.neighbor_labels.names)}
    table = np.full((len(results), max(map(len, results.truths), default=0)), -1)
    for query, truth in enumerate(results.truths):
        table[query, : len(truth)] = [codes.get(label, -1) for label in sorted(truth)]
    return table


def per_class(
    truths: Sequence[AbstractSet[str]], right: Mapping[str, Bool[np.ndarray, " queries"]]
) -> dict[str, dict[str, Any]]:
    """Return of each true label how many queries have it, and the accuracies on them; a query may have several."""
    members: dict[str, list[int]] = {}
    for query, truth in enumerate(truths):
        for label in truth:
            members.setdefault(label, []).append(query)
    return {
        label: {"count": len(queries)} | {name: percent(some[queries]) for name, some in right.items()}
        for label, queries in sorted(members.items())
    }


def winners(results: QueryResults, method: str, *, factors: Factors | None = None) -> Int[np.ndarray, "queries k"]:
    """Return the number of the label that wins for each k; see `retrieval.voting.predict_every_k`.

    ``factors`` come on top of the neighbours' own reliabilities.
    """
    own = results.reliabilities
    if own is not None and factors is not None:
        own = own * factors
    codes: np.ndarray = predict_every_k(
        results.neighbor_labels.codes,
        results.neighbor_distances,
        method=method,
        factors=factors if own is None else own,
    )
    return codes


def percent(right: Bool[np.ndarray, " queries"]) -> Percent:
    """Return an accuracy."""
    return 100.0 * float(right.mean())


def interval(right: Bool[np.ndarray, " queries"]) -> Interval:
    """Return the 95 % Wilson interval of an accuracy."""
    return wilson_interval(int(right.sum()), len(right))


TEST: Final = "test"  # instead of a data set's name: k is chosen on the very queries that are scored


def measure(run: Run, *, choose_k_on: str | None = None) -> dict[str, Metrics]:
    """Return the figures of every data set of a run of which a query was answered.

    Args:
        run: as its log holds it.
        choose_k_on: the data set whose accuracy by rank voting chooses a number of neighbours for all of them, or
            ``test`` for each one's own best, which is optimistic. None: no other than the run's own k.

    Raises:
        RunError: no such data set, or no query was answered.
    """
    about = run.info.about
    answered = {name: results for name, results in run.results.items() if len(results)}
    if not answered:
        raise RunError(_why_nothing(run))
    check_choice(choose_k_on, answered)
    found = {
        name: compute_metrics(
            results,
            queries=about["queries"][name],
            absent=about["absent"].get(name, ()),
            subset=frozenset(about["subsets"].get(name, ())),
            excluded=about["excluded"].get(name, 0),
            centred=run.info.centred,
        )
        for name, results in answered.items()
    }
    if choose_k_on is None:
        return found
    return {
        name: replace(
            figures, chosen=_chosen(found, name, name if choose_k_on == TEST else choose_k_on, about["datasets"])
        )
        for name, figures in found.items()
    }


def check_choice(choose_k_on: str | None, datasets: Iterable[str]) -> None:
    """Raise RunError unless a number of neighbours can be chosen on what is asked for."""
    names = list(datasets)
    if choose_k_on not in (None, TEST, *names):
        raise RunError(f"--choose-k-on {choose_k_on!r}: {TEST} or one of {', '.join(names)} expected")
    if choose_k_on == TEST and TEST in names:
        raise RunError(f"--choose-k-on {TEST} means the queries that are scored: give the data set another name")


def compute_metrics(
    results: QueryResults,
    *,
    queries: int | None = None,
    absent: Sequence[str] = (),
    subset: AbstractSet[str] | None = None,
    excluded: int = 0,
    centred: str = "",
) -> Metrics:
    """Return the figures of one data set, at the k of its neighbours and at every smaller one.

    Args:
        results: at least one answered query.
        queries: how many the data set has; None where all are in the results.
        absent: right labels that the memory does not have.
        subset: the classes to which masked scoring is restricted: other labels have no vote, and ranks stay.
        excluded: how many queries were left out beforehand.
        centred: as `RunInfo.centred`.
    """
    truths = truth_codes(results)
    labels, distances = results.neighbor_labels.codes, results.neighbor_distances
    right = {method: is_right(winners(results, method), truths) for method in METHODS}
    at_k = {method: every_k[:, -1] for method, every_k in right.items()}
    hits = _reached(labels, truths)
    heaviest = {
        method: heaviest_labels(labels, distances, count=5, method=method, factors=results.reliabilities)
        for method in METHODS
    }
    shares = heaviest[DEFAULT_METHOD][1]
    masked = _masked(results, truths, subset) if subset else None
    final = None if results.outcomes is None else are_right(final_labels(results), results.truths)
    classes = per_class(results.truths, at_k | ({} if final is None else {"final": final}))
    return Metrics(
        count=len(results),
        queries=len(results) + len(results.unreadable) if queries is None else queries,
        unreadable=len(results.unreadable),
        excluded=excluded,
        top1=_percents(at_k),
        top5={method: _curve(_reached(top, truths))[-1] for method, (top, _) in heaviest.items()},
        interval=_intervals(at_k),
        bootstrap={method: bootstrap_interval(int(some.sum()), len(some)) for method, some in at_k.items()},
        macro={method: _mean_over(classes, method) for method in METHODS},
        masked=_percents(masked) if masked else None,
        masked_interval=_intervals(masked) if masked else None,
        masked_classes=len(subset) if subset else None,
        hit_rate=percent(hits[:, -1]),
        hit_rate_by_k=_curve(hits),
        top1_by_k={method: _curve(every_k) for method, every_k in right.items()},
        chosen=None,
        calibration=calibrate(shares[:, 0], at_k[DEFAULT_METHOD]),
        per_class=classes,
        labels_not_in_memory=sorted(absent),
        rerank=None
        if results.outcomes is None or final is None
        else compute_rerank_metrics(
            results.outcomes,
            final,
            vote_right=at_k[DEFAULT_METHOD],
            margin=shares[:, 0] - shares[:, 1],
            hit_rate=percent(hits[:, -1]),
            macro=_mean_over(classes, "final"),
        ),
        centred=centred,
    )


def _reached(
    labels: Int[np.ndarray, "queries n"], truths: Int[np.ndarray, "queries allowed"]
) -> Bool[np.ndarray, "queries n"]:
    """Tell whether a right label is among the first 1, 2, …, n."""
    reached: np.ndarray = np.logical_or.accumulate(is_right(labels, truths), axis=1)
    return reached


def _masked(
    results: QueryResults, truths: Int[np.ndarray, "queries allowed"], subset: AbstractSet[str]
) -> dict[str, Bool[np.ndarray, " queries"]]:
    in_subset = np.array([name in subset for name in results.neighbor_labels.names], bool)
    counted = in_subset[results.neighbor_labels.codes]
    return {method: is_right(winners(results, method, factors=counted)[:, -1:], truths)[:, 0] for method in METHODS}


def _chosen(found: Mapping[str, Metrics], name: str, choose_k_on: str, places: Mapping[str, str]) -> ChosenK:
    """Return a data set's figures at the number of neighbours that is best on another, or on itself."""
    chosen_on = name if choose_k_on == TEST else choose_k_on
    figures, curve = found[name], found[chosen_on].top1_by_k[DEFAULT_METHOD]
    k = min(curve.index(max(curve)) + 1, len(figures.hit_rate_by_k))
    top1 = {method: every_k[k - 1] for method, every_k in figures.top1_by_k.items()}
    return ChosenK(
        k=k,
        chosen_on=chosen_on,
        # The same folder under another name, as for ImageNet's validation set and ReaL, is not held out either.
        optimistic=chosen_on == name or bool(places[name]) and places[name] == places[chosen_on],
        top1=top1,
        interval={
            method: wilson_interval(round(share * figures.count / 100), figures.count) for method, share in top1.items()
        },
    )


def _why_nothing(run: Run) -> str:
    reasons = [(name, reason) for name, results in run.results.items() for reason in results.unreadable.values()]
    if not reasons:
        return "no query of the run is answered yet: run the same `vmem eval run` again"
    name, first = reasons[0]
    return f"{name} holds no usable picture among {len(run.results[name].unreadable)} files; the first: {first}"


def _percents(right: Mapping[str, Bool[np.ndarray, " queries"]]) -> dict[str, Percent]:
    return {method: percent(some) for method, some in right.items()}


def _intervals(right: Mapping[str, Bool[np.ndarray, " queries"]]) -> dict[str, Interval]:
    return {method: interval(some) for method, some in right.items()}


def _curve(right: Bool[np.ndarray, "queries k"]) -> list[Percent]:
    return [100.0 * mean for mean in right.mean(axis=0).tolist()]


def _mean_over(classes: Mapping[str, Mapping[str, Any]], name: str) -> Percent:
    return float(np.mean([figures[name] for figures in classes.values()]))
