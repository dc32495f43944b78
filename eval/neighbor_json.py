"""The reference release's neighbour JSON, member by member: one object keyed by image id."""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from eval.columns import numbering
from eval.errors import NeighborFileError
from eval.experiments.base import Neighborhoods
from eval.types import Names, QueryResults

_KEYS: Final = ("neighbor_image_ids", "neighbor_classes", "neighbor_distances")
RELIABILITIES: Final = "neighbor_reliabilities"  # beside those of the release, of a pruned memory alone
_CHARACTERS_AT_A_TIME: Final = 2**22
_LONGEST_MEMBER: Final = 2**24  # characters: a thousand times what 100 neighbours take
_ROUNDING: Final = 1e-5  # of cosines of float32 vectors that were sorted before they were rounded
_DECODER: Final = json.JSONDecoder()


def read_json(path: Path, *, name: str, embedder: str) -> Neighborhoods:
    """Return the queries of a file, in its order, queries without a right label included.

    Args:
        path: of the file.
        name: of the data set.
        embedder: where the file names none.

    Raises:
        NeighborFileError: it is none, or a damaged one.
        OSError: it cannot be opened.
    """
    columns = _Columns()
    with path.open(encoding="utf-8") as file:
        query = ""
        try:
            for query, entry in _members(file):
                columns.add(query, entry)
            return Neighborhoods(name, columns.featurizer or embedder, columns.results())
        except RecursionError as error:
            raise not_one(path, "it nests too deep") from error
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise not_one(path, f"{_why(error)} (image {query!r})" if query else _why(error)) from error


def not_one(path: Path, why: str) -> NeighborFileError:
    """Return the error of a file that is no usable file of neighbours."""
    return NeighborFileError(f"{path} is no usable file of neighbours: {why}")


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error)


def _members(file: IO[str]) -> Iterator[tuple[str, object]]:
    """Yield an object's members, holding a few million characters of it at a time."""
    text = file.read(_CHARACTERS_AT_A_TIME).lstrip()
    if not text.startswith("{"):
        raise ValueError("a JSON object keyed by image id expected")
    place = 1
    while True:
        try:
            query, entry, place, last = _member(text, place)
        except (ValueError, IndexError) as error:
            more = file.read(_CHARACTERS_AT_A_TIME) if len(text) - place < _LONGEST_MEMBER else ""
            if not more:
                raise ValueError("it is no JSON, holds no image, or breaks off") from error
            text, place = text[place:] + more, 0
            continue
        yield query, entry
        if last:
            return


def _member(text: str, place: int) -> tuple[str, object, int, bool]:
    """Return key, value, where the next member begins, and whether there is none.

    Raises:
        ValueError, IndexError: the text breaks off, or is no JSON.
    """
    key, place = _DECODER.raw_decode(text, _after_space(text, place))
    place = _after_space(text, place)
    if text[place] != ":":
        raise ValueError("no colon")
    value, place = _DECODER.raw_decode(text, _after_space(text, place + 1))
    place = _after_space(text, place)
    if text[place] not in ",}":
        raise ValueError("no comma")
    return str(key), value, place + 1, text[place] == "}"


def _after_space(text: str, place: int) -> int:
    while text[place] in " \t\r\n":
        place += 1
    return place


class _Columns:
    """The queries gathered member by member."""

    def __init__(self) -> None:
        self.featurizer = ""
        self._ids: list[str] = []
        self._truths: list[frozenset[str]] = []
        self._lengths = array("q")
        self._id_codes, self._label_codes, self._distances = array("i"), array("i"), array("d")
        self._reliabilities = array("f")  # empty where nobody has any
        self._id_numbers, self._label_numbers = numbering(), numbering()

    def add(self, query: str, entry: object) -> None:
        """Add a member.

        Raises:
            LookupError, TypeError, ValueError, OverflowError: it is not what it should be.
        """
        if not isinstance(entry, dict):
            raise ValueError("an object expected")
        ids, classes, distances = (_expect_list(entry, key) for key in _KEYS)
        if not len(ids) == len(classes) == len(distances) > 0:
            raise ValueError("its lists of neighbours differ in length, or are empty")
        self._add_reliabilities(entry, len(ids))
        truth = entry["image_class"]
        self._truths.append(frozenset(_as_texts(truth if isinstance(truth, list) else [truth])))
        self._id_codes.extend(map(self._id_numbers.__getitem__, _as_texts(ids)))
        self._label_codes.extend(map(self._label_numbers.__getitem__, _as_texts(classes)))
        self._distances.extend(distances)
        self._lengths.append(len(ids))
        self._ids.append(query)
        self.featurizer = self.featurizer or str(entry.get("featurizer", ""))

    def _add_reliabilities(self, entry: Mapping[str, Any], count: int) -> None:
        given = _expect_list(entry, RELIABILITIES) if RELIABILITIES in entry else None
        if given is not None and len(given) != count:
            raise ValueError("its lists of neighbours differ in length, or are empty")
        if given is not None and not self._reliabilities:
            self._reliabilities = array("f", [1.0]) * len(self._distances)
        if given is not None or self._reliabilities:
            self._reliabilities.extend(given or [1.0] * count)

    def results(self) -> QueryResults:
        """Return what has been added.

        Raises:
            ValueError: the queries do not go together.
        """
        if len(set(self._ids)) < len(self._ids):
            raise ValueError("an image stands in it twice")
        return QueryResults(
            ids=self._ids,
            truths=self._truths,
            neighbor_ids=Names(self._cut(self._id_codes), list(self._id_numbers)),
            neighbor_labels=Names(self._cut(self._label_codes), list(self._label_numbers)),
            neighbor_distances=checked_distances(self._cut(self._distances)),
            unreadable={},
            reliabilities=self._cut(self._reliabilities) if self._reliabilities else None,
        )

    def _cut(self, values: "array[Any]") -> np.ndarray:
        """Return a table; a query may have one neighbour more than others, itself taken out or not."""
        lengths = np.array(self._lengths)
        shortest, longest = int(lengths.min()), int(lengths.max())
        if longest > shortest + 1:
            raise ValueError(f"some images have {shortest} neighbours and others {longest}")
        starts = np.cumsum(lengths) - lengths
        cut: np.ndarray = np.asarray(values)[starts[:, None] + np.arange(shortest)]
        return cut


def _expect_list(entry: Mapping[str, Any], key: str) -> list[Any]:
    found: list[Any] = entry[key]
    if not isinstance(found, list):
        raise ValueError(f"{key} is no list")
    return found


def _as_texts(values: list[Any]) -> Iterable[str]:
    if not set(map(type, values)) <= {str, int}:
        raise ValueError("an id or a class is neither a text nor a whole number")
    return map(str, values)


def checked_distances(distances: np.ndarray) -> np.ndarray:
    """Return distances as they came.

    Raises:
        ValueError: they are not finite, or not ascending.
    """
    if not np.isfinite(distances).all():
        raise ValueError("a distance is no finite number")
    if (np.diff(distances, axis=1) < -_ROUNDING).any():
        raise ValueError("its distances are not ascending: 1 - cosine, nearest first, expected")
    return distances
