"""Trying prompts without a key: a stand-in for a model that compares pixels, and tells nothing of one."""

import json
import re
from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import Float

from agent.keys import key_variable
from agent.loading import LoadedModel, load_model, make_ready
from agent.metered import Meter
from agent.models.scripted import ScriptedModel
from prompts.cost import Dollars
from prompts.render import quoted
from prompts.types import NONE_CODE, ImagePart, Prompt, TextPart
from retrieval.images import decode
from retrieval.labels import display_name

_PIXELS: Final = (16, 16)  # at which pictures are compared: outlines and colours, not details
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_EVIDENCE: Final = 3  # neighbours that it names


def model_or_stand_in(name: str, *, max_cost: Dollars | None = None) -> LoadedModel:
    """Return a Gemini model where a key is set in the environment, and otherwise the offline stand-in.

    Raises:
        InvalidArgument, EveryRequestFails, ReplyCacheError: as for `load_model`.
    """
    if key_variable():
        return load_model(name, max_cost=max_cost)
    return make_ready(ScriptedModel(answer_by_pixels, keep_prompts=False), meter=Meter())


def answer_by_pixels(prompt: Prompt) -> str:
    """Reply with the labels of those neighbours in the prompt that correlate best with the query, pixel by pixel.

    It goes by nothing but the pictures that the prompt shows each below a line with its label, so that prompts which
    show others get other answers. Where a prompt shows none, it agrees with the vote.
    """
    codes = {quoted(name): code for code, label in prompt.candidates.items() for name in (label, display_name(label))}
    seen = list(_pictures(prompt))
    query = _looked_at(seen[-1][1])
    near = [(float(query @ _looked_at(picture)), codes[label]) for label, picture in seen if label in codes]
    order = sorted(range(len(near)), key=lambda place: -near[place][0])
    ranking = list(dict.fromkeys(near[place][1] for place in order)) or [next(iter(prompt.candidates), NONE_CODE)]
    answer = {
        "description": "a comparison of pixels by a stand-in, without any understanding",
        "evidence": [place + 1 for place in order[:_EVIDENCE]],
        "ranking": ranking[:5],
        "confidence": round(max(0.0, near[order[0]][0]), 2) if near else 0.5,
    }
    return json.dumps(answer)


def _pictures(prompt: Prompt) -> Iterator[tuple[str, ImagePart]]:
    """Yield the prompt's pictures, each with what the line before it quotes: nothing for the query, the last one."""
    before = ""
    for part in prompt.parts:
        if isinstance(part, TextPart):
            before = part.text
        else:
            named = _QUOTED.findall(before.rsplit("\n", 1)[-1])
            yield (named[-1] if named else ""), part


def _looked_at(picture: ImagePart) -> Float[np.ndarray, " values"]:
    small = np.asarray(decode(picture.encoded).resize(_PIXELS), np.float64).ravel()
    centred = small - small.mean()
    length = float(np.linalg.norm(centred)) or 1.0
    return np.asarray(centred / length)
