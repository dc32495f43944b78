"""What a race asks: its settings, and the rungs on which the worse ones leave it."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from eval.types import Dataset, Sample
from eval.wording import counted
from prompts.catalogue import Template, load_template
from retrieval.errors import InvalidArgument

Query = tuple[str, Sample]  # with the name of its data set


@dataclass(frozen=True, slots=True)
class Setting:
    """A prompt with a number of neighbours."""

    prompt: str  # a released name or a path, as it was given
    template: Template
    neighbors: int

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.template.name} k={self.neighbors}"

    @property
    def folder(self) -> str:
        """The name of the folder of its runs."""
        return f"{self.template.name}-k{self.neighbors}"


@dataclass(frozen=True, slots=True)
class Rung:
    """A step of the race."""

    settings: int  # how many are asked
    start: int  # of the queries in their order, the first that is new on this rung
    stop: int  # and the first that is not reached

    @property
    def fresh(self) -> int:
        """Queries that each setting is asked about anew."""
        return self.stop - self.start


def make_settings(prompts: Sequence[str], ks: Iterable[int]) -> list[Setting]:
    """Return every prompt with every number of neighbours; one that shows none and offers all labels, with one only.

    Raises:
        UnknownPrompt: no such template.
        InvalidArgument: two templates of one name, whose runs could not be told apart.
    """
    templates: dict[str, tuple[str, Template]] = {}
    for prompt in prompts:
        template = load_template(prompt)
        known = templates.setdefault(template.name, (prompt, template))
        if known[1].digest != template.digest:
            raise InvalidArgument(f"--prompt {known[0]} and {prompt} have one name: rename one of the files")
    descending = sorted(set(ks), reverse=True)
    return [
        Setting(prompt, template, k)
        for prompt, template in templates.values()
        for k in (descending[:1] if _is_same_for_all(template) else descending)
    ]


def _is_same_for_all(template: Template) -> bool:
    return template.neighbors == "none" and template.candidates == "all"


def plan_rungs(settings: int, queries: int, *, eta: int) -> list[Rung]:
    """Return the rungs of successive halving (Jamieson & Talwalkar 2016; Karnin et al. 2013).

    On every rung the settings that are left answer the same queries, eta times as many as before, those before among
    them; then the best of eta stay. The last rung has at most eta settings and all queries.

    Args:
        settings: how many enter the race.
        queries: how many there are.
        eta: 2 keeps the better half; 1 keeps all, so that every setting is asked about every query.

    Raises:
        InvalidArgument: eta below 1, no settings, or too few queries for so many rungs.
    """
    if eta < 1 or settings < 1:
        raise InvalidArgument(f"{counted(settings, 'setting')} and eta = {eta}: 1 or more expected")
    alive = [settings]
    while eta > 1 and alive[-1] > eta:
        alive.append(-(-alive[-1] // eta))
    least = int(eta ** (len(alive) - 1))
    if queries < least:
        raise InvalidArgument(
            f"{counted(queries, 'query')} for {counted(settings, 'setting')}: {least:,} or more expected, and hundreds"
            " to tell anything"
        )
    stops = [-(-queries // eta ** (len(alive) - 1 - rung)) for rung in range(len(alive))]
    return [Rung(*rung) for rung in zip(alive, [0, *stops], stops, strict=False)]


def draw_queries(datasets: Mapping[str, Dataset], count: int | None, *, seed: int) -> list[Query]:
    """Return queries in a random order; of a smaller count those that a larger one begins with.

    Raises:
        InvalidArgument: a count below 1.
    """
    if count is not None and count < 1:
        raise InvalidArgument(f"--queries {count}: 1 or more expected")
    queries = [(name, sample) for name, dataset in datasets.items() for sample in dataset.samples]
    random.Random(seed).shuffle(queries)
    return queries[:count]


def gathered(queries: Iterable[Query]) -> dict[str, Dataset]:
    """Return queries as data sets again."""
    by_name: dict[str, list[Sample]] = {}
    for name, sample in queries:
        by_name.setdefault(name, []).append(sample)
    return {name: Dataset(samples) for name, samples in by_name.items()}
