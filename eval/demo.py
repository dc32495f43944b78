"""The main job on real pictures, from nothing: a memory, held-out queries and five shifted variants of them."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from eval.datasets.trees import read_folder
from eval.report.page import REPORT, write_pages
from eval.runs.finished import summarise
from eval.runs.runner import run_evaluation
from eval.types import Dataset, Metrics, RunError
from retrieval.building import expect_a_picture
from retrieval.embedders import PACKAGED
from retrieval.errors import FolderError, ImageError
from retrieval.images import decode
from retrieval.memory import VisualMemory
from retrieval.sources import Item, LabelledFile, as_text, expect_outside, list_labelled_files
from retrieval.storage.places import is_memory, writing
from retrieval.support.terminal import track

_ROTATION_DEGREES: Final = 30.0
_NOISE_DEVIATION: Final = 40.0  # of 255
_BLUR_PER_SIDE: Final = 1 / 16  # radius as a part of the short side


def _noisy(picture: Image.Image, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0.0, _NOISE_DEVIATION, (picture.height, picture.width, 1))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


VARIANTS: Final[dict[str, Callable[[Image.Image, int], Image.Image]]] = {  # of a picture and a seed
    "original": lambda picture, seed: picture,
    # The corners take the picture's own corner colour.
    "rotated": lambda picture, seed: picture.rotate(
        _ROTATION_DEGREES, Image.Resampling.BICUBIC, fillcolor=picture.getpixel((0, 0))
    ),
    "inverted": lambda picture, seed: ImageOps.invert(picture),
    "noisy": _noisy,
    "blurred": lambda picture, seed: picture.filter(ImageFilter.GaussianBlur(min(picture.size) * _BLUR_PER_SIDE)),
    "edges": lambda picture, seed: picture.convert("L").filter(ImageFilter.FIND_EDGES).convert("RGB"),
}


QUERIES: Final = 240
LIMIT: Final = 3000
_DIGIT_PIXELS: Final = 64
_QUERY_PIXELS: Final = 512  # longest side: twice what embedders look at
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo made."""

    metrics: dict[str, Metrics]  # by variant
    memory: Path
    report: Path
    left_out: int  # pictures beyond the limit


def run_demo(
    out: str | Path,
    *,
    images: str | Path | None = None,
    embedder: str = PACKAGED,
    queries: int = QUERIES,
    limit: int = LIMIT,
    say: Callable[[str], None] = print,
) -> DemoResult:
    """Build a memory from most of a folder's pictures, classify the rest and their variants, write a report.

    Run again with the same choices, it goes on where it stopped.

    Args:
        out: the demo's own folder.
        images: pictures laid out as ``<label>/<image>``; None writes scikit-learn's 1,797 scanned digits.
        embedder: as `load_embedder` takes it.
        queries: how many pictures to hold out, evenly over the classes.
        limit: how many pictures to use at most, drawn at random with a fixed seed.
        say: receives a line at the start of each step.

    Raises:
        FolderError: the pictures are missing, too few or laid out otherwise.
        RunError: ``out`` holds another demo or cannot be written.
        EmbedderError: the embedder cannot be loaded, or is another one than the memory's.
        StorageError: the memory cannot be read or written.
    """
    folder = Path(out)
    if images is not None:
        expect_outside(folder, images)
    choices: dict[str, object] = {"embedder": embedder, "queries": queries, "limit": limit}
    if images is None:
        images = folder / "images"
        _claim(folder, {"images": "digits", **choices})
        say(f"1/4  Writing scikit-learn's scanned digits to {images}")
        write_digits(images)
        files = list_labelled_files(images)
    else:
        say(f"1/4  Reading {images}")
        files = list_labelled_files(images)
        expect_a_picture((file.path for file in files), images)
        # What was held out must stay out of the memory, so other pictures are another demo.
        names = hashlib.sha256("\n".join(file.id for file in files).encode()).hexdigest()
        _claim(folder, {"images": as_text(Path(images).resolve()), "names": names, **choices})
    drawn = random.Random(_SEED).sample(files, min(limit, len(files)))
    remembered, held_out = split(drawn, queries=queries)

    say(f"2/4  Building a memory of {len(remembered):,} pictures with {embedder}")
    memory = remember(folder / "memory", remembered, embedder)
    say(f"3/4  Making {len(VARIANTS) - 1} shifted variants of {len(held_out):,} held-out pictures")
    _write_variants(held_out, folder / "queries")
    say("4/4  Classifying them")
    datasets = {name: Dataset(read_folder(folder / "queries" / name)) for name in VARIANTS}
    paths = {name: str((folder / "queries" / name).resolve()) for name in VARIANTS}
    run = run_evaluation(memory, datasets, folder / "run", paths=paths)
    summary = summarise(run, folder / "run")
    write_pages(run, summary, folder / "run", memory=memory, datasets=datasets)
    return DemoResult(summary.metrics, folder / "memory", folder / "run" / REPORT, len(files) - len(drawn))


