"""Which items, labels and pairs of labels the errors go back to (Geirhos et al., section 3.7, Figures 5, 6 and 16)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Bool, Float, Int

from eval.experiments.base import Analysis, Axes, Row, plotted
from eval.experiments.embedded import Embedded
from eval.experiments.gallery import Pictures, Section, Tile, draw_gallery, fetch
from eval.metrics.intervals import SEED
from eval.metrics.votes import is_right, truth_codes
from eval.report.plots import BLUE, INK, ORANGE, plain_numbers, readable
from eval.types import Neighborhoods, QueryResults
from retrieval.curation.pruning import nearest_others
from retrieval.errors import InvalidArgument
from retrieval.labels import display_name
from retrieval.support.terminal import counted
from retrieval.view import DEFAULT_NEIGHBORS
from retrieval.voting import (
    DEFAULT_METHOD,
    Factors,
    heaviest_labels,
    neighbor_weights,
    predict_every_k,
    shares_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_ROUNDING: Final = 1e-9  # shares that are closer are voted on once more: sums in another order round otherwise
_QUERIES_AT_A_TIME: Final = 4096


@dataclass(frozen=True, slots=True, eq=False)
class VoteLedger:
    """The votes of all items in all queries."""

    k: int
    method: str
    query_ids: list[str]
    truths: list[frozenset[str]]
    winners: Int[np.ndarray, " queries"]  # numbers of label_names
    right: Bool[np.ndarray, " queries"]
    label_names: list[str]
    item_names: list[str]
    item_labels: Int[np.ndarray, " items"]
    seen: Int[np.ndarray, " items"]  # queries that an item voted in
    helped: Float[np.ndarray, " items"]  # shares of votes given to right labels, summed over the queries
    hurt: Float[np.ndarray, " items"]  # to wrong ones
    caused: Int[np.ndarray, " items"]  # wrong answers that are right without the item
    saved: Int[np.ndarray, " items"]  # right answers that are wrong without the item
    mended: Int[np.ndarray, "two pairs"]  # query and item of each that ``caused`` counts

    def label_of(self, item: int) -> str:
        """Return an item's label."""
        return self.label_names[int(self.item_labels[item])]

    def deciders(self, count: int) -> list[int]:
        """Return the items that decide most errors, those first that hurt more; none that decides no error."""
        worst = np.lexsort((-self.hurt, -self.caused))[:count]
        return [item for item in worst.tolist() if self.caused[item]]

    def queries_decided_by(self, item: int) -> list[int]:
        """Return the queries that are right without an item, in order."""
        queries: list[int] = self.mended[0][self.mended[1] == item].tolist()
        return queries


def keep_ledger(results: QueryResults, *, k: int | None = None, method: str = DEFAULT_METHOD) -> VoteLedger:
    """Return what each item's votes did to the queries.

    Args:
        results: queries with their neighbours, nearest first.
        k: neighbours that vote, 2 or more; None: all.
        method: one of `retrieval.voting.METHODS`.

    Raises:
        InvalidArgument: ``k`` out of range, no such method, or no query.
    """
    k = results.k if k is None else k
    if not 2 <= k <= results.k or not len(results):
        raise InvalidArgument(
            f"k={k} and {len(results)} queries: 2 to {results.k} neighbours and a query or more expected,"
            " since a single vote is always decisive"
        )
    labels, items = results.neighbor_labels.codes[:, :k], results.neighbor_ids.codes[:, :k]
    distances, truths = results.neighbor_distances[:, :k], truth_codes(results)
    factors = results.factors(np.s_[:, :k])
    winners = predict_every_k(labels, distances, method=method, factors=factors)[:, -1]
    right = is_right(winners[:, None], truths)[:, 0]
    size = len(results.neighbor_ids.names)
    shares = _shares(distances, method, factors)
    helped, hurt = _share_out(labels, items, shares, truths, size=size)
    queries, ranks, answers = flips(labels, distances, method=method, factors=factors)
    fine = is_right(answers[:, None], truths[queries])[:, 0]
    voters = items[queries, ranks]
    mended, broken = ~right[queries] & fine, right[queries] & ~fine
    item_labels = np.zeros(size, np.int64)
    item_labels[items] = labels
    return VoteLedger(
        k=k,
        method=method,
        query_ids=results.ids,
        truths=results.truths,
        winners=winners,
        right=right,
        label_names=results.neighbor_labels.names,
        item_names=results.neighbor_ids.names,
        item_labels=item_labels,
        seen=np.bincount(items.ravel(), minlength=size),
        helped=helped,
        hurt=hurt,
        caused=np.bincount(voters[mended], minlength=size),
        saved=np.bincount(voters[broken], minlength=size),
        mended=np.stack([queries[mended], voters[mended]]),
    )


