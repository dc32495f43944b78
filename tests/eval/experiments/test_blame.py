"""The ledger of votes: against leave-one-out votes taken one by one, and with label errors planted."""

from collections import defaultdict

import numpy as np
import pytest

from eval.experiments.blame import blame, confused_pairs, flips, keep_ledger
from eval.experiments.embedded import Embedded
from eval.report.plots import as_png
from eval.types import Names, Neighborhoods, QueryResults
from retrieval.errors import InvalidArgument
from retrieval.voting import METHODS, neighbor_weights

LABELS = ["cat", "dog", "$owl$", "fox"]


def drawn(*, queries: int = 60, k: int = 7, items: int = 25, seed: int = 0) -> QueryResults:
    random = np.random.default_rng(seed)
    rows = np.array([random.permutation(items)[:k] for _ in range(queries)])
    labels = random.integers(0, len(LABELS), items)
    truths = [frozenset(random.choice([*LABELS, "not in memory"], random.integers(1, 3))) for _ in range(queries)]
    return QueryResults(
        ids=[f"query {number}" for number in range(queries)],
        truths=[frozenset(map(str, truth)) for truth in truths],
        neighbor_ids=Names(rows, [f"item {row}" for row in range(items)]),
        neighbor_labels=Names(labels[rows], LABELS),
        neighbor_distances=np.sort(random.uniform(0.1, 0.4, (queries, k)), axis=1).astype(np.float32),
        unreadable={},
    )


def vote_by_hand(labels: list[int], weights: list[float], without: int | None = None) -> int:
    """Return the label of the greatest weight, the first to reach it where several do (paper, section 2.2)."""
    totals: dict[int, float] = defaultdict(float)
    winner, most = -1, 0.0
    for rank, (label, weight) in enumerate(zip(labels, weights, strict=True)):
        if rank != without:
            totals[label] += weight
            if totals[label] > most:
                winner, most = label, totals[label]
    return winner


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(5))
def test_flips_are_those_of_votes_taken_without_one_neighbour_after_the_other(method: str, seed: int) -> None:
    results = drawn(seed=seed, queries=200)
    labels, distances = results.neighbor_labels.codes, results.neighbor_distances
    weights = neighbor_weights(distances, method).tolist()
    expected = []
    for query, row in enumerate(labels.tolist()):
        winner = vote_by_hand(row, weights[query])
        for rank in range(len(row)):
            answer = vote_by_hand(row, weights[query], without=rank)
            if answer not in (winner, -1):
                expected.append((query, rank, answer))
    assert list(zip(*(each.tolist() for each in flips(labels, distances, method=method)), strict=True)) == expected
    assert expected


def test_equal_votes_go_to_the_label_that_is_first_to_reach_them_without_the_neighbour() -> None:
    labels = np.array([[0, 1, 0, 1, 0]])
    ranks, answers = (each.tolist() for each in flips(labels, np.full((1, 5), 0.2), method="plurality")[1:])
    # Without one of 0's three votes both have two: 1 has its second at rank 3, before 0 has at rank 4.
    assert (ranks, answers) == ([0, 2], [1, 1])


@pytest.mark.parametrize("method", METHODS)
def test_the_ledger_is_the_one_that_a_loop_over_queries_and_neighbours_keeps(method: str) -> None:
    results = drawn()
    ledger = keep_ledger(results, method=method)
    count = len(ledger.item_names)
    helped, hurt, caused, saved, seen = ([0.0] * count for _ in range(5))
    weights = neighbor_weights(results.neighbor_distances, method).tolist()
    for query, truth in enumerate(results.truths):
        items, labels = results.neighbor_ids.codes[query].tolist(), results.neighbor_labels.codes[query].tolist()
        was_right = LABELS[vote_by_hand(labels, weights[query])] in truth
        for rank, item in enumerate(items):
            share = weights[query][rank] / sum(weights[query])
            (helped if LABELS[labels[rank]] in truth else hurt)[item] += share
            seen[item] += 1
            is_right = LABELS[vote_by_hand(labels, weights[query], without=rank)] in truth
            caused[item] += is_right and not was_right
            saved[item] += was_right and not is_right
    assert ledger.helped == pytest.approx(helped) and ledger.hurt == pytest.approx(hurt)
    assert [ledger.caused.tolist(), ledger.saved.tolist(), ledger.seen.tolist()] == [caused, saved, seen]
    assert sum(caused) and sum(saved)
    assert ledger.helped.sum() + ledger.hurt.sum() == pytest.approx(len(results))


