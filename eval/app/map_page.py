"""The page with the map of a memory's embeddings, and the same in words."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int, Shaped
from nicegui import events, ui

from agent.card import label_text
from eval.app.context import Jobs, ServeContext
from eval.app.frame import WorkPanel, draw, tag, words
from eval.app.items import draw_with_items, item_tiles, memory_frame
from eval.report.plots import BLUE, GREEN, ORANGE, PINK
from retrieval.errors import InvalidArgument
from retrieval.support.terminal import counted
from retrieval.version import Snapshot
from retrieval.voting import encode_labels

MOST_ITEMS: Final = 2000  # t-SNE's time grows faster than their number: 2,000 take some 7 s
LEAST_ITEMS: Final = 3
_COMPONENTS: Final = 50  # to which t-SNE's own authors reduce before it (van der Maaten and Hinton, 2008, section 4.2)
_PERPLEXITY: Final = 30.0  # the middle of the 5 to 50 that they recommend (section 2)
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class NearClass:
    """A class and the one that lies nearest to it."""

    label: str
    items: int
    other: str
    distance: float  # cosine distance between the means of both
    astray: int  # items of the class that lie nearer to another class's mean than to their own


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """A map of a memory."""

    ids: list[str]  # of the items on it
    labels: list[str]
    places: Float[np.ndarray, "items two"]  # 0 to 1 in both directions; only who lies beside whom means anything
    left_out: int  # items that the sample lacks
    near: list[NearClass]  # of every class, the nearest pair first; empty where there is one class only
    seconds: float  # that it took


def project(snapshot: Snapshot, *, most: int = MOST_ITEMS, seed: int = _SEED) -> Projection:
    """Return a map of a version of a memory: the same one for the same version.

    Principal components, then t-SNE (van der Maaten and Hinton, 2008). Classes are compared by all their items, the
    map shows a sample of ``most``.

    Raises:
        InvalidArgument: fewer than three items, of which there is no map.
    """
    began = time.monotonic()
    ids, labels = snapshot.ids, snapshot.labels
    if len(ids) < LEAST_ITEMS:
        raise InvalidArgument(f"a map of {len(ids)} items says nothing: add pictures until there are {LEAST_ITEMS}")
    vectors = snapshot.vectors()
    rows = draw_sample(len(ids), most, seed=seed)
    near = nearest_classes(vectors, labels)
    places = lay_out(vectors[rows], seed=seed)
    seconds = time.monotonic() - began
    return Projection(ids[rows].tolist(), labels[rows].tolist(), places, len(ids) - len(rows), near, seconds)


def draw_sample(items: int, most: int, *, seed: int = _SEED) -> Int[np.ndarray, " rows"]:
    """Return the rows of a sample, in order: all where there are no more."""
    if items <= most:
        return np.arange(items)
    return np.sort(np.random.default_rng(seed).choice(items, most, replace=False))


def lay_out(vectors: Float[np.ndarray, "items dimension"], *, seed: int = _SEED) -> Float[np.ndarray, "items two"]:
    """Return places in the unit square; vectors that are alike lie beside each other."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if not np.ptp(vectors, axis=0).any():  # the same picture again and again: nothing to lay out
        return np.full((len(vectors), 2), 0.5)
    components = min(_COMPONENTS, *vectors.shape)
    reduced = PCA(components, random_state=seed).fit_transform(vectors)
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)  # it must stay below the number of the others
    start = "pca" if components > 1 else "random"
    with threadpool_limits(1):  # several threads wait for each other: 1,034 items take 17 s with two, 5 s with one
        places = TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(reduced)
    low, high = places.min(axis=0), places.max(axis=0)
    square: np.ndarray = (places - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return square


def nearest_classes(
    vectors: Float[np.ndarray, "items dimension"], labels: Shaped[np.ndarray, " items"]
) -> list[NearClass]:
    """Return of every class the one whose mean lies nearest, the nearest first; nothing where there is one class only.

    Args:
        vectors: of length 1.
        labels: of the items.
    """
    from scipy.sparse import csr_matrix

    codes, names = encode_labels(labels[:, None])
    own, classes = codes[:, 0], len(names)
    if classes < 2:
        return []
    members = csr_matrix((np.ones(len(own), np.float32), (own, np.arange(len(own)))), shape=(classes, len(own)))
    sums = members @ vectors
    means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    other, distance = np.empty(classes, np.int64), np.empty(classes)
    for some in _blocks(classes, width=classes):
        alike = means[some] @ means.T
        rows = np.arange(len(alike))
        alike[rows, np.arange(classes)[some]] = -np.inf
        other[some] = alike.argmax(axis=1)
        distance[some] = np.maximum(1.0 - alike[rows, other[some]], 0.0)
    nearest = np.concatenate([(vectors[some] @ means.T).argmax(axis=1) for some in _blocks(len(own), width=classes)])
    astray = np.bincount(own[nearest != own], minlength=classes)
    return [
        NearClass(str(names[at]), int(count), str(names[other[at]]), float(distance[at]), int(astray[at]))
        for at, count in sorted(enumerate(np.bincount(own)), key=lambda one: distance[one[0]])
    ]


def _blocks(rows: int, *, width: int) -> Iterator[slice]:
    """Yield parts of a table whose products with so many columns take 40 MB at a time."""
    block = max(1, 10_000_000 // width)
    return (slice(start, start + block) for start in range(0, rows, block))


def colour_classes(labels: Sequence[str], *, most: int) -> dict[str, list[int]]:
    """Return the places of items by class, the largest first; those of classes beyond ``most`` together under ""."""
    places: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    ranked = sorted(places, key=lambda label: (-len(places[label]), label))
    shown = {label: places[label] for label in ranked[:most]}
    rest = sorted(place for label in ranked[most:] for place in places[label])
    return shown | ({"": rest} if rest else {})


# Okabe and Ito's, without the yellow and black that vanish on a bright or a dark page, each with a shape of its own,
# as ECharts calls or draws it, and as text.
_LOOKS: Final = (
    (BLUE, "circle", "●"),
    (ORANGE, "triangle", "▲"),
    (GREEN, "rect", "■"),
    (PINK, "diamond", "◆"),
    ("#56b4e9", "path://M3 0h4v3h3v4h-3v3h-4v-3h-3v-4h3z", "✚"),
    ("#e69f00", "path://M0 0h10l-5 10z", "▼"),
    ("#8c6d1f", "path://M0 0l10 5l-10 5z", "▶"),
)
_OTHERS: Final = ("#8a8a8a", "emptyCircle", "○")
_STEPS: Final = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, 1), "ArrowDown": (0, -1)}
_NEAR: Final = 40  # classes in the table
_SIDEWAYS: Final = 2.0  # what a way across the arrow's direction counts, so that arrows go where they point
_KEYS: Final = """event => {
    if (!event.key.startsWith('Arrow')) return;
    event.preventDefault();
    emit(event.key);
}"""