def _share_out(
    labels: Int[np.ndarray, "queries k"],
    items: Int[np.ndarray, "queries k"],
    shares: Float[np.ndarray, "queries k"],
    truths: Int[np.ndarray, "queries allowed"],
    *,
    size: int,
) -> tuple[Float[np.ndarray, " items"], Float[np.ndarray, " items"]]:
    """Return what each item gave to right and to wrong labels; every query hands out one vote."""
    helped, hurt = np.zeros(size), np.zeros(size)
    for start in range(0, len(labels), _QUERIES_AT_A_TIME):
        some = slice(start, start + _QUERIES_AT_A_TIME)
        right = is_right(labels[some], truths[some])
        helped += np.bincount(items[some][right], shares[some][right], size)
        hurt += np.bincount(items[some][~right], shares[some][~right], size)
    return helped, hurt


def _shares(distances: np.ndarray, method: str, factors: Factors | None) -> Float[np.ndarray, "queries k"]:
    weights = neighbor_weights(distances, method, factors=factors)
    return shares_of(weights, weights)


def flips(
    labels: Int[np.ndarray, "queries k"],
    distances: Float[np.ndarray, "queries k"],
    *,
    method: str,
    factors: Factors | None = None,
) -> tuple[Int[np.ndarray, " flips"], Int[np.ndarray, " flips"], Int[np.ndarray, " flips"]]:
    """Return the votes whose absence changes the answer: query, rank from 0, and the answer without it.

    Only a vote for the winner can be one. Without it the winner has its weight less and all others keep theirs, so one
    comparison with the runner-up tells; where both come out equal, the vote is taken again without it.
    """
    heaviest = heaviest_labels(labels, distances, count=2, method=method, factors=factors)
    (winners, seconds), shares = (each.T for each in heaviest)
    given = _shares(distances, method, factors)
    beyond = np.where(labels == winners[:, None], given, -np.inf) - (shares[0] - shares[1])[:, None]
    queries, ranks = np.nonzero((beyond > -_ROUNDING) & (seconds >= 0)[:, None])
    answers = seconds[queries].copy()
    close = np.flatnonzero(beyond[queries, ranks] <= _ROUNDING)
    for start in range(0, len(close), _QUERIES_AT_A_TIME):
        some = close[start : start + _QUERIES_AT_A_TIME]
        there = np.arange(labels.shape[1]) != ranks[some][:, None]
        near = queries[some]
        counted = there if factors is None else there * factors[near]
        answers[some] = predict_every_k(labels[near], distances[near], method=method, factors=counted)[:, -1]
    changed = answers != winners[queries]
    return queries[changed], ranks[changed], answers[changed]


_ERRORS: Final = 4  # queries, as in Figures 6 and 16
_NEIGHBORS: Final = 5  # beside each, as there
_ITEMS: Final = 3
_DECIDED: Final = 5  # queries beside an item


