"""Search by Milvus: embedded in a folder (milvus-lite), or on other machines for memories that outgrow one."""

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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from jaxtyping import Float, Int

from retrieval.errors import IndexUnavailable, InvalidArgument
from retrieval.indexes.base import DEFAULT_RECALL, Skipped, VectorBlocks, Written
from retrieval.support.outside import parse_address, parse_json
from retrieval.support.terminal import counter
from retrieval.vectors import to_unit

if TYPE_CHECKING:
    from pymilvus import MilvusClient


TOKEN: Final = "MILVUS_TOKEN"  # noqa: S105 - the name of a variable: "user:password" or an API key
TIMEOUT_SECONDS: Final = 60.0  # for a server to answer
_LONG: Final = ("flush", "create_index", "load_collection")  # may take hours over a billion vectors
_CLONES: Final = "open"  # folder beside an embedded database, of its copies in use by further processes
_FOR_EVER: Final = (".parquet", ".idx")  # files that milvus-lite writes once and never changes


class Server:
    """A Milvus that answers; an embedded one answers until the last object that holds it is gone."""

    def __init__(self, client: "MilvusClient", where: str) -> None:
        self._client = client
        self.where = where  # for people

    def ask(self, method: str, *given: Any, **named: Any) -> Any:  # noqa: ANN401 - pymilvus answers with anything
        """Call a method of `pymilvus.MilvusClient`.

        Raises:
            IndexUnavailable: Milvus does not answer or refuses.
        """
        timeout = None if method in _LONG else TIMEOUT_SECONDS
        with _translated(self.where):
            return getattr(self._client, method)(*given, timeout=timeout, **named)


def check_uri(uri: str) -> None:
    """Raise InvalidArgument unless the address of a Milvus is one and holds no secret."""
    instead = f"put user:password, or the API key, into the environment variable {TOKEN} instead"
    parse_address(uri, "Milvus, in milvus:URI,", schemes=("http", "https", "tcp"), instead=instead)


def reach(uri: str) -> Server:
    """Return the Milvus at an address, with the token from the environment.

    Raises:
        IndexUnavailable: it does not answer.
        InvalidArgument: pymilvus is not installed.
    """
    check_uri(uri)
    where = f"Milvus at {uri}"
    with _translated(where):
        return Server(_client_class()(uri, token=os.environ.get(TOKEN, ""), timeout=TIMEOUT_SECONDS), where)


_open: "weakref.WeakValueDictionary[Path, Server]" = weakref.WeakValueDictionary()


def embed(database: Path) -> Server:
    """Return the Milvus whose data lie in a folder ``NAME.db``: made, or opened, in this process.

    One process at a time can open such a folder. Where another one has it, a copy is opened: its data are links to the
    same files, which no one changes.

    Raises:
        IndexUnavailable: it cannot be opened.
        InvalidArgument: pymilvus or milvus-lite is not installed.
    """
    database = database.absolute()
    server = _open.get(database)
    if server is None:
        client_class = _client_class()
        with _translated(f"milvus-lite in {database}"):
            try:
                server = _started(client_class, database, partial(_stop, database))
            except IndexUnavailable:
                clone = clone_of(database)
                server = _started(client_class, clone, partial(_stop, clone, remove=True))
        _open[database] = server
    return server


def clone_of(database: Path) -> Path:
    """Return a copy of an embedded database that nobody else has open, made of links where the system can."""
    sweep_clones(database)
    try:
        beside = database.parent / _CLONES
        beside.mkdir(exist_ok=True)
        clone = Path(tempfile.mkdtemp(suffix=".db", dir=beside))
    except OSError:  # a disk that may only be read
        clone = Path(tempfile.mkdtemp(suffix=".db"))
    copy_database(database, clone)
    return clone


def copy_database(database: Path, target: Path) -> None:
    """Copy an embedded database that is at rest: what never changes as links where the system can."""
    shutil.copytree(
        database, target, copy_function=_link_or_copy, ignore=shutil.ignore_patterns("LOCK"), dirs_exist_ok=True
    )


def sweep_clones(database: Path) -> None:
    """Remove the copies that killed processes have left beside an embedded database."""
    import filelock

    for clone in (database.parent / _CLONES).glob("*.db"):
        lock = clone / "LOCK"
        if lock.exists():  # else it is being made
            try:
                with filelock.FileLock(lock, timeout=0):  # milvus-lite locks the same file in the same way
                    shutil.rmtree(clone, ignore_errors=True)
            except (filelock.Timeout, OSError):
                continue


