"""Milvus, embedded in a folder or on other machines: reached, spoken to, and its errors put in a sentence."""

import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from retrieval.errors import IndexUnavailable, InvalidArgument
from retrieval.outside import parse_address

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
