"""Search by Milvus: embedded in a folder (milvus-lite), or on other machines for memories that outgrow one.

First comes how a Milvus is reached, then what is asked of one, then the index.
"""

import hashlib
import itertools
import json
import logging
import os
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from jaxtyping import Float, Int

from retrieval.errors import IndexUnavailable, InvalidArgument
from retrieval.indexes.base import DEFAULT_RECALL, Skipped, VectorBlocks, Written
from retrieval.support.outside import parse_address
from retrieval.support.parsing import parse_json
from retrieval.support.terminal import counter
from retrieval.vectors import to_unit

if TYPE_CHECKING:
    from pymilvus import MilvusClient


TOKEN: Final = "MILVUS_TOKEN"  # noqa: S105 - the name of a variable: "user:password" or an API key
TIMEOUT_SECONDS: Final = 60.0  # for a server to answer
_LONG: Final = ("flush", "create_index", "load_collection")  # may take hours over a billion vectors
_GRPC: Final = {"grpc.keepalive_permit_without_calls": False}  # a server may hang up on who pings it without a call
_CLONES: Final = "open"  # folder beside an embedded database, of its copies in use by further processes
_FOR_EVER: Final = (".parquet", ".idx")  # files that milvus-lite writes once and never changes: they hold the vectors
_logger = logging.getLogger(__name__)


class Server:
    """A Milvus that answers; an embedded one answers until the last object that holds it is gone."""

    def __init__(self, where: str, address: str, **settings: str | float) -> None:
        """Reach it. Raises IndexUnavailable, and InvalidArgument where pymilvus or milvus-lite is not installed."""
        self.where = where  # for people
        client_class = _client_class()
        with _translated(where):
            self._client = client_class(address, grpc_options=_GRPC, **settings)

    def ask(self, method: str, *values: Any, **named: Any) -> Any:  # noqa: ANN401 - pymilvus answers with anything
        """Call a method of `pymilvus.MilvusClient`. Raises IndexUnavailable where Milvus does not answer or refuses."""
        timeout = None if method in _LONG else TIMEOUT_SECONDS
        with _translated(self.where):
            return getattr(self._client, method)(*values, timeout=timeout, **named)


def check_uri(uri: str) -> None:
    """Raise InvalidArgument unless the address of a Milvus is one and holds no secret."""
    instead = f"put user:password, or the API key, into the environment variable {TOKEN} instead"
    parse_address(uri, "Milvus, in milvus:URI,", schemes=("http", "https", "tcp"), instead=instead)


_open: "weakref.WeakValueDictionary[Path, Server]" = weakref.WeakValueDictionary()


def embed(database: Path) -> Server:
    """Return the Milvus whose data lie in a folder ``NAME.db``: made, or opened, in this process.

    One process at a time can open such a folder. Where another one has it, a copy is opened: its data are links to the
    same files, which no one changes.
    """
    database = database.absolute()
    server = _open.get(database)
    if server is None:
        try:
            server = _start(database)
        except IndexUnavailable:
            server = _start(_clone(database), remove=True)
        _open[database] = server
    return server


def _start(database: Path, *, remove: bool = False) -> Server:
    server = Server(f"milvus-lite in {database}", str(database))
    weakref.finalize(server, _stop, database, remove=remove)
    return server


def _stop(database: Path, *, remove: bool) -> None:
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(str(database))
    if remove:
        shutil.rmtree(database, ignore_errors=True)


def _clone(database: Path) -> Path:
    """Return a copy of an embedded database that nobody else has open; those that killed processes left go."""
    import filelock

    beside = database.parent / _CLONES
    for left_over in beside.glob("*.db"):
        lock = left_over / "LOCK"
        if lock.exists():  # else it is being made
            try:
                with filelock.FileLock(lock, timeout=0):  # milvus-lite locks the same file in the same way
                    shutil.rmtree(left_over, ignore_errors=True)
            except (filelock.Timeout, OSError):
                continue
    try:
        beside.mkdir(exist_ok=True)
        clone = Path(tempfile.mkdtemp(suffix=".db", dir=beside))
    except OSError:  # a disk that may only be read
        clone = Path(tempfile.mkdtemp(suffix=".db"))
    _copy_database(database, clone)
    return clone


