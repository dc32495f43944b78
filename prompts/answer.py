"""A model's reply, read beside what was asked."""

import json
from dataclasses import dataclass
from typing import Any, Final

from prompts.errors import UnusableReply
from prompts.types import Prompt
from retrieval.types import Label

_FENCE: Final = "```"
_SHOWN: Final = 80  # characters of a reply repeated in an error


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model decided."""

    label: Label
    confidence: float | None  # 0 to 1 as the model claims; None when it said none
    evidence: tuple[int, ...]  # numbers of the neighbours that it names, counted from 1


def parse_answer(reply: str, prompt: Prompt) -> Answer:
    """Return the answer in a reply: a JSON object with a candidate's code, or the bare code or label.

    Codes go before labels, and both must match whole, so that a reply is never taken for more than it says.

    Raises:
        UnusableReply: no answer, or one outside the prompt's candidates.
    """
    if not isinstance(reply, str):
        raise UnusableReply("the reply holds no text")
    text = reply.strip()
    if text.startswith(_FENCE) and text.endswith(_FENCE):
        text = text[len(_FENCE) : -len(_FENCE)].removeprefix("json").strip()
    fields = _json_object(text) or {"answer": text}
    if "answer" not in fields:
        raise UnusableReply(f"the reply holds no answer: {_shown(reply)}")
    return Answer(_label(fields["answer"], prompt), _confidence(fields), _evidence(fields))


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: brackets nested by the thousand
        return None
    return parsed if isinstance(parsed, dict) else None


def _label(answer: Any, prompt: Prompt) -> Label:  # noqa: ANN401 - whatever the model put there
    spelled = answer.strip() if isinstance(answer, str) else json.dumps(answer)
    if spelled in prompt.candidates:
        return prompt.candidates[spelled]
    for label in prompt.candidates.values():
        if spelled == str(label):
            return label
    raise UnusableReply(f"the reply is none of the {len(prompt.candidates)} candidates: {_shown(spelled)}")


def _confidence(fields: dict[str, Any]) -> float | None:
    claimed = fields.get("confidence")
    if isinstance(claimed, bool) or not isinstance(claimed, int | float) or not 0 <= claimed <= 1:
        return None
    return float(claimed)


def _evidence(fields: dict[str, Any]) -> tuple[int, ...]:
    named = fields.get("evidence")
    return tuple(n for n in named if type(n) is int and n >= 1) if isinstance(named, list) else ()


def _shown(reply: str) -> str:
    cut = reply if len(reply) <= _SHOWN else reply[:_SHOWN] + "…"
    return json.dumps(cut, ensure_ascii=False)
