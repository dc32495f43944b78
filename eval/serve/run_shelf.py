"""The runs that a server shows: read once, and again when their logs have grown."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eval.compare import Comparison, compare_runs, compare_with_vote
from eval.log_reader import LOG, read_run
from eval.page.sources import find_dataset
from eval.serve.query_table import QueryTable, table_of_run, table_of_two
from eval.types import Run, Sample

NONE: Final = -1


@dataclass(frozen=True, slots=True)
class Choice:
    """Which runs are looked at."""

    run: int  # place among the server's
    against: int = NONE  # the run that is compared with it

    @classmethod
    def of(cls, asked: Mapping[str, str], *, runs: int) -> "Choice":
        """Return the choice that an address makes: the first run alone where it makes none that can be followed."""
        known = {str(place): place for place in range(runs)}
        first, second = (known.get(asked.get(name, ""), NONE) for name in ("run", "against"))
        first = max(first, 0)
        return cls(first, NONE if second == first else second)

    @property
    def places(self) -> tuple[int, ...]:
        """The runs, in the order in which they are compared."""
        return (self.run,) if self.against == NONE else (self.run, self.against)

    @property
    def parameters(self) -> dict[str, object]:
        """The choice as parameters of an address."""
        return {"run": self.run, "against": "" if self.against == NONE else self.against}


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """What a choice of runs comes to."""

    runs: tuple[Run, ...]
    folders: tuple[Path, ...]
    table: QueryTable
    comparison: Comparison | None  # None: one run that asked no model


@dataclass(slots=True, eq=False)
class Shelf:
    """Runs by their place in the command line."""

    folders: Sequence[Path]
    _read: dict[int, tuple[str, Run]] = field(default_factory=dict)
    _samples: dict[tuple[int, str], dict[str, Sample]] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def names(self) -> list[str]:
        """What the runs are called: their folders' names, the whole paths where two are the same."""
        names = [folder.resolve().name for folder in self.folders]
        return names if len(set(names)) == len(names) else [str(folder) for folder in self.folders]

    def version(self, choice: Choice) -> str:
        """Return what changes when a log has grown."""
        return " ".join(self._stamp(place) for place in choice.places)

    def look(self, choice: Choice) -> Looked:
        """Return the queries of one run, or of two side by side, with their figures.

        Raises:
            RunError: a folder holds no run, or the two share no query.
        """
        runs = tuple(self._run(place) for place in choice.places)
        folders = tuple(self.folders[place] for place in choice.places)
        names = [self.names[place] for place in choice.places]
        if len(runs) == 1:
            table = table_of_run(runs[0]).prepare()
            asked = len(table.heads) > 1
            return Looked(runs, folders, table, compare_with_vote(names[0], runs[0]) if asked else None)
        comparison = compare_runs(list(zip(names, runs, strict=True)))
        return Looked(runs, folders, table_of_two((names[0], names[1]), *runs).prepare(), comparison)

    def sample(self, place: int, dataset: str, query: str) -> Sample | None:
        """Return a query with its picture; None where its data set lies no longer where the run found it."""
        run = self._run(place)
        if dataset not in run.results:
            return None
        with self._turn:
            if (place, dataset) not in self._samples:
                found = find_dataset(dataset, [run.info])
                self._samples[place, dataset] = {one.id: one for one in found.samples} if found else {}
        return self._samples[place, dataset].get(query)

    def _run(self, place: int) -> Run:
        stamp = self._stamp(place)
        known = self._read.get(place)
        if known is None or known[0] != stamp:
            known = self._read[place] = (stamp, read_run(self.folders[place]))
        return known[1]

    def _stamp(self, place: int) -> str:
        try:
            told = (self.folders[place] / LOG).stat()
        except OSError:
            return "gone"
        return f"{place}:{told.st_size}:{told.st_mtime_ns}"