def _copy_database(database: Path, target: Path) -> None:
    """Copy an embedded database that is at rest: what never changes as links where the system can."""

    def link_or_copy(source: str, target: str) -> None:
        if source.endswith(_FOR_EVER):
            try:
                return os.link(source, target)
            except OSError:  # another disk, or one without links
                pass
        shutil.copyfile(source, target)

    shutil.copytree(
        database, target, copy_function=link_or_copy, ignore=shutil.ignore_patterns("LOCK"), dirs_exist_ok=True
    )


def _client_class() -> "type[MilvusClient]":
    try:
        import milvus_lite  # noqa: F401 - pymilvus starts it by itself
        from pymilvus import MilvusClient
    except ImportError as error:
        raise InvalidArgument(
            "index 'milvus' needs the packages pymilvus and milvus-lite: pip install 'visual-memory-agent[milvus]'"
        ) from error
    # They print what they raise, with all of the call's frames; it is raised here in one sentence.
    for name in ("pymilvus", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    client: type[MilvusClient] = MilvusClient
    return client


@contextmanager
def _translated(where: str) -> Iterator[None]:
    import grpc
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
        said = getattr(error, "message", "") or str(error) or type(error).__name__
        reason = (said.splitlines() or ["no reason given"])[0]
        if token := os.environ.get(TOKEN):
            reason = reason.replace(token, "…")
        raise IndexUnavailable(
            f"{where} does not do what it is asked: {reason}; see that it runs and can be reached, or choose another"
            " index"
        ) from error


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
Rows = Iterable[tuple[np.ndarray, np.ndarray]]  # blocks of positions and of their vectors


@dataclass(frozen=True, slots=True)
class Collection:
    """Vectors in a Milvus, by position; every call raises IndexUnavailable where that does not answer."""

    server: Server
    name: str
    graph: bool  # whether to search an HNSW graph; else every vector is compared

    def ask(self, method: str, *values: Any, **named: Any) -> Any:  # noqa: ANN401 - pymilvus answers with anything
        """Call a method of `pymilvus.MilvusClient` on this collection."""
        return self.server.ask(method, self.name, *values, **named)

    def insert(self, rows: Rows, *, total: int, dimension: int) -> None:
        """Add vectors, and have them indexed; the collection is made where it is not there."""
        from pymilvus import DataType, MilvusClient

        if not self.ask("has_collection"):
            schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("position", DataType.INT64, is_primary=True)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
            self.ask("create_collection", schema=schema, consistency_level="Strong")
        at_a_time = max(1, _INSERTED_BYTES // (4 * dimension))
        with counter("Handing vectors to Milvus", total=total, unit=" vectors") as bar:
            for positions, vectors in rows:
                for start in range(0, len(positions), at_a_time):
                    some = slice(start, start + at_a_time)
                    pairs = zip(positions[some].tolist(), vectors[some], strict=True)
                    self.ask("insert", [{"position": at, "vector": vector} for at, vector in pairs])
                bar.update(len(positions))
        self.ask("flush")
        if not self.ask("list_indexes"):
            params = MilvusClient.prepare_index_params()
            index_type, built_by = ("HNSW", _GRAPH) if self.graph else ("FLAT", {})
            params.add_index("vector", index_type=index_type, metric_type="COSINE", params=built_by)
            self.ask("create_index", params)

    def count(self, among: str = "") -> int:
        """Return the number of its vectors, or of those that an expression is true for."""
        (answer,) = self.ask("query", filter=among, output_fields=["count(*)"])
        return int(answer["count(*)"])

    def rows(self, items: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield blocks of positions and vectors, of positions below a number."""
        for start in range(0, items, _AT_A_TIME):
            those = f"position >= {start} and position < {min(items, start + _AT_A_TIME)}"
            if rows := self.ask("query", filter=those, output_fields=["position", "vector"]):
                yield np.array([row["position"] for row in rows]), np.array([row["vector"] for row in rows], np.float32)

    def search(self, queries: np.ndarray, limit: int, *, among: str = "") -> list[Found]:
        """Return up to ``limit`` neighbours of each query, among all or those that an expression is true for."""
        params = {"ef": min(_GREATEST_EF, max(_LEAST_EF, 2 * limit))} if self.graph else {}
        answers = self.ask("search", list(queries), filter=among, limit=limit, search_params={"params": params})
        return [(np.array(hits.ids, np.int64), 1.0 - np.array(hits.distances, np.float32)) for hits in answers]

    def delete(self, positions: np.ndarray) -> None:
        """Remove some positions, and have what holds them written anew."""
        for some in _chunks(positions):
            self.ask("delete", ids=some.tolist())
        self.ask("flush")
        job = self.ask("compact")
        began = time.monotonic()
        while self.server.ask("get_compaction_state", job) != "Completed":
            if time.monotonic() - began > _COMPACTION_SECONDS:
                raise IndexUnavailable(f"{self.server.where} has not compacted {self.name}: see its logs, then go on")
            time.sleep(1.0)


def _chunks(positions: np.ndarray) -> Iterator[np.ndarray]:
    return (positions[at : at + _AT_A_TIME] for at in range(0, len(positions), _AT_A_TIME))


ABOUT: Final = "milvus.json"  # in the index's folder


@dataclass(frozen=True, slots=True)
class About:
    """Where an index's vectors are, and how many."""

    uri: str  # empty: embedded
    name: str  # of the collection
    items: int
    dimension: int
    erased: int
    digests: dict[str, str]  # of the embedded database's files

    @classmethod
    def read(cls, folder: Path) -> "About":
        """Read it from an index's folder.

        Raises:
            OSError, ValueError: it is not there, or of another form.
        """
        try:
            about = cls(**parse_json((folder / ABOUT).read_text(encoding="utf-8")))
        except TypeError as error:
            raise ValueError(f"{folder / ABOUT} is of another form") from error
        if not about.name.isidentifier():  # it becomes part of a path
            raise ValueError(f"{folder / ABOUT} names no collection")
        return about

    def write(self, folder: Path) -> None:
        """Put it in the place of the one in an index's folder."""
        fresh = folder / f"{ABOUT}.new"
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(self)))
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(folder / ABOUT)

    def renamed(self) -> "About":
        """Return the same under a name that no other collection has."""
        return replace(self, name=f"vmem_{uuid.uuid4().hex}")

    def database(self, folder: Path) -> Path:
        """Return the folder of the embedded database."""
        return folder / f"{self.name}.db"

    def digests_of(self, folder: Path) -> dict[str, str]:
        """Return the SHA-256 of each file of an embedded database that holds vectors; none on a server."""
        digests = {}
        for path in sorted(self.database(folder).rglob("*")) if not self.uri else ():
            if path.suffix in _FOR_EVER:
                with path.open("rb") as stream:
                    name = path.relative_to(self.database(folder)).as_posix()
                    digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()
        return digests

    def collection(self, folder: Path) -> Collection:
        """Return the collection, there or not."""
        if not self.uri:
            return Collection(embed(self.database(folder)), self.name, graph=False)
        check_uri(self.uri)
        token = os.environ.get(TOKEN, "")
        server = Server(f"Milvus at {self.uri}", self.uri, token=token, timeout=TIMEOUT_SECONDS)
        return Collection(server, self.name, graph=True)


_QUERIES_AT_A_TIME: Final = 256
_SPARE: Final = 8  # neighbours asked for beyond k, so that equal ones around the k-th come in order
_WIDER: Final = 4  # times as many are asked for where too many of them were skipped


class MilvusIndex:
    """Vectors in a Milvus collection, their positions as its primary keys.

    Embedded, every vector is compared; on a server they lie in an HNSW graph. Milvus rounds by the number of queries
    that it searches together: distances may differ by 1e-6, and neighbours that are as near may change places.
    """

    kind: ClassVar[str] = "milvus"
    saved: ClassVar[bool] = True
    mapped: ClassVar[tuple[str, ...]] = ()
    uri: ClassVar[str] = ""  # where `build` puts the vectors; empty: embedded

    def __init__(self, folder: Path, about: About) -> None:
        """Open the collection; ValueError where it is not there or not whole."""
        self._folder, self._about, self._collection = folder, about, about.collection(folder)
        where = self._collection.server.where
        if not self._collection.ask("has_collection"):
            raise ValueError(f"{where} has no collection {about.name}")
        self._collection.ask("load_collection")
        if (there := self._collection.count()) < about.items - about.erased:
            raise ValueError(f"{where} holds {there} vectors, not {about.items - about.erased}")

    @classmethod
    def build(cls, blocks: VectorBlocks, folder: Path | None) -> "MilvusIndex":
        """Return an index over the vectors, in a collection of its own.

        Raises:
            IndexUnavailable: Milvus does not answer.
            InvalidArgument: it is not installed.
        """
        about = About(cls.uri, "", len(blocks), blocks.dimension, 0, {}).renamed()
        return cls._filled(folder or _temporary(), about, _positioned(blocks, 0), tidy=folder is None)

    @classmethod
    def load(cls, folder: Path) -> "MilvusIndex":
        """Return the index in a folder, or on the server that its file names.

        Raises:
            ValueError, OSError: what lies there is damaged, or the collection is gone.
            IndexUnavailable: Milvus does not answer.
        """
        about = About.read(folder)
        if not about.uri and about.digests_of(folder) != about.digests:
            raise ValueError(f"the files of {about.database(folder)} are not those that were written")
        try:
            return cls(folder, about)
        except IndexUnavailable as error:
            if about.uri:
                raise
            raise ValueError(f"{about.database(folder)} cannot be opened: {error}") from error

    def extended(self, blocks: VectorBlocks, folder: Path | None) -> "MilvusIndex":
        """Return another index with these vectors at the end: in a copy where embedded, else in the same collection.

        On a server this one passes over what lies beyond its end; what a killed process has left there is removed.
        """
        about, place = self._about, folder or _temporary()
        rows: Rows = _positioned(blocks, about.items)
        longer = replace(about, items=about.items + len(blocks))
        if not about.uri:
            _copy_database(about.database(self._folder), about.database(place))
        elif folder:
            self._collection.ask("delete", filter=f"position >= {about.items}")
        else:  # what is not kept must not get into the collection of what is
            longer, rows = longer.renamed(), itertools.chain(self._collection.rows(about.items), rows)
        return self._filled(place, longer, rows, tidy=folder is None)

    @classmethod
    def _filled(cls, folder: Path, about: About, rows: Rows, *, tidy: bool = False) -> "MilvusIndex":
        """Insert rows into a collection, and write down last of all where it is; if tidy, both go with the index."""
        about.collection(folder).insert(rows, total=about.items, dimension=about.dimension)
        index = cls(folder, about)
        replace(about, digests=about.digests_of(folder)).write(folder)
        if tidy:
            weakref.finalize(index, _forget, folder)
        return index

    @classmethod
    def erase(cls, folder: Path, positions: Int[np.ndarray, " erased"]) -> Written:
        """Remove vectors: embedded, by writing the others into a fresh database in place of this one.

        A server deletes, flushes and compacts. When its storage lets go of the bytes is its own affair: Milvus' garbage
        collector removes what compaction has replaced some hours later, and nothing here can prove it.
        """
        about = About.read(folder)
        collection = about.collection(folder)
        collection.ask("load_collection")
        there = sum(collection.count(f"position in {some.tolist()}") for some in _chunks(positions))
        about = replace(about, erased=about.erased + there)
        if about.uri:
            collection.delete(positions)
            about.write(folder)
            return {ABOUT: positions[:0]}
        gone = np.zeros(about.items, bool)
        gone[positions] = True
        fresh = about.renamed()
        left = ((where[~gone[where]], vectors[~gone[where]]) for where, vectors in collection.rows(about.items))
        cls._filled(folder, fresh, left)
        del collection, left  # the last hold on a database closes it, before its files go
        for database in folder.glob("*.db"):
            if database != fresh.database(folder):
                shutil.rmtree(database, ignore_errors=True)
        shutil.rmtree(folder / _CLONES, ignore_errors=True)  # who has one of them open answers on, from its memory
        return {ABOUT: positions[:0]}

    def worn(self, *, skipped: int) -> bool:
        """Tell whether more than half is skipped: a search must then ask for more than twice its neighbours."""
        return 2 * skipped > len(self)

    @classmethod
    def discard(cls, folder: Path, *, live: Path | None = None) -> None:
        """Drop the collection on a server, unless the live index uses the same; one that does not answer keeps it."""
        about = About.read(folder)
        if about.uri and not (live and About.read(live).name == about.name):
            try:
                about.collection(folder).ask("drop_collection")
            except IndexUnavailable as error:
                _logger.warning("The collection %s stays where it is: %s", about.name, error)

    def __len__(self) -> int:
        return self._about.items

    def search(
        self,
        queries: Float[np.ndarray, "queries dimension"],
        k: int,
        *,
        skip: Skipped | None = None,
        recall: float = DEFAULT_RECALL,  # what a server finds is set when its graph is built
    ) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
        """Return positions and cosine distances, nearest first.

        Raises:
            InvalidArgument: k is above Milvus' limit of 16,384.
            IndexUnavailable: Milvus does not answer.
        """
        if k > FARTHEST:
            raise InvalidArgument(f"k={k}: Milvus finds {FARTHEST:,} neighbours at most; ask for fewer")
        mask = skip.mask if skip else np.zeros(len(self), bool)
        positions, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        for start in range(0, len(queries), _QUERIES_AT_A_TIME):
            rows = np.arange(start, min(start + _QUERIES_AT_A_TIME, len(queries)))
            for row, found in self._around(queries, rows, k, mask):
                order = np.lexsort(found)[:k]  # by distance, then by position
                positions[row], distances[row] = found[0][order], np.clip(found[1][order], 0.0, 2.0)
        return positions, distances

    def _around(self, queries: np.ndarray, rows: np.ndarray, k: int, skip: np.ndarray) -> Iterator[tuple[int, Found]]:
        """Yield k neighbours or more that are not skipped, of the queries in some rows.

        The search is repeated, ever wider, for those queries of which too many neighbours were skipped.
        """
        widest = min(FARTHEST, len(skip) + _SPARE)
        share = max(1 / _WIDER, 1 - np.count_nonzero(skip) / len(skip))
        limit = min(widest, round(k / share) + _SPARE)
        while True:
            short = []
            for row, (positions, distances) in zip(rows, self._collection.search(queries[rows], limit), strict=True):
                good = positions < len(skip)  # an index that extends this one may have gone on in the same collection
                good[good] = ~skip[positions[good]]
                if np.count_nonzero(good) >= k:
                    yield row, (positions[good], distances[good])
                elif limit == widest:
                    yield row, self._past(queries[row], k, skip)
                else:
                    short.append(row)
            if not short:
                return
            rows, limit = np.array(short), min(widest, limit * _WIDER)

    def _past(self, query: np.ndarray, k: int, skip: np.ndarray) -> Found:
        """Search for one query whose nearest are all skipped, again and again without those that were found."""
        positions, distances = np.empty(0, np.int64), np.empty(0, np.float32)
        seen = positions
        while len(positions) < k:
            unseen = f"position < {len(skip)}" + (f" and not (position in {seen.tolist()})" if seen.size else "")
            ((more, far),) = self._collection.search(query[None], FARTHEST, among=unseen)
            if not more.size:
                where = self._collection.server.where
                raise IndexUnavailable(f"{where} finds {len(positions)} neighbours, not {k}: build it anew")
            good = ~skip[more]
            positions, distances = np.append(positions, more[good]), np.append(distances, far[good])
            seen = np.append(seen, more)
        return positions, distances


@cache
def on_server(uri: str) -> type[MilvusIndex]:
    """Return the class whose indexes are built on the server at an address.

    Raises:
        InvalidArgument: no address, or one with a secret in it.
    """
    check_uri(uri)
    return type("MilvusIndex", (MilvusIndex,), {"uri": uri, "kind": f"milvus:{uri}"})


def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="vmem-milvus-"))


def _forget(folder: Path) -> None:
    MilvusIndex.discard(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _positioned(blocks: VectorBlocks, start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for block in blocks:
        yield np.arange(start, start + len(block)), to_unit(block)
        start += len(block)
