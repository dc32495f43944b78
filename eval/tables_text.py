"""A table as Markdown, CSV or LaTeX. Names are untrusted: whatever they hold appears as text."""

import csv
import io
import re
from collections.abc import Callable, Mapping
from typing import Final

from eval.finished import Accuracy
from eval.tables import Row, Table
from retrieval.errors import InvalidArgument
from retrieval.terminal import printable

_LONGEST: Final = 1000  # characters of a cell or a note
_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "†": r"\textdagger{}",
    "–": "--",
}


def format_table(table: Table, form: str) -> str:
    """Return a table as text: ``md``, ``csv`` (one line a figure, with interval and source) or ``latex`` (booktabs).

    Raises:
        InvalidArgument: another form.
    """
    if form not in _FORMS:
        raise InvalidArgument(f"no format {form!r}: choose one of {', '.join(_FORMS)}")
    return _FORMS[form](table)


def _as_markdown(table: Table) -> str:
    lines = [
        f"**Table {table.number}. {markdown_text(table.title)}**",
        "",
        _markdown_row(["", *table.columns]),
        "|---|" + "---:|" * len(table.columns),
        *(_markdown_row([row.name, *_texts(table, row)]) for row in table.rows),
        "",
        *(f"- {markdown_text(note)}" for note in table.notes),
    ]
    return "\n".join(lines) + "\n"


def _markdown_row(texts: list[str]) -> str:
    return "| " + " | ".join(map(markdown_text, texts)) + " |"


def markdown_text(text: str) -> str:
    """Return text on one line that Markdown takes for nothing else."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", printable(text, longest=_LONGEST))


def _as_latex(table: Table) -> str:
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(table.title)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        _latex_row(["", *table.columns]),
        r"\midrule",
        *(_latex_row([row.name, *_texts(table, row)]) for row in table.published),
        r"\midrule",
        *(_latex_row([row.name, *_texts(table, row)]) for row in table.ours),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\footnotesize {_latex(note)}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(texts: list[str]) -> str:
    return " & ".join(map(_latex, texts)) + r" \\"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in printable(text, longest=_LONGEST))


def _as_csv(table: Table) -> str:
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["table", "row", "column", "top1", "low", "high", "queries", "transductive", "remarks", "source"])
    for row in table.rows:
        for column in table.columns:
            if cell := row.cells.get(column):
                figures = [cell.top1, *(cell.interval or ("", "")), "" if cell.count is None else cell.count]
                names = map(csv_text, (row.name, column))
                told = map(csv_text, (cell.centred, "; ".join(cell.remarks), cell.source))
                lines.writerow([table.number, *names, *figures, *told])
    return text.getvalue()


def csv_text(text: str) -> str:
    """Return text on one line that no spreadsheet takes for a formula (OWASP, CSV injection)."""
    shown = printable(text, longest=_LONGEST)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


_FORMS: Final[Mapping[str, Callable[[Table], str]]] = {"md": _as_markdown, "csv": _as_csv, "latex": _as_latex}


def _texts(table: Table, row: Row) -> list[str]:
    return [_text(table, row.cells.get(column)) for column in table.columns]


def _text(table: Table, cell: Accuracy | None) -> str:
    if cell is None:
        return "–"
    if cell.interval is None:
        return f"{cell.top1:.1f}"
    low, high = cell.interval
    marks = [*("†" if cell.centred else ""), *(table.marks[remark] for remark in cell.remarks)]
    return " ".join([f"{cell.top1:.1f} ({low:.1f}–{high:.1f})", *marks])
