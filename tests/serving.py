"""A real ``vmem serve`` in a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATIENCE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Served:
    """Where it answers."""

    url: str  # as it was printed
    errors: Path  # its standard error

    @property
    def home(self) -> str:
        """Host and port."""
        return self.url.split("/")[2]


@contextmanager
def serving(folder: Path, memory: Path, *options: object) -> Iterator[Served]:
    """Serve a memory on a free port until the context ends."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "eval.cli.vmem", "serve", str(memory), "--port", "0", *map(str, options)]
    root = Path(__file__).parents[1]
    with (folder / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("Serving http://"), (line, (folder / "errors.txt").read_text())
            yield Served(line.split()[1], folder / "errors.txt")
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)
            process.stdout.close()