def draw_errors(
    found: Neighborhoods, ledger: VoteLedger, pictures: Pictures | None, query_pictures: Pictures | None, *, seed: int
) -> "Figure":
    """Draw a few errors, chosen at random, with their neighbours, and the items that decide most errors."""
    results, shown = found.results, min(_NEIGHBORS, ledger.k)
    wrong = np.flatnonzero(~ledger.right)
    chosen = np.sort(np.random.default_rng(seed).choice(wrong, min(_ERRORS, len(wrong)), replace=False)).tolist()
    decided = {item: ledger.queries_decided_by(item)[:_DECIDED] for item in ledger.deciders(_ITEMS)}
    near = results.neighbor_ids.codes[chosen, :shown]
    asked = fetch(query_pictures, [ledger.query_ids[q] for q in [*chosen, *sum(decided.values(), [])]])
    items = fetch(pictures, [ledger.item_names[item] for item in [*decided, *near.ravel().tolist()]])

    def query(number: int, *said: str) -> Tile:
        name, truth = ledger.query_ids[number], ", ".join(map(display_name, sorted(ledger.truths[number])))
        return Tile(name, (truth, *said), asked.get(name), INK)

    def neighbors(number: int) -> list[Tile]:
        """Return the nearest neighbours with their part of the vote, in blue where their label is right."""
        row = np.s_[number : number + 1, : ledger.k]
        weights = neighbor_weights(results.neighbor_distances[row], ledger.method, factors=results.factors(row))[0]
        shares = 100 * weights / weights.sum()
        names, labels = results.neighbor_ids.of(number)[:shown], results.neighbor_labels.of(number)
        return [
            Tile(
                name,
                (display_name(label), f"{share:.0f} % of the vote"),
                items.get(name),
                BLUE if label in ledger.truths[number] else ORANGE,
            )
            for name, label, share in zip(names, labels, shares, strict=False)
        ]

    errors = [
        [query(number, f"taken for {display_name(ledger.label_names[ledger.winners[number]])}"), *neighbors(number)]
        for number in chosen
    ]
    worst = []
    for item, mended in decided.items():
        name, about = ledger.item_names[item], f"decides {counted(int(ledger.caused[item]), 'error')}"
        tile = Tile(name, (display_name(ledger.label_of(item)), about), items.get(name), ORANGE)
        worst.append([tile, *map(query, mended)])
    sections = [
        Section(["error", *(f"neighbour {rank}" for rank in range(1, shown + 1))], errors),
        Section(["item", "right without it"], worst),
    ]
    return draw_gallery(*sections, title=f"{readable(found.name)}: errors, and items that decide most")


_FAR_MORE: Final = 2.0  # times the help: below it, an item between two labels that look alike is as likely
_MAJORITY: Final = 0.5  # of the vote of an item's own neighbours: less is common where labels are hard to tell apart
_EXAMINED: Final = 10_000  # of the items that hurt most, those whose own neighbours are asked: seconds, not minutes
_DRAWN: Final = 100  # suspects with a mark of their own in the plot
_WORST: Final = 10  # items that the finding speaks of


def blame(
    found: Neighborhoods,
    *,
    embedded: Embedded | None = None,
    k: int | None = None,
    method: str = DEFAULT_METHOD,
    shown: int = 10,
    seed: int = SEED,
    pictures: Pictures | None = None,
    query_pictures: Pictures | None = None,
) -> Analysis:
    """Return the items that decide most errors, the labels and pairs they lie in, and items with doubtful labels.

    Rows by kind. ``item``: decides most errors. ``label``: the answer of most errors. ``pair``: true label and answer
    of most errors. ``suspect``: hurts more than twice as much as it helps, and its own neighbours give another label,
    the column ``its neighbours say``, more than half their vote; without the memory's vectors no neighbours are asked.
    Helped and hurt are the shares of the vote that went to right and to wrong labels, summed over the queries; errors
    and saved are the wrong answers that turn right, and the right ones that turn wrong, without the item's vote.

    Args:
        found: the queries' neighbours.
        embedded: the memory that they were found in, for the neighbours of suspects.
        k: neighbours that vote, 2 or more; None: 50, or all where there are fewer.
        method: one of `retrieval.voting.METHODS`.
        shown: rows of each kind.
        seed: of the choice of errors in the gallery.
        pictures: of the memory's items; with them the plot is a gallery of a few errors with their neighbours, as in
            Figures 6 and 16, and of the items that decide most errors.
        query_pictures: of the queries.

    Raises:
        InvalidArgument: ``k`` out of range, no such method, or no query.
    """
    k = min(DEFAULT_NEIGHBORS, found.results.k) if k is None else k
    ledger = keep_ledger(found.results, k=k, method=method)
    suspects = _suspects(ledger, embedded)
    queries = Counter(", ".join(sorted(truth)) for truth in ledger.truths)

    def draw() -> "Figure":
        if pictures is None and query_pictures is None:
            title = f"{readable(found.name)}: what each item's votes did"
            return _scatter(title, ledger, [item for item, _ in suspects[:_DRAWN]])
        return draw_errors(found, ledger, pictures, query_pictures, seed=seed)

    return Analysis(
        name="blame",
        title=f"{found.name}: items and labels that errors go back to",
        source="Section 3.7; Figures 5, 6 and 16",
        columns=("kind", "name", "label", "queries", "helped", "hurt", "errors", "saved", "its neighbours say"),
        rows=[
            *(_item_row("item", ledger, item) for item in ledger.deciders(shown)),
            *_label_rows(ledger, shown),
            *(
                ("pair", truth, answer, queries[truth], None, None, count, None, None)
                for (truth, answer), count in confused_pairs(ledger)[:shown]
            ),
            *(_item_row("suspect", ledger, item, said) for item, said in suspects[:shown]),
        ],
        finding=_finding(ledger, suspects, asked=embedded is not None),
        draw=draw,
        notes=_notes(ledger, embedded, len(suspects)),
    )


