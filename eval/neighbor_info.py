"""Files of neighbours: the reference release's JSON, and the same as Parquet, read and written.

The release names its files ``memory-<set>_msplit-<split>_query-<set>_qsplit-<split>_<model>_<size>_neighbor_info.json``
with ``full`` or ``subsampled_N`` for the size.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from eval.experiments.base import Neighborhoods
from eval.neighbor_json import RELIABILITIES, not_one, read_json
from eval.neighbor_parquet import read_parquet, write_parquet
from eval.types import Names, QueryResults
from retrieval.disk import writing
from retrieval.labels import imagenet_by_wnid

_FILE_NAME: Final = re.compile(
    r"memory-.+_msplit-.+_query-(?P<dataset>.+)_qsplit-(?P<split>[^_]+)_(?P<model>.+)_(full|subsampled_\d+)"
    r"_neighbor_info"
)
_PARQUET: Final = ".parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the name of a file of neighbours tells."""

    memory: str
    memory_split: str = "train"
    queries: str
    query_split: str = "validation"
    model: str
    size: str = "full"  # or "subsampled_N"

    @property
    def file_name(self) -> str:
        """The release's name for such a file; what a name may not hold, and underscores of splits, become hyphens."""
        memory, queries, model = (_plain(part) for part in (self.memory, self.queries, self.model))
        memory_split, query_split = (_plain(part).replace("_", "-") for part in (self.memory_split, self.query_split))
        named = f"memory-{memory}_msplit-{memory_split}_query-{queries}_qsplit-{query_split}_{model}"
        return f"{named}_{self.size}_neighbor_info.json"


def _plain(part: str) -> str:
    return re.sub(r"[^\w.-]+", "-", part, flags=re.ASCII)


def read_neighbors(path: Path, *, keep_excluded: bool = False) -> Neighborhoods:
    """Return the queries of a file of neighbours, JSON or, by its ending, Parquet; classes are labels, as text.

    Args:
        path: of the file.
        keep_excluded: keep queries for which no label is right (ReaL's empty lists), as for writing them again.

    Raises:
        NeighborFileError: it is none, a damaged one, or one without a query that can be scored.
    """
    known = _FILE_NAME.fullmatch(path.stem)
    name = f"{known['dataset']}-{known['split']}" if known else path.stem
    read = read_parquet if path.suffix == _PARQUET else read_json
    try:
        found = read(path, name=name, embedder=known["model"] if known else "")
    except OSError as error:
        raise not_one(path, error.strerror or str(error)) from error
    return found if keep_excluded else _without_excluded(found, path)


def _without_excluded(found: Neighborhoods, path: Path) -> Neighborhoods:
    results = found.results
    kept = [query for query, truth in enumerate(results.truths) if truth]
    if len(kept) == len(results):
        return found
    if not kept:
        raise not_one(path, "no image has a right label")
    scored = QueryResults(
        ids=[results.ids[query] for query in kept],
        truths=[results.truths[query] for query in kept],
        neighbor_ids=Names(results.neighbor_ids.codes[kept], results.neighbor_ids.names),
        neighbor_labels=Names(results.neighbor_labels.codes[kept], results.neighbor_labels.names),
        neighbor_distances=results.neighbor_distances[kept],
        unreadable={},
        reliabilities=results.factors(kept),
    )
    return replace(found, results=scored)


def write_neighbors(found: Neighborhoods, path: Path) -> Path | None:
    """Write queries with their neighbours: as Parquet if the file ends so, else as the reference release's JSON.

    JSON has classes as numbers: labels that are whole numbers stay, wnids of ImageNet-1k become its index, and any
    others are numbered in order from 1, with the numbers written beside it: for the release's notebook 0 is no class.

    Returns:
        The file ``<name>_classes.json`` that tells the numbers of labels; None where none is needed.

    Raises:
        StorageError: the disk refuses.
    """
    fresh = path.with_name(path.name + ".part")  # no half of a file is left under the name
    numbers, mapped = ({}, False) if path.suffix == _PARQUET else number_labels(found.results)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if path.suffix == _PARQUET:
                write_parquet(found, fresh)
            else:
                with fresh.open("w", encoding="ascii") as file:
                    file.writelines(_json_lines(found, numbers))
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    if not mapped:
        return None
    listing = path.with_name(f"{path.stem}_classes.json")
    with writing(listing):
        listing.write_text(json.dumps({number: label for label, number in numbers.items()}, indent=1), "ascii")
    return listing


def number_labels(results: QueryResults) -> tuple[dict[str, int], bool]:
    """Return the number of every label that is right or a neighbour's, and whether the numbers are our own."""
    labels = sorted(set(results.neighbor_labels.names).union(*results.truths))
    if all(re.fullmatch(r"0|[1-9][0-9]{0,17}", label) for label in labels):
        return {label: int(label) for label in labels}, False
    if all(label in imagenet_by_wnid() for label in labels):
        return {label: imagenet_by_wnid()[label].index for label in labels}, False
    return {label: number for number, label in enumerate(labels, start=1)}, True


def _json_lines(found: Neighborhoods, numbers: Mapping[str, int]) -> Iterator[str]:
    results = found.results
    listed = any(len(truth) != 1 for truth in results.truths)  # ReaL's several labels, or none
    class_of = [numbers[label] for label in results.neighbor_labels.names]
    yield "{"
    for query, (name, truth) in enumerate(zip(results.ids, results.truths, strict=True)):
        classes = sorted(numbers[label] for label in truth)
        entry: dict[str, Any] = {
            "featurizer": found.embedder,
            "image_id": name,
            "image_class": classes if listed else classes[0],
            "neighbor_image_ids": results.neighbor_ids.of(query),
            "neighbor_classes": [class_of[code] for code in results.neighbor_labels.codes[query].tolist()],
            "neighbor_distances": results.neighbor_distances[query].tolist(),
        }
        if results.reliabilities is not None:
            entry[RELIABILITIES] = results.reliabilities[query].tolist()
        yield f"{',' if query else ''}\n{json.dumps(name)}: {json.dumps(entry)}"
    yield "\n}\n"
