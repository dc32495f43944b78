"""Embedding on a Ray cluster: one of this machine, with two processors."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from retrieval.cli.memory_cli import add, embed, search
from retrieval.cluster import RayEmbedding, _translated
from retrieval.embedders import load_embedder
from retrieval.embedders.base import Requested
from retrieval.embedding import EmbeddedBatch, embed_images
from retrieval.errors import EmbedderError, InvalidArgument, UnknownEmbedder
from retrieval.images import ImageLike
from retrieval.memory import VisualMemory
from retrieval.parquet import FeatureFile
from retrieval.sources import LabelledFile, list_labelled_files
from tests.commands import app_of
from tests.conftest import draw

# Ray's own modules set what Ray's own modules warn of.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*")
FLOAT32: dict[str, Any] = {"backend": "openvino", "precision": "float32"}  # no torch to be imported by each worker


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """Start a cluster once, which takes seconds; what the tests run finds it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with names that are text in no encoding, and files that are no pictures."""
    folder = tmp_path_factory.mktemp("hostile")
    label = folder / "<script>'\n"
    label.mkdir()
    stray = os.fsdecode(b"\xff\xfe.png") if sys.platform == "linux" else "stray.png"
    for number, name in enumerate(["a.png", "b'\"; --.png", stray]):
        draw((200, 30, 30), number).save(label / name)
    (label / "empty.png").touch()
    (label / "text.png").write_text("no picture")
    return folder


def picture_of(file: LabelledFile) -> ImageLike:
    """Return a file's path, or of one what it holds: both can be sent."""
    return file.path.read_bytes() if file.id.endswith("a.png") else file.path


def stacked(batches: list[EmbeddedBatch[LabelledFile]]) -> np.ndarray:
    return np.concatenate([batch.vectors for batch in batches])


def test_a_cluster_does_what_one_machine_does(checkpoint: Path, hostile: Path) -> None:
    files = list_labelled_files(hostile)
    cluster = RayEmbedding(str(checkpoint), requested=Requested(**FLOAT32), cache=False)
    far = list(cluster.stream(files, image_of=picture_of, thumbnail_pixels=32))
    alone = load_embedder(str(checkpoint), **FLOAT32)
    near = list(embed_images(files, alone, image_of=picture_of, thumbnail_pixels=32))
    assert (cluster.embedder.identity, cluster.embedder.execution) == (alone.identity, alone.execution)
    assert [item for batch in far for item in batch.items] == [item for batch in near for item in batch.items]
    assert np.allclose(stacked(far), stacked(near), atol=1e-6)
    for column in ("thumbnails", "digests"):
        assert [x for b in far for x in getattr(b, column)] == [x for b in near for x in getattr(b, column)]
    failures = [{(f.item.id, type(f.error), str(f.error)) for b in way for f in b.failures} for way in (far, near)]
    assert failures[0] == failures[1] and len(failures[0]) == 2


def test_features_of_a_cluster_are_those_of_one_machine(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    options = ["--embedder", str(checkpoint), "--backend", "openvino", "--precision", "float32", "--no-cache"]
    for out, more in (("far.parquet", ["--ray", "local"]), ("near.parquet", [])):
        told = CliRunner().invoke(app_of(embed), [str(pictures), "--out", str(tmp_path / out), *options, *more])
        assert told.exit_code == 0 and "18 features of 32 dimensions" in told.stdout
    far, near = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("far", "near"))
    assert far["id"].to_pylist() == near["id"].to_pylist() and far["label"].to_pylist() == near["label"].to_pylist()
    assert np.allclose(np.stack(far["vector"].to_numpy()), np.stack(near["vector"].to_numpy()), atol=1e-6)
    files = [FeatureFile.open(tmp_path / f"{name}.parquet") for name in ("far", "near")]
    assert files[0].identity == files[1].identity and files[0].execution == files[1].execution


def test_what_a_worker_lacks_is_told_in_its_own_sentence() -> None:
    with pytest.raises(UnknownEmbedder, match="no embedder 'nothing'"):
        list(RayEmbedding("nothing").stream([b"picture"], image_of=lambda image: image))


def test_no_pictures_start_nothing() -> None:
    cluster = RayEmbedding("nothing")
    assert not list(cluster.stream([], image_of=lambda image: image))
    with pytest.raises(InvalidArgument, match="nothing was embedded on the cluster yet"):
        _ = cluster.embedder


def test_a_memory_is_added_to_by_a_cluster(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "memory", embedder=str(checkpoint), cache=False, **FLOAT32)
    told = CliRunner().invoke(
        app_of(add, search),
        ["add", str(memory.path), str(pictures), "--ray", "local", "--precision", "float32", "--no-cache"],
    )
    assert told.exit_code == 0 and "added 18; 18 pictures in all" in told.stdout
    opened = VisualMemory.open(memory.path, cache=False, **FLOAT32)
    path = next(pictures.glob("red/*.png"))
    nearest = opened.search(path, k=1)[0][0]
    assert nearest.id == f"red/{path.name}" and nearest.distance == pytest.approx(0, abs=1e-4)
    assert opened.thumbnails([nearest.id])[0]


def test_a_worker_that_dies_is_told_in_a_sentence() -> None:
    import ray

    def die() -> None:
        os._exit(1)

    dies = ray.remote(die)
    with pytest.raises(EmbedderError, match="a worker of the Ray cluster failed"), _translated():
        ray.get(dies.options(max_retries=0).remote())