def write_digits(folder: Path) -> None:
    """Write scikit-learn's digits, 8 × 8 scans of handwriting (Alpaydin and Kaynak, 1998), as ``<digit>/<n>.png``."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (scan, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(digit) / f"{number:04d}.png"
        if not path.exists():
            grey = Image.fromarray((scan * (255 / 16)).astype(np.uint8))  # values run from 0 to 16
            _save(grey.resize((_DIGIT_PIXELS, _DIGIT_PIXELS), Image.Resampling.BICUBIC), path)


def split(files: list[LabelledFile], *, queries: int) -> tuple[list[LabelledFile], list[LabelledFile]]:
    """Return the pictures to remember and those to hold out, evenly over the classes; the order of files counts.

    At most half of a class is held out.

    Raises:
        FolderError: no class has two pictures.
    """
    by_label: dict[str, list[LabelledFile]] = {}
    for file in files:
        by_label.setdefault(file.label, []).append(file)
    wanted = max(1, round(queries / len(by_label)))
    held_out = [file for members in by_label.values() for file in members[: min(wanted, len(members) // 2)]]
    if not held_out:
        raise FolderError("every class has a single picture: two or more are needed, one to remember and one to ask")
    asked = {file.id for file in held_out}
    return [file for file in files if file.id not in asked], held_out


def _claim(folder: Path, choices: dict[str, object]) -> None:
    """Make the folder the demo's own, or see that it is that of a demo with the same choices."""
    marker, aside = folder / "demo.json", folder / "demo.json.new"
    wanted = json.dumps(choices)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        others = {entry.name for entry in folder.iterdir()} - {marker.name, aside.name}
        if others and not (marker.exists() and marker.read_bytes() == wanted.encode()):
            raise RunError(f"{folder} holds other files, or a demo of other pictures or settings: choose another --out")
        aside.write_text(wanted)
        aside.replace(marker)


def remember(path: Path, files: list[LabelledFile], embedder: str) -> VisualMemory:
    """Return a memory of some files, built or opened and completed."""
    memory = (VisualMemory.open if is_memory(path) else VisualMemory.create)(path, embedder=embedder)
    items = (Item(file.id, file.label, file.path, file.source) for file in files)
    memory.add(track(items, "Embedding", total=len(files)))
    memory.build_index()
    return memory


def _write_variants(files: list[LabelledFile], folder: Path) -> None:
    for number, file in enumerate(track(files, "Shifting", total=len(files))):
        try:
            picture = decode(file.path)
        except ImageError:
            continue  # a held-out file that is no picture is no query
        picture.thumbnail((_QUERY_PIXELS, _QUERY_PIXELS))
        for name, shift in VARIANTS.items():
            path = folder / name / f"{file.id}.png"  # after the old ending: two files may differ in nothing else
            if not path.exists():
                _save(shift(picture, number), path)


def _save(picture: Image.Image, path: Path) -> None:
    """Write a picture wholly or not at all, so that a second run can trust what is there."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        picture.save(fresh, "PNG")
        fresh.replace(path)
