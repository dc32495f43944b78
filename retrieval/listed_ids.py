"""Ids as commands take them: one by one, or in a file."""

from pathlib import Path

from retrieval.errors import InvalidArgument
from retrieval.outside import parse_json
from retrieval.terminal import printable


def listed_ids(ids: list[str] | None, file: Path | None) -> list[str] | None:
    """Return the ids that are named; None where none are.

    Args:
        ids: named one by one.
        file: of ids, one a line, each as it is or, for those that hold line breaks, as a JSON string.

    Raises:
        InvalidArgument: the file cannot be read as text, or holds none.
    """
    if file is None:
        return ids or None
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{printable(file)} is no file of ids ({error}): one id a line expected") from error
    listed = [*(ids or []), *filter(None, (_as_id(line.rstrip("\r")) for line in lines))]
    if not listed:
        raise InvalidArgument(f"{printable(file)} holds no ids: one a line expected")
    return listed


def _as_id(line: str) -> str:
    if line.startswith('"'):
        try:
            return str(parse_json(line))
        except ValueError:
            pass  # an id that begins with a quotation mark
    return line
