"""Decoding a table's files in another process, which damaged ones may end.

``python -m retrieval.storage.decoding FOLDER FILE...`` prints the name of each file that could be decoded, and stops at
one that could not.
"""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from retrieval.storage.deletions import count_deletions

_BLOCK: Final = 8_192  # rows
_FILES_AT_A_TIME: Final = 500  # on a command line


def undecodable(folder: Path, names: Sequence[str]) -> list[str]:
    """Return which of some files in a table's folder cannot be decoded."""
    wrong: list[str] = []
    left = list(names)
    while left:
        command = [sys.executable, "-m", "retrieval.storage.decoding", str(folder), *left[:_FILES_AT_A_TIME]]
        done = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        if len(done) < min(len(left), _FILES_AT_A_TIME):
            wrong.append(left.pop(len(done)))
        left = left[len(done) :]
    return wrong


def _decode(folder: Path, names: Iterable[str]) -> None:
    from lance.file import LanceFileReader

    for name in names:
        if name.endswith(".lance"):
            for _ in LanceFileReader(str(folder / name)).read_all(batch_size=_BLOCK).to_batches():
                pass
        else:
            count_deletions(folder / name)
        print(name, flush=True)


if __name__ == "__main__":
    _decode(Path(sys.argv[1]), sys.argv[2:])
