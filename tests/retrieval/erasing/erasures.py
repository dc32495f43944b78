"""A memory in plain table rows, erasing from it, and looking for what is left."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.erasing.erase import erase_items, keys_of_ids
from retrieval.erasing.receipts import Check, Receipt, read_receipt, verify
from retrieval.erasing.traces import FeatureTraces
from retrieval.storage.table import ItemBatch, ItemTable, append, to_arrow

DIMENSION = 64


def vectors(items: Any, seed: int) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(items, DIMENSION)).astype(np.float32)
    unit: np.ndarray = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


def put(memory: Path, ids: Sequence[str], seed: int) -> None:
    """Add items with thumbnails and digests of their pictures, as one version."""
    draw = np.random.default_rng(seed)
    thumbnails = [b"\xff\xd8 header \xff\xda" + draw.bytes(900) for _ in ids]
    digests = [f"{seed:032x}{number:032x}" for number in range(len(ids))]
    none = [None] * len(ids)
    batch = ItemBatch(ids, ["some label"] * len(ids), vectors(len(ids), seed), thumbnails, none, digests)
    table = ItemTable.open(memory)
    append(table, to_arrow(batch, table.dataset.schema))


def held(
    path: Path, columns: Sequence[str] = ("id", "key", "vector", "thumbnail", "digest")
) -> dict[str, dict[str, Any]]:
    rows = ItemTable.open(path).dataset.to_table(columns=list(columns)).to_pylist()
    return {row["id"]: row for row in rows}


def everything(*folders: Path) -> bytes:
    return b"\n".join(file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file())


def vector_bytes(row: dict[str, Any]) -> bytes:
    return np.array(row["vector"], np.int16).tobytes()


def erase(path: Path, *ids: str, **options: Any) -> Receipt:
    return erase_items(path, keys_of_ids(path, ids), progress=False, **options)


def left(checks: tuple[Check, ...]) -> dict[str, tuple[str, ...]]:
    return {check.what: check.left for check in checks if check.left}


def file_of(receipt: Receipt) -> Path:
    """Return where a receipt lies."""
    assert receipt.path is not None
    return receipt.path


def look_again(path: Path, receipt: Receipt) -> dict[str, tuple[str, ...]]:
    found = verify(read_receipt(file_of(receipt)), path, traces=[FeatureTraces()], progress=False)
    assert found.proven == (not left(found.checks))
    return left(found.checks)
