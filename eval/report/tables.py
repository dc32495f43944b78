"""The paper's Tables 1 to 3 with our runs below the published rows (Geirhos et al., 2025)."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Final

from eval.runs.finished import Accuracy, Finished, read_finished
from retrieval.errors import InvalidArgument
from retrieval.support.terminal import counted, printable

_COLUMNS: Final = {  # as the paper calls data sets
    "imagenet-val": "IN-val",
    "imagenet-a": "IN-A",
    "imagenet-r": "IN-R",
    "imagenet-sketch": "IN-Sketch",
    "imagenet-v2-matched-frequency": "IN-V2",
    "imagenet-real": "IN-ReaL",
    "ninco": "NINCO",
}
_BEFORE: Final = "IN-train"  # Table 1 names its columns by memory and query
_AFTER: Final = "IN-train-and-NINCO"
_VOTING: Final = {
    "plurality": "PluralityVoting",
    "distance": "DistanceVoting",
    "softmax": "SoftmaxVoting",
    "rank": "RankVoting",
}
_PRUNING: Final = ("no pruning", "hard pruning", "soft pruning")


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One row of a table."""

    name: str
    cells: dict[str, Accuracy]  # by column

    @property
    def sources(self) -> str:
        """Where its figures are from."""
        return "; ".join(dict.fromkeys(cell.source for cell in self.cells.values()))


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A table of accuracies in percent."""

    number: int  # in the paper
    title: str
    columns: list[str]
    published: list[Row]
    ours: list[Row]
    notes: list[str]
    marks: dict[str, str]  # of remarks on figures, as they stand behind these

    @property
    def rows(self) -> list[Row]:
        """The published ones, then ours."""
        return self.published + self.ours


def make_table(number: int, folders: Sequence[Path]) -> Table:
    """Return a table of the paper with our rows.

    Table 1 takes the runs before and after classes were added to the memory. Table 2 takes any number of runs; those of
    one memory with the same settings share their rows. Table 3 takes up to three runs: without pruning, with hard and
    with soft pruning. Data sets that the paper's table does not have follow in columns or rows of their own.

    Args:
        number: 1, 2 or 3.
        folders: of the runs.

    Raises:
        InvalidArgument: another table, or another number of runs than it takes.
        RunError: a folder holds no finished run.
    """
    if number not in _MAKERS:
        raise InvalidArgument(f"no table {number}: 1, 2 or 3 expected")
    return _MAKERS[number]([read_finished(folder) for folder in folders])


def _added_classes(runs: Sequence[Finished]) -> Table:
    if len(runs) != 2:
        raise InvalidArgument(f"table 1 of {counted(len(runs), 'run')}: two expected, before and after adding classes")
    methods: dict[str, Callable[[Finished, str], Accuracy]] = {"no aggregation": Finished.nearest}
    methods |= {shown: partial(_vote, method) for method, shown in _VOTING.items()}
    ours = [
        Row(
            f"ours: {', '.join(dict.fromkeys(run.embedder for run in runs))}, {shown}",
            {
                f"{memory}: {_COLUMNS.get(dataset, dataset)}": accuracy(run, dataset)
                for memory, run in zip((_BEFORE, _AFTER), runs, strict=True)
                for dataset in run.datasets
            },
        )
        for shown, accuracy in methods.items()
    ]
    notes = [f"Ours, {name}: {run.memory}." for name, run in zip((_BEFORE, _AFTER), runs, strict=True)]
    before, after = runs
    if before.memory_state == after.memory_state:
        notes.append("Both runs are of the same memory: no classes were added between them.")
    elif before.classes >= after.classes:
        notes.append("The second memory has no more classes than the first: is this the order, before and after?")
    notes += _differing(runs)
    return _table(1, "Adding classes to the memory: query set by memory", ours, notes)


def _differing(runs: Sequence[Finished]) -> list[str]:
    """Say in what runs differ that are to differ in their memory only."""
    differing = dict.fromkeys(name for run in runs for name in run.voting if run.voting[name] != runs[0].voting[name])
    return [f"The runs differ in more than the memory: {', '.join(differing)}."] if differing else []


def _vote(method: str, run: Finished, dataset: str) -> Accuracy:
    return run.vote(dataset, method)


def _shifted(runs: Sequence[Finished]) -> Table:
    rows: dict[tuple[str, str], list[Row]] = {}
    for run in runs:
        for kind, row in _kinds_of_rows(run):
            _merge(rows.setdefault((run.first_stage, kind), []), row)
    memories = list(dict.fromkeys(first_stage for first_stage, _ in rows))
    in_order = sorted(rows, key=lambda key: (memories.index(key[0]), key[1][0]))
    ours = _told_apart([row for key in in_order for row in rows[key]])
    notes = [
        "Published: which IN-V2 is meant is not stated; ours is the matched-frequency one.",
        "Every label of the memory may be an answer, except in masked rows; the paper's memory has 1,000 classes.",
        "Whether the linear probe's IN-A and IN-R are over 1000 or 200 classes is not stated.",
    ]
    return _table(2, "Shifted data sets", ours, notes)


def _kinds_of_rows(run: Finished) -> Iterator[tuple[str, Row]]:
    """Yield a run's rows, each with what tells it from the others with the same first stage; the first letter sorts."""
    name = f"ours: {run.memory}, k {run.k}" + (f", centred ({run.centred})" if run.centred else "")
    columns = {dataset: _COLUMNS.get(dataset, dataset) for dataset in run.datasets}
    yield "a", Row(name, {columns[dataset]: run.vote(dataset) for dataset in columns})
    reranked = {columns[dataset]: found for dataset in columns if (found := run.reranked(dataset))}
    if reranked:
        yield f"b {run.second_stage}", Row(f"{name} + {run.model} reranking", reranked)
    masked = {dataset: found for dataset in columns if (found := run.masked(dataset))}
    for classes in sorted({run.masked_classes(dataset) for dataset in masked}):
        cells = {columns[dataset]: masked[dataset] for dataset in masked if run.masked_classes(dataset) == classes}
        yield f"c {classes}", Row(f"{name}, masked to {counted(classes, 'class')}", cells)


