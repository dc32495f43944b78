"""Does a confidence of 80 % mean 80 % right?"""

import math
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from eval.types import Calibration

BINS: Final = 15  # as in Guo et al., "On calibration of modern neural networks" (2017)


def calibrate(confidence: Float[np.ndarray, " queries"], right: Bool[np.ndarray, " queries"]) -> Calibration:
    """Return the calibration of confidences from 0 to 1, over bins that hold their upper edge."""
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts, correct = (np.bincount(bins, weights, BINS) for weights in (None, right))
    # Summed exactly, so that the order of the queries does not show in the last digit.
    claimed = np.array([math.fsum(confidence[bins == number]) for number in range(BINS)])
    gaps = np.abs(claimed - correct)  # of the sums: bins weigh as many queries as they hold
    return Calibration(
        ece=100.0 * math.fsum(gaps) / len(right),
        counts=counts.tolist(),
        confidence=_means(claimed, counts),
        accuracy=_means(correct, counts),
    )


def _means(sums: np.ndarray, counts: np.ndarray) -> list[float | None]:
    return [100.0 * float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]
