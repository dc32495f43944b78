"""The index by Milvus: what the one suite of all indexes does not ask."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import IndexUnavailable, InvalidArgument
from retrieval.indexes.base import ArrayBlocks, Skipped
from retrieval.indexes.milvus import TOKEN, MilvusIndex, embed, on_server

Vectors = Callable[[int, int], np.ndarray]
Make = Callable[[type[MilvusIndex]], MilvusIndex]
ITEMS = 600


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a server of its own process, which speaks Milvus' protocol over TCP."""
    script = (
        "import sys; from milvus_lite.adapter.grpc.server import start_server_in_thread as start;"
        "server, database, port = start(sys.argv[1]); print(port, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path_factory.mktemp("milvus") / "data")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


@pytest.fixture(params=["embedded", "server"])
def kind(request: pytest.FixtureRequest) -> type[MilvusIndex]:
    return MilvusIndex if request.param == "embedded" else on_server(request.getfixturevalue("server"))


@pytest.fixture(scope="module")
def vectors(random_vectors: Vectors) -> np.ndarray:
    return random_vectors(ITEMS, 24)


@pytest.fixture(scope="module")
def make(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return what builds an index of a kind, or returns the one that was built before: tests only search it."""

    made: dict[type[MilvusIndex], MilvusIndex] = {}

    def build(kind: type[MilvusIndex]) -> MilvusIndex:
        if kind not in made:
            made[kind] = kind.build(ArrayBlocks(vectors), tmp_path_factory.mktemp("made"))
        return made[kind]

    return build


@pytest.fixture(scope="module")
def at_rest(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an embedded index that nobody has open."""
    folder = tmp_path_factory.mktemp("at_rest") / "index"
    folder.mkdir()
    MilvusIndex.build(ArrayBlocks(vectors), folder)
    gc.collect()  # pymilvus leaves circles of errors that it caught
    return folder


@pytest.fixture
def folder(at_rest: Path, tmp_path: Path) -> Path:
    """Return a copy of it, to be changed."""
    return shutil.copytree(at_rest, tmp_path / "index")


def nearest(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_finds_what_a_comparison_with_all_finds(kind: type[MilvusIndex], vectors: np.ndarray, make: Make) -> None:
    positions, distances = make(kind).search(vectors[:50], 10)
    assert (positions == nearest(vectors[:50], vectors, 10)).mean() > 0.99
    assert np.allclose(distances, 1 - np.einsum("qd,qkd->qk", vectors[:50], vectors[positions]), atol=1e-5)


def test_what_is_skipped_is_never_found_however_near(kind: type[MilvusIndex], vectors: np.ndarray, make: Make) -> None:
    left = np.array([3, 77, 590])
    skip = np.ones(ITEMS, bool)
    skip[left] = False
    positions, _ = make(kind).search(vectors[:5], 3, skip=Skipped(skip))
    assert (positions == left[nearest(vectors[:5], vectors[left], 3)]).all()


def test_an_extended_index_leaves_the_other_as_it_was(
    kind: type[MilvusIndex], vectors: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "short").mkdir()
    (tmp_path / "long").mkdir()
    short = kind.build(ArrayBlocks(vectors[:500]), tmp_path / "short")
    long = short.extended(ArrayBlocks(vectors[500:].astype(np.float16)), tmp_path / "long")
    assert (len(short), len(long)) == (500, ITEMS)
    assert (long.search(vectors[500:], 1)[0][:, 0] == np.arange(500, ITEMS)).all()
    assert short.search(vectors[500:], 5)[0].max() < 500
    assert (MilvusIndex.load(tmp_path / "long").search(vectors[500:], 1)[0][:, 0] == np.arange(500, ITEMS)).all()


def test_what_a_killed_extension_left_on_a_server_is_removed(server: str, vectors: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    (tmp_path / "long").mkdir()
    short = on_server(server).build(ArrayBlocks(vectors[:500]), tmp_path / "short")
    short.extended(ArrayBlocks(vectors[:90]), None)
    long = short.extended(ArrayBlocks(vectors[500:510]), tmp_path / "long")
    assert len(long) == 510 and (long.search(vectors[500:510], 1)[0][:, 0] == np.arange(500, 510)).all()
    assert long.search(vectors[:3], 510)[0].max() == 509


def test_no_byte_of_an_erased_vector_is_left_in_the_folder(vectors: np.ndarray, folder: Path) -> None:
    assert vectors[5].tobytes()[:32] in all_bytes(folder)
    assert list(MilvusIndex.erase(folder, np.array([5, 17]))) == ["milvus.json"]
    left = all_bytes(folder)
    assert vectors[6].tobytes()[:32] in left
    for gone in vectors[[5, 17]]:
        windows = [gone[start : start + 4].tobytes() for start in range(20)]
        assert not any(window in left for window in windows)


def test_an_erased_vector_is_found_no_more(kind: type[MilvusIndex], vectors: np.ndarray, tmp_path: Path) -> None:
    kind.build(ArrayBlocks(vectors), tmp_path)
    MilvusIndex.erase(tmp_path, np.array([5]))
    MilvusIndex.erase(tmp_path, np.array([5, 17]))
    index = MilvusIndex.load(tmp_path)
    assert len(index) == ITEMS
    assert not np.isin(index.search(vectors[[5, 17]], ITEMS - 2)[0], [5, 17]).any()


def test_two_processes_search_one_embedded_index(folder: Path) -> None:
    index = MilvusIndex.load(folder)
    assert other_process(folder, "print(index.search(np.eye(24, dtype=np.float32)[:1], 3)[0].tolist())") == str(
        index.search(np.eye(24, dtype=np.float32)[:1], 3)[0].tolist()
    )
    assert not list((folder / "open").iterdir())


def test_what_a_killed_reader_left_is_swept_up(folder: Path) -> None:
    index = MilvusIndex.load(folder)
    other_process(folder, f"import os; os.kill(os.getpid(), {signal.SIGKILL:d})", expected=-signal.SIGKILL)
    assert len(list((folder / "open").iterdir())) == 1
    other_process(folder, "print(len(index))")
    assert not list((folder / "open").iterdir()) and len(index) == ITEMS


def other_process(folder: Path, script: str, *, expected: int = 0) -> str:
    opening = f"""
        import numpy as np
        from pathlib import Path
        from retrieval.indexes.milvus import MilvusIndex
        index = MilvusIndex.load(Path({str(folder)!r}))
    """
    command = [sys.executable, "-W", "error", "-c", f"{textwrap.dedent(opening)}\n{script}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == expected and not done.stderr
    return done.stdout.strip()


def test_a_build_that_is_killed_leaves_no_index(tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from retrieval.indexes.milvus import MilvusIndex

        class Blocks:
            dimension = 4
            def __len__(self): return 20
            def __iter__(self):
                yield np.eye(4, dtype=np.float32)
                os.kill(os.getpid(), signal.SIGKILL)

        MilvusIndex.build(Blocks(), Path(sys.argv[1]))
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]).returncode == -signal.SIGKILL
    with pytest.raises(OSError, match=r"milvus\.json"):
        MilvusIndex.load(tmp_path)


def test_a_database_closes_with_its_last_index(vectors: np.ndarray, tmp_path: Path) -> None:
    from milvus_lite.server_manager import server_manager_instance

    first, second = MilvusIndex.build(ArrayBlocks(vectors), tmp_path), MilvusIndex.load(tmp_path)
    (database,) = tmp_path.glob("*.db")
    del first
    assert second.search(vectors[:1], 1)[0][0, 0] == 0
    assert str(database) in server_manager_instance._servers
    del second
    gc.collect()  # pymilvus leaves circles of errors that it caught
    assert str(database) not in server_manager_instance._servers


def test_an_index_without_a_folder_leaves_nothing(
    vectors: np.ndarray, tmp_path: Path, set_environment: Callable[[str, str], None]
) -> None:
    code = f"""
        import tempfile; tempfile.tempdir = {str(tmp_path)!r}
        import numpy as np
        from retrieval.indexes.base import ArrayBlocks
        from retrieval.indexes.milvus import MilvusIndex
        index = MilvusIndex.build(ArrayBlocks(np.eye(4, dtype=np.float32)), None)
        index = index.extended(ArrayBlocks(np.eye(4, dtype=np.float32)), None)
        print(len(index), index.search(np.eye(4, dtype=np.float32), 2)[0].tolist())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout.strip() == "8 [[0, 4], [1, 5], [2, 6], [3, 7]]"
    assert not list(tmp_path.iterdir())


def test_many_threads_search_at_once(vectors: np.ndarray, make: Make) -> None:
    index = make(MilvusIndex)
    answers: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: answers.append(index.search(vectors, 1)[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8 and all((answer[:, 0] == np.arange(ITEMS)).all() for answer in answers)


@pytest.mark.parametrize("suffix", [".parquet", ".idx"])
def test_a_damaged_file_is_noticed(folder: Path, suffix: str) -> None:
    (file,) = folder.rglob(f"*{suffix}")
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(b"\xff\x00\xff\x00")
    with pytest.raises(ValueError, match="are not those that were written"):
        MilvusIndex.load(folder)


@pytest.mark.parametrize("name", ["manifest.json", "schema.json"])
def test_a_database_that_cannot_be_read_is_damaged(folder: Path, name: str) -> None:
    for file in folder.rglob(f"{name}*"):
        file.write_text("{")
    with pytest.raises(ValueError, match=r"cannot be opened|has no collection"):
        MilvusIndex.load(folder)


@pytest.mark.parametrize("name", ["../../elsewhere", "a/b", ""])
def test_a_file_that_names_another_place_is_refused(folder: Path, name: str) -> None:
    about = folder / "milvus.json"
    (database,) = folder.glob("*.db")
    about.write_text(about.read_text().replace(database.stem, name))
    with pytest.raises(ValueError, match="names no collection"):
        MilvusIndex.load(folder)


def test_an_index_that_is_not_kept_has_a_collection_of_its_own(
    server: str, vectors: np.ndarray, tmp_path: Path
) -> None:
    kept = on_server(server).build(ArrayBlocks(vectors[:500]), tmp_path)
    passing = kept.extended(ArrayBlocks(vectors[500:]), None)
    assert len(passing) == ITEMS and len(kept) == 500
    assert (passing.search(vectors, 1)[0][:, 0] == np.arange(ITEMS)).all()
    assert MilvusIndex.load(tmp_path).search(vectors[:1], 500)[0].max() == 499


def test_a_collection_that_is_gone_is_an_index_that_is_gone(server: str, vectors: np.ndarray, tmp_path: Path) -> None:
    index = on_server(server).build(ArrayBlocks(vectors), tmp_path)
    index.discard(tmp_path, live=tmp_path)
    assert len(MilvusIndex.load(tmp_path)) == ITEMS
    index.discard(tmp_path)
    with pytest.raises(ValueError, match="has no collection"):
        MilvusIndex.load(tmp_path)


def test_a_server_that_does_not_answer_is_no_damaged_index(
    server: str, vectors: np.ndarray, tmp_path: Path, set_environment: Callable[[str, str], None]
) -> None:
    set_environment(TOKEN, "root:hunter2")
    on_server(server).build(ArrayBlocks(vectors), tmp_path)
    about = tmp_path / "milvus.json"
    about.write_text(about.read_text().replace(server, "http://127.0.0.1:9"))
    with pytest.raises(IndexUnavailable, match=r"http://127\.0\.0\.1:9 does not do what it is asked") as caught:
        MilvusIndex.load(tmp_path)
    assert "hunter2" not in str(caught.value) + about.read_text()


@pytest.mark.parametrize("uri", ["", "localhost", "ftp://host", "file:///tmp/x", "http://[::1", "http://host:port"])
def test_an_address_must_be_one(uri: str) -> None:
    with pytest.raises(
        InvalidArgument,
        match="the address of Milvus, in milvus:URI, is none: .* http://HOST expected",
    ):
        on_server(uri)


@pytest.mark.parametrize("uri", ["http://root:hunter2@host:19530", "https://host?token=hunter2", "tcp://h#hunter2"])
def test_an_address_with_a_secret_in_it_is_refused_without_saying_it(uri: str) -> None:
    with pytest.raises(InvalidArgument, match=f"environment variable {TOKEN}") as caught:
        on_server(uri)
    assert "hunter2" not in str(caught.value)


def test_more_neighbours_than_milvus_gives_are_refused(vectors: np.ndarray, make: Make) -> None:
    with pytest.raises(InvalidArgument, match="16,384 neighbours at most"):
        make(MilvusIndex).search(vectors[:1], 16_385)


def test_the_same_database_is_opened_once(tmp_path: Path) -> None:
    first = embed(tmp_path / "one.db")
    assert embed(tmp_path / "one.db") is first


@pytest.fixture
def set_environment() -> Iterator[Callable[[str, str], None]]:
    """Return a function that sets a variable for the length of a test."""
    before = dict(os.environ)
    yield os.environ.__setitem__
    os.environ.clear()
    os.environ.update(before)