def _merge(rows: list[Row], added: Row) -> None:
    """Add cells to a row that holds nothing else in their columns, else add a row."""
    for place, row in enumerate(rows):
        if all(row.cells.get(column, cell) == cell for column, cell in added.cells.items()):
            rows[place] = replace(row, cells=added.cells | row.cells)
            return
    rows.append(added)


def _told_apart(rows: list[Row]) -> list[Row]:
    """Add the runs to names that are there more than once."""
    times = Counter(row.name for row in rows)
    return [replace(row, name=f"{row.name} ({row.sources})") if times[row.name] > 1 else row for row in rows]


def _pruned(runs: Sequence[Finished]) -> Table:
    if not 1 <= len(runs) <= len(_PRUNING):
        came = counted(len(runs), "run")
        raise InvalidArgument(f"table 3 of {came}: one to three expected, in the order none, hard, soft")
    ours = [
        Row(
            f"ours: {run.memory}, {_COLUMNS.get(dataset, dataset)}, {pruning}",
            {shown: run.vote(dataset, method) for method, shown in _VOTING.items()},
        )
        for run, pruning in zip(runs, _PRUNING, strict=False)
        for dataset in run.datasets
    ]
    states = [run.memory_state for run in runs]
    same = ["Runs of one memory stand in several rows: nothing was pruned between them."]
    notes = (same if len(set(states)) < len(states) else []) + _differing(runs)
    return _table(3, "Pruning the memory (published: IN-val)", ours, notes)


_MAKERS: Final[Mapping[int, Callable[[Sequence[Finished]], Table]]] = {1: _added_classes, 2: _shifted, 3: _pruned}


def _table(number: int, title: str, ours: list[Row], notes: list[str]) -> Table:
    published = _published(number)
    columns = dict.fromkeys(column for row in published + ours for column in row.cells)
    sources = dict.fromkeys(cell.source for row in published for cell in row.cells.values())
    closing = [f"Published: {'; '.join(sources)}. Ours: with 95 % Wilson intervals."]
    cells = [cell for row in ours for cell in row.cells.values()]
    if any(cell.centred for cell in cells):
        closing.append("† Transductive: embeddings were centred with those of the queries.")
    remarks = dict.fromkeys(remark for cell in cells for remark in cell.remarks)
    marks = {remark: f"[{place}]" for place, remark in enumerate(remarks, 1)}
    closing += [f"{mark} Not comparable with what is published: {remark}." for remark, mark in marks.items()]
    return Table(number, f"{title}. Top-1 accuracy in percent", list(columns), published, ours, notes + closing, marks)


def _published(number: int) -> list[Row]:
    rows: dict[str, Row] = {}
    text = files(__package__).joinpath("published.csv").read_text("utf-8")
    for line in csv.DictReader(text.splitlines()):
        if int(line["table"]) == number:
            row = rows.setdefault(line["row"], Row(line["row"], {}))
            row.cells[line["column"]] = Accuracy(float(line["top1"]), source=line["source"])
    return list(rows.values())


_LONGEST: Final = 1000  # characters of a cell or a note
_LATEX: Final = str.maketrans(
    {character: f"\\{character}" for character in "{}$&#_%"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}"}
    | {">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "†": r"\textdagger{}", "–": "--"}
)


def format_table(table: Table, form: str) -> str:
    """Return a table as text: ``md``, ``csv`` (one line a figure, with interval and source) or ``latex`` (booktabs).

    Raises:
        InvalidArgument: another form.
    """
    if form not in _FORMS:
        raise InvalidArgument(f"no format {form!r}: choose one of {', '.join(_FORMS)}")
    return _FORMS[form](table)


def _as_markdown(table: Table) -> str:
    rows = [["", *table.columns], *([row.name, *_texts(table, row)] for row in table.rows)]
    head, *body = ["| " + " | ".join(map(markdown_text, row)) + " |" for row in rows]
    title = f"**Table {table.number}. {markdown_text(table.title)}**"
    notes = [f"- {markdown_text(note)}" for note in table.notes]
    return "\n".join([title, "", head, "|---|" + "---:|" * len(table.columns), *body, "", *notes]) + "\n"


def markdown_text(text: str) -> str:
    """Return text on one line that Markdown takes for nothing else."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", printable(text, longest=_LONGEST))


def _as_latex(table: Table) -> str:
    def line(texts: Sequence[str]) -> str:
        return " & ".join(map(_latex, texts)) + r" \\"

    published, ours = (
        [line([row.name, *_texts(table, row)]) for row in rows] for rows in (table.published, table.ours)
    )
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(table.title)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        *[r"\toprule", line(["", *table.columns]), r"\midrule", *published],
        *[r"\midrule", *ours, r"\bottomrule"],
        r"\end{tabular}",
        *(rf"\par\footnotesize {_latex(note)}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    return printable(text, longest=_LONGEST).translate(_LATEX)


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


def _texts(table: Table, row: Row) -> Iterator[str]:
    """Yield a row's cells as people read them."""
    for column in table.columns:
        cell = row.cells.get(column)
        if cell is None:
            yield "–"
        elif cell.interval is None:
            yield f"{cell.top1:.1f}"
        else:
            marks = [*("†" if cell.centred else ""), *(table.marks[remark] for remark in cell.remarks)]
            yield " ".join(["{:.1f} ({:.1f}–{:.1f})".format(cell.top1, *cell.interval), *marks])