def register(context: ServeContext, jobs: Jobs) -> None:
    """Register the page."""

    @ui.page("/memory/map")
    def _map() -> None:
        with memory_frame(context, "Map", here="/memory/map"):
            snapshot = context.memory.snapshot()
            WorkPanel(
                jobs,
                "map",
                snapshot.version,
                partial(project, snapshot),
                partial(_draw, context),
                offer="Draw the map",
                about=f"Principal components, then t-SNE, of at most {MOST_ITEMS:,} items: some 10 seconds.",
            )


def _draw(context: ServeContext, drawn: Projection) -> None:
    left = f", drawn at random; {drawn.left_out:,} are left out" if drawn.left_out else ""
    words(
        "p",
        f"{counted(len(drawn.ids), 'item')}{left}. It took {drawn.seconds:.0f} s. Items that lie beside each other are"
        " alike; how far groups lie apart says little.",
        role="status",
    )
    with tag("div", "map"):
        _Map(context, drawn)
    draw("memory", "near_classes", near=drawn.near[:_NEAR])


class _Map:
    """The scatter, and beside it the item that is pointed at: with the mouse, a finger, or the arrow keys."""

    def __init__(self, context: ServeContext, drawn: Projection) -> None:
        self._context, self._drawn = context, drawn
        self._series = colour_classes(drawn.labels, most=len(_LOOKS))
        self._order = list(self._series.values())
        self._at: int | None = None
        with tag("div"):
            chart = ui.echart(chart_options(drawn.places, self._series), renderer="canvas").classes("scatter")
            shown = zip(self._series, looks(self._series), strict=True)
            draw("memory", "legend", classes=[(label, colour, mark) for label, (colour, _, mark) in shown])
        told = "Map of the embeddings: the arrow keys go from item to item"
        chart.props.update({"tabindex": "0", "role": "application", "aria-label": told})
        for event in ("mouseover", "click"):
            chart.on(f"chart:{event}", self._point, ["seriesIndex", "dataIndex"])
        chart.on("keydown", self._step, js_handler=_KEYS)
        self._chart = chart
        self._beside = tag("div", "pointed", role="status")
        with self._beside:
            words("p", "Point at an item, or go to the map and use the arrow keys.", "soft")

    def _point(self, event: events.GenericEventArguments) -> None:
        series, place = event.args.get("seriesIndex"), event.args.get("dataIndex")
        if isinstance(series, int) and isinstance(place, int) and series < len(self._order):
            self._show(self._order[series][place])

    def _step(self, event: events.GenericEventArguments) -> None:
        direction = _STEPS.get(str(event.args))
        if direction:
            self._show(0 if self._at is None else next_item(self._drawn.places, self._at, direction))

    def _show(self, place: int) -> None:
        if place == self._at:
            return
        self._at = place
        series = next(number for number, places in enumerate(self._order) if place in places)
        at = {"seriesIndex": series, "dataIndex": self._order[series].index(place)}
        self._chart.run_chart_method("dispatchAction", {"type": "downplay"})
        self._chart.run_chart_method("dispatchAction", {"type": "highlight"} | at)
        self._beside.clear()
        label = self._drawn.labels[place]
        with self._beside:
            shown = item_tiles(self._context, [(self._drawn.ids[place], label, (label_text(label),))])
            draw_with_items(self._context, "tiles", shown=shown)


