"""Stage two and the whole: classify by voting, with a vision-language model as the second opinion.

from agent import classify_with_rerank
prediction = classify_with_rerank("query.jpg", memory)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.classify import classify_with_rerank as classify_with_rerank
    from agent.models.scripted import ScriptedModel as ScriptedModel
    from agent.types import Prediction as Prediction

_HOMES = {
    "Prediction": "agent.types",
    "ScriptedModel": "agent.models.scripted",
    "classify_with_rerank": "agent.classify",
}
__all__ = ["Prediction", "ScriptedModel", "classify_with_rerank"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the names are loaded on use, so that `vmem --help` stays quick
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
