"""Stage two and the whole: classify by voting, with a vision-language model as the second opinion.

from agent import classify_with_rerank
prediction = classify_with_rerank("query.jpg", memory)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.calls.ready import load_model as load_model
    from agent.classify import classify_batch as classify_batch
    from agent.classify import classify_batch_async as classify_batch_async
    from agent.classify import classify_with_rerank as classify_with_rerank
    from agent.display import show as show
    from agent.models.scripted import ScriptedModel as ScriptedModel
    from agent.presets import load_preset as load_preset
    from agent.presets import save_preset as save_preset
    from agent.rerank import fit_fusion_weight as fit_fusion_weight
    from agent.settings import GenerationConfig as GenerationConfig
    from agent.settings import Preset as Preset
    from agent.settings import Settings as Settings
    from agent.settings import TransportConfig as TransportConfig
    from agent.types import Prediction as Prediction

_HOMES = {
    "GenerationConfig": "agent.settings",
    "Prediction": "agent.types",
    "Preset": "agent.settings",
    "Settings": "agent.settings",
    "ScriptedModel": "agent.models.scripted",
    "TransportConfig": "agent.settings",
    "classify_batch": "agent.classify",
    "classify_batch_async": "agent.classify",
    "classify_with_rerank": "agent.classify",
    "fit_fusion_weight": "agent.rerank",
    "load_model": "agent.calls.ready",
    "load_preset": "agent.presets",
    "save_preset": "agent.presets",
    "show": "agent.display",
}
__all__ = [
    "GenerationConfig",
    "Prediction",
    "Preset",
    "ScriptedModel",
    "Settings",
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
