"""What a run was made with, in words."""

from collections.abc import Mapping
from typing import Any, Final

from eval.gaps import find_unfinished, lacks_pictures, say_damage, say_unusable
from eval.page.text import one_line
from eval.types import Metrics, Run
from eval.wording import counted
from retrieval.memory import VisualMemory

_FIRST: Final = "; figures are of those that came first, which may all be of a few classes"


def describe_run(run: Run, memory: VisualMemory | None) -> list[tuple[str, str]]:
    """Return the lines of a summary: term and description.

    Args:
        run: what to describe.
        memory: what its pictures are shown from, if it is there.
    """
    settings = run.info.settings
    rerank = settings.get("rerank") or {}
    described = [
        ("Memory", _memory(settings["memory"], run.info.about["classes"], memory)),
        ("Embedder", run.info.about.get("embedder") or str(settings.get("embedder", ""))[:16]),
        ("Precision", settings.get("precision")),
        ("Search", settings.get("index")),
        ("Neighbours", settings.get("k")),
        (
            "Centring",
            f"{run.info.centred}: transductive, queries help to decide each other" if run.info.centred else "",
        ),
        ("Model", rerank.get("model")),
        ("Prompt", rerank.get("prompt")),
        ("Asked", rerank.get("when")),
        ("Fusion weight", rerank.get("fusion weight")),
        ("Queries", _queries(run)),
        ("Program", run.info.about.get("version")),
    ]
    return [(term, one_line(told)) for term, told in described if told not in (None, "")]


def flatten(settings: Mapping[str, Any], *, under: str = "") -> list[tuple[str, str]]:
    """Return nested settings as lines of a table, in order."""
    lines: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            lines += flatten(value, under=f"{under}{name} · ")
        else:
            lines.append((one_line(under + name), one_line(value, longest=500)))
    return lines


def _memory(settings: Mapping[str, Any], classes: int, memory: VisualMemory | None) -> str:
    told = f"{counted(settings['items'], 'picture')} of {counted(classes, 'class')}, version {settings['version']}"
    if memory is None or memory.version == settings["version"]:
        return told
    return f"{told}; shown are the pictures of version {memory.version}, in which some may be others, or gone"


def _queries(run: Run) -> str:
    answered = sum(map(len, run.results.values()))
    unreadable = sum(len(results.unreadable) for results in run.results.values())
    left_out = f", {unreadable:,} unreadable" if unreadable else ""
    return f"{answered:,}{left_out}, in {counted(len(run.results), 'data set')}"


def say_gaps(run: Run, metrics: Mapping[str, Metrics]) -> list[str]:
    """Return sentences on what a run lacks: queries, usable pictures, parts of published data sets."""
    partial = [(name, lacks_pictures(name, figures.queries)) for name, figures in metrics.items()]
    sentences = [
        *(f"{dataset}{_FIRST if dataset.name in metrics else ''}" for dataset in find_unfinished(run)),
        *say_unusable(run),
        *say_damage(run),
        *(
            f"{name}: {lacking}, so that figures do not compare with published ones"
            for name, lacking in partial
            if lacking
        ),
    ]
    return [one_line(sentence, longest=500) for sentence in sentences]
