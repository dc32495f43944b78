"""How a memory's vectors were made, and queries that are made otherwise."""

from pathlib import Path

import numpy as np
import pytest

from retrieval import VisualMemory
from retrieval.building import build_memory
from retrieval.embedders.base import Execution
from retrieval.errors import (
    InvalidArgument,
    VisualMemoryWarning,
)


def test_a_memory_records_how_its_vectors_were_made(tmp_path: Path, checkpoint: Path, pictures: Path) -> None:
    build_memory(tmp_path / "memory", pictures, embedder=str(checkpoint), backend="torch", precision="float32")
    opened = VisualMemory.open(tmp_path / "memory")
    (made,) = opened.settings.executions
    assert (made.backend, made.precision, made.device) == ("torch", "float32", "cpu")
    version = opened.version
    opened.add_vectors(["one"], ["red"], np.ones((1, 32)), made_by=Execution("elsewhere", "bfloat16", "cpu"))
    again = VisualMemory.open(tmp_path / "memory")
    assert [one.precision for one in again.settings.executions] == ["float32", "bfloat16"]
    assert len(again) == 19 and again.version > version


def test_float32_queries_meet_a_memory_of_another_backend_without_a_word(
    tmp_path: Path, checkpoint: Path, pictures: Path
) -> None:
    build_memory(tmp_path / "memory", pictures, embedder=str(checkpoint), backend="torch", precision="float32")
    opened = VisualMemory.open(tmp_path / "memory", backend="openvino", precision="float32")
    assert opened.search(pictures / "red" / "2.png", k=1)[0][0].id == "red/2.png"


def test_int8_meeting_float32_is_said_with_what_was_measured(tmp_path: Path, checkpoint: Path, pictures: Path) -> None:
    pytest.importorskip("nncf")
    path = tmp_path / "memory"
    build_memory(path, pictures, embedder=str(checkpoint), precision="int8")
    query = pictures / "red" / "2.png"
    own = VisualMemory.open(path)  # asked as it was made, where its copy of the model is at hand
    assert own.embedder.execution == own.settings.executions[0] and own.embedder.execution.precision == "int8"
    assert own.search(query, k=1)[0][0].id == "red/2.png"
    with pytest.warns(VisualMemoryWarning, match="vectors made in int8, and pictures are now embedded in float32; cos"):
        VisualMemory.open(path, precision="float32").search(query, k=1)


def test_int8_takes_its_ranges_from_the_memorys_own_pictures(built: Path, pictures: Path) -> None:
    pytest.importorskip("nncf")
    asked = VisualMemory.open(built, precision="int8")
    with pytest.warns(VisualMemoryWarning, match="are now embedded in int8"):
        assert asked.search(pictures / "red" / "2.png", k=1)[0][0].label == "red"
    assert asked.embedder.execution.calibration


def test_an_unknown_precision_is_refused_before_anything_is_loaded(built: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no precision 'double'"):
        VisualMemory.open(built, precision="double")
    with pytest.raises(InvalidArgument, match="no backend 'onnx'"):
        VisualMemory.create(tmp_path / "memory", embedder="dinov2-vitg14", backend="onnx")
