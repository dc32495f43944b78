"""However an embedder runs, it is the same embedder: backends, precisions, and what is taken unasked."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retrieval.embedders import load_embedder
from retrieval.embedders.base import (
    IMAGENET,
    LEAST_AGREEMENT,
    Calibration,
    Embedder,
    Execution,
    Processor,
    Requested,
)
from retrieval.embedders.checkpoints import find_in_folder
from retrieval.embedders.loading import Agreement, agreement_once, load, measure_agreement
from retrieval.embedders.openvino_backend import converted, this_processor
from retrieval.embedders.torch_backend import has_native
from retrieval.errors import EmbedderError, InvalidArgument, VisualMemoryWarning
from retrieval.support.cachedir import cache_folder
from tests.conftest import CANNOT_HERE, save_dinov2
from tests.retrieval.embedders.ways import (
    PICTURES,
    PIXELS,
    embed,
    embed_alone,
    mean_of_squares,
    openvino_embedder,
    run_python,
    torch_embedder,
)

NEEDS_BFLOAT16 = pytest.mark.skipif(not this_processor().bfloat16, reason=f"{CANNOT_HERE}bfloat16 in this processor")
WAYS = [
    ("torch", "float32"),
    ("openvino", "float32"),
    pytest.param(("torch", "bfloat16"), marks=NEEDS_BFLOAT16),
    pytest.param(("openvino", "bfloat16"), marks=NEEDS_BFLOAT16),
    ("openvino", "int8"),
]


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
    alone = embed_alone(way)
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


OLD, OLDER = Processor("old", bfloat16=False), Processor("old", bfloat16=False, instructions="fewer")
NEW = Processor("old", bfloat16=True)  # in the cloud, processors of several generations have one name


def test_bfloat16_is_neither_taken_nor_to_be_had_where_the_processor_has_none(checkpoint: Path) -> None:
    found = find_in_folder(checkpoint)
    taken = load(found, Requested(backend="openvino"), None, OLD).execution
    assert taken.precision == "float32" and "would emulate it slowly" in taken.reason
    with pytest.raises(InvalidArgument, match="would emulate it slowly: use --precision float32"):
        load(found, Requested(backend="openvino", precision="bfloat16"), None, OLD)


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ({}, False),
        ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"amx_bf16": True}, True),
        ({"cpu_name": "bf16"}, False),
    ],
)
def test_torch_takes_bfloat16_from_processors_that_have_it(instructions: dict[str, Any], expected: bool) -> None:
    assert has_native("cpu", "bfloat16", instructions) is expected
    assert not has_native("cpu", "float16", instructions)


def test_what_differs_in_precision_or_processor_shares_nothing_compiled(checkpoint: Path) -> None:
    model = converted(find_in_folder(checkpoint))
    ways = [
        (precision, processor)
        for precision in ("float32", "bfloat16", "int8")
        for processor in (OLD, OLDER, NEW, replace(OLD, cores=64), this_processor())
    ]
    folders = {way: openvino_embedder(model, *way).compiled for way in ways}
    # What int8 leaves out runs in one of the other precisions, of another model: its file lies in another folder.
    assert len({folders[way] for way in ways if way[0] != "int8"}) == 10


@NEEDS_BFLOAT16
def test_each_precision_keeps_what_compiling_found_out_in_a_folder_of_its_own(tmp_path: Path) -> None:
    model = converted(find_in_folder(save_dinov2(tmp_path / "model", seed=5)))
    for precision in ("float32", "bfloat16", "float32"):
        embedder = openvino_embedder(model, precision)
        embed(embedder, PICTURES[:1])
        (blob,) = embedder.compiled.glob("*.blob")
        assert blob.parent.parent == model.folder
    assert len(list(model.folder.glob("*/*.blob"))) == 2


IN_ORDER = """
import sys
from pathlib import Path
import numpy as np
from retrieval.embedders import load_embedder
from retrieval.embedders.base import Calibration
from tests.retrieval.embedders.ways import PICTURES, embed, embed_alone
for precision in sys.argv[3].split():
    for place in sys.argv[1:3]:
        right = np.load(Path.cwd() / f"{Path(place).name}.npy")
        way = load_embedder(place, backend="openvino", precision=precision, calibration=Calibration(PICTURES))
        print(precision, *((right * vectors).sum(axis=1).min() for vectors in (embed_alone(way), embed(way))))
