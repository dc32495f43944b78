"""What a run was made with, in words."""

from collections.abc import Mapping
from typing import Any

from eval.page.text import one_line
from eval.types import Run
from retrieval.memory import VisualMemory


def describe_run(run: Run, memory: VisualMemory | None) -> list[tuple[str, str]]:
    """Return the lines of a summary: term and description."""
    settings = run.info.settings
    rerank = settings.get("rerank") or {}
    described = [
        ("Memory", _memory(settings.get("memory"), memory)),
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


def _memory(settings: Any, memory: VisualMemory | None) -> str:  # noqa: ANN401
    if not isinstance(settings, Mapping):
        return ""
    told = f"{settings['items']:,} pictures" if isinstance(settings.get("items"), int) else ""
    if memory is not None:
        told += f" of {len(memory.stats().labels):,} classes"
    return f"{told}, version {settings.get('version')}"


def _queries(run: Run) -> str:
    answered = sum(map(len, run.results.values()))
    unreadable = sum(len(results.unreadable) for results in run.results.values())
    left_out = f", {unreadable:,} unreadable" if unreadable else ""
    return f"{answered:,}{left_out}, in {len(run.results):,} data set{'s'[: len(run.results) > 1]}"
