"""What makes a request itself: everything that can change its answer, and nothing that cannot."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import Final

from agent.types import Request
from prompts.types import ImagePart, TextPart

GEMINI_SERVER: Final = "GOOGLE_GEMINI_BASE_URL"  # google-genai's own variable: another server than Google's
_GEMINI: Final = ("gemini:", "generativeai:")  # how the names of models begin that it goes for
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Key:
    """What makes a request itself: each part by name, so that two keys can be compared, and a digest of all."""

    parts: dict[str, str]
    digest: str


def key_of(model: str, request: Request) -> Key:
    """Return a request's key: model, server, generation settings, template, texts, every picture in order, replicate.

    The server is part of it where it is not the maker's own: what a stand-in on this machine said is never taken for
    Google's answer. Time limits and concurrency are no part of it: they cannot change an answer.
    """
    server = os.environ.get(GEMINI_SERVER, "").rstrip("/") if model.startswith(_GEMINI) else ""
    generation = asdict(request.generation)
    pieces = request.prompt.parts
    images = [sha256(part.encoded) for part in pieces if isinstance(part, ImagePart)]
    texts = [part.text for part in pieces if isinstance(part, TextPart)]
    order = "".join("i" if isinstance(part, ImagePart) else "t" for part in pieces)
    parts = {
        "model": model,
        **({"server": server} if server else {}),
        **{f"generation {name}": json.dumps(value) for name, value in generation.items()},
        "template": request.prompt.template_digest,
        "query picture": images[-1] if images else "",
        "neighbour pictures": _digest(sorted(images[:-1])),
        "order of pictures": _digest(images[:-1]),
        "texts": _digest(texts),
        "order of parts": _digest([order]),
        "candidates": _digest([f"{code} {label}" for code, label in request.prompt.candidates.items()]),
        "replicate": str(request.replicate),
    }
    return Key(parts, _digest([str(_FORMAT), json.dumps(parts, sort_keys=True)]))


def sha256(encoded: bytes) -> str:
    """Return the digest by which a picture is known."""
    return hashlib.sha256(encoded).hexdigest()


def _digest(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
