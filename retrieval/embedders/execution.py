"""How an embedder runs: recorded beside its vectors, never insisted on."""

import hashlib
import itertools
import platform
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from retrieval.errors import InvalidArgument

DEVICES: Final = ("auto", "cpu", "cuda", "mps")
BACKENDS: Final = ("auto", "torch", "openvino")
PRECISIONS: Final = ("auto", "float32", "bfloat16", "float16", "int8")

LEAST_AGREEMENT: Final = 0.9999
"""The smallest cosine to float32 that a lower precision may show and still be taken without being asked for."""


@dataclass(frozen=True, slots=True)
class Processor:
    """What of a processor decides how, and how exactly, it computes. Two that differ share nothing that was compiled.

    Its name alone does not: in the cloud processors of several generations are called "AMD EPYC".
    """

    name: str
    bfloat16: bool  # whether it computes in bfloat16 by itself, rather than emulating it
    instructions: str = ""  # digest of its instruction sets; empty where the system does not tell them
    cores: int = 1

    def __str__(self) -> str:
        """Return name and instruction sets in a few words."""
        return f"{self.name} {self.instructions}".rstrip()


@cache
def instruction_sets() -> str:
    """Return a short digest of this processor's model and instruction sets, as far as the system tells them."""
    try:
        with Path("/proc/cpuinfo").open() as lines:
            first_core = list(itertools.takewhile(str.strip, lines))
    except OSError:
        return hashlib.sha256(platform.processor().encode()).hexdigest()[:8]
    told = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU ", "Features")  # the last two on Arm
    return hashlib.sha256("".join(line for line in first_core if line.startswith(told)).encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Execution:
    """Backend, precision and device. Two that are equal give the same vectors up to the last digits."""

    backend: str = field(compare=False)
    precision: str
    device: str = field(compare=False)
    calibration: str = ""  # digest of the pictures that int8 took its ranges from; else empty
    agreement: float | None = field(default=None, compare=False)  # smallest cosine to float32 that was measured
    reason: str = field(default="", compare=False)  # why it was taken, in a few words for people
    engine: str = field(default="", compare=False)  # what computes: the libraries' versions, and on what processor

    def __str__(self) -> str:
        """Return the line that tells a user what was taken and why."""
        return f"{self.precision} by {self.backend} on {self.device} ({self.reason})"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Requested:
    """How an embedder is asked to run. ``auto`` leaves a choice to what this machine does fastest and safely.

    Raises:
        InvalidArgument: a word that is no choice, or choices that exclude each other.
    """

    device: str = "auto"
    backend: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        for what, known in (("device", DEVICES), ("backend", BACKENDS), ("precision", PRECISIONS)):
            word = getattr(self, what)
            if word not in known:
                raise InvalidArgument(f"no {what} {word!r}: choose one of {', '.join(known)}")
        on_gpu = self.device in ("cuda", "mps")
        if self.backend == "openvino" and on_gpu:
            raise InvalidArgument(f"the openvino backend runs on cpu, not on {self.device}: use --backend torch")
        if self.precision == "int8" and (self.backend == "torch" or on_gpu):
            raise InvalidArgument("int8 runs on cpu by openvino alone: use bfloat16 or float16 elsewhere")
        if self.precision == "float16" and (self.device == "cpu" or self.backend == "openvino"):
            raise InvalidArgument("float16 is for GPUs: on cpu use bfloat16 or float32")

    def to_dict(self) -> dict[str, str]:
        """Return the three words, as `load_embedder` takes them."""
        return asdict(self)