def remove_databases(folder: Path, *, but: Path) -> None:
    """Remove a folder's embedded databases with all copies, but one database.

    A process that has one of them open answers on, from its memory.
    """
    for database in folder.glob("*.db"):
        if database != but:
            shutil.rmtree(database, ignore_errors=True)
    shutil.rmtree(folder / _CLONES, ignore_errors=True)


def _started(client_class: "type[MilvusClient]", database: Path, stop: Callable[[], None]) -> Server:
    where = f"milvus-lite in {database}"
    with _translated(where):
        server = Server(client_class(str(database)), where)
    weakref.finalize(server, stop)
    return server


def _stop(database: Path, *, remove: bool = False) -> None:
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(str(database))
    if remove:
        shutil.rmtree(database, ignore_errors=True)


def _link_or_copy(source: str, target: str) -> None:
    if source.endswith(_FOR_EVER):
        try:
            os.link(source, target)
            return
        except OSError:  # another disk, or one without links
            pass
    shutil.copyfile(source, target)


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
        raise IndexUnavailable(
            f"{where} does not do what it is asked: {_without_token(reason)}; see that it runs and can be reached,"
            " or choose another index"
        ) from error


def _without_token(text: str) -> str:
    token = os.environ.get(TOKEN)
    return text.replace(token, "…") if token else text


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

    def database(self, folder: Path) -> Path:
        """Return the folder of the embedded database."""
        return folder / f"{self.name}.db"

    def collection(self, folder: Path) -> Collection:
        """Return the collection, there or not."""
        server = reach(self.uri) if self.uri else embed(self.database(folder))
        return Collection(server, self.name, graph=bool(self.uri))


def new_name() -> str:
    """Return a name that no other collection has."""
    return f"vmem_{uuid.uuid4().hex}"


