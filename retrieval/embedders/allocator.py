"""One setting of the C library that makes embedding on Linux CPUs two to three times as fast."""

import ctypes
import sys
from typing import Final

_TRIM_THRESHOLD: Final = -1  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
_KEPT_BYTES: Final = 2**30


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks of up to 1 GiB for the next layer's activations instead of returning them.

    A convolution's activations are tens of megabytes; returned and fetched again layer by layer, each page faults
    anew. Measured with EfficientNet-Lite0, batches of 8, 2 cores: 143–150 images/s instead of 54–60, and 0.02 s of
    system time instead of 3.4 s for 192 images. Elsewhere than on glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_ARENA_MAX, 1)  # other threads' arenas would map every large block anew, whatever the threshold
