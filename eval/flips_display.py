"""The queries that got another answer from another prompt, as pictures for notebooks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from eval.compare import KINDS, Flip, Side
from eval.log_reader import lines_at
from eval.trial import QUERIES, Trial
from retrieval.curation.display import item_tiles
from retrieval.display import EVIDENCE, Shown, grid, label_words, line, more, tile, words
from retrieval.images import decode, thumbnail
from retrieval.view import MemoryView

SHOWN_FLIPS: Final = 12
_NEIGHBORS: Final = 6
_QUERY_PIXELS: Final = 144


@dataclass(frozen=True, slots=True)
class _Near:
    """A neighbour, and whose evidence it is."""

    id: str
    rank: int | None  # None: from beyond those that voted, as a prompt may show them
    named_by: str  # the side's name, or "both"; empty: nobody's


def show_flips(trial: Trial, *, count: int = SHOWN_FLIPS, neighbors: int = _NEIGHBORS) -> Shown:
    """Return queries with another answer than the first prompt's: those fixed first, then those broken, then the rest.

    Beside each stand its nearest neighbours, and farther ones that either answer names as its evidence.

    Args:
        trial: as `try_prompts` gives it.
        count: how many flips to show at most, of each prompt that is compared with the first.
        neighbors: how many pictures to show beside each, more where more are named.

    Raises:
        RunError: a run's log is no longer there.
        ImageError: nor is a query's picture.
    """
    samples = {sample.id: sample for sample in trial.dataset.samples}
    shown = []
    for other in trial.comparison.others:
        sides = (trial.comparison.before, other.after)
        flips = sorted((flip for part in other.datasets for flip in part.flips), key=lambda one: KINDS.index(one.kind))
        for flip in flips[:count]:
            picture = thumbnail(decode(samples[flip.id].picture()), longest_side=_QUERY_PIXELS)
            query = tile(picture, _answers(flip, sides), pixels=_QUERY_PIXELS)
            shown.append(_row(query, trial.memory, _near(trial, flip, sides, neighbors)))
        shown.append(more(len(flips) - count, "query", "queries") if flips else line("No query got another answer."))
    return Shown(Markup("").join(shown))


def _answers(flip: Flip, sides: Sequence[Side]) -> list[Markup]:
    truth = Markup(", ").join(map(label_words, sorted(flip.truth)))
    said = zip(sides, (flip.before, flip.after), strict=True)
    answers = [Markup("{}: {}").format(words(side.name), label_words(answer)) for side, answer in said]
    return [Markup("<b>{}</b>").format(flip.kind), Markup("is {}").format(truth), *answers]


def _near(trial: Trial, flip: Flip, sides: Sequence[Side], count: int) -> list[_Near]:
    named = [_evidence(trial, side, row) for side, row in zip(sides, (flip.before_row, flip.after_row), strict=True)]
    results = trial.runs[sides[0].run][1].results[QUERIES]
    ids = results.neighbor_ids.of(flip.before_row)
    ranks = {item: rank for rank, item in enumerate(ids, 1)}
    wanted = dict.fromkeys([*ids[:count], *named[0], *named[1]])
    found = [_Near(item, ranks.get(item), _namer(item, sides, named)) for item in wanted]
    return sorted(found, key=lambda near: near.rank or len(ids) + 1)


def _namer(item: str, sides: Sequence[Side], named: Sequence[Sequence[str]]) -> str:
    by = [side.name for side, those in zip(sides, named, strict=True) if item in those]
    return "both" if len(by) > 1 else "".join(by)


def _evidence(trial: Trial, side: Side, row: int) -> Sequence[str]:
    folder, run = trial.runs[side.run]
    (record,) = lines_at(folder, [run.results[QUERIES].places[row]])
    evidence: Sequence[str] = record.get("rerank", {}).get("evidence", ())
    return evidence


def _row(query: Markup, memory: MemoryView, near: Sequence[_Near]) -> Markup:
    texts = [
        [f"rank {one.rank}" if one.rank else "beyond k"] + [f"{EVIDENCE} of {one.named_by}"] * bool(one.named_by)
        for one in near
    ]
    marked = {one.id for one in near if one.named_by}
    tiles = item_tiles(memory, [one.id for one in near], texts, marked=marked)
    return Markup('<div style="border-top:1px solid rgba(128,128,128,.4);padding-top:8px">{}</div>').format(
        grid([query, *tiles])
    )