"""
LEAST = {"float32": 0.99999, "bfloat16": 0.95, "int8": 0.5}  # pictures as flat as these are hard for convolutions


def test_precisions_in_any_order_and_process_are_right_alone_and_in_batches(checkpoint: Path, tmp_path: Path) -> None:
    places = [str(checkpoint), "efficientnet-lite0"]  # a vision transformer, and convolutions
    order = ["float32", *(["bfloat16"] if this_processor().bfloat16 else []), *(["int8"] if find_spec("nncf") else [])]
    for place in places:
        right = embed(load_embedder(place, backend="torch", precision="float32"))
        np.save(tmp_path / f"{Path(place).name}.npy", right)
    # A process for each makes what is kept, beside what those before it kept; the last one loads it all.
    for precisions in (*([one] for one in order), [*order, "float32"]):
        program = f"import os; os.chdir({str(tmp_path)!r})\n{IN_ORDER}"
        ran = run_python(program, *places, " ".join(precisions), VMEM_CACHE=str(tmp_path / "cache"))
        assert ran.returncode == 0, ran.stderr
        found = [line.split() for line in ran.stdout.splitlines()]
        assert [one[0] for one in found] == [precision for precision in precisions for _ in places]
        for precision, alone, together in found:
            assert min(float(alone), float(together)) > LEAST[precision], found


LOAD_AND_DIE = """
import os, pathlib, sys
from retrieval.support.cachedir import loading
with loading(pathlib.Path(sys.argv[1])):
    os.abort()
"""


@pytest.mark.parametrize("died_of", ["what was compiled", "the converted model"])
def test_what_a_process_died_of_while_loading_it_is_made_again(died_of: str, tmp_path: Path) -> None:
    found = find_in_folder(save_dinov2(tmp_path / "model", seed=6))
    embedder = openvino_embedder(converted(found), "float32")
    expected = embed(embedder, PICTURES[:1])
    (blob,) = embedder.compiled.glob("*.blob")
    dropped = embedder.compiled if died_of == "what was compiled" else embedder.compiled.parent
    for file in dropped.glob("**/*"):
        os.utime(file, (0, 0))  # by which a file that was made again is told from the old one
    assert subprocess.run([sys.executable, "-c", LOAD_AND_DIE, str(dropped)], check=False).returncode < 0
    again = embed(openvino_embedder(converted(found), "float32"), PICTURES[:1])
    assert np.allclose(again, expected, atol=1e-6)
    assert blob.stat().st_mtime > 0 and not list(blob.parent.parent.parent.glob(".loading-*"))


@pytest.mark.parametrize("damage", [b"", b"no blob at all" * 100])
def test_what_was_compiled_and_damaged_is_done_without(damage: bytes, tmp_path: Path) -> None:
    model = converted(find_in_folder(save_dinov2(tmp_path / "model", seed=7)))
    embedder = openvino_embedder(model, "float32")
    expected = embed(embedder, PICTURES[:1])
    (blob,) = embedder.compiled.glob("*.blob")
    blob.chmod(0o600)
    blob.write_bytes(damage)
    assert np.allclose(embed(openvino_embedder(model, "float32"), PICTURES[:1]), expected, atol=1e-6)


def test_a_converted_model_that_openvino_cannot_read_is_served_by_torch_and_made_again(tmp_path: Path) -> None:
    place = str(save_dinov2(tmp_path / "model", seed=8))
    embedder = load_embedder(place, backend="openvino", precision="float32")
    model = converted(find_in_folder(Path(place)))
    model.model.write_bytes(b"no model")  # after it was found to be whole
    with pytest.warns(VisualMemoryWarning, match="openvino failed .*; they are computed again in float32 by torch"):
        vectors = embed(embedder)
    assert not model.folder.exists()
    again = load_embedder(place, backend="openvino", precision="float32")
    assert model.model.read_bytes() != b"no model"
    assert np.allclose(vectors, embed(again), atol=1e-5)


def test_a_precision_is_judged_by_single_pictures_too_and_by_what_the_cache_gives_them(checkpoint: Path) -> None:
    """Batches may be right where the compiled model of single pictures is another's."""
    right = load_embedder(str(checkpoint), backend="torch", precision="float32")
    pixels = np.stack([right.prepare(picture) for picture in PICTURES])
    made: list[Embedder] = []

    def agreement(*wrong_alone: bool) -> float:
        made[:] = [Alone(right, wrong=wrong) for wrong in reversed(wrong_alone)]
        return measure_agreement(made.pop, right, pixels).smallest

    assert agreement(False, False) > 0.9999
    assert agreement(True, True) < 0.9999
    assert agreement(False, True) < 0.9999  # only what is loaded again is wrong


class Alone:
    """An embedder whose vectors of single pictures may be wrong."""

    def __init__(self, embedder: Embedder, *, wrong: bool) -> None:
        self.identity, self.execution, self.batch_size = embedder.identity, embedder.execution, 8
        self.prepare = embedder.prepare
        self._embedder = embedder
        self._wrong = wrong

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        vectors = self._embedder.embed(pixels)
        return vectors[:, ::-1] if self._wrong and len(pixels) == 1 else vectors


