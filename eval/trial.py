"""Several prompts tried on the same queries, and compared in pairs."""

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Final, Literal

from markupsafe import Markup

from agent.calls.ready import LoadedModel
from agent.card import Card, label_text, make_view, picture_address, show_cards, thumbnail_addresses
from agent.classify import prepare
from agent.preview import render_prompts
from agent.settings import GenerationConfig, Settings, measure_vote
from eval.comparing import KINDS, Comparison, Flip, Side, compare_runs
from eval.metrics.rerank import sum_spending
from eval.report.cases import neighbors_of
from eval.runs.log import describe_settings, lines_at
from eval.runs.runner import run_evaluation
from eval.types import Dataset, Percent, Run, Sample, Spending
from prompts.template import load_template
from retrieval.errors import InvalidArgument
from retrieval.images import ImageLike, decode, thumbnail
from retrieval.memory import VisualMemory
from retrieval.support.html import (
    EVIDENCE,
    SHOWN_NEIGHBORS,
    Shown,
    grid,
    label_words,
    more,
    picture_tile,
    side_by_side,
    table,
    text_line,
)
from retrieval.support.terminal import counted, printable, track
from retrieval.types import Neighbor, Votes
from retrieval.view import DEFAULT_NEIGHBORS, MemoryView
from retrieval.voting import DEFAULT_METHOD, count_votes

QUERIES: Final = "trial"  # the data set's name in the runs


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Trial:
    """What some prompts did, in the order given; the others are compared with the first one."""

    prompts: tuple[str, ...]  # as they were given
    runs: tuple[tuple[Path, Run], ...]  # folder and run of each
    comparison: Comparison
    memory: VisualMemory
    dataset: Dataset
    settings: Settings  # of all of them, but for the prompt

    @property
    def top1(self) -> dict[str, Percent]:
        """Accuracy of each prompt, in percent of the queries."""
        figures = [other.overall for other in self.comparison.others]
        return dict(zip(self.prompts, (figures[0].before, *(one.after for one in figures)), strict=True))

    @property
    def spending(self) -> dict[str, Spending]:
        """What each prompt took, in the run that asked: replies from the cache cost nothing."""
        spent = (sum_spending(run.results[QUERIES].outcomes or ()) for _, run in self.runs)
        return dict(zip(self.prompts, spent, strict=True))

    @property
    def winner(self) -> str:
        """The prompt with the highest accuracy, of equals the first; whether that may be chance, `comparison` says."""
        top1 = self.top1
        return max(self.prompts, key=top1.__getitem__)

    def preset(self, name: str) -> Settings:
        """Return the winner's settings under a name, to be saved by `agent.save_preset`."""
        about = f"{self!r}, {date.today().isoformat()}"
        return replace(self.settings, name=name, prompt=self.winner, about=about)

    def __repr__(self) -> str:
        figures = ", ".join(f"{prompt} {accuracy:.1f} %" for prompt, accuracy in self.top1.items())
        return f"trial on {counted(len(self.dataset.samples), 'query')}: top-1 {figures}"

    def _repr_html_(self) -> str:
        return str(self.comparison._repr_html_()) + str(_spending_table(self.spending, len(self.dataset.samples)))


def try_prompts(
    memory: VisualMemory,
    samples: Sequence[Sample],
    prompts: Sequence[str],
    *,
    model: LoadedModel,
    out: str | Path,
    neighbors: int = DEFAULT_NEIGHBORS,
    generation: GenerationConfig | None = None,
    progress: bool = True,
) -> Trial:
    """Ask a model about the same queries with several prompts, one run each, and compare the others with the first.

    Called again, it goes on where it stopped, and asks nothing that is answered; other queries or settings, or an own
    prompt that was edited, make runs beside the others.

    Args:
        memory: where the neighbours come from.
        samples: the queries.
        prompts: two or more: released ones' names, or paths of one's own.
        model: as `load_model` or `make_ready` gives it.
        out: the folder in which each run gets one of its own.
        neighbors: how many vote and are shown.
        generation: temperature, limit of tokens and so on.
        progress: whether to show bars.

    Raises:
        InvalidArgument: fewer than two prompts, two of one name, or ``neighbors`` below 1.
        UnknownPrompt: no such prompt.
        RunError: no queries, or a folder that cannot be written.
        EveryRequestFails: the model refuses everything, or the budget is spent.
    """
    names = [load_template(prompt).name for prompt in prompts]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InvalidArgument(f"prompts {', '.join(names) or 'none'}: two or more of different names expected")
    datasets = {QUERIES: Dataset(samples)}
    generation = generation or GenerationConfig()
    settings = Settings(name="trial", k=neighbors, generation=generation, model=model.name)
    runs = []
    for prompt, name in zip(prompts, names, strict=True):
        stages = prepare(memory, model=model, k=neighbors, prompt=prompt, generation=generation)
        told = json.dumps(describe_settings(memory, datasets, k=neighbors, stages=stages, centre=None), sort_keys=True)
        folder = Path(out) / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
        price = model.meter.price
        run = run_evaluation(memory, datasets, folder, k=neighbors, stages=stages, price=price, progress=progress)
        runs.append((folder, run))
    comparison = compare_runs([(name, run) for name, (_, run) in zip(names, runs, strict=True)])
    return Trial(tuple(prompts), tuple(runs), comparison, memory, datasets[QUERIES], settings)


