"""How long search and vote take and what features weigh, against memory size (Geirhos et al., appendix K, Table 10)."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Int

from eval.experiments.base import Analysis, Axes, Row
from eval.experiments.embedded import Embedded
from eval.metrics.intervals import SEED
from eval.report.plots import BLUE, GREEN, INK, ORANGE, PINK, drawing, plain_numbers
from retrieval.errors import InvalidArgument
from retrieval.indexes import build_index
from retrieval.memory import VisualMemory
from retrieval.support.cachedir import folder_bytes
from retrieval.support.terminal import counted
from retrieval.view import DEFAULT_NEIGHBORS
from retrieval.voting import predict_every_k

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Clock = Callable[[], float]
SINGLE: Final = 32  # queries timed one by one: the median needs no more
BATCH: Final = 256  # queries searched together: what the exact index takes at a time


@dataclass(frozen=True, slots=True)
class OnDisk:
    """The sizes of a memory's real files, in bytes; None where one is not there or not known."""

    table: int | None = None  # with float16 vectors, ids, labels and thumbnails
    index: int | None = None  # saved beside it
    pictures: int | None = None  # the files that the memory was built from

    @classmethod
    def of(cls, memory: VisualMemory) -> "OnDisk":
        """Return the sizes of a memory's files; those of its pictures where each still lies where it came from."""
        table, index = folder_bytes(memory.path / "items.lance"), folder_bytes(memory.path / "index")
        folder, pictures = Path(memory.settings.built_from), None
        if memory.settings.built_from and folder.is_dir():
            try:
                pictures = sum(os.path.getsize(folder / name) for name in memory.snapshot().ids.tolist())
            except (OSError, ValueError):  # ValueError: an id with a null byte
                pictures = None
        return cls(table or None, index or None, pictures)


