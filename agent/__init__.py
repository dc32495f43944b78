"""Stage two and the whole: classify by voting, with a vision-language model as the second opinion.

from agent import classify_with_rerank
prediction = classify_with_rerank("query.jpg", memory)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.classify import classify_batch as classify_batch
    from agent.classify import classify_batch_async as classify_batch_async
    from agent.classify import classify_with_rerank as classify_with_rerank
    from agent.config import GenerationConfig as GenerationConfig
    from agent.config import TransportConfig as TransportConfig
    from agent.display import show as show
    from agent.fusion import fit_fusion_weight as fit_fusion_weight
    from agent.loading import load_model as load_model
    from agent.models.scripted import ScriptedModel as ScriptedModel
    from agent.presets import Preset as Preset
    from agent.presets import load_preset as load_preset
    from agent.presets import save_preset as save_preset
    from agent.types import Prediction as Prediction

_HOMES = {
    "GenerationConfig": "agent.config",
    "Prediction": "agent.types",
    "Preset": "agent.presets",
    "ScriptedModel": "agent.models.scripted",
    "TransportConfig": "agent.config",
    "classify_batch": "agent.classify",
    "classify_batch_async": "agent.classify",
    "classify_with_rerank": "agent.classify",
    "fit_fusion_weight": "agent.fusion",
    "load_model": "agent.loading",
    "load_preset": "agent.presets",
    "save_preset": "agent.presets",
    "show": "agent.display",
}
__all__ = [
    "GenerationConfig",
    "Prediction",
    "Preset",
    "ScriptedModel",
    "TransportConfig",
    "classify_batch",
    "classify_batch_async",
    "classify_with_rerank",
    "fit_fusion_weight",
    "load_model",
    "load_preset",
    "save_preset",
    "show",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the names are loaded on use, so that `vmem --help` stays quick
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
