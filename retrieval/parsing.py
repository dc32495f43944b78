"""JSON and TOML that others wrote: whatever is wrong with it is a ValueError, as its readers expect."""

import json
import tomllib
from typing import Any


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - whatever it holds
    """Return what a JSON text holds.

    Raises:
        ValueError: it is no JSON, no UTF-8, or nests deeper than Python follows, which `json.loads` alone says by
            RecursionError.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def parse_toml(text: bytes) -> dict[str, Any]:
    """Return what a TOML text holds.

    Raises:
        ValueError: it is no TOML, no UTF-8, or nests deeper than Python follows.
    """
    try:
        return tomllib.loads(text.decode())
    except RecursionError:
        raise ValueError("it nests too deep") from None
