"""Which items, labels and pairs of labels the errors go back to (Geirhos et al., section 3.7, Figures 5, 6 and 16)."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int

from eval.drawing import BLUE, INK, ORANGE, drawing, plain_numbers, readable
from eval.experiments.base import Analysis, Cell, Neighborhoods
from eval.experiments.errors_gallery import draw_errors
from eval.experiments.gallery import Pictures
from eval.experiments.ledger import VoteLedger, keep_ledger
from eval.experiments.material import Material
from eval.intervals import SEED
from eval.wording import counted
from retrieval.curation.pruning import other_places
from retrieval.labels import display_name
from retrieval.memory import DEFAULT_NEIGHBORS
from retrieval.voting import DEFAULT_METHOD, heaviest_labels, neighbor_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FAR_MORE: Final = 2.0  # times the help: below it, an item between two labels that look alike is as likely
_MAJORITY: Final = 0.5  # of the vote of an item's own neighbours: less is common where labels are hard to tell apart
_EXAMINED: Final = 10_000  # of the items that hurt most, those whose own neighbours are asked: seconds, not minutes
_DRAWN: Final = 100  # suspects with a mark of their own in the plot
_WORST: Final = 10  # items that the finding speaks of
_COLUMNS: Final = ("kind", "name", "label", "queries", "helped", "hurt", "errors", "saved", "its neighbours say")


def blame(
    found: Neighborhoods,
    *,
    material: Material | None = None,
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
        material: the memory that they were found in, for the neighbours of suspects.
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
    suspects = _suspects(ledger, material)
    rows = [*_item_rows(ledger, shown), *_label_rows(ledger, shown), *_pair_rows(ledger, shown)]

    def draw() -> "Figure":
        if pictures is None and query_pictures is None:
            return _scatter(found.name, ledger, [item for item, _ in suspects])
        return draw_errors(found, ledger, pictures, query_pictures, seed=seed)

    return Analysis(
        name="blame",
        title=f"{found.name}: items and labels that errors go back to",
        source="Section 3.7; Figures 5, 6 and 16",
        columns=_COLUMNS,
        rows=rows + [_item_row("suspect", ledger, item, said) for item, said in suspects[:shown]],
        finding=_finding(ledger, suspects, asked=material is not None),
        draw=draw,
        notes=_notes(ledger, material, len(suspects)),
    )


def _suspects(ledger: VoteLedger, material: Material | None) -> list[tuple[int, str | None]]:
    """Return the items that are probably labelled wrongly, surest first, each with what its neighbours vote for."""
    worst = np.argsort(ledger.helped - ledger.hurt, kind="stable")
    worst = worst[ledger.hurt[worst] > _FAR_MORE * ledger.helped[worst]][:_EXAMINED]
    if material is None or not worst.size:
        return [(item, None) for item in worst.tolist()]
    said, shares, own = _own_neighbors(worst, ledger, material)
    order = np.argsort(own - shares, kind="stable")
    outvoted = order[(said[order] != ledger.item_labels[worst[order]]) & (shares[order] > _MAJORITY)]
    return [(int(worst[place]), ledger.label_names[said[place]]) for place in outvoted.tolist()]


def _own_neighbors(
    items: Int[np.ndarray, " some"], ledger: VoteLedger, material: Material
) -> tuple[Int[np.ndarray, " some"], Float[np.ndarray, " some"], Float[np.ndarray, " some"]]:
    """Return what the items' own neighbours vote for, its share of their vote, and that of the item's label."""
    places = {name: row for row, name in enumerate(material.item_ids)}
    rows = np.array([places[ledger.item_names[item]] for item in items.tolist()])
    near, distances = material.search(material.vectors[rows], ledger.k + 1)
    others = other_places(near, rows)
    near, distances = (found[others].reshape(len(rows), -1) for found in (near, distances))
    labels = material.labels[near]
    said, shares = heaviest_labels(labels, distances, count=1, method=ledger.method)
    weights = neighbor_weights(distances, ledger.method)
    own = (weights * (labels == material.labels[rows][:, None])).sum(axis=1) / weights.sum(axis=1)
    return said[:, 0], shares[:, 0], own


def _item_rows(ledger: VoteLedger, shown: int) -> list[tuple[Cell, ...]]:
    return [_item_row("item", ledger, item, None) for item in ledger.deciders(shown)]


def _item_row(kind: str, ledger: VoteLedger, item: int, said: str | None) -> tuple[Cell, ...]:
    names = (kind, ledger.item_names[item], ledger.label_of(item), int(ledger.seen[item]))
    votes = (round(float(ledger.helped[item]), 2), round(float(ledger.hurt[item]), 2))
    return (*names, *votes, int(ledger.caused[item]), int(ledger.saved[item]), said)


def _label_rows(ledger: VoteLedger, shown: int) -> list[tuple[Cell, ...]]:
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


def _pair_rows(ledger: VoteLedger, shown: int) -> list[tuple[Cell, ...]]:
    queries = Counter(", ".join(sorted(truth)) for truth in ledger.truths)
    return [
        ("pair", truth, answer, queries[truth], None, None, count, None, None)
        for (truth, answer), count in confused_pairs(ledger)[:shown]
    ]


def confused_pairs(ledger: VoteLedger) -> list[tuple[tuple[str, str], int]]:
    """Return (true label, wrong answer) with the number of queries, most first; several right labels count as one."""
    wrong = np.flatnonzero(~ledger.right).tolist()
    answers = ledger.winners.tolist()
    pairs = Counter((", ".join(sorted(ledger.truths[query])), ledger.label_names[answers[query]]) for query in wrong)
    return sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))


def _finding(ledger: VoteLedger, suspects: Sequence[tuple[int, str | None]], *, asked: bool) -> str:
    errors, decided = int((~ledger.right).sum()), len(np.unique(ledger.decided_queries()))
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


def _notes(ledger: VoteLedger, material: Material | None, suspects: int) -> list[str]:
    share = 100 * float((ledger.seen > 0).mean())
    asked = f"and their own {ledger.k} neighbours give another label more than half their vote"
    return [
        "The paper pictures a few errors and gives no ledger; this one counts every vote.",
        f"Without an item: its vote is not counted, the others keep the weight of their rank (k = {ledger.k},"
        f" {ledger.method}), and no further neighbour moves up.",
        f"{share:.1f} % of the {counted(len(ledger.seen), 'item')} that neighbours name voted at this k."
        if material is None
        else f"{int((ledger.seen > 0).sum()):,} of the memory's {counted(len(material.item_ids), 'item')} voted.",
        f"Suspects ({suspects:,}) hurt more than {_FAR_MORE:g} times as much as they help"
        + (f", {asked}" if material else "; their own neighbours were not asked, for want of the memory")
        + f"; at most {_EXAMINED:,} are looked at. A right label on an odd picture is suspected as well.",
    ]


def _scatter(name: str, ledger: VoteLedger, suspects: Sequence[int]) -> "Figure":
    from matplotlib.colors import LogNorm

    with drawing((5.2, 4.2), f"{readable(name)}: what each item's votes did") as (figure, axes):
        there = ledger.seen > 0
        grey = LogNorm(vmin=0.3)  # so that a single item is not white
        where = (ledger.helped[there], ledger.hurt[there])
        bins = axes.hexbin(*where, gridsize=45, norm=grey, mincnt=1, cmap="Greys", linewidths=0.1)
        most = float(max(ledger.helped.max(), ledger.hurt.max(), 1e-9))
        axes.plot([0, most], [0, most], color=BLUE, ls="--", lw=1, label="as much hurt as help")
        axes.plot([0, most / _FAR_MORE], [0, most], color=INK, ls=":", lw=1, label=f"{_FAR_MORE:g} times as much")
        few = list(suspects[:_DRAWN])
        axes.plot(
            ledger.helped[few], ledger.hurt[few], "^", color=ORANGE, markersize=4, label=f"suspects (first {_DRAWN})"
        )
        axes.set(xlabel="votes given to right labels (queries)", ylabel="votes given to wrong labels (queries)")
        plain_numbers(figure.colorbar(bins, ax=axes, label="items").ax)
        figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    return figure
