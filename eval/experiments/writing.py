"""An analysis as Markdown, CSV, PNG and SVG. Names are untrusted: whatever they hold appears as text."""

import csv
import io
from pathlib import Path

from eval.drawing import as_png, as_svg
from eval.experiments.base import Analysis, Cell
from eval.tables_text import csv_text, markdown_text
from retrieval.disk import writing


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