def test_what_was_measured_of_one_engine_is_not_taken_for_another() -> None:
    measured = iter([Agreement(0.99999, 1.0, 2.0), Agreement(0.9, 1.0, 2.0)])

    def smallest(engine: str) -> float:
        execution = Execution("openvino", "bfloat16", "cpu", engine=engine)
        return agreement_once("a model", execution, lambda: next(measured)).smallest

    first = [smallest("openvino 1 on a processor") for _ in range(2)]
    assert first == [0.99999, 0.99999] and smallest("openvino 1 on another") == 0.9


@pytest.mark.parametrize("change", [{"packages": ("numpy",)}, {"recipe": "other preprocessing"}, {"files": ()}])
def test_a_model_is_known_by_its_files_and_what_is_made_of_them(change: dict[str, Any], checkpoint: Path) -> None:
    found = find_in_folder(checkpoint)
    assert replace(found, **change).key != found.key == find_in_folder(checkpoint).key


EMBED_ONE = """
import sys
from PIL import Image
from retrieval.embedders import load_embedder
embedder = load_embedder({place!r})
embedder.embed(embedder.prepare(Image.new("RGB", (300, 300)))[None])
print("torch" in sys.modules, embedder.execution.backend)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home of somebody who never ran this before."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first_and_second(checkpoint: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Return what a process says that converts a model, and one that finds it converted."""
    program, cache = EMBED_ONE.format(place=str(checkpoint)), str(tmp_path_factory.mktemp("cache"))
    ran = [run_python(program, VMEM_CACHE=cache, HOME=str(home)) for _ in range(2)]
    assert [one.returncode for one in ran] == [0, 0], ran
    return [one.stdout.split() for one in ran]


def test_a_second_process_needs_no_torch(first_and_second: list[list[str]]) -> None:
    assert first_and_second == [["True", "openvino"], ["False", "openvino"]]


def test_converting_reports_to_nobody(first_and_second: list[list[str]], home: Path) -> None:
    assert first_and_second and not (home / "intel").exists()  # where OpenVINO's telemetry keeps whom it reports


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
    for weights in cache_folder("models").glob("*/model.bin"):
        weights.write_bytes(weights.read_bytes()[:1000])
    again = load_embedder(str(place), backend="openvino", precision="float32")
    assert np.allclose(embed(again), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 40, 40, 3), (5, 40, 40, 3)])
def test_pictures_of_another_shape_are_refused_and_cost_nothing_that_is_kept(
    checkpoint: Path, shape: tuple[int, ...]
) -> None:
    embedder = load_embedder(str(checkpoint), backend="openvino", precision="float32")
    embed(embedder, PICTURES[:1])
    kept = sorted(cache_folder("models").rglob("*"))
    with pytest.raises(EmbedderError, match=r"got pictures as an array of shape .*: \(., 224, 224, 3\) expected"):
        load_embedder(str(checkpoint), backend="openvino", precision="float32").embed(np.zeros(shape, np.uint8))
    assert sorted(cache_folder("models").rglob("*")) == kept


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
def test_choices_that_cannot_be_are_refused(checkpoint: Path, asked: dict[str, Any], expected: str) -> None:
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


def test_a_batch_that_does_not_fit_into_memory_goes_in_halves() -> None:
    sizes: list[int] = []

    def pool(backbone: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("too much")
        pooled: torch.Tensor = backbone(pixels).mean(dim=(2, 3))
        return pooled

    embedder = torch_embedder(pool)
    vectors = embedder.embed(PIXELS)
    assert sizes == [8, 4, 2, 2, 4, 2, 2] and embedder.batch_size == 2
    assert np.allclose(vectors, np.concatenate([embedder.embed(PIXELS[n : n + 1]) for n in range(8)]), atol=1e-6)


def test_what_cannot_be_compiled_runs_all_the_same_and_says_so() -> None:
    program = """
import numpy as np
from tests.retrieval.embedders.ways import PIXELS, mean_of_squares, torch_embedder
embedder = torch_embedder(mean_of_squares, compile_after=1)
assert np.allclose(embedder.embed(PIXELS), embedder.embed(PIXELS)) and np.isfinite(embedder.embed(PIXELS)).all()
"""
    ran = run_python(program, CXX="/nowhere/g++")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("torch.compile does not work here") == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ for torch.compile (apt-get install g++)")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_batches_have_the_vectors_of_the_others() -> None:
    embedder = torch_embedder(mean_of_squares, compile_after=1)
    expected = embedder.embed(PIXELS)
    assert np.allclose(embedder.embed(PIXELS), expected, atol=1e-5)
    assert np.allclose(embedder.embed(PIXELS[:3]), expected[:3], atol=1e-5)
