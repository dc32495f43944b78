"""Features in a file: what was written is found again, by us and by any reader of Parquet."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from retrieval import VisualMemory
from retrieval.building import add_features, build_from_features
from retrieval.cli.memory_cli import add, build, embed
from retrieval.embedders import load_embedder
from retrieval.embedding import EmbeddedBatch, embed_images
from retrieval.errors import EmbedderMismatch, FolderError, InvalidArgument, MemoryExists
from retrieval.parquet import FeatureFile, write_features
from retrieval.sources import Item, list_labelled_files
from tests.commands import app_of


@pytest.fixture(scope="module")
def features(checkpoint: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("features") / "features.parquet"
    embedder = load_embedder(str(checkpoint), precision="float32")
    batches = embed_images(list_labelled_files(pictures), embedder, image_of=lambda file: file.path)
    assert write_features(out, batches, embedder) == (18, [])
    return out


def foreign(path: Path, **columns: object) -> Path:
    made = {"id": ["a", "b", "c"], "label": ["x", "x", "y"], "vector": [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]}
    pq.write_table(pa.table({name: value for name, value in (made | columns).items() if value is not None}), path)
    return path


def test_the_columns_are_those_that_any_reader_expects(features: Path, pictures: Path) -> None:
    table = pq.read_table(features)
    assert [str(field.type) for field in table.schema][:2] == ["string", "string"]
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 32)
    assert table["id"].to_pylist() == [file.id for file in list_labelled_files(pictures)]


def test_a_memory_of_features_answers_as_one_of_the_pictures(
    features: Path, built: Path, pictures: Path, tmp_path: Path
) -> None:
    memory, report = build_from_features(tmp_path / "memory", features)
    assert report.added == 18 and memory.settings.executions[0].precision == "float32"
    query = pictures / "green" / "4.png"
    ours, theirs = memory.search(query, k=18), VisualMemory.open(built).search(query, k=18)
    assert ours[0][0].id == theirs[0][0].id == "green/4.png"
    assert np.allclose(ours.distances, theirs.distances, atol=2e-3)
    assert memory.thumbnails(["green/4.png"]) == [None]


def test_building_again_from_the_same_features_adds_nothing(features: Path, tmp_path: Path) -> None:
    build_from_features(tmp_path / "memory", features)
    _, report = build_from_features(tmp_path / "memory", features)
    assert (report.added, report.skipped) == (0, 18)


def test_features_of_another_tool_make_a_memory_to_be_asked_with_vectors(tmp_path: Path) -> None:
    memory, report = build_from_features(tmp_path / "memory", foreign(tmp_path / "theirs.parquet"))
    assert report.added == 3 and memory.settings.embedder.name == "theirs"
    assert memory.search_vectors(np.array([[0.0, 2.0]]), k=2).labels.tolist() == [["y", "x"]]


def test_features_go_into_a_memory_that_is_there(features: Path, tmp_path: Path, checkpoint: Path) -> None:
    memory = VisualMemory.create(tmp_path / "memory", embedder=str(checkpoint))
    assert add_features(memory, FeatureFile.open(features), id_prefix="march/").added == 18
    assert memory.search_vectors(next(FeatureFile.open(features).batches())[2][:1], k=1).ids[0, 0].startswith("march/")
    with pytest.raises(EmbedderMismatch, match="was built by"):
        add_features(memory, FeatureFile.open(foreign(tmp_path / "theirs.parquet")))


def test_a_file_for_another_memory_is_refused(features: Path, built: Path) -> None:
    with pytest.raises(MemoryExists, match="holds a memory built from"):
        build_from_features(built, features)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"vector": None}, "but no vector: features are kept in id, label and vector"),
        ({"label": ["x", None, "y"]}, "rows without an id, a label or a vector"),
        ({"vector": [[1.0, 0.0], [1.0], [0.0, 1.0]]}, "vectors of other lengths than 2"),
        ({"vector": [[1.0, 0.0], [1.0], [0.0, 1.0, 0.0]]}, "vectors of other lengths than 2"),
        ({"vector": ["a", "b", "c"]}, "cannot be read as a Parquet file of features"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, columns: dict[str, object], expected: str) -> None:
    with pytest.raises(FolderError, match=expected):
        build_from_features(tmp_path / "memory", foreign(tmp_path / "theirs.parquet", **columns))


def test_a_file_that_breaks_off_is_refused_and_makes_no_memory(features: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(features.read_bytes()[:-100])
    with pytest.raises(FolderError, match="cannot be read as a Parquet file of features"):
        build_from_features(tmp_path / "memory", torn)
    assert not (tmp_path / "memory").exists()


def test_a_file_that_says_of_itself_what_no_one_can_read_is_refused(features: Path, tmp_path: Path) -> None:
    table = pq.read_table(features).replace_schema_metadata({b"visual-memory": b"[" * 100_000})
    pq.write_table(table, tmp_path / "odd.parquet")
    with pytest.raises(FolderError, match="cannot be read as a Parquet file of features: it nests too deep"):
        build_from_features(tmp_path / "memory", tmp_path / "odd.parquet")


def test_features_do_not_take_the_place_of_their_manifest(pictures: Path, checkpoint: Path, tmp_path: Path) -> None:
    manifest = foreign(tmp_path / "list.parquet", vector=None, file=[str(pictures / "red" / "0.png")] * 3)
    before = manifest.read_bytes()
    told = CliRunner().invoke(app_of(embed), [str(manifest), "--out", str(manifest), "--embedder", str(checkpoint)])
    assert isinstance(told.exception, InvalidArgument) and "is the manifest itself" in str(told.exception)
    assert manifest.read_bytes() == before


def test_what_lay_in_a_files_place_stays_until_the_new_one_is_whole(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    out.write_text("the old one")
    embedder = load_embedder(str(checkpoint))

    def breaks_off() -> Iterator[EmbeddedBatch[Item]]:
        yield from embed_images(list[Item](), embedder, image_of=lambda item: item.image)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(out, breaks_off(), embedder)
    assert out.read_text() == "the old one"


@pytest.mark.parametrize("command", ["build", "add"])
def test_options_about_embedding_are_refused_where_features_are_given(command: str, tmp_path: Path) -> None:
    build_from_features(tmp_path / "memory", foreign(tmp_path / "theirs.parquet"))
    arguments = [command, str(tmp_path / "memory"), str(tmp_path / "theirs.parquet"), "--shard", "1/2"]
    refused = CliRunner().invoke(app_of(build, add), arguments)
    assert isinstance(refused.exception, InvalidArgument)
    assert "--shard 1/2 is for pictures" in str(refused.exception)