def feature_bytes(items: int, dimension: int, *, bytes_a_number: int) -> int:
    """Return what features take, without ids and labels."""
    return items * dimension * bytes_a_number


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians over runs, in seconds."""

    kind: str
    items: int
    single: float
    batched: float  # a query
    vote: float  # a query
    built: float
    recall: float  # percent of the exact search's neighbours


def measure(
    embedded: Embedded, rows: Int[np.ndarray, " part"], kinds: Sequence[str], *, k: int, runs: int, clock: Clock
) -> list[Timing]:
    """Return the timings of each kind of index over a part of the memory."""
    vectors, labels = np.ascontiguousarray(embedded.vectors[rows]), embedded.labels[rows]
    k, batch = min(k, len(rows)), embedded.queries[:BATCH]
    truth = build_index("exact", vectors).search(batch, k)[0]
    timings = []
    for kind in kinds:
        built, index = _timed(partial(build_index, kind, vectors), clock)
        near, distances = index.search(batch, k)
        seconds = partial(median_seconds, runs=runs, clock=clock)
        alone = [seconds(partial(index.search, batch[n : n + 1], k)) for n in range(min(SINGLE, len(batch)))]
        batched = seconds(partial(index.search, batch, k)) / len(batch)
        vote = seconds(partial(predict_every_k, labels[near], distances)) / len(batch)
        single = float(np.median(alone))
        timings.append(Timing(kind, len(rows), single, batched, vote, built, recall(near, truth)))
    return timings


def median_seconds(work: Callable[[], object], *, runs: int, clock: Clock = time.perf_counter) -> float:
    """Return the median time of several runs, after one that does not count."""
    work()
    return float(np.median([_timed(work, clock)[0] for _ in range(runs)]))


def _timed(work: Callable[[], Any], clock: Clock) -> tuple[float, Any]:
    start = clock()
    made = work()
    return clock() - start, made


def recall(near: Int[np.ndarray, "queries k"], truth: Int[np.ndarray, "queries k"]) -> float:
    """Return how many of the true neighbours were found, in percent."""
    found = sum(np.intersect1d(some, true).size for some, true in zip(near, truth, strict=True))
    return 100.0 * found / truth.size


_QUARTERS: Final = 4  # sizes below the whole memory, each a quarter of the next
_IMAGENET_ITEMS: Final = 1_281_167  # images of ILSVRC-2012 train
_IMAGENET_BYTES: Final = 154.6e9  # appendix K
_GIB: Final = 2**30
_PAPER_FEATURES: Final = {  # Table 10: gigabytes for ImageNet train
    "DinoV2 ViT-L/14": 4.9,
    "DinoV2 ViT-B/14": 3.7,
    "DinoV2 ViT-S/14": 1.9,
    "CLIP ViT-L/14": 3.7,
    "CLIP ViT-B/16": 2.5,
}
_PAPER_LATENCY: Final = (1_000_000, 500.0, 600.0)  # appendix K: items, and queries a second at perfect recall
_LOOKS: Final = {"exact": (BLUE, "o-"), "scann": (ORANGE, "s--")}


def latency_storage(
    embedded: Embedded,
    *,
    k: int = DEFAULT_NEIGHBORS,
    runs: int = 5,
    sizes: Sequence[int] | None = None,
    kinds: Sequence[str] | None = None,
    on_disk: OnDisk | None = None,
    seed: int = SEED,
    clock: Clock = time.perf_counter,
) -> Analysis:
    """Return the time that search and vote take and the space that features need, for growing parts of the memory.

    Megabytes are 10**6 bytes. Indexes are built anew for each size, since it is they that are measured.

    Args:
        embedded: the memory and the queries.
        k: neighbours, as in the paper's text.
        runs: of each measurement after one that warms up; the median counts.
        sizes: of the parts, drawn at random, each within the next; None: quarters of quarters up to the whole.
        kinds: of indexes; None: exact, and ScaNN where it is installed.
        on_disk: sizes of the memory's files, to stand beside.
        seed: of the parts.
        clock: tells seconds.

    Raises:
        InvalidArgument: ``runs`` below 1, a size outside 1 to the memory's, no such index or no query.
    """
    items = len(embedded.item_ids)
    sizes = sorted({max(1, items // 4**quarter) for quarter in range(_QUARTERS)} if sizes is None else set(sizes))
    if runs < 1 or not sizes or not 1 <= sizes[0] <= sizes[-1] <= items or not embedded.query_ids:
        raise InvalidArgument(
            f"runs={runs}, sizes={sizes}, {len(embedded.query_ids)} queries: a run, a query and sizes from 1 to"
            f" {items} expected"
        )
    kinds = kinds or (("exact", "scann") if find_spec("scann") else ("exact",))
    order = np.random.default_rng(seed).permutation(items)
    timings = [t for size in sizes for t in measure(embedded, order[:size], kinds, k=k, runs=runs, clock=clock)]
    on_disk = on_disk or OnDisk()
    return Analysis(
        name="latency_storage",
        title=f"{embedded.name}: time of search and vote, space of features, against memory size",
        source="Appendix K, Table 10",
        columns=(
            "memory",
            "index",
            "items",
            "one query (ms)",
            "in batches (ms a query)",
            "queries a second",
            "recall (%)",
            "vote (ms a query)",
            "index built in (s)",
            "float32 (MB)",
            "float16 (MB)",
            "pictures (MB)",
            "features / pictures (%)",
        ),
        rows=[*(_row(embedded, timing, on_disk) for timing in timings), *_disk_rows(items, on_disk), *_paper_rows()],
        finding=_finding(embedded, timings, on_disk),
        draw=lambda: _draw(embedded, timings),
        notes=[
            "Timings vary from machine to machine and from run to run; nothing else of the analyses does.",
            f"Medians of {counted(runs, 'run')} after one that warms up, with {k} neighbours, on this machine's"
            f" processor; one query: over {SINGLE} queries, each by itself; batches of {BATCH}. Parts of the memory are"
            f" drawn with seed {seed}.",
            "Recall: the share of the exact search's neighbours that are found."
            " The vote counts its answer for every k.",
            f"Table 10's gigabytes fit float32 numbers in units of 2**30 bytes with some 40 bytes an item beside:"
            f" 1,281,167 × 1,024 × 4 bytes are {_IMAGENET_ITEMS * 4096 / _GIB:.2f} of them.",
            "What part of the pictures' size features take depends on the pictures too: 120 kB each in ImageNet"
            " (154.6 GB), so that smaller ones leave less to save.",
        ],
    )


def _row(embedded: Embedded, timing: Timing, on_disk: OnDisk) -> Row:
    dimension = embedded.vectors.shape[1]
    wide, narrow = (feature_bytes(timing.items, dimension, bytes_a_number=size) for size in (4, 2))
    pictures = on_disk.pictures and on_disk.pictures * timing.items / len(embedded.item_ids)
    return (
        embedded.embedder,
        timing.kind,
        timing.items,
        round(1e3 * timing.single, 3),
        round(1e3 * timing.batched, 4),
        round(1 / timing.batched) if timing.batched else None,
        round(timing.recall, 2),
        round(1e3 * timing.vote, 4),
        round(timing.built, 3),
        round(wide / 1e6, 2),
        round(narrow / 1e6, 2),
        round(pictures / 1e6, 2) if pictures else None,
        _share(wide, pictures),
    )


def _disk_rows(items: int, on_disk: OnDisk) -> list[Row]:
    rows: list[Row] = []
    for name, size, before, after in (
        ("table on disk, thumbnails included", on_disk.table, 7, 1),
        ("saved index on disk", on_disk.index, 6, 2),
    ):
        if size is not None:
            share = _share(size, on_disk.pictures)
            rows.append((name, None, items, *(None,) * before, round(size / 1e6, 2), *(None,) * after, share))
    return rows


def _share(part: int | float, pictures: int | float | None) -> float | None:
    return round(100 * part / pictures, 2) if pictures else None


def _paper_rows() -> list[Row]:
    nothing, pictures = (None,) * 6, round(_IMAGENET_BYTES / 1e6)
    rows: list[Row] = [
        (f"{name} (paper)", None, _IMAGENET_ITEMS, *nothing, 1e3 * gigabytes, None, pictures,
         _share(1e9 * gigabytes, _IMAGENET_BYTES))
        for name, gigabytes in _PAPER_FEATURES.items()
    ]  # fmt: skip
    items, low, high = _PAPER_LATENCY
    batched = round(2e3 / (low + high), 2)
    paper = ("ScaNN (paper, after its README)", "scann", items, None, batched, (low + high) / 2, 100.0)
    return [*rows, (*paper, *nothing)]


def _finding(embedded: Embedded, timings: Sequence[Timing], on_disk: OnDisk) -> str:
    items, dimension = len(embedded.item_ids), embedded.vectors.shape[1]
    most = timings[-1].items
    each = "; ".join(
        f"{timing.kind}: {1e3 * timing.single:.2f} ms for one query, {1e3 * timing.batched:.3f} ms each in batches,"
        f" recall {timing.recall:.1f} %"
        for timing in timings
        if timing.items == most
    )
    space = f"Features take {4 * dimension:,} bytes an item as float32, half as float16"
    if on_disk.pictures:
        wide = feature_bytes(items, dimension, bytes_a_number=4)
        space += f": {100 * wide / on_disk.pictures:.1f} % and {50 * wide / on_disk.pictures:.1f} % of the pictures"
        space += f" ({on_disk.pictures / items:,.0f} bytes each), where the paper has 1 to 3 %"
    vote = timings[-1].vote
    return f"Search among {counted(most, 'item')} takes, {each}; the vote takes {1e3 * vote:.3f} ms a query. {space}."


def _draw(embedded: Embedded, timings: Sequence[Timing]) -> "Figure":
    with drawing((5.6, 5.6), rows=(1, 1)) as (figure, (upper, lower)):
        upper.set_title("Appendix K: time and space by memory size")
        for kind in dict.fromkeys(timing.kind for timing in timings):
            colour, stroke = _LOOKS.get(kind, (PINK, "^:"))
            some = [timing for timing in timings if timing.kind == kind]
            sizes = [timing.items for timing in some]
            upper.plot(sizes, [1e3 * t.single for t in some], stroke, color=colour, label=f"{kind}, one query")
            upper.plot(sizes, [1e3 * t.batched for t in some], stroke, color=colour, alpha=0.5, mfc="white",
                       label=f"{kind}, in batches")  # fmt: skip
        items, low, high = _PAPER_LATENCY
        paper = "paper: 500–600 queries a second"
        upper.plot([items], [2e3 / (low + high)], "*", color=INK, markersize=11, label=paper)
        upper.set(xscale="log", yscale="log", ylabel="search (ms a query)")
        plain_numbers(upper)
        _draw_space(lower, embedded.vectors.shape[1], [timing.items for timing in timings])
        handles, names = (a + b for a, b in zip(upper.get_legend_handles_labels(), lower.get_legend_handles_labels(),
                                                strict=True))  # fmt: skip
        figure.legend(handles, names, fontsize=8, loc="outside lower center", ncols=2)
    return figure


def _draw_space(axes: Axes, dimension: int, sizes: Sequence[int]) -> None:
    for width, colour, stroke in ((4, GREEN, "o-"), (2, PINK, "s--")):
        space = [feature_bytes(size, dimension, bytes_a_number=width) / 1e6 for size in sizes]
        axes.plot(sizes, space, stroke, color=colour, label=f"float{8 * width}, {dimension:,} dimensions")
    paper = [1e3 * gigabytes for gigabytes in _PAPER_FEATURES.values()]
    axes.plot([_IMAGENET_ITEMS] * len(paper), paper, "*", color=INK, markersize=7, label="paper: Table 10")
    axes.plot([_IMAGENET_ITEMS], [_IMAGENET_BYTES / 1e6], "D", color=INK, mfc="white", label="paper: pictures")
    axes.set(xscale="log", yscale="log", xlabel="items in memory", ylabel="features (MB)")
    plain_numbers(axes)
