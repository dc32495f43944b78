"""Stage two and the whole: classify by voting, with a vision-language model as the second opinion.

    from agent import classify_with_rerank

    prediction = classify_with_rerank("query.jpg", memory, k=50)

Every public name of this room can be imported from here; it is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from retrieval.support.lazy import lazy_names

if TYPE_CHECKING:
    from agent.calls.ready import LoadedModel as LoadedModel
    from agent.calls.ready import load_model as load_model
    from agent.calls.ready import make_ready as make_ready
    from agent.card import show as show
    from agent.classify import classify_batch as classify_batch
    from agent.classify import classify_batch_async as classify_batch_async
    from agent.classify import classify_with_rerank as classify_with_rerank
    from agent.errors import CircuitOpen as CircuitOpen
    from agent.errors import CutOff as CutOff
    from agent.errors import EmptyReply as EmptyReply
    from agent.errors import EveryRequestFails as EveryRequestFails
    from agent.errors import ModelError as ModelError
    from agent.errors import PassingFailure as PassingFailure
    from agent.errors import PresetError as PresetError
    from agent.errors import ReplyCacheError as ReplyCacheError
    from agent.errors import RequestFailure as RequestFailure
    from agent.models.scripted import ScriptedModel as ScriptedModel
    from agent.presets import load_preset as load_preset
    from agent.presets import save_preset as save_preset
    from agent.rerank import fit_fusion_weight as fit_fusion_weight
    from agent.settings import GenerationConfig as GenerationConfig
    from agent.settings import Preset as Preset
    from agent.settings import Settings as Settings
    from agent.settings import TransportConfig as TransportConfig
    from agent.types import Prediction as Prediction
    from agent.types import Reply as Reply
    from agent.types import Request as Request
    from agent.types import Usage as Usage
    from agent.types import VisionModel as VisionModel

    __version__: str
else:
    _HOMES = {
        "agent.calls.ready": "LoadedModel load_model make_ready",
        "agent.card": "show",
        "agent.classify": "classify_batch classify_batch_async classify_with_rerank",
        "agent.errors": "CircuitOpen CutOff EmptyReply EveryRequestFails ModelError PassingFailure PresetError"
        " ReplyCacheError RequestFailure",
        "agent.models.scripted": "ScriptedModel",
        "agent.presets": "load_preset save_preset",
        "agent.rerank": "fit_fusion_weight",
        "agent.settings": "GenerationConfig Preset Settings TransportConfig",
        "agent.types": "Prediction Reply Request Usage VisionModel",
    }
    __getattr__, __dir__, __all__ = lazy_names(
        __name__, {name: home for home, names in _HOMES.items() for name in names.split()}
    )
