"""Memories on an object store, against a server that speaks S3."""

import contextlib
import logging
import os
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from retrieval.embedders.base import foreign_vectors
from retrieval.errors import InvalidArgument, MemoryExists, NotAMemory, StorageError
from retrieval.memory import VisualMemory
from retrieval.storage.checking import check_memory
from retrieval.storage.places import address_of, is_stored, local_folder, shown, table_uri


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Return the address of an empty bucket, and set the environment so that Lance finds it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    before = dict(os.environ)
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_REGION": "us-east-1"}
    os.environ.update(keys | {"AWS_ENDPOINT": endpoint, "AWS_ALLOW_HTTP": "true"})
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request"}
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/photos", method="PUT", headers=signed)).close()
    yield "s3://photos"
    os.environ.clear()
    os.environ.update(before)
    server.stop()


def test_a_path_is_its_own_place(tmp_path: Path) -> None:
    assert local_folder(tmp_path) == local_folder(str(tmp_path)) == tmp_path
    assert table_uri(tmp_path) == str(tmp_path / "items.lance")
    assert address_of(tmp_path) is None and shown(tmp_path) == str(tmp_path)


@pytest.mark.parametrize("name", ["café", "50%", "%41", "a#b", "a:b", "c:", "file:x", "a b?", "[*]", "🐈"])
def test_a_memory_may_have_any_name_and_leaves_nothing_beside_it(tmp_path: Path, name: str) -> None:
    with contextlib.chdir(tmp_path):
        memory = VisualMemory.create(name, embedder=foreign_vectors("made", 8), index="exact")
        memory.add_vectors([f"{i}" for i in range(8)], ["a"] * 8, np.eye(8))
        memory.tag("named")
        memory.forget(ids=["1"])
        memory.relabel("b", ids=["2"])
        assert VisualMemory.open(name).search_vectors(np.eye(8)[2:3], k=1).labels.tolist() == [["b"]]
        assert memory.at("named").version == 2 and len(memory.history()) == 4
        memory.undo()
        memory.checkout("named")
        memory.compact(keep=1)
        assert check_memory(name).sound
        memory.erase(ids=["2"], progress=False)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("path", ["s3", "s3:", "s3://", "http://host/x", "./s3://bucket/x", "C:/pets"])
def test_what_is_no_address_is_a_path(path: str) -> None:
    assert local_folder(path) == Path(path)


def test_an_address_has_a_folder_of_its_own_here() -> None:
    folder = local_folder("s3://bucket/pets/")
    assert folder == local_folder(Path("s3://bucket/pets")) != local_folder("s3://bucket/cars")
    assert address_of(folder) == shown(folder) == "s3://bucket/pets"
    assert table_uri(folder) == "s3://bucket/pets/items.lance"


@pytest.mark.parametrize(
    "address",
    ["s3://key:hunter2@bucket/x", "s3://hunter2@bucket/x", "s3://bucket/x?token=hunter2", "gs://bucket/x#hunter2"],
)
def test_an_address_with_a_secret_is_refused_without_saying_it(address: str) -> None:
    with pytest.raises(InvalidArgument, match="keys are taken from the environment") as caught:
        local_folder(address)
    assert "hunter2" not in str(caught.value)


def test_an_address_of_azure_names_its_container_as_a_user() -> None:
    address = "abfss://photos@account.dfs.core.windows.net/pets"
    assert address_of(local_folder(address)) == address


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="the address of a memory is none: one that begins with s3://HOST"):
        local_folder("s3://[bucket/x")


def test_a_table_can_be_written_and_read(bucket: str) -> None:
    import lance
    import pyarrow as pa

    address = f"{bucket}/written"
    assert not is_stored(address)
    lance.write_dataset(pa.table({"id": ["a"]}), f"{address}/items.lance", mode="create")
    assert is_stored(address)
    with pytest.raises(OSError, match="already exists"):
        lance.write_dataset(pa.table({"id": ["b"]}), f"{address}/items.lance", mode="create")


def test_a_store_that_refuses_is_told_in_a_sentence(bucket: str) -> None:
    with pytest.raises(StorageError, match="NoSuchBucket; see that the bucket is there") as caught:
        is_stored("s3://elsewhere/pets")
    assert "hunter2" not in str(caught.value)


def test_two_processes_add_to_one_table_at_once_and_nothing_is_lost(bucket: str) -> None:
    import lance
    import pyarrow as pa

    uri = f"{bucket}/shared/items.lance"
    lance.write_dataset(pa.table({"id": ["first"]}), uri, mode="create")
    script = """
        import lance, pyarrow as pa, sys
        for commit in range(8):
            rows = pa.table({"id": [f"{sys.argv[2]}-{commit}-{row}" for row in range(5)]})
            lance.write_dataset(rows, sys.argv[1], mode="append")
    """
    workers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), uri, name]) for name in ("one", "other")
    ]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    table = lance.dataset(uri)
    assert table.version == 17 and len(set(table.to_table()["id"].to_pylist())) == 81


def test_a_memory_on_an_object_store_is_edited_and_searched_like_any_other(bucket: str) -> None:
    vectors = np.eye(4, dtype=np.float32)
    made = VisualMemory.create(f"{bucket}/zoo", embedder=foreign_vectors("made", 4))
    made.add_vectors(["a", "b", "c", "d"], ["x", "x", "y", "y"], vectors)
    made.forget(ids=["d"])
    made.relabel("z", ids=["a"])
    opened = VisualMemory.open(Path(f"{bucket}/zoo"))
    assert opened.search_vectors(vectors[:1], k=3).labels[0].tolist() == ["z", "x", "y"]
    assert opened.stats().items == 3 and opened.stats().bytes_on_disk > 1000
    opened.checkout(made.history()[-2].number)
    assert len(VisualMemory.open(f"{bucket}/zoo")) == 4
    with pytest.raises(MemoryExists, match="s3://photos/zoo holds a memory already"):
        VisualMemory.create(f"{bucket}/zoo", embedder=foreign_vectors("made", 4))
    with pytest.raises(StorageError, match="cannot be searched byte by byte"):
        opened.erase(ids=["a"])


def test_an_address_without_a_memory_is_told(bucket: str) -> None:
    with pytest.raises(NotAMemory, match="s3://photos/none is no memory \\(there is nothing\\)"):
        VisualMemory.open(f"{bucket}/none")
