"""The queries of runs as columns: what is right, what flipped, what a filter lets through."""

import numpy as np
import pytest

from eval.app.frame import Paging, address
from eval.app.query_table import OTHER_ANSWER, Filters, QueryTable, table_of_run, table_of_two
from eval.report.cases import BETWEEN_RUNS
from eval.types import QueryResults, Run, RunError
from tests.eval.made_runs import made_run

ASKED = made_run({"val": 300, "sketch": 200}, rerank=True)


@pytest.fixture(scope="module")
def table() -> QueryTable:
    return table_of_run(ASKED)


def test_a_table_holds_every_query_of_a_run_and_its_unreadable_pictures(table: QueryTable) -> None:
    assert len(table) == 502
    assert table.heads == ("vote", "with the model")
    gone = table.select(Filters(outcome="unreadable pictures"))
    assert [table.ids[place] for place in gone] == ["val-broken.JPEG", "sketch-broken.JPEG"]
    assert set(table.rows[gone].ravel()) == {-1}
    part, at = table.part_of(int(gone[0]))
    assert part.ids[at] == "val-broken.JPEG" and part.reasons[at].startswith("unreadable: it breaks off")


def test_a_query_stands_where_its_data_set_has_it(table: QueryTable) -> None:
    place = table.find("sketch", ASKED.results["sketch"].ids[7])
    assert place is not None and table.rows[place].tolist() == [7, 7]
    assert table.find("val", ASKED.results["sketch"].ids[7]) is None


def test_queries_that_the_model_fixed_were_wrong_by_the_vote_and_are_right_now(table: QueryTable) -> None:
    fixed = table.select(Filters(outcome="fixed"))
    assert len(fixed)
    for place in fixed.tolist():
        assert table.answers[0][place] not in table.truths[place]
        assert table.answers[1][place] in table.truths[place]


def test_filters_are_joined(table: QueryTable) -> None:
    label = next(iter(table.truths[0]))
    filters = Filters(dataset="val", label=label, reason="reranked")
    found = table.select(filters).tolist()
    assert found == [
        place
        for place in range(len(table))
        if table.dataset[place] == 0 and label in table.truths[place] and table.reasons[place] == "reranked"
    ]
    assert found


@pytest.mark.parametrize(
    "filters",
    [Filters(dataset="none"), Filters(label="none"), Filters(outcome="none"), Filters(reason="none")],
    ids=["dataset", "label", "outcome", "reason"],
)
def test_a_value_that_no_query_has_lets_none_through(table: QueryTable, filters: Filters) -> None:
    assert len(table.select(filters)) == 0


def test_a_text_is_looked_for_in_ids_and_in_names_of_labels_whatever_the_case() -> None:
    table = table_of_run(made_run({"val": 50}, rerank=False, labels=["n01440764", "n02084071"]))
    tenches = table.select(Filters(text="TENCH"))
    assert len(tenches)
    assert all("n01440764" in {*table.truths[place], table.answers[0][place]} for place in tenches.tolist())
    assert table.select(Filters(text="val_00000007")).tolist() == [7]


def test_reason_codes_come_with_the_most_frequent_first(table: QueryTable) -> None:
    assert table.reason_codes[0] == "reranked"
    assert {"decisive", "unreadable"} < set(table.reason_codes)


def test_a_run_without_a_model_has_one_answer_and_no_reasons() -> None:
    table = table_of_run(made_run({"val": 40}, rerank=False))
    assert table.heads == ("vote",) and table.reason_codes == ["unreadable"]
    assert OTHER_ANSWER not in table.outcome_names
    right, wrong = (set(table.select(Filters(outcome=name)).tolist()) for name in ("right", "wrong"))
    assert right | wrong == set(range(40)) and not right & wrong


def test_two_runs_meet_by_id_whatever_the_order_of_their_logs() -> None:
    before, after = made_run({"val": 60, "ours": 9}, rerank=False), made_run({"val": 60, "theirs": 9}, rerank=True)
    order = np.arange(60)[::-1]
    turned = Run(after.info, {"val": _reordered(after.results["val"], order)})
    table = table_of_two(("a", "b"), before, turned)
    assert len(table) == 60 and table.names == ["val"]
    assert (table.rows[:, 0] + table.rows[:, 1] == 59).all()
    kinds = [set(table.select(Filters(outcome=choice.name)).tolist()) for choice in BETWEEN_RUNS]
    assert sorted(place for kind in kinds for place in kind) == list(range(60))
    other = table.select(Filters(outcome=OTHER_ANSWER)).tolist()
    assert other == [place for place in range(60) if table.answers[0][place] != table.answers[1][place]]


def test_runs_of_other_queries_under_the_same_ids_are_refused() -> None:
    one = made_run({"val": 20}, rerank=False)
    results = one.results["val"]
    moved = _reordered(results, np.arange(20))
    moved.truths[:] = [frozenset(["another"])] * 20
    with pytest.raises(RunError, match="another data set in b"):
        table_of_two(("a", "b"), one, Run(one.info, {"val": moved}))


def test_an_address_holds_the_filters_that_are_set() -> None:
    filters = Filters(label="a&b=<c>", reason="timed_out")
    assert address("/runs", filters.parameters) == "/runs?label=a%26b%3D%3Cc%3E&reason=timed_out"
    assert Filters.of({"text": " dog ", "page": "3"}) == Filters(text="dog")
    assert address("/runs", {"run": 0, "text": "", "page": None}) == "/runs?run=0"


@pytest.mark.parametrize(
    ("asked", "number"), [("", 1), ("2", 2), ("3", 3), ("4", 3), ("0", 1), ("-1", 1), ("٣", 1), ("9" * 5000, 1)]
)
def test_a_page_that_is_not_there_is_answered_with_one_that_is(asked: str, number: int) -> None:
    paging = Paging.of({"page": asked}, size=10, total=25)
    assert paging.number == number and paging.pages == 3
    assert len(range(25)[paging.shown]) == (5 if number == 3 else 10)


def test_an_empty_list_has_one_empty_page() -> None:
    paging = Paging.of({"page": "7"}, size=10, total=0)
    assert (paging.number, paging.pages, paging.shown) == (1, 1, slice(0, 0))


def _reordered(results: QueryResults, order: np.ndarray) -> QueryResults:
    from eval.types import Names

    return QueryResults(
        ids=[results.ids[row] for row in order],
        truths=[results.truths[row] for row in order],
        neighbor_ids=Names(results.neighbor_ids.codes[order], results.neighbor_ids.names),
        neighbor_labels=Names(results.neighbor_labels.codes[order], results.neighbor_labels.names),
        neighbor_distances=results.neighbor_distances[order],
        unreadable=results.unreadable,
        outcomes=None if results.outcomes is None else [results.outcomes[row] for row in order],
    )