def _suspects(ledger: VoteLedger, embedded: Embedded | None) -> list[tuple[int, str | None]]:
    """Return the items that are probably labelled wrongly, surest first, each with what its neighbours vote for."""
    worst = np.argsort(ledger.helped - ledger.hurt, kind="stable")
    worst = worst[ledger.hurt[worst] > _FAR_MORE * ledger.helped[worst]][:_EXAMINED]
    if embedded is None or not worst.size:
        return [(item, None) for item in worst.tolist()]
    said, shares, own = _own_neighbors(worst, ledger, embedded)
    order = np.argsort(own - shares, kind="stable")
    outvoted = order[(said[order] != ledger.item_labels[worst[order]]) & (shares[order] > _MAJORITY)]
    return [(int(worst[place]), ledger.label_names[said[place]]) for place in outvoted.tolist()]


def _own_neighbors(
    items: Int[np.ndarray, " some"], ledger: VoteLedger, embedded: Embedded
) -> tuple[Int[np.ndarray, " some"], Float[np.ndarray, " some"], Float[np.ndarray, " some"]]:
    """Return what the items' own neighbours vote for, its share of their vote, and that of the item's label."""
    places = {name: row for row, name in enumerate(embedded.item_ids)}
    asked = np.array([places[ledger.item_names[item]] for item in items.tolist()])
    blocks = nearest_others(embedded.vectors, embedded.search, k=ledger.k, asked=asked)
    rows, near, distances = map(np.concatenate, zip(*blocks, strict=True))
    labels = embedded.labels[near]
    said, shares = heaviest_labels(labels, distances, count=1, method=ledger.method)
    weights = neighbor_weights(distances, ledger.method)
    own = (weights * (labels == embedded.labels[rows][:, None])).sum(axis=1) / weights.sum(axis=1)
    return said[:, 0], shares[:, 0], own


def _item_row(kind: str, ledger: VoteLedger, item: int, said: str | None = None) -> Row:
    names = (kind, ledger.item_names[item], ledger.label_of(item), int(ledger.seen[item]))
    votes = (round(float(ledger.helped[item]), 2), round(float(ledger.hurt[item]), 2))
    return (*names, *votes, int(ledger.caused[item]), int(ledger.saved[item]), said)


def _label_rows(ledger: VoteLedger, shown: int) -> list[Row]:
    """Return the answers of most errors, with the ledger of all their items."""
    size = len(ledger.label_names)
    helped, hurt, saved = (
        np.bincount(ledger.item_labels, each, size) for each in (ledger.helped, ledger.hurt, ledger.saved)
    )
    answers = np.bincount(ledger.winners, minlength=size)
    errors = np.bincount(ledger.winners[~ledger.right], minlength=size)
    worst = [code for code in np.argsort(-errors, kind="stable")[:shown].tolist() if errors[code]]
    return [
        ("label", ledger.label_names[code], None, int(answers[code]), round(float(helped[code]), 2),
         round(float(hurt[code]), 2), int(errors[code]), int(saved[code]), None)
        for code in worst
    ]  # fmt: skip


