"""Digests of files, block by block: damage shows, and after a small change most blocks need not be read again."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int

_BLOCK: Final = 2**20  # bytes; an index over a million vectors of 384 dimensions has 1,000 blocks


@dataclass(frozen=True, slots=True)
class Digests:
    """The bytes of a file that belong to it, from its beginning, by the SHA-256 of each block."""

    size: int
    blocks: list[str]

    @classmethod
    def of(cls, path: Path, *, grown_from: "Digests | None" = None) -> "Digests":
        """Read a file; where it has grown, only from the last block on that was not whole before."""
        size = path.stat().st_size
        known = grown_from.blocks[: grown_from.size // _BLOCK] if grown_from else []
        return cls(size, [*known, *_digests(path, range(len(known), -(-size // _BLOCK)), size)])

    def rewritten(self, path: Path, rows: Int[np.ndarray, " rows"], *, items: int, raw: bool) -> "Digests":
        """Return the digests after some rows of a file were written over, of a raw one or a NumPy array's."""
        offset, stride = _rows_of(path, items, self.size, raw)
        starts = offset + rows * stride
        touched = np.unique(np.concatenate([starts // _BLOCK, (starts + stride - 1) // _BLOCK])).tolist()
        blocks = self.blocks.copy()
        for block, digest in zip(touched, _digests(path, touched, self.size), strict=True):
            blocks[block] = digest
        return Digests(self.size, blocks)

    def has_size_of(self, path: Path, *, may_be_longer: bool) -> bool:
        """Tell whether a file is as long as it should be."""
        size = path.stat().st_size
        return size == self.size or (may_be_longer and size > self.size)

    def differing(self, path: Path) -> list[tuple[int, int]]:
        """Return the first and last byte of each block that is not what it was."""
        found = _digests(path, range(len(self.blocks)), self.size)
        pairs = enumerate(zip(self.blocks, found, strict=True))
        return [
            (_BLOCK * number, min(_BLOCK * (number + 1), self.size) - 1)
            for number, (expected, digest) in pairs
            if digest != expected
        ]


def _digests(path: Path, blocks: Iterable[int], size: int) -> Iterator[str]:
    with path.open("rb") as file:
        for block in blocks:
            file.seek(block * _BLOCK)
            yield hashlib.sha256(file.read(min(_BLOCK, size - block * _BLOCK))).hexdigest()


def _rows_of(path: Path, items: int, size: int, raw: bool) -> tuple[int, int]:
    """Return where the first row of a file begins, and how many bytes a row has."""
    if raw:
        return 0, size // items
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array.offset, array.strides[0]
