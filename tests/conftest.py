"""Fixtures that every room's tests share: pictures, a small real embedder, a memory built by both."""

import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import pytest
from PIL import Image, ImageDraw

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}

# How the reason of a skip begins where no one can help it: other skips name what is to be installed.
CANNOT_HERE: Final = "cannot be had here: "
needs_scann = pytest.mark.skipif(sys.platform != "linux", reason=f"{CANNOT_HERE}ScaNN is for Linux")


def cannot_here(what: str) -> NoReturn:
    """Skip a test for something that cannot be installed on this machine."""
    pytest.skip(CANNOT_HERE + what)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let continuous integration see to it that everything runs that can."""
    parser.addoption("--no-skips", action="store_true", help="fail where a test is skipped that could have run here")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    return _refuse_skip(item.config, (yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    return _refuse_skip(collector.config, (yield))


def _refuse_skip(config: pytest.Config, report: Any) -> Any:
    if config.getoption("no_skips") and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(CANNOT_HERE):
            report.outcome, report.longrepr = "failed", f"skipped, though it could have run here: {reason}"
    return report


SHARED: Final = Path(os.environ.get("VMEM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")).parent


def beside_checkout(name: str, what: str) -> Path:
    """Return what lies beside some checkouts, such as ``data/pacs``; skip, and say so, where it does not."""
    if not (SHARED / name).exists():
        cannot_here(f"{what} ({SHARED / name}; set VMEM_TEST_DATA to the folder data beside it)")
    return SHARED / name


def shared_data(name: str) -> Path:
    """Return a folder of real images that lies beside some checkouts."""
    return beside_checkout(f"data/{name}", f"the images of {name}")


def draw(colour: tuple[int, int, int], number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Return a picture that looks like its siblings of the same colour, but equals none of them."""
    picture = Image.new("RGB", size, colour)
    ImageDraw.Draw(picture).ellipse((4 + 3 * number, 6, 20 + 3 * number, 30), fill=(255, 255, 10 * number))
    return picture


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep features and converted models of the tests out of the user's cache, and the user's keys out of the tests."""
    os.environ["VMEM_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    for service in ("GEMINI", "GOOGLE", "OPENAI"):
        os.environ.pop(f"{service}_API_KEY", None)
        os.environ.pop(f"{service}_API_KEY_FILE", None)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three labels with six pictures each."""
    folder = tmp_path_factory.mktemp("pictures")
    for label, colour in COLOURS.items():
        (folder / label).mkdir()
        for number in range(6):
            draw(colour, number).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a DINOv2 of 32 dimensions and random weights, as transformers saves it."""
    return save_dinov2(tmp_path_factory.mktemp("models") / "small-dinov2", seed=0)


def save_dinov2(folder: Path, *, seed: int) -> Path:
    """Save a small DINOv2 with random weights."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(seed)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=518)
    Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, pictures: Path, checkpoint: Path) -> Path:
    """Return a memory of the pictures; tests only read it."""
    from retrieval.building import build_memory

    path = tmp_path_factory.mktemp("memories") / "built"
    build_memory(path, pictures, embedder=str(checkpoint))
    return path


@pytest.fixture(scope="session")
def random_vectors() -> Callable[[int, int], np.ndarray]:
    """Return a maker of unit vectors with clusters in them."""

    def make(items: int, dimension: int, seed: int = 0) -> np.ndarray:
        draw_from = np.random.default_rng(seed)
        centres = draw_from.normal(size=(max(1, items // 50), dimension))
        vectors = centres[draw_from.integers(len(centres), size=items)] + 0.5 * draw_from.normal(
            size=(items, dimension)
        )
        unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit.astype(np.float32)

    return make
