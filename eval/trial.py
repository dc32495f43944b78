"""Several prompts tried on the same queries, and compared in pairs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from agent.config import GenerationConfig
from agent.loading import LoadedModel
from agent.presets import Preset
from agent.stages import prepare
from eval.compare import Comparison, compare_runs
from eval.fingerprint import describe_settings
from eval.rerank_metrics import sum_spending
from eval.runner import run_evaluation
from eval.types import Dataset, Percent, Run, Sample, Spending
from eval.wording import counted
from prompts.catalogue import load_template
from retrieval.display import table
from retrieval.errors import InvalidArgument
from retrieval.memory import VisualMemory
from retrieval.view import DEFAULT_NEIGHBORS

QUERIES: Final = "trial"  # the data set's name in the runs


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Trial:
    """What some prompts did, in the order given; the others are compared with the first one."""

    prompts: tuple[str, ...]  # as they were given
    runs: tuple[tuple[Path, Run], ...]  # folder and run of each
    comparison: Comparison
    memory: VisualMemory
    dataset: Dataset
    settings: Preset  # of all of them, but for the prompt

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

    def preset(self, name: str) -> Preset:
        """Return the winner's settings under a name, to be saved by `agent.save_preset`."""
        about = f"{self!r}, {date.today().isoformat()}"
        return replace(self.settings, name=name, prompt=self.winner, about=about)

    def __repr__(self) -> str:
        figures = ", ".join(f"{prompt} {accuracy:.1f} %" for prompt, accuracy in self.top1.items())
        return f"trial on {counted(len(self.dataset.samples), 'query')}: top-1 {figures}"

    def _repr_html_(self) -> str:
        return self.comparison._repr_html_() + str(_spending_table(self.spending, len(self.dataset.samples)))


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
    settings = Preset(name="trial", neighbors=neighbors, generation=generation, model=model.name)
    runs = []
    for prompt, name in zip(prompts, names, strict=True):
        stages = prepare(memory, model=model, neighbors=neighbors, prompt=prompt, generation=generation)
        folder = (
            Path(out)
            / f"{name}-{_digest(describe_settings(memory, datasets, k=neighbors, stages=stages, centre=None))}"
        )
        price = model.meter.price
        run = run_evaluation(memory, datasets, folder, k=neighbors, stages=stages, price=price, progress=progress)
        runs.append((folder, run))
    comparison = compare_runs([(name, run) for name, (_, run) in zip(names, runs, strict=True)])
    return Trial(tuple(prompts), tuple(runs), comparison, memory, datasets[QUERIES], settings)


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _spending_table(spending: Mapping[str, Spending], queries: int) -> Markup:
    rows = [
        (
            prompt,
            spent.calls,
            spent.calls_saved,
            spent.prompt_tokens // queries,
            spent.reply_tokens // queries,
            _dollars(spent.cost),
        )
        for prompt, spent in spending.items()
    ]
    columns = ["prompt", "calls", "from the cache", "prompt tokens a query", "reply tokens a query", "dollars"]
    return table(columns, rows, caption="What they took")


def _dollars(cost: float | None) -> str:
    return "unknown" if cost is None else f"${cost:,.4f}"