def digests(database: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that holds vectors."""
    files = (path for path in sorted(database.rglob("*")) if path.suffix in (".parquet", ".idx"))
    return {path.relative_to(database).as_posix(): _digest(path) for path in files}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_SPARE: Final = 8  # neighbours asked for beyond k, so that equal ones around the k-th come in order
_WIDER: Final = 4  # times as many are asked for where too many of them were skipped


def search_around(collection: Collection, queries: np.ndarray, k: int, skip: np.ndarray) -> list[Found]:
    """Return the k nearest vectors of each query that are not skipped.

    The search is repeated, ever wider, for those queries of which too many neighbours were skipped.
    """
    found: dict[int, Found] = {}
    widest = min(FARTHEST, len(skip) + _SPARE)
    share = max(1 / _WIDER, 1 - np.count_nonzero(skip) / len(skip))
    limit = min(widest, round(k / share) + _SPARE)
    while True:
        short = [row for row in range(len(queries)) if row not in found]
        for row, answer in zip(short, collection.search(queries[short], limit), strict=True):
            if kept := _nearest(answer, k, skip):
                found[row] = kept
        if len(found) == len(queries) or limit == widest:
            break
        limit = min(widest, limit * _WIDER)
    return [
        found[row] if row in found else _search_past(collection, queries[row], k, skip) for row in range(len(queries))
    ]


def _search_past(collection: Collection, query: np.ndarray, k: int, skip: np.ndarray) -> Found:
    """Search for one query whose nearest are all skipped, again and again without those that were found."""
    seen = np.empty(0, np.int64)
    kept: Found = (np.empty(0, np.int64), np.empty(0, np.float32))
    while len(kept[0]) < k:
        unseen = f"position < {len(skip)}" + (f" and not ({among(seen)})" if seen.size else "")
        ((positions, distances),) = collection.search(query[None], FARTHEST, among=unseen)
        if not positions.size:
            raise IndexUnavailable(f"{collection.server.where} finds {len(kept[0])} neighbours, not {k}: build it anew")
        good = ~skip[positions]
        kept = (np.append(kept[0], positions[good]), np.append(kept[1], distances[good]))
        seen = np.append(seen, positions)
    return _first(kept, k)


def _nearest(found: Found, k: int, skip: np.ndarray) -> Found | None:
    """Return the k nearest that are not skipped; None where there are fewer."""
    positions, distances = found
    good = positions < len(skip)  # an index that extends this one may have gone on in the same collection
    good[good] = ~skip[positions[good]]
    return _first((positions[good], distances[good]), k) if np.count_nonzero(good) >= k else None


def _first(found: Found, k: int) -> Found:
    order = np.lexsort(found)[:k]  # by distance, then by position
    return found[0][order], np.clip(found[1][order], 0.0, 2.0)


_logger = logging.getLogger(__name__)
_QUERIES_AT_A_TIME: Final = 256


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
        self._folder = folder
        collection = about.collection(folder)
        if not collection.exists():
            raise ValueError(f"{collection.server.where} has no collection {about.name}")
        collection.load()
        if (there := collection.count()) < about.items - about.erased:
            raise ValueError(f"{collection.server.where} holds {there} vectors, not {about.items - about.erased}")
        self._at = (collection, about)

    @classmethod
    def build(cls, blocks: VectorBlocks, folder: Path | None) -> "MilvusIndex":
        """Return an index over the vectors, in a collection of its own.

        Raises:
            IndexUnavailable: Milvus does not answer.
            InvalidArgument: it is not installed.
        """
        about = About(cls.uri, new_name(), len(blocks), blocks.dimension, 0, {})
        place = folder or _temporary()
        return _tidied(cls._filled(place, about, _positioned(blocks, 0)), folder, place)

    @classmethod
    def load(cls, folder: Path) -> "MilvusIndex":
        """Return the index in a folder, or on the server that its file names.

        Raises:
            ValueError, OSError: what lies there is damaged, or the collection is gone.
            IndexUnavailable: Milvus does not answer.
        """
        about = About.read(folder)
        if not about.uri and digests(about.database(folder)) != about.digests:
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
        collection, about = self._at
        place = folder or _temporary()
        rows: Iterable[Found] = _positioned(blocks, about.items)
        longer = replace(about, items=about.items + len(blocks))
        if not about.uri:
            copy_database(about.database(self._folder), about.database(place))
        elif folder:
            collection.cut_off(about.items)
        else:  # what is not kept must not get into the collection of what is
            longer, rows = replace(longer, name=new_name()), itertools.chain(collection.rows(about.items), rows)
        return _tidied(self._filled(place, longer, rows), folder, place)

    @classmethod
    def _filled(cls, folder: Path, about: About, rows: Iterable[Found]) -> "MilvusIndex":
        """Insert rows into a collection, made where it is not there, and write down last of all where it is."""
        collection = about.collection(folder)
        if not collection.exists():
            collection.create(about.dimension)
        collection.insert(rows, total=about.items)
        index = cls(folder, about)
        replace(about, digests={} if about.uri else digests(about.database(folder))).write(folder)
        return index

    @classmethod
    def erase(cls, folder: Path, positions: Int[np.ndarray, " erased"]) -> Written:
        """Remove vectors: embedded, by writing the others into a fresh database in place of this one.

        A server deletes, flushes and compacts. When its storage lets go of the bytes is its own affair: Milvus' garbage
        collector removes what compaction has replaced some hours later, and nothing here can prove it.
        """
        about = About.read(folder)
        collection = about.collection(folder)
        collection.load()
        about = replace(about, erased=about.erased + collection.count_of(positions))
        if about.uri:
            collection.delete(positions)
            about.write(folder)
            return {ABOUT: positions[:0]}
        gone = np.zeros(about.items, bool)
        gone[positions] = True
        fresh = replace(about, name=new_name())
        cls._filled(folder, fresh, _remaining(collection, gone))
        del collection  # the last hold on a database closes it, before its files go
        remove_databases(folder, but=fresh.database(folder))
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
                about.collection(folder).drop()
            except IndexUnavailable as error:
                _logger.warning("The collection %s stays where it is: %s", about.name, error)

    def __len__(self) -> int:
        return self._at[1].items

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
            found = search_around(self._at[0], queries[start : start + _QUERIES_AT_A_TIME], k, mask)
            for row, answer in enumerate(found, start):
                positions[row], distances[row] = answer
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


def _tidied(index: MilvusIndex, folder: Path | None, place: Path) -> MilvusIndex:
    """Let what was put into a temporary folder, for want of one to keep, go with the index."""
    if folder is None:
        weakref.finalize(index, _forget, place)
    return index


def _forget(place: Path) -> None:
    MilvusIndex.discard(place)
    shutil.rmtree(place, ignore_errors=True)


def _positioned(blocks: VectorBlocks, start: int) -> Iterator[Found]:
    for block in blocks:
        yield np.arange(start, start + len(block)), to_unit(block)
        start += len(block)


def _remaining(collection: Collection, gone: np.ndarray) -> Iterator[Found]:
    for positions, vectors in collection.rows(len(gone)):
        kept = ~gone[positions]
        if kept.any():
            yield positions[kept], vectors[kept]
