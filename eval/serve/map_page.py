"""The page with the map of a memory's embeddings, and the same in words."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import numpy as np
from nicegui import events, ui
from nicegui.element import Element

from eval.drawing import BLUE, GREEN, ORANGE, PINK
from eval.serve.browsing import Cell, Work, WorkPanel, label_link, named, table
from eval.serve.context import ServeContext
from eval.serve.items import draw_items, memory_frame
from eval.serve.jobs import Jobs
from eval.serve.layout import tag, words
from eval.serve.projection import MOST_ITEMS, Projection, colour_classes, project
from eval.wording import counted

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
            work = Work(
                jobs,
                "map",
                snapshot.version,
                lambda: project(snapshot),
                offer="Draw the map",
                about=f"Principal components, then t-SNE, of at most {MOST_ITEMS:,} items: some 10 seconds.",
            )
            WorkPanel(work, lambda drawn: _draw(context, drawn))


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
    words("h2", "Classes that lie nearest to each other")
    words("p", "By the mean of all their items: the map in words.", "soft")
    rows: list[list[Cell]] = [
        [
            partial(label_link, one.label),
            f"{one.items:,}",
            partial(label_link, one.other),
            f"{one.distance:.3f}",
            f"{one.astray:,}",
        ]
        for one in drawn.near[:_NEAR]
    ]
    heads = ["class", "items", "nearest class", "distance", "items nearer to another class"]
    table("Classes that lie nearest to each other", heads, rows, wide=(1, 3, 4))


class _Map:
    """The scatter, and beside it the item that is pointed at: with the mouse, a finger, or the arrow keys."""

    def __init__(self, context: ServeContext, drawn: Projection) -> None:
        self._context, self._drawn = context, drawn
        self._series = colour_classes(drawn.labels, most=len(_LOOKS))
        self._order = list(self._series.values())
        self._at: int | None = None
        with tag("div"):
            chart = ui.echart(chart_options(drawn.places, self._series), renderer="canvas").classes("scatter")
            _draw_legend(self._series)
        chart.props["tabindex"] = "0"
        chart.props["role"] = "application"
        chart.props["aria-label"] = "Map of the embeddings: the arrow keys go from item to item"
        chart.on("chart:mouseover", self._point, ["seriesIndex", "dataIndex"])
        chart.on("chart:click", self._point, ["seriesIndex", "dataIndex"])
        chart.on("keydown", self._step, js_handler=_KEYS)
        self._chart = chart
        self._beside: Element = tag("div", "pointed", role="status")
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
        self._mark(place)
        self._at = place
        self._beside.clear()
        label = self._drawn.labels[place]
        with self._beside:
            draw_items(self._context, [(self._drawn.ids[place], label, (named(label),))])

    def _mark(self, place: int) -> None:
        """Have the chart show which item is meant."""
        series = next(number for number, places in enumerate(self._order) if place in places)
        self._chart.run_chart_method("dispatchAction", {"type": "downplay"})
        self._chart.run_chart_method(
            "dispatchAction",
            {"type": "highlight", "seriesIndex": series, "dataIndex": self._order[series].index(place)},
        )


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


def _draw_legend(series: Mapping[str, list[int]]) -> None:
    with tag("ul", "legend", aria_label="Classes on the map"):
        for label, (colour, _, mark) in zip(series, looks(series), strict=True):
            with tag("li"):
                words("span", mark, aria_hidden="true").style(f"color: {colour}")
                if label:
                    label_link(label)
                else:
                    words("span", "other classes")


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
