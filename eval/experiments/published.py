"""Figures that the paper states in its text, for curves beside ours. It prints no numbers for its other curves."""

from typing import Final

from eval.types import Percent

SHOWN_FOR_OTHERS: Final = "dinov2-vitl14"  # the paper's main model, beside embedders that it did not measure
TABLE_KS: Final = tuple(range(10, 101, 10))

# Tables 4 to 8 (appendix A): top-1 in percent on ImageNet's validation set, at each k of TABLE_KS.
AGGREGATION: Final[dict[str, dict[str, tuple[Percent, ...]]]] = {
    "dinov2-vitl14": {
        "rank": (83.5, 83.6, 83.6, 83.5, 83.5, 83.4, 83.3, 83.3, 83.3, 83.3),
        "plurality": (83.2, 82.9, 82.6, 82.4, 82.1, 82.0, 81.8, 81.6, 81.5, 81.4),
        "distance": (83.3, 83.0, 82.7, 82.4, 82.2, 82.1, 81.9, 81.7, 81.6, 81.5),
        "softmax": (83.5, 83.5, 83.4, 83.3, 83.2, 83.1, 83.1, 83.0, 82.9, 82.9),
    },
    "dinov2-vitb14": {
        "rank": (82.1, 82.2, 82.1, 82.0, 82.0, 82.0, 81.9, 81.9, 81.9, 81.9),
        "plurality": (81.8, 81.4, 81.1, 80.9, 80.7, 80.4, 80.2, 80.0, 79.8, 79.6),
        "distance": (81.9, 81.5, 81.2, 81.0, 80.8, 80.5, 80.3, 80.0, 79.9, 79.7),
        "softmax": (82.0, 82.0, 81.9, 81.8, 81.7, 81.7, 81.6, 81.5, 81.3, 81.3),
    },
    "dinov2-vits14": {
        "rank": (78.9, 79.1, 79.0, 78.9, 78.9, 78.9, 78.9, 78.8, 78.8, 78.8),
        "plurality": (78.6, 78.2, 77.8, 77.4, 77.1, 76.8, 76.5, 76.3, 76.1, 75.9),
        "distance": (78.8, 78.4, 77.9, 77.5, 77.2, 76.9, 76.6, 76.4, 76.2, 76.0),
        "softmax": (78.9, 78.9, 78.7, 78.6, 78.5, 78.3, 78.1, 78.0, 77.9, 77.7),
    },
    "clip-vitl14": {
        "rank": (79.3, 79.6, 79.7, 79.7, 79.7, 79.7, 79.7, 79.7, 79.7, 79.7),
        "plurality": (79.0, 78.7, 78.3, 78.0, 77.8, 77.6, 77.4, 77.4, 77.2, 77.0),
        "distance": (79.2, 78.9, 78.5, 78.2, 78.0, 77.8, 77.6, 77.5, 77.3, 77.1),
        "softmax": (79.3, 79.3, 79.1, 78.9, 78.8, 78.7, 78.5, 78.5, 78.4, 78.2),
    },
    "clip-vitb16": {
        "rank": (73.0, 73.7, 73.8, 73.8, 73.8, 73.8, 73.7, 73.7, 73.7, 73.7),
        "plurality": (72.8, 72.6, 72.3, 72.0, 71.7, 71.4, 71.2, 70.9, 70.8, 70.5),
        "distance": (73.1, 72.9, 72.6, 72.3, 71.9, 71.6, 71.4, 71.1, 70.9, 70.6),
        "softmax": (73.3, 73.3, 73.1, 72.9, 72.7, 72.5, 72.3, 72.1, 71.9, 71.7),
    },
}
_TABLES: Final = dict(zip(AGGREGATION, range(4, 9), strict=True))
NEAREST: Final = {"dinov2-vitl14": 81.1, "clip-vitl14": 76.0}  # Table 9, "no aggregation": top-1 of the nearest alone
HIT_RATE: Final = 98.0  # appendix E: "approaches 98% for the best model" with 100 neighbours
UNCHANGED_UP_TO: Final = 60.0  # appendix D: percent of labels corrupted at which accuracy is "almost unchanged"


def same_model(embedder: str) -> str:
    """Return the paper's model that an embedder is, or its main one."""
    plain = "".join(c for c in embedder.lower() if c.isalnum())
    return next((name for name in AGGREGATION if name.replace("-", "") == plain), SHOWN_FOR_OTHERS)


def where(model: str) -> str:
    """Return what to call a model's published figures: "DINOv2 ViT-L14, ImageNet (paper, Table 4)"."""
    family, size = model.split("-vit")
    shown = {"dinov2": "DINOv2", "clip": "CLIP"}[family]
    return f"{shown} ViT-{size.upper()}, ImageNet (paper, Table {_TABLES[model]})"