def confused_pairs(ledger: VoteLedger) -> list[tuple[tuple[str, str], int]]:
    """Return (true label, wrong answer) with the number of queries, most first; several right labels count as one."""
    wrong = np.flatnonzero(~ledger.right).tolist()
    answers = ledger.winners.tolist()
    pairs = Counter((", ".join(sorted(ledger.truths[query])), ledger.label_names[answers[query]]) for query in wrong)
    return sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))


def _finding(ledger: VoteLedger, suspects: Sequence[tuple[int, str | None]], *, asked: bool) -> str:
    errors, decided = int((~ledger.right).sum()), len(np.unique(ledger.mended[0]))
    if not errors:
        return f"Not one of {counted(len(ledger.right), 'query')} is answered wrongly."
    worst = len({query for item in ledger.deciders(_WORST) for query in ledger.queries_decided_by(item)})
    (truth, answer), most = confused_pairs(ledger)[0]
    said = (
        f"Of {counted(errors, 'error')} in {counted(len(ledger.right), 'query')}, {decided:,}"
        f" ({100 * decided / errors:.1f} %) hang on the vote of a single item, {worst:,} of them on ten items."
        f" Most often {readable(display_name(truth))} is taken for {readable(display_name(answer))} ({most:,})."
    )
    if not asked:
        return said
    return f"{said} {counted(len(suspects), 'item')} may be labelled wrongly or show something odd (suspects)."


def _notes(ledger: VoteLedger, embedded: Embedded | None, suspects: int) -> list[str]:
    share = 100 * float((ledger.seen > 0).mean())
    asked = f"and their own {ledger.k} neighbours give another label more than half their vote"
    return [
        "The paper pictures a few errors and gives no ledger; this one counts every vote.",
        f"Without an item: its vote is not counted, the others keep the weight of their rank (k = {ledger.k},"
        f" {ledger.method}), and no further neighbour moves up.",
        f"{share:.1f} % of the {counted(len(ledger.seen), 'item')} that neighbours name voted at this k."
        if embedded is None
        else f"{int((ledger.seen > 0).sum()):,} of the memory's {counted(len(embedded.item_ids), 'item')} voted.",
        f"Suspects ({suspects:,}) hurt more than {_FAR_MORE:g} times as much as they help"
        + (f", {asked}" if embedded else "; their own neighbours were not asked, for want of the memory")
        + f"; at most {_EXAMINED:,} are looked at. A right label on an odd picture is suspected as well.",
    ]


@plotted((5.2, 4.2), legend=3)
def _scatter(axes: Axes, ledger: VoteLedger, suspects: Sequence[int]) -> None:
    from matplotlib.colors import LogNorm

    there = ledger.seen > 0
    grey = LogNorm(vmin=0.3)  # so that a single item is not white
    where = (ledger.helped[there], ledger.hurt[there])
    bins = axes.hexbin(*where, gridsize=45, norm=grey, mincnt=1, cmap="Greys", linewidths=0.1)
    most = float(max(ledger.helped.max(), ledger.hurt.max(), 1e-9))
    axes.plot([0, most], [0, most], color=BLUE, ls="--", lw=1, label="as much hurt as help")
    axes.plot([0, most / _FAR_MORE], [0, most], color=INK, ls=":", lw=1, label=f"{_FAR_MORE:g} times as much")
    places = (ledger.helped[suspects], ledger.hurt[suspects])
    axes.plot(*places, "^", color=ORANGE, markersize=4, label=f"suspects (first {_DRAWN})")
    axes.set(xlabel="votes given to right labels (queries)", ylabel="votes given to wrong labels (queries)")
    plain_numbers(axes.figure.colorbar(bins, ax=axes, label="items").ax)
