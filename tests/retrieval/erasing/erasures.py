"""A memory in plain table rows, erasing from it, and looking for what is left."""

from pathlib import Path

import numpy as np

from retrieval.erasing.erase import erase_items, keys_of_ids
from retrieval.erasing.receipts import Check, Receipt, read_receipt, verify
from retrieval.erasing.traces import FeatureTraces
from retrieval.storage.table import ItemBatch, ItemTable, append, to_arrow

DIMENSION = 64


def vectors(items, seed):
    made = np.random.default_rng(seed).normal(size=(items, DIMENSION)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def put(memory, ids, seed):
    """Add items with thumbnails and digests of their pictures, as one version."""
    draw = np.random.default_rng(seed)
    thumbnails = [b"\xff\xd8 header \xff\xda" + draw.bytes(900) for _ in ids]
    digests = [f"{seed:032x}{number:032x}" for number in range(len(ids))]
    none = [None] * len(ids)
    batch = ItemBatch(ids, ["some label"] * len(ids), vectors(len(ids), seed), thumbnails, none, digests)
    table = ItemTable.open(memory)
    append(table, to_arrow(batch, table.dataset.schema))


def held(path, columns=("id", "key", "vector", "thumbnail", "digest")):
    rows = ItemTable.open(path).dataset.to_table(columns=list(columns)).to_pylist()
    return {row["id"]: row for row in rows}


def everything(*folders):
    return b"\n".join(file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file())


def vector_bytes(row):
    return np.array(row["vector"], np.int16).tobytes()


def erase(path, *ids, **options):
    return erase_items(path, keys_of_ids(path, ids), progress=False, **options)


def left(checks: tuple[Check, ...]) -> dict[str, tuple[str, ...]]:
    return {check.what: check.left for check in checks if check.left}


def look_again(path: Path, receipt: Receipt) -> dict[str, tuple[str, ...]]:
    assert receipt.path is not None
    found = verify(read_receipt(receipt.path), path, traces=[FeatureTraces()], progress=False)
    assert found.proven == (not left(found.checks))
    return left(found.checks)
