"""A model's reply, read beside what was asked."""

import itertools
import json
from dataclasses import dataclass
from typing import Any, Final

from prompts.types import MOST_CODES, NONE_CODE, Prompt, UnusableReply
from retrieval.labels import display_name
from retrieval.support.parsing import parse_json
from retrieval.types import Label

REPLY_TOKENS: Final = {"ranking": 40, "described ranking": 150}
"""The forms of an answer, each with about how many tokens one takes, without thinking: 160 and 600 characters of JSON.

``ranking`` is evidence, ranking and confidence; ``described ranking`` has a description before them, so that the model
has put into words what it sees before it decides.
"""

_FENCE: Final = "```"
_SHOWN: Final = 80  # characters of a reply repeated in an error
_LONGEST_RANKING: Final = 5
_UNKNOWN: Final = object()  # None may be a label


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model decided."""

    ranking: tuple[Label, ...]  # labels that fit, the best first; empty: none of the candidates does
    confidence: float | None  # 0 to 1 as the model claims; None when it said none
    evidence: tuple[int, ...]  # numbers of the neighbours that it names, counted from 1

    @property
    def best(self) -> Label | None:
        """The first label of the ranking; None where none of the candidates fits."""
        return self.ranking[0] if self.ranking else None


def answer_schema(prompt: Prompt) -> dict[str, Any]:
    """Return the JSON schema of an answer, its properties in the order in which they are to be written.

    Nothing but the prompt's codes can be answered where it is enforced, unless they are more than services take.
    """
    codes = [*prompt.candidates, NONE_CODE]
    code = {"type": "string", "enum": codes} if len(prompt.candidates) <= MOST_CODES else {"type": "string"}
    properties = {
        "evidence": {"type": "array", "items": {"type": "integer"}, "maxItems": 10},
        "ranking": {"type": "array", "items": code, "minItems": 1, "maxItems": _LONGEST_RANKING},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    }
    if prompt.answer == "described ranking":
        properties = {"description": {"type": "string"}, **properties}
    return {"type": "object", "properties": properties, "required": list(properties)}


def parse_answer(reply: str, prompt: Prompt) -> Answer:
    """Return the answer in a reply: a JSON object with candidates' codes, or a bare code or label.

    Codes go before labels, and both must match whole, so that a reply is never taken for more than it says. What
    follows an unknown code in a ranking is dropped; an unknown first one is no answer.

    Raises:
        UnusableReply: no answer, or one outside the prompt's candidates.
    """
    if not isinstance(reply, str):
        raise UnusableReply("the reply holds no text")
    text = reply.strip()
    if text.startswith(_FENCE) and text.endswith(_FENCE):
        text = text[len(_FENCE) : -len(_FENCE)].removeprefix("json").strip()
    try:
        fields = parse_json(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or not fields:
        fields = {"ranking": [text]}
    named = fields.get("ranking", [fields["answer"]] if "answer" in fields else None)
    if not isinstance(named, list) or not named:
        raise UnusableReply(f"the reply holds no answer: {_shown(reply)}")
    return Answer(_ranking(named, prompt), _confidence(fields), _evidence(fields))


def is_answer(reply: str, prompt: Prompt) -> bool:
    """Tell whether a reply answers its prompt."""
    try:
        parse_answer(reply, prompt)
    except UnusableReply:
        return False
    return True


def _ranking(named: list[Any], prompt: Prompt) -> tuple[Label, ...]:
    if _spelled(named[0]) == NONE_CODE:
        return ()
    best = _label(named[0], prompt)
    if best is _UNKNOWN:
        raise UnusableReply(
            f"the reply is none of the {len(prompt.candidates)} candidates: {_shown(_spelled(named[0]))}"
        )
    further = itertools.takewhile(lambda label: label is not _UNKNOWN, (_label(name, prompt) for name in named))
    return tuple(dict.fromkeys(further))


def _label(name: Any, prompt: Prompt) -> Label:  # noqa: ANN401 - whatever the model put there
    spelled = _spelled(name)
    if spelled in prompt.candidates:
        return prompt.candidates[spelled]
    named = (label for label in prompt.candidates.values() if spelled in (str(label), display_name(str(label))))
    return next(named, _UNKNOWN)


def _spelled(name: Any) -> str:  # noqa: ANN401
    return name.strip() if isinstance(name, str) else json.dumps(name)


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
    return json.dumps(cut, ensure_ascii=False).encode(errors="replace").decode()  # JSON may hold halves of characters