def next_item(places: np.ndarray, at: int, direction: tuple[int, int]) -> int:
    """Return the nearest item in a direction; the same one where there is none."""
    way = places - places[at]
    along = way @ np.array(direction, float)
    across = np.abs(way @ np.array(direction[::-1], float))
    apart = np.where(along > 0, along + _SIDEWAYS * across, np.inf)
    nearest = int(apart.argmin())
    return nearest if np.isfinite(apart[nearest]) else at


def looks(series: Mapping[str, list[int]]) -> list[tuple[str, str, str]]:
    """Return how each of the classes is drawn; "" stands for all that have no look of their own."""
    return [_OTHERS if not label else look for label, look in zip(series, [*_LOOKS, _OTHERS], strict=False)]


def chart_options(places: np.ndarray, series: Mapping[str, list[int]]) -> dict[str, Any]:
    """Return what ECharts draws: a colour and a shape for each of the largest classes, one for all others."""
    hidden = {"show": False, "min": -0.03, "max": 1.03}
    return {
        "animation": False,
        "grid": {"left": 4, "right": 4, "top": 4, "bottom": 4},
        "xAxis": hidden,
        "yAxis": hidden,
        "series": [
            {
                "type": "scatter",
                "data": places[rows].round(4).tolist(),
                "symbol": shape,
                "symbolSize": 8,
                "itemStyle": {"color": colour, "opacity": 0.85},
                "emphasis": {"scale": 2.2, "itemStyle": {"borderColor": "#888", "borderWidth": 1.5, "opacity": 1}},
            }
            for rows, (colour, shape, _) in zip(series.values(), looks(series), strict=True)
        ],
    }
