"""One collection of vectors in a Milvus, known by their positions."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from retrieval.errors import IndexUnavailable
from retrieval.indexes.milvus_server import Server
from retrieval.progress import counter

FARTHEST: Final = 16_384  # Milvus' limit on the neighbours of one search, skipped ones among them

_INSERTED_BYTES: Final = 16 * 2**20  # of vectors in a call; Milvus takes messages of 64 MiB
_AT_A_TIME: Final = 8192  # positions in a call, and rows in an answer; Milvus returns 16,384 at most
_COMPACTION_SECONDS: Final = 600.0

# recall@50 on 100,000 x 384 clustered vectors by milvus-lite, whose graphs are FAISS's: 0.937 with ef = 100, 0.959 with
# 300, 0.971 with 500, 0.985 with 1000, 0.994 with 2000.
_GRAPH: Final = {"M": 16, "efConstruction": 200}
_LEAST_EF: Final = 2000
_GREATEST_EF: Final = 32_768  # Milvus' limit

Found = tuple[np.ndarray, np.ndarray]  # positions and distances, nearest first


@dataclass(frozen=True, slots=True)
class Collection:
    """Vectors in a Milvus, by position; every call raises IndexUnavailable where that does not answer."""

    server: Server
    name: str
    graph: bool  # whether to search an HNSW graph; else every vector is compared

    def exists(self) -> bool:
        """Tell whether it is there."""
        return bool(self.server.ask("has_collection", self.name))

    def create(self, dimension: int) -> None:
        """Make it, empty."""
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("position", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
        self.server.ask("create_collection", self.name, schema=schema, consistency_level="Strong")

    def insert(self, rows: Iterable[tuple[np.ndarray, np.ndarray]], *, total: int) -> None:
        """Add blocks of positions and vectors, and have them indexed."""
        with counter("Handing vectors to Milvus", total=total, unit=" vectors") as bar:
            for positions, vectors in rows:
                at_a_time = max(1, _INSERTED_BYTES // (4 * vectors.shape[1]))
                for start in range(0, len(positions), at_a_time):
                    some = slice(start, start + at_a_time)
                    pairs = zip(positions[some].tolist(), vectors[some], strict=True)
                    self.server.ask("insert", self.name, [{"position": at, "vector": vector} for at, vector in pairs])
                bar.advance(len(positions), "")
        self.server.ask("flush", self.name)
        if not self.server.ask("list_indexes", self.name):
            self._make_index()

    def _make_index(self) -> None:
        from pymilvus import MilvusClient

        params = MilvusClient.prepare_index_params()
        index_type, built_by = ("HNSW", _GRAPH) if self.graph else ("FLAT", {})
        params.add_index("vector", index_type=index_type, metric_type="COSINE", params=built_by)
        self.server.ask("create_index", self.name, params)

    def load(self) -> None:
        """Make it ready to be searched."""
        self.server.ask("load_collection", self.name)

    def count(self, among: str = "") -> int:
        """Return the number of its vectors, or of those that an expression is true for."""
        (answer,) = self.server.ask("query", self.name, filter=among, output_fields=["count(*)"])
        return int(answer["count(*)"])

    def count_of(self, positions: np.ndarray) -> int:
        """Return how many of some positions are there."""
        return sum(self.count(among(some)) for some in _chunks(positions))

    def rows(self, items: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield blocks of positions and vectors, of positions below a number."""
        for start in range(0, items, _AT_A_TIME):
            those = f"position >= {start} and position < {min(items, start + _AT_A_TIME)}"
            rows = self.server.ask("query", self.name, filter=those, output_fields=["position", "vector"])
            if rows:
                yield np.array([row["position"] for row in rows]), np.array([row["vector"] for row in rows], np.float32)

    def search(self, queries: np.ndarray, limit: int, *, among: str = "") -> list[Found]:
        """Return up to ``limit`` neighbours of each query, among all or those that an expression is true for."""
        params = {"ef": min(_GREATEST_EF, max(_LEAST_EF, 2 * limit))} if self.graph else {}
        answers = self.server.ask(
            "search", self.name, list(queries), filter=among, limit=limit, search_params={"params": params}
        )
        return [(np.array(hits.ids, np.int64), 1.0 - np.array(hits.distances, np.float32)) for hits in answers]

    def cut_off(self, items: int) -> None:
        """Remove what a killed process has left beyond the end."""
        self.server.ask("delete", self.name, filter=f"position >= {items}")

    def delete(self, positions: np.ndarray) -> None:
        """Remove some positions, and have what holds them written anew."""
        for some in _chunks(positions):
            self.server.ask("delete", self.name, ids=some.tolist())
        self.server.ask("flush", self.name)
        job = self.server.ask("compact", self.name)
        began = time.monotonic()
        while self.server.ask("get_compaction_state", job) != "Completed":
            if time.monotonic() - began > _COMPACTION_SECONDS:
                raise IndexUnavailable(f"{self.server.where} has not compacted {self.name}: see its logs, then go on")
            time.sleep(1.0)

    def drop(self) -> None:
        """Remove it."""
        self.server.ask("drop_collection", self.name)


def among(positions: np.ndarray) -> str:
    """Return the expression that is true for some positions."""
    return f"position in {positions.tolist()}"


def _chunks(positions: np.ndarray) -> Iterator[np.ndarray]:
    return (positions[at : at + _AT_A_TIME] for at in range(0, len(positions), _AT_A_TIME))
