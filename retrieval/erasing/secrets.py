"""Bytes that must not be anywhere, known by keyed digests of small windows of them: searched for without being kept.

Windows begin where the bytes themselves say so (at words that a multiplication sends to a certain value), so that they
are found at any offset in a file, and only one place in some dozens has to be looked at.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from jaxtyping import Bool, Int, UInt8

from retrieval.support.terminal import track

LONGEST_WINDOW: Final = 64  # bytes: 32 numbers of a vector, far too many to be guessed from a digest
SHORTEST_WINDOW: Final = 8  # bytes: vectors of fewer than four dimensions are not searched for
_WINDOWS: Final = 4  # of each secret: one of them survives where a page boundary cuts others
SPARSEST: Final = 6  # windows begin at one place in 2^6, or more often where a secret would have none
_CODE_BITS: Final = 24  # of a window's two ends: sort out nearly all places, and tell next to nothing of its 128 bits
_DIGEST_BYTES: Final = 8
_BLOCK: Final = 2**20  # bytes that are searched at a time: by a quarter of it, two threads take half as long again
_PIECE: Final = 2**22  # bytes that are read at a time
_OF_DATABASES: Final = (".db", ".db-wal", ".db-shm")  # SQLite's
_COPY: Final = "import shutil, sys; shutil.copyfileobj(open(sys.argv[1], 'rb'), sys.stdout.buffer)"
# Odd constants that spread bits well: the golden ratio's fraction in 32 and 64 bits (Knuth, volume 3, section 6.4).
_SPREAD_32, _SPREAD_64 = np.uint32(0x9E3779B1), np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Secrets:
    """Windows of bytes that must not be anywhere."""

    salt: bytes
    window: int  # bytes
    sparsity: int  # a window may begin at one place in 2^sparsity
    windows: dict[str, int]  # digest of a window, in hexadecimal → code of its ends

    @classmethod
    def of(cls, secrets: Sequence[bytes], salt: bytes, *, window: int | None = None) -> "Secrets":
        """Return up to four windows of each secret that is as long as a window, or of 8 bytes where none is given."""
        if window is None:
            window = min([LONGEST_WINDOW, *(len(secret) for secret in secrets if len(secret) >= SHORTEST_WINDOW)])
        return cls.of_each(secrets, salt, window=window)[0]

    @classmethod
    def of_each(cls, secrets: Sequence[bytes], salt: bytes, *, window: int) -> tuple["Secrets", list[list[str]]]:
        """Return up to four windows of each secret, and by their digests, which are whose; none of shorter ones."""
        long_enough = [number for number, secret in enumerate(secrets) if len(secret) >= window]
        joined = np.frombuffer(b"".join(secrets[number] for number in long_enough), np.uint8)
        ends = np.cumsum([len(secrets[number]) for number in long_enough], dtype=np.int64)
        for sparsity in range(SPARSEST, -1, -1):
            starts = _some_starts(joined, ends, window, sparsity)
            owners = np.searchsorted(ends, starts, side="right")
            if len(np.unique(owners)) == len(ends):
                break
        found = cls(salt, window, sparsity, {})
        digests = [found._digest(joined[start : start + window]) for start in starts.tolist()]
        of_each: list[list[str]] = [[] for _ in secrets]
        for owner, digest in zip(owners.tolist(), digests, strict=True):
            of_each[long_enough[owner]].append(digest)
        codes = _codes(joined, starts, window).tolist()
        return replace(found, windows=dict(zip(digests, codes, strict=True))), of_each

    def joined(self, windows: Mapping[str, int], *, sparsity: int) -> "Secrets":
        """Return these with more windows of the same salt and length, found in what may be sparser places or not."""
        return replace(self, sparsity=min(self.sparsity, sparsity), windows={**self.windows, **windows})

    def without(self, digests: Iterable[str]) -> "Secrets":
        """Return these without some windows."""
        gone = set(digests)
        return replace(self, windows={digest: code for digest, code in self.windows.items() if digest not in gone})

    def in_bytes(self, buffers: Iterable[UInt8[np.ndarray, " bytes"]]) -> set[str]:
        """Return the digests of the windows that are among some bytes, at whatever offset."""
        return {
            digest
            for buffer in buffers
            for start in range(0, len(buffer) if self.windows else 0, _BLOCK)
            for digest in self._in_block(buffer[start : start + _BLOCK + self.window - 1])
        }

    def in_files(self, files: Iterable[Path], *, progress: bool = False) -> dict[Path, set[str]]:
        """Return the digests of the windows that are in files, for those that hold any; one that is gone holds none.

        Several are searched at once. Where ``progress`` is asked for, a bar shows how many were.

        Raises:
            OSError: a file cannot be read.
        """
        paths = list(files) if self.windows else []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            each = pool.map(lambda path: self.in_bytes(_pieces(path, self.window)), paths)
            shown = track(each, "Searching", total=len(paths), unit=" files", shown=progress)
            return {path: digests for path, digests in zip(paths, shown, strict=True) if digests}

    @cached_property
    def _wanted(self) -> Bool[np.ndarray, " codes"]:
        wanted = np.zeros(2**_CODE_BITS, bool)
        wanted[list(self.windows.values())] = True
        return wanted

    def _in_block(self, block: UInt8[np.ndarray, " bytes"]) -> set[str]:
        starts = _starts(block, self.window, self.sparsity)
        likely = starts[self._wanted[_codes(block, starts, self.window)]]
        return {self._digest(block[start : start + self.window]) for start in likely.tolist()} & self.windows.keys()

    def _digest(self, window: UInt8[np.ndarray, " window"]) -> str:
        return hashlib.blake2b(window.tobytes(), key=self.salt, digest_size=_DIGEST_BYTES).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return all but the salt in JSON's types."""
        return {"window": self.window, "sparsity": self.sparsity, "windows": self.windows}

    @classmethod
    def from_dict(cls, fields: dict[str, Any], salt: bytes) -> "Secrets":
        """Return what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        windows = {str(digest): int(code) % 2**_CODE_BITS for digest, code in fields["windows"].items()}
        window, sparsity = int(fields["window"]), int(fields["sparsity"])
        if not (SHORTEST_WINDOW <= window <= LONGEST_WINDOW and 0 <= sparsity <= SPARSEST):
            raise ValueError(f"window {window}, sparsity {sparsity}")
        return cls(salt, window, sparsity, windows)


def _pieces(path: Path, window: int) -> Iterator[UInt8[np.ndarray, " bytes"]]:
    """Yield a file's bytes piece by piece, each after the end of the one before."""  # read: a mapped file may shrink
    try:
        with _opened(path) as stream:
            end = b""
            while piece := stream.read(_PIECE):
                yield np.frombuffer(end + piece, np.uint8)
                end = (end + piece)[1 - window :]
    except FileNotFoundError:
        return


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Give a file's bytes, those of a database by way of another process.

    Closing such a file lets go of all locks that this process has on it, for SQLite's open connections too; others
    would then write beside them (sqlite.org/howtocorrupt.html, section 2.2).
    """
    if not path.name.endswith(_OF_DATABASES):
        with path.open("rb", buffering=0) as stream:
            yield stream
        return
    command = [sys.executable, "-I", "-S", "-c", _COPY, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0) as process:
        assert process.stdout is not None
        yield process.stdout
    if process.returncode and path.exists():
        raise OSError(f"{path} cannot be read")


def _some_starts(
    joined: UInt8[np.ndarray, " bytes"], ends: Int[np.ndarray, " secrets"], window: int, sparsity: int
) -> Int[np.ndarray, " windows"]:
    """Return where windows of secrets that lie end to end begin: up to four of each, spread over it."""
    starts = np.sort(_starts(joined, window, sparsity))
    secret = np.searchsorted(ends, starts, side="right")
    whole = starts + window <= ends[secret] if len(starts) else np.empty(0, bool)
    starts, secret = starts[whole], secret[whole]
    _, first, count = np.unique(secret, return_index=True, return_counts=True)
    rank = np.arange(len(starts)) - np.repeat(first, count)
    step = np.repeat(-(-count // _WINDOWS), count)
    chosen: np.ndarray = starts[rank % step == 0]
    return chosen


def _starts(block: UInt8[np.ndarray, " bytes"], window: int, sparsity: int) -> Int[np.ndarray, " starts"]:
    """Return where windows may begin, in no particular order."""
    if len(block) < window:
        return np.empty(0, np.int64)
    if not sparsity:
        return np.arange(len(block) - window + 1)
    least = np.uint32(2**32 - 2 ** (32 - sparsity))  # the top of the range, where zeros do not go
    found = []
    for offset in range(4):  # words at every offset, as four rows of words side by side
        words = block[offset : offset + (len(block) - offset) // 4 * 4].view(np.uint32)
        found.append(np.flatnonzero(words * _SPREAD_32 >= least) * 4 + offset)
    starts: np.ndarray = np.concatenate(found)
    return starts[starts <= len(block) - window]


def _codes(
    block: UInt8[np.ndarray, " bytes"], starts: Int[np.ndarray, " starts"], window: int
) -> Int[np.ndarray, " starts"]:
    if not len(starts):
        return starts
    words: np.ndarray = np.ndarray(len(block) - 7, np.dtype("<u8"), block.data, strides=(1,))  # one at every offset
    mixed = words[starts] * _SPREAD_64 ^ words[starts + window - 8]
    codes: np.ndarray = mixed * _SPREAD_64 >> np.uint64(64 - _CODE_BITS)
    return codes.astype(np.int64)
