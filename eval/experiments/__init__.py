"""The paper's analyses: one file a figure or table, each with one function of its name."""

from eval.experiments.aggregation import aggregation, hyperparameters
from eval.experiments.blame import blame
from eval.experiments.compositionality import compositionality
from eval.experiments.granularity import granularity
from eval.experiments.label_noise import label_noise
from eval.experiments.latency_storage import latency_storage
from eval.experiments.memory_size import memory_size
from eval.experiments.new_classes import new_classes
from eval.experiments.pruning import pruning
from eval.experiments.reliability import calibration, distances, hit_rate, reliability
from eval.experiments.unlearning import unlearning

__all__ = [
    "aggregation",
    "blame",
    "calibration",
    "compositionality",
    "distances",
    "granularity",
    "hit_rate",
    "hyperparameters",
    "label_noise",
    "latency_storage",
    "memory_size",
    "new_classes",
    "pruning",
    "reliability",
    "unlearning",
]
