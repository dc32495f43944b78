"""Embedders against their own libraries; weights by name, from the hub's cache, from a folder, or not at all."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrieval import VisualMemory
from retrieval.embedders import CATALOGUE, load_embedder
from retrieval.embedders.base import IMAGENET, Checked, Embedder, EmbedderIdentity, Execution, foreign_vectors
from retrieval.embedders.openvino_backend import this_processor
from retrieval.embedding import embed_images
from retrieval.errors import (
    EmbedderError,
    ImageError,
    InvalidArgument,
    MissingWeights,
    UnknownEmbedder,
    UnusableVectors,
    VisualMemoryWarning,
)
from tests.conftest import cannot_here, draw, save_dinov2
from tests.retrieval.embedders.ways import embed

PICTURES = [draw((200, 30, 30), 1, (300, 200)), draw((10, 90, 90), 2, (223, 301)), draw((0, 0, 0), 3, (40, 31))]


NO_HUB = "http://127.0.0.1:9"  # where nobody answers


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return np.asarray(np.einsum("pd,pd->p", one, other) / lengths)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_embeds_as_transformers_itself_does(registers: bool, backend: str, tmp_path: Path) -> None:
    import torch
    import transformers
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    family = "Dinov2WithRegisters" if registers else "Dinov2"
    config = getattr(transformers, family + "Config")(hidden_size=48, num_hidden_layers=2, num_attention_heads=3)
    model = getattr(transformers, family + "Model")(config).eval()
    model.save_pretrained(tmp_path)
    processor = BitImageProcessorPil(  # the processor that DINOv2's checkpoints on the hub name
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        resample=3,
        do_convert_rgb=True,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    with torch.no_grad():
        expected = model(**processor(PICTURES, return_tensors="pt")).pooler_output.numpy()
    ours = embed(load_embedder(str(tmp_path), backend=backend, precision="float32"), PICTURES)
    assert (cosine(ours, expected) > 0.99999).all()
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_clip_embeds_as_transformers_itself_does(backend: str, tmp_path: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    small["projection_dim"] = 24
    config = CLIPConfig(text_config=small, vision_config=small | {"patch_size": 16}, projection_dim=24)
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        pixels = CLIPImageProcessorPil()(PICTURES, return_tensors="pt")["pixel_values"]
        features = model.get_image_features(pixel_values=pixels)
    expected = (features if isinstance(features, torch.Tensor) else features.pooler_output).numpy()
    ours = embed(load_embedder(str(tmp_path), backend=backend, precision="float32"), PICTURES)
    assert ours.shape == (3, 24) and (cosine(ours, expected) > 0.99999).all()


def test_efficientnet_pools_1280_features_of_its_packaged_weights() -> None:
    embedder = load_embedder("efficientnet-lite0")
    vectors = embed(embedder, PICTURES)
    assert vectors.shape == (3, 1280) and vectors.dtype == np.float32
    assert embedder.identity.weights_digest.startswith("9386950811f5")


def test_efficientnet_sees_127_less_over_128() -> None:
    from retrieval.embedders.checkpoints import find_efficientnet_lite0

    module = find_efficientnet_lite0().load()
    values = (np.array([255.0, 127.0, 0.0]) - module.mean.numpy()) / module.std.numpy()
    assert np.allclose(values, [1.0, 0.0, -127 / 128], atol=1e-6)


def test_a_vector_does_not_depend_on_its_batch(checkpoint: Path) -> None:
    embedder = load_embedder(str(checkpoint))
    together = embed(embedder, PICTURES)
    alone = np.concatenate([embed(embedder, [picture]) for picture in PICTURES])
    assert np.allclose(together, alone, atol=1e-5)


def test_a_name_loads_from_the_hubs_cache_without_a_network(tmp_path: Path) -> None:
    repository = tmp_path / "models--facebook--dinov2-small"
    save_dinov2(repository / "snapshots" / "0", seed=1)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    program = (
        "from retrieval.embedders import load_embedder; from retrieval.embedders.checkpoints import is_cached;"
        "print(load_embedder('dinov2-vits14').identity.fingerprint, is_cached('facebook/dinov2-small'))"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": NO_HUB}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("dinov2-vits14 (32-d, weights ") and run.stdout.endswith("True\n")


def test_missing_weights_name_the_two_ways_to_get_them(tmp_path: Path) -> None:
    program = "from retrieval.embedders import load_embedder; load_embedder('dinov2-vitb14')"
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": NO_HUB}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert "MissingWeights: the weights of dinov2-vitb14 are not in the hub cache" in run.stderr
    assert "`hf download facebook/dinov2-base`" in run.stderr and "--embedder FOLDER" in run.stderr


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownEmbedder, match="no embedder 'resnet': one of dinov2-vits14.*efficientnet-lite0"):
        load_embedder("resnet")


@pytest.mark.parametrize("config", [None, "words", pytest.param("[" * 100_000, id="brackets")])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(UnknownEmbedder, match="holds no saved model"):
        load_embedder(str(tmp_path))


def test_a_model_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UnknownEmbedder, match="holds a 'bert' model"):
        load_embedder(str(tmp_path))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    weights = save_dinov2(tmp_path / "m", seed=1) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(MissingWeights, match="cannot be read, fetch or copy them again"):
        load_embedder(str(tmp_path / "m"))


def test_weights_that_lack_a_layer_are_refused_and_not_filled_with_random_ones(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = save_dinov2(tmp_path / "m", seed=1) / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(weights).items() if "layer.1" not in name}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(MissingWeights, match="are incomplete, .* are missing"):
        load_embedder(str(tmp_path / "m"))


@pytest.mark.parametrize("config", ["[]", "{}", '{"model_type": []}', "words"])
def test_a_folder_with_a_strange_configuration_is_refused(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UnknownEmbedder, match="holds"):
        load_embedder(str(tmp_path))


@pytest.mark.parametrize("size", [(1, 1), (65_535, 1), (1, 65_535), (5000, 3)])
def test_a_picture_of_any_shape_becomes_a_square_without_filling_memory(size: tuple[int, int]) -> None:
    assert IMAGENET.scale_and_crop(Image.new("RGB", size, (9, 9, 9))).shape == (224, 224, 3)


def test_an_unknown_device_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InvalidArgument, match="no device 'tpu'"):
        load_embedder(str(checkpoint), device="tpu")


def test_identity_is_weights_and_preprocessing_not_name_or_place(checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    elsewhere = shutil.copytree(checkpoint, tmp_path / "renamed")
    other = save_dinov2(tmp_path / "other", seed=1)
    identity = load_embedder(str(checkpoint)).identity
    assert load_embedder(str(elsewhere)).identity == identity
    assert load_embedder(str(other)).identity != identity
    assert EmbedderIdentity.from_json(identity.to_json()) == identity


def test_the_catalogue_has_every_promised_name() -> None:
    dinov2 = {f"dinov2-vit{size}14{form}" for size in "sblg" for form in ("", "-reg")}
    assert set(CATALOGUE) == dinov2 | {"clip-vitb16", "clip-vitl14", "efficientnet-lite0"}


class Faulty:
    """An embedder that gives what it is told for the pictures whose first pixel says so, and unit vectors otherwise."""

    identity, execution, batch_size = foreign_vectors("faulty", 4), Execution("elsewhere", "bfloat16", "cpu"), 4

    def __init__(self, *given: float) -> None:
        self._given = given

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((2, 2)))

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        vectors = np.full((len(pixels), 4), 0.5, np.float32)
        for number, value in enumerate(self._given):
            vectors[pixels[:, 0, 0, 0] == number] = value
        return vectors


NUMBERED = np.zeros((6, 2, 2, 3), np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None]


@pytest.mark.parametrize("given", [np.nan, np.inf, -np.inf, 0.0, 3e38])
def test_a_vector_that_is_none_is_computed_again_and_said_once(given: float) -> None:
    embedder = Checked(Faulty(given, given), lambda: Faulty())
    with pytest.warns(VisualMemoryWarning) as said:
        for pixels in (NUMBERED, NUMBERED[:1]):
            assert np.array_equal(embedder.embed(pixels), np.full((len(pixels), 4), 0.5))
    assert [str(one.message) for one in said] == [
        "faulty in bfloat16 by elsewhere: what the model gives is zero or not finite for 2 of 6 pictures; they are"
        " computed again in float32 by torch, more slowly"
    ]


@pytest.mark.filterwarnings("ignore:faulty in bfloat16")
@pytest.mark.parametrize("again", [None, lambda: Faulty(np.nan, 0.5, 0.0)])
def test_a_picture_that_has_no_vector_in_float32_either_is_named(again: Callable[[], Embedder] | None) -> None:
    embedder = Checked(Faulty(np.nan, 0.5, np.inf), again)
    with pytest.raises(UnusableVectors, match=r"for 2 of 6 pictures \(the first is number 1\): leave them out") as told:
        embedder.embed(NUMBERED)
    assert told.value.rows == (0, 2) and np.array_equal(told.value.vectors[[1, 3, 4, 5]], np.full((4, 4), 0.5))


def test_the_rest_of_a_batch_goes_on_where_a_picture_has_no_vector() -> None:
    items = [NUMBERED[number].repeat(8, 0).repeat(8, 1) for number in range(6)]
    batches = list(embed_images(range(6), Faulty(0.5, np.nan, 0.5, 0.0), image_of=items.__getitem__))
    assert [item for batch in batches for item in batch.items] == [0, 2, 4, 5]
    assert all(np.array_equal(vector, np.full(4, 0.5)) for batch in batches for vector in batch.vectors)
    failures = [failure for batch in batches for failure in batch.failures]
    assert [failure.item for failure in failures] == [1, 3]
    assert str(failures[0].error) == (
        "what the model gives for the picture is zero or not finite, in float32 too, and no vector: leave it out"
    )


def test_adding_names_the_picture_that_has_no_vector_and_keeps_the_others(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(NUMBERED[number].repeat(8, 0).repeat(8, 1)).save(tmp_path / f"{number}.png")
    embedder = Faulty(0.5, np.nan)
    memory = VisualMemory.create(tmp_path / "memory", embedder=embedder)
    report = memory.add([(str(number), "label", tmp_path / f"{number}.png") for number in range(3)])
    assert report.added == 2 and [id_ for id_, _ in report.unreadable] == ["1"]
    with pytest.raises(ImageError, match=r"what the model gives for .*1\.png is zero or not finite"):
        memory.search(tmp_path / "1.png")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_vector_of_a_model_whose_weights_are_not_finite_leaves_it(precision: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    if precision == "bfloat16" and not this_processor().bfloat16:
        cannot_here("bfloat16 in this processor")
    weights = save_dinov2(tmp_path / "m", seed=1) / "model.safetensors"
    tensors = load_file(weights)
    save_file(tensors | {"layernorm.bias": tensors["layernorm.bias"] * np.nan}, weights, metadata={"format": "pt"})
    embedder = load_embedder(str(tmp_path / "m"), precision=precision)
    for pictures in (PICTURES, PICTURES[:1]):
        with warnings.catch_warnings(), pytest.raises(UnusableVectors, match="is zero or not finite, in float32 too"):
            warnings.simplefilter("ignore", VisualMemoryWarning)
            embed(embedder, pictures)


def own(**parts: Any) -> Faulty:
    """Return an embedder like `Faulty`, in parts another."""
    made: Faulty = type("Own", (Faulty,), parts)()
    return made


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (lambda pictures: np.ones((len(pictures), 4)), "got function as an embedder: .* an object with identity, exec"),
        (Faulty, "got the class Faulty as an embedder"),
        (None, "got NoneType as an embedder"),
        (own(batch_size=0), "whose batch_size is 0: a whole number, 1 or more, expected"),
        (own(identity="faulty"), "whose identity is 'faulty': an EmbedderIdentity expected"),
        (own(execution=None), "whose execution is None: an Execution expected"),
    ],
)
def test_what_is_no_embedder_is_refused_in_one_sentence(offered: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=expected):
        VisualMemory.create(tmp_path / "memory", embedder=offered)
    assert not (tmp_path / "memory").exists()


PICTURE = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lambda number: np.ones((number, 5)), r"shape \(1, 5\) for 1 pictures: numbers of shape \(1, 4\) expected"),
        (lambda number: np.ones((number + 1, 4)), r"array of float64 with shape \(2, 4\) for 1 pictures"),
        (lambda number: np.ones(4), r"with shape \(4,\) for 1 pictures"),
        (lambda number: None, r"array of object with shape \(\) for 1 pictures"),
        (lambda number: np.ones((number, 4), complex), "array of complex128"),
        (lambda number: ["a"] * number, "array of <U1"),
    ],
)
def test_an_embedder_that_gives_no_row_of_numbers_a_picture_is_told(given: Any, expected: str, tmp_path: Path) -> None:
    embedder = own(embed=lambda self, pixels: given(len(pixels)))
    memory = VisualMemory.create(tmp_path / "memory", embedder=embedder)
    with pytest.raises(EmbedderError, match=f"faulty gives an .*{expected}"):
        memory.add([("a", "label", PICTURE)])


@pytest.mark.parametrize(
    ("prepared", "expected"),
    [
        (lambda image: None, r"faulty prepares a picture as an array of object with shape \(\)"),
        (lambda image: np.asarray(image), r"pictures of several shapes, such as \(8, 8, 3\) and \(9, 8, 3\)"),
    ],
)
def test_an_embedder_that_prepares_no_pixels_is_told(prepared: Any, expected: str, tmp_path: Path) -> None:
    embedder = own(prepare=lambda self, image: prepared(image))
    memory = VisualMemory.create(tmp_path / "memory", embedder=embedder)
    with pytest.raises(EmbedderError, match=expected):
        memory.add([("a", "label", PICTURE), ("b", "label", np.zeros((9, 8, 3), np.uint8))])


@pytest.mark.parametrize(
    "kind", ["float16", "float64 of length 14", "int", "with grad", "bfloat16", "a list of tensors"]
)
def test_an_embedder_may_give_numbers_of_any_kind(kind: str, tmp_path: Path) -> None:
    import torch

    ways: dict[str, Callable[[int], Any]] = {
        "float16": lambda number: np.ones((number, 4), np.float16),
        "float64 of length 14": lambda number: np.full((number, 4), 7.0),
        "int": lambda number: np.ones((number, 4), int),
        "with grad": lambda number: torch.ones((number, 4), requires_grad=True),
        "bfloat16": lambda number: torch.ones((number, 4), dtype=torch.bfloat16),
        "a list of tensors": lambda number: [torch.ones(4, dtype=torch.bfloat16, requires_grad=True)] * number,
    }
    memory = VisualMemory.create(tmp_path / "m", embedder=own(embed=lambda self, pixels: ways[kind](len(pixels))))
    memory.add([("a", "label", PICTURE)])
    assert np.allclose(memory.embed([PICTURE]), 0.5) and memory.search(PICTURE, k=1)[0][0].id == "a"


def test_a_folder_may_be_given_as_a_path(checkpoint: Path, tmp_path: Path) -> None:
    made = VisualMemory.create(tmp_path / "memory", embedder=checkpoint)
    assert VisualMemory.open(tmp_path / "memory", embedder=checkpoint).embedder.identity == made.embedder.identity


@pytest.mark.parametrize("kind", ["with grad", "bfloat16", "both", "a list of tensors", "lists"])
def test_vectors_may_be_tensors_of_any_kind(kind: str, tmp_path: Path) -> None:
    import torch

    eye = torch.eye(4)
    vectors = {
        "with grad": eye.clone().requires_grad_(),
        "bfloat16": eye.bfloat16(),
        "both": eye.bfloat16().requires_grad_(),
        "a list of tensors": [row.bfloat16().requires_grad_() for row in eye],
        "lists": eye.tolist(),
    }[kind]
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("elsewhere", 4))
    assert memory.add_vectors(list("abcd"), ["label"] * 4, vectors).added == 4
    assert [found[0].id for found in memory.search_vectors(vectors, k=1)] == list("abcd")


@pytest.mark.parametrize("vectors", [[[1, 2, 3, 4], [1, 2]], "words", {"a": 1}, None, 3.0, np.ones((2, 1, 4))], ids=str)
def test_vectors_that_are_no_rows_of_numbers_are_refused_in_one_sentence(vectors: Any, tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("elsewhere", 4))
    with pytest.raises(InvalidArgument, match="of which no array can be made|vectors: one of each|with shape"):
        memory.add_vectors(["a", "b"], ["label"] * 2, vectors)
    with pytest.raises(InvalidArgument, match="of which no array can be made|numbers of shape"):
        memory.search_vectors(vectors, k=1)
