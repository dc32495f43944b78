"""However an embedder runs, it is the same embedder: backends, precisions, and what is taken unasked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrieval.cachedir import cache_folder
from retrieval.embedders import load_embedder
from retrieval.embedders.base import Embedder
from retrieval.embedders.execution import LEAST_AGREEMENT, Execution
from retrieval.embedders.int8 import Calibration
from retrieval.embedders.openvino_embedder import has_bfloat16
from retrieval.embedders.preprocessing import IMAGENET
from retrieval.embedders.torch_embedder import TorchEmbedder
from retrieval.embedders.torch_module import loaded_model
from retrieval.errors import InvalidArgument
from retrieval.images import decode
from tests.conftest import draw, save_dinov2

PICTURES = [draw((40 * number, 90, 200 - 30 * number), number, (260 + 7 * number, 240)) for number in range(6)]
NEEDS_BFLOAT16 = pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16 of its own")
WAYS = [
    ("torch", "float32"),
    ("openvino", "float32"),
    pytest.param(("torch", "bfloat16"), marks=NEEDS_BFLOAT16),
    pytest.param(("openvino", "bfloat16"), marks=NEEDS_BFLOAT16),
    ("openvino", "int8"),
]


def embed(embedder: Embedder, pictures: list[Image.Image] = PICTURES) -> np.ndarray:
    return embedder.embed(np.stack([embedder.prepare(decode(picture)) for picture in pictures]))


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> np.ndarray:
    return embed(load_embedder(str(checkpoint), backend="torch", precision="float32"))


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: "-".join(way))
def way(request: pytest.FixtureRequest, checkpoint: Path) -> Embedder:
    backend, precision = request.param
    if precision == "int8":
        pytest.importorskip("nncf")
    calibration = Calibration(PICTURES)
    return load_embedder(str(checkpoint), backend=backend, precision=precision, calibration=calibration)


def test_every_way_gives_unit_vectors_near_those_of_float32(way: Embedder, reference: np.ndarray) -> None:
    vectors = embed(way)
    assert vectors.dtype == np.float32 and vectors.shape == (6, 32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    least = {"float32": 0.999999, "bfloat16": 0.9995, "int8": 0.97}[way.execution.precision]
    assert (vectors * reference).sum(axis=1).min() > least


def test_every_way_gives_a_picture_its_vector_whatever_its_batch(way: Embedder) -> None:
    together = embed(way)
    alone = np.concatenate([embed(way, [picture]) for picture in PICTURES])
    by_five = np.concatenate([embed(way, PICTURES[:5]), embed(way, PICTURES[5:])])
    assert (together * alone).sum(axis=1).min() > 0.9999 and np.allclose(together, by_five, atol=2e-2)


def test_every_way_is_the_same_embedder_to_a_memory(way: Embedder, checkpoint: Path) -> None:
    assert way.identity == load_embedder(str(checkpoint), backend="torch", precision="float32").identity


def test_a_lower_precision_taken_unasked_agrees_with_float32(checkpoint: Path) -> None:
    taken = load_embedder(str(checkpoint)).execution
    assert taken.precision == "float32" or (taken.agreement is not None and taken.agreement >= LEAST_AGREEMENT)
    assert taken.reason


def test_bfloat16_that_moves_vectors_too_far_is_not_taken_unasked() -> None:
    # With these weights the cosines go down to 0.997 where the processor has bfloat16.
    taken = load_embedder("efficientnet-lite0").execution
    assert taken.precision == "float32" and taken.backend == "openvino"
    assert "bfloat16" in taken.reason


def run_python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, check=False
    )


EMBED_ONE = """
import sys
from PIL import Image
from retrieval.embedders import load_embedder
embedder = load_embedder({place!r})
embedder.embed(embedder.prepare(Image.new("RGB", (300, 300)))[None])
print("torch" in sys.modules, embedder.execution.backend)
"""


def test_a_second_process_needs_no_torch(checkpoint: Path, tmp_path: Path) -> None:
    program = EMBED_ONE.format(place=str(checkpoint))
    first, second = (run_python(program, VMEM_CACHE=str(tmp_path)) for _ in range(2))
    assert first.stdout.split() == ["True", "openvino"], first.stderr
    assert second.stdout.split() == ["False", "openvino"], second.stderr


def test_converting_reports_to_nobody(checkpoint: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    ran = run_python(EMBED_ONE.format(place=str(checkpoint)), HOME=str(home), VMEM_CACHE=str(tmp_path / "cache"))
    assert ran.returncode == 0, ran.stderr
    assert not (home / "intel").exists()  # where OpenVINO's telemetry keeps whom it reports


def test_weights_that_were_replaced_are_converted_anew(tmp_path: Path) -> None:
    place = save_dinov2(tmp_path / "model", seed=1)
    before = load_embedder(str(place), backend="openvino", precision="float32")
    save_dinov2(place, seed=2)
    after = load_embedder(str(place), backend="openvino", precision="float32")
    assert before.identity.weights_digest != after.identity.weights_digest
    assert not np.allclose(embed(before), embed(after), atol=1e-3)


def test_a_converted_model_that_was_damaged_is_made_again(tmp_path: Path) -> None:
    place = save_dinov2(tmp_path / "model", seed=3)
    expected = embed(load_embedder(str(place), backend="openvino", precision="float32"))
    for weights in cache_folder("models").glob("*/float32.bin"):
        weights.write_bytes(weights.read_bytes()[:1000])
    again = load_embedder(str(place), backend="openvino", precision="float32")
    assert np.allclose(embed(again), expected, atol=1e-6)


def test_without_a_place_to_keep_models_torch_serves_and_says_so(checkpoint: Path) -> None:
    program = (
        f"from retrieval.embedders import load_embedder; print(load_embedder({str(checkpoint)!r}).execution.backend)"
    )
    ran = run_python(program, VMEM_CACHE="/proc/nowhere")
    assert ran.stdout.strip() == "torch", ran.stderr
    assert "OpenVINO cannot run small-dinov2 here" in ran.stderr


def test_int8_is_calibrated_once_for_the_same_pictures(checkpoint: Path) -> None:
    pytest.importorskip("nncf")

    def load(calibration: Calibration) -> Execution:
        return load_embedder(str(checkpoint), precision="int8", calibration=calibration).execution

    made = load(Calibration(PICTURES))
    assert made.agreement is not None and 0.9 < made.agreement < 1
    assert load(Calibration((), made.calibration)) == made  # found by its digest, no picture is read
    assert load(Calibration(PICTURES[:3])) != made


def test_int8_without_a_usable_picture_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InvalidArgument, match="int8 takes its ranges from pictures"):
        load_embedder(str(checkpoint), precision="int8")
    with pytest.raises(InvalidArgument, match="none was usable"):
        load_embedder(str(checkpoint), precision="int8", calibration=Calibration([b"no picture"]))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"backend": "tensorrt"}, "no backend 'tensorrt': choose one of auto, torch, openvino"),
        ({"precision": "int4"}, "no precision 'int4': choose one of auto, float32, bfloat16, float16, int8"),
        ({"backend": "torch", "precision": "int8"}, "int8 runs on cpu by openvino alone"),
        ({"device": "cuda", "precision": "int8"}, "int8 runs on cpu by openvino alone"),
        ({"device": "cuda", "backend": "openvino"}, "the openvino backend runs on cpu, not on cuda"),
        ({"device": "cpu", "precision": "float16"}, "float16 is for GPUs"),
    ],
)
def test_choices_that_cannot_be_are_refused(checkpoint: Path, asked: dict[str, str], expected: str) -> None:
    with pytest.raises(InvalidArgument, match=expected):
        load_embedder(str(checkpoint), **asked)


def test_a_crop_has_the_very_pixels_of_the_picture_scaled_as_a_whole() -> None:
    draw_from = np.random.default_rng(0)
    for width, height in [
        (500, 375),
        (375, 500),
        (227, 227),
        (64, 64),
        (1000, 1000),
        (1024, 512),
        (97, 1200),
        (3000, 750),
    ]:
        picture = Image.fromarray(draw_from.integers(0, 256, (height, width, 3), dtype=np.uint8))
        short = min(picture.size)
        scaled = picture.resize((int(width * 256 / short), int(height * 256 / short)), Image.Resampling.BICUBIC)
        left, top = (scaled.width - 224) // 2, (scaled.height - 224) // 2
        expected = np.asarray(scaled.crop((left, top, left + 224, top + 224)))
        assert (IMAGENET.scale_and_crop(picture) == expected).all()


def torch_embedder(pool: Any, **settings: Any) -> TorchEmbedder:
    """Return an embedder of a module without weights: what pools is what is tested."""
    import torch

    backbone = torch.nn.Conv2d(3, 8, 32, stride=32)
    made = loaded_model(backbone, pool, name="small", origin="", pooling="mean", dimension=8, preprocessing=IMAGENET)
    return TorchEmbedder(made, Execution("torch", "float32", "cpu"), **settings)


def mean_of_squares(backbone: Any, pixels: Any) -> Any:
    """Pool features in a way that has something to compile."""
    return (backbone(pixels) ** 2).mean(dim=(2, 3))


PIXELS = np.random.default_rng(1).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)


def test_a_batch_that_does_not_fit_into_memory_goes_in_halves() -> None:
    import torch

    sizes = []

    def pool(backbone: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("too much")
        return backbone(pixels).mean(dim=(2, 3))

    embedder = torch_embedder(pool)
    vectors = embedder.embed(PIXELS)
    assert sizes == [8, 4, 2, 2, 4, 2, 2] and embedder.batch_size == 2
    assert np.allclose(vectors, np.concatenate([embedder.embed(PIXELS[n : n + 1]) for n in range(8)]), atol=1e-6)


def test_what_cannot_be_compiled_runs_all_the_same_and_says_so() -> None:
    program = """
import numpy as np
from tests.retrieval.test_backends import PIXELS, mean_of_squares, torch_embedder
embedder = torch_embedder(mean_of_squares, compile_after=1)
assert np.allclose(embedder.embed(PIXELS), embedder.embed(PIXELS)) and np.isfinite(embedder.embed(PIXELS)).all()
"""
    ran = run_python(program, CXX="/nowhere/g++", PYTHONPATH=str(Path(__file__).parents[2]))
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("torch.compile does not work here") == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++, which is not on this machine")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_batches_have_the_vectors_of_the_others() -> None:
    embedder = torch_embedder(mean_of_squares, compile_after=1)
    expected = embedder.embed(PIXELS)
    assert np.allclose(embedder.embed(PIXELS), expected, atol=1e-5)
    assert np.allclose(embedder.embed(PIXELS[:3]), expected[:3], atol=1e-5)
