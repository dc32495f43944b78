"""The analyses by name, loaded when they are asked for."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from eval.experiments.base import Analysis, Cell
from eval.report.plots import as_png, as_svg
from eval.report.tables import csv_text, markdown_text
from retrieval.errors import InvalidArgument
from retrieval.storage.places import writing

if TYPE_CHECKING:
    from eval.experiments.base import Analysis


Needs = Literal["neighbors", "two", "material"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One analysis: where it stands and what it is given."""

    name: str  # as on the command line
    module: str
    function: str
    needs: Needs  # neighbors: one Neighborhoods; two: those of known and of unknown queries; material: a Material
    title: str
    source: str  # where in the paper

    def load(self) -> "Callable[..., Analysis]":
        """Return the function."""
        function: Any = getattr(import_module(self.module), self.function)
        return function  # type: ignore[no-any-return]


def _entry(name: str, needs: Needs, title: str, source: str) -> Entry:
    return Entry(name, f"eval.experiments.{name}", name, needs, title, source)


_ENTRIES: Final = (
    _entry("aggregation", "neighbors", "Accuracy by voting method and k", "Figures 2, 7, 8; Tables 4 to 9"),
    _entry("hyperparameters", "neighbors", "Accuracy by α, ξ and τ of the voting methods", "Figure 9"),
    _entry("reliability", "neighbors", "Accuracy of the single neighbour at each rank", "Figures 1, 13"),
    _entry("hit_rate", "neighbors", "How often a right label is among the first k", "Figure 11"),
    _entry("label_noise", "neighbors", "Accuracy with random labels in the memory", "Figure 10"),
    _entry("calibration", "neighbors", "Accuracy by the count of the most frequent label", "Figure 15"),
    _entry("distances", "two", "Distances of known against unknown queries", "Figure 12"),
    _entry("memory_size", "material", "Error by the memory's size", "Figure 3; appendix F"),
    _entry("new_classes", "material", "What adding classes does to old and new ones", "Table 1"),
    _entry("granularity", "material", "Accuracy by taxonomic level as one class grows", "Figure 4"),
    _entry("pruning", "material", "Leaving out or weighing down unreliable items", "Table 3; appendix I"),
    _entry("unlearning", "material", "Time, utility and quality of forgetting", "Section 3.4"),
    _entry("compositionality", "material", "Neighbours before and after the nearest is subtracted", "Figure 17"),
    _entry("latency_storage", "material", "Time and room that a search takes", "Table 10; appendix K"),
    _entry("blame", "neighbors", "Classes, items and labels most responsible for errors", "Figures 5, 6, 16"),
)
CATALOGUE: Final = {entry.name: entry for entry in _ENTRIES}


def find_entry(name: str) -> Entry:
    """Return an analysis by name.

    Raises:
        InvalidArgument: there is none of that name.
    """
    if name not in CATALOGUE:
        raise InvalidArgument(f"no analysis {name!r}: choose one of {', '.join(CATALOGUE)}, or all")
    return CATALOGUE[name]


def write_analysis(analysis: Analysis, folder: Path) -> list[Path]:
    """Write an analysis into a folder, made if need be, and return its files: NAME.md, .csv, .png and .svg.

    Raises:
        StorageError: the disk refuses.
    """
    figure = analysis.draw()
    encoded = {
        "md": as_markdown(analysis).encode(errors="replace"),
        "csv": as_csv(analysis).encode(errors="replace"),
        "png": as_png(figure),
        "svg": as_svg(figure).encode(),
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for ending, content in encoded.items():
        path = folder / f"{analysis.name}.{ending}"
        with writing(path):
            path.write_bytes(content)
        written.append(path)
    return written


def as_markdown(analysis: Analysis) -> str:
    """Return title, finding, plot, table and notes, the figures rounded for reading."""
    lines = [
        f"# {markdown_text(analysis.title)}",
        "",
        f"Paper: {markdown_text(analysis.source)}.",
        "",
        markdown_text(analysis.finding),
        "",
        f"![{markdown_text(analysis.title)}]({analysis.name}.png)",
        "",
        _row(analysis.columns),
        "|" + "---:|" * len(analysis.columns),
        *(_row([_shown(cell) for cell in row]) for row in analysis.rows),
        "",
        *(f"- {markdown_text(note)}" for note in analysis.notes),
    ]
    return "\n".join(lines) + "\n"


def _row(texts: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(map(markdown_text, texts)) + " |"


def _shown(cell: Cell) -> str:
    if cell is None:
        return "–"
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.2f}" if cell == 0 or abs(cell) >= 1 else f"{cell:.3g}"


def as_csv(analysis: Analysis) -> str:
    """Return the table with all digits; an empty cell is a figure that there is not."""
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(map(csv_text, analysis.columns))
    for row in analysis.rows:
        lines.writerow([csv_text(cell) if isinstance(cell, str) else "" if cell is None else cell for cell in row])
    return text.getvalue()