def _spending_table(spending: Mapping[str, Spending], queries: int) -> Markup:
    rows = [
        (
            *(prompt, spent.calls, spent.calls_saved, spent.prompt_tokens // queries, spent.reply_tokens // queries),
            "unknown" if spent.cost is None else f"${spent.cost:,.4f}",
        )
        for prompt, spent in spending.items()
    ]
    columns = ["prompt", "calls", "from the cache", "prompt tokens a query", "reply tokens a query", "dollars"]
    return table(columns, rows, caption="What they took")


Kind = Literal["low margin", "wrong vote", "both"]
QUERY_KINDS: Final[tuple[Kind, ...]] = ("low margin", "wrong vote", "both")
_QUERY_PIXELS: Final = 120


@dataclass(frozen=True, slots=True)
class HardQuery:
    """A query with its vote."""

    sample: Sample
    votes: Votes

    @property
    def margin(self) -> float:
        """The winner's share of the vote less the second's."""
        return measure_vote(self.votes, "margin")

    @property
    def wrong(self) -> bool:
        """Whether the vote is wrong."""
        return self.votes.winner not in self.sample.labels


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class HardQueries:
    """The queries that were chosen, and from how many."""

    queries: tuple[HardQuery, ...]
    of: int  # queries in the data set that could be used
    vote_top1: Percent  # of the vote on all of these

    @property
    def samples(self) -> list[Sample]:
        """The queries as a data set holds them."""
        return [query.sample for query in self.queries]

    def __repr__(self) -> str:
        wrong = sum(query.wrong for query in self.queries)
        told = f"{len(self.queries):,} of {counted(self.of, 'query')}; the vote is wrong on {wrong:,} of them"
        return f"{told}, and right on {self.vote_top1:.1f} % of all: figures on hard queries say nothing of the others"

    def _repr_html_(self) -> str:
        shown = self.queries[:SHOWN_NEIGHBORS]
        hidden = more(len(self.queries) - len(shown), "query", "queries")
        return str(text_line(repr(self)) + grid(map(_tile, shown)) + hidden)


def hard_queries(
    memory: MemoryView,
    dataset: Dataset,
    *,
    k: int = DEFAULT_NEIGHBORS,
    count: int = 40,
    kind: Kind = "both",
    voting: str = DEFAULT_METHOD,
    seed: int = 0,
    progress: bool = True,
) -> HardQueries:
    """Return queries of a data set on which the vote is wrong or unsure; pictures that cannot be used are left out.

    Args:
        memory: what votes.
        dataset: the queries, all of which are embedded.
        k: how many neighbours vote.
        count: how many queries to return at most.
        kind: ``wrong vote``: drawn from those that it gets wrong; ``low margin``: those with the least margin;
            ``both``: half of them wrong, as far as there are so many, then those of the others with the least margin.
        voting: how they vote.
        seed: of the draw, and of the order of equal margins.
        progress: whether to show a bar.

    Raises:
        InvalidArgument: k or count below 1, an empty memory, no such kind or way of voting.
        EmbedderError: the memory's embedder cannot be had.
    """
    if kind not in QUERY_KINDS or count < 1:
        raise InvalidArgument(f"count={count}, kind={kind!r}: 1 or more, and one of {', '.join(QUERY_KINDS)} expected")
    every = _all_votes(memory, dataset.samples, k=k, voting=voting, progress=progress)
    random.Random(seed).shuffle(every)
    wrong = [query for query in every if query.wrong]
    chosen = {"low margin": 0, "wrong vote": count, "both": -(-count // 2)}[kind]
    first = wrong[:chosen]
    taken = {query.sample.id for query in first}
    rest = [query for query in every if query.sample.id not in taken] if kind != "wrong vote" else []
    unsure = sorted(rest, key=lambda query: query.margin)[: count - len(first)]
    right = 100.0 * (1 - len(wrong) / len(every)) if every else 0.0
    return HardQueries((*first, *unsure), len(every), right)


def _all_votes(
    memory: MemoryView, samples: Sequence[Sample], *, k: int, voting: str, progress: bool
) -> list[HardQuery]:
    shown = track(samples, "Looking for hard queries", total=len(samples), shown=progress)
    found: list[HardQuery] = []
    for batch in memory.embed_stream(shown, image_of=Sample.picture):
        if batch.items:
            near = memory.search_vectors(batch.vectors, k=k)
            votes = count_votes(near.labels, near.distances, method=voting, factors=near.reliabilities)
            found.extend(map(HardQuery, batch.items, votes))
    return found


def _tile(query: HardQuery) -> Markup:
    truth, wrong = Markup(", ").join(map(label_words, sorted(query.sample.labels))), ", wrong" if query.wrong else ""
    vote = Markup("vote: {}{}").format(label_words(query.votes.winner), wrong)
    picture = thumbnail(decode(query.sample.picture()), longest_side=_QUERY_PIXELS)
    lines = [Markup("is {}").format(truth), vote, f"margin {query.margin:.2f}"]
    return picture_tile(picture, lines, pixels=_QUERY_PIXELS)


SHOWN_FLIPS: Final = 12
_NEIGHBORS: Final = 6


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
    shown = Markup("")
    for other in trial.comparison.others:
        sides = (trial.comparison.before, other.after)
        flips = sorted((flip for part in other.datasets for flip in part.flips), key=lambda one: KINDS.index(one.kind))
        shown += show_cards(
            _flip_card(trial, flip, sides, samples[flip.id].picture(), neighbors) for flip in flips[:count]
        ).html
        left = more(len(flips) - count, "query", "queries")
        shown += left if flips else text_line("No query got another answer.")
    return Shown(shown)


def _flip_card(trial: Trial, flip: Flip, sides: Sequence[Side], picture: ImageLike, count: int) -> Card:
    """Return both answers to a query beside its nearest neighbours and what either answer names as its evidence."""
    rows = (flip.before_row, flip.after_row)
    named = {side.name: _evidence(trial, side, row) for side, row in zip(sides, rows, strict=True)}
    by = {item: [name for name, items in named.items() if item in items] for items in named.values() for item in items}
    near = neighbors_of(trial.runs[sides[0].run][1].results[QUERIES], flip.before_row)
    known = {one.id for one in near}
    snapshot = trial.memory.snapshot()
    others = [(item, row) for item, row in zip(by, snapshot.rows_of(list(by)).tolist(), strict=True) if row >= 0]
    view = make_view(
        near,
        None,
        evidence={item: f"{EVIDENCE} of {names[0] if len(names) == 1 else 'both'}" for item, names in by.items()},
        beyond=[Neighbor(item, str(snapshot.labels[row]), math.inf, row) for item, row in others if item not in known],
        pictures=partial(thumbnail_addresses, trial.memory),
        most=count + sum(item not in {one.id for one in near[:count]} for item in by),
    )
    truth = ", ".join(map(label_text, sorted(flip.truth)))
    said = zip(sides, (flip.before, flip.after), strict=True)
    answers = [f"{printable(side.name)}: {label_text(answer)}" for side, answer in said]
    outcome = {"fixed": "right", "broken": "wrong"}.get(flip.kind, "")
    small = picture_address(thumbnail(decode(picture), longest_side=_QUERY_PIXELS), _QUERY_PIXELS)
    return Card(flip.kind, (f"is {truth}", *answers), outcome, small, True, (view,))


def _evidence(trial: Trial, side: Side, row: int) -> Sequence[str]:
    folder, run = trial.runs[side.run]
    (record,) = lines_at(folder, [run.results[QUERIES].places[row]])
    return list(record.get("rerank", {}).get("evidence", ()))


def show_prompts(
    memory: MemoryView, image: ImageLike, prompts: Sequence[str], *, neighbors: int = DEFAULT_NEIGHBORS
) -> Shown:
    """Return what each prompt would send, with about what one call would take, to be looked at in a notebook.

    Args:
        memory: where the neighbours come from.
        image: the query.
        prompts: released ones' names, or paths of one's own.
        neighbors: how many vote and are shown.

    Raises:
        UnknownPrompt: no such prompt, or one with an error.
        ImageError: the query cannot be used.
        InvalidArgument: ``neighbors`` below 1, or an empty memory.
    """
    templates = [load_template(prompt) for prompt in prompts]
    return side_by_side(*render_prompts(templates, image, memory, k=neighbors, voting=DEFAULT_METHOD))