def test_items_that_decide_errors_come_with_the_queries_that_are_right_without_them() -> None:
    ledger = keep_ledger(drawn())
    worst = ledger.deciders(100)
    assert [len(ledger.queries_decided_by(item)) for item in worst] == [int(ledger.caused[item]) for item in worst]
    assert sorted((int(ledger.caused[item]) for item in worst), reverse=True) == [int(ledger.caused[i]) for i in worst]
    assert all(not ledger.right[query] for item in worst for query in ledger.queries_decided_by(item))


def test_only_the_k_nearest_vote() -> None:
    results, near = drawn(k=9), drawn(k=9)
    cut = QueryResults(
        near.ids,
        near.truths,
        Names(near.neighbor_ids.codes[:, :4], near.neighbor_ids.names),
        Names(near.neighbor_labels.codes[:, :4], LABELS),
        near.neighbor_distances[:, :4],
        {},
    )
    assert keep_ledger(results, k=4).hurt.tolist() == keep_ledger(cut).hurt.tolist()


@pytest.mark.parametrize("k", [0, 1, 8])
def test_a_k_that_leaves_no_vote_or_that_is_not_there_is_refused(k: int) -> None:
    with pytest.raises(InvalidArgument, match="2 to 7 neighbours"):
        blame(Neighborhoods("val", "made", drawn()), k=k)


def test_pairs_are_counted_among_wrong_answers_only_and_the_most_frequent_come_first() -> None:
    ledger = keep_ledger(drawn(queries=300))
    pairs = confused_pairs(ledger)
    assert sum(count for _, count in pairs) == int((~ledger.right).sum())
    assert [count for _, count in pairs] == sorted((count for _, count in pairs), reverse=True)
    assert all(answer not in truth.split(", ") for (truth, answer), _ in pairs)


def planted(swapped: int) -> tuple[Embedded, set[str]]:
    """Return a memory of four clear groups in which some items have another group's label."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 50)
    centres = np.eye(4, 16)
    vectors = centres[np.concatenate([groups, groups])] + 0.1 * random.normal(size=(400, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    bad = random.choice(200, swapped, replace=False)
    labels = groups.copy()
    labels[bad] = (labels[bad] + 1) % 4
    embedded = Embedded(
        name="val",
        embedder="made",
        item_ids=[f"item {row}" for row in range(200)],
        vectors=vectors[:200],
        labels=labels,
        label_names=LABELS,
        query_ids=[f"query {row}" for row in range(200)],
        queries=vectors[200:],
        truths=[frozenset([LABELS[group]]) for group in groups],
    )
    return embedded, {f"item {row}" for row in bad}


def test_label_errors_that_were_planted_are_the_suspects_and_their_neighbours_say_the_true_label() -> None:
    embedded, bad = planted(8)
    suspects = [row for row in blame(embedded.neighbors(20), embedded=embedded).rows if row[0] == "suspect"]
    assert {str(row[1]) for row in suspects} == bad
    for row in suspects:
        assert row[8] == LABELS[int(str(row[1]).split()[1]) // 50] != row[2]


def test_a_memory_without_label_errors_has_no_suspects() -> None:
    embedded, _ = planted(0)
    analysis = blame(embedded.neighbors(20), embedded=embedded)
    assert [row for row in analysis.rows if row[0] != "label"] == []
    assert analysis.finding == "Not one of 200 queries is answered wrongly."


def test_from_neighbours_alone_suspects_come_without_what_their_own_neighbours_say() -> None:
    analysis = blame(Neighborhoods("val", "made", drawn()))
    suspects = [row for row in analysis.rows if row[0] == "suspect"]
    assert suspects and all(row[8] is None for row in suspects)
    assert any("were not asked" in note for note in analysis.notes)
    assert all(len(row) == len(analysis.columns) for row in analysis.rows)


def test_the_plot_and_the_gallery_are_drawn() -> None:
    found = Neighborhoods("<val>", "made", drawn())
    plain = blame(found).draw()
    gallery = blame(found, pictures=lambda ids: [None] * len(ids)).draw()
    assert as_png(plain)[:4] == as_png(gallery)[:4] == b"\x89PNG"
