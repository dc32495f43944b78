"""Data sets as command lines take them: NAME=PATH."""

import re
from collections.abc import Iterable
from pathlib import Path

from retrieval.errors import InvalidArgument


def named_folders(arguments: Iterable[str]) -> dict[str, Path]:
    """Return where each data set lies, by name.

    Raises:
        InvalidArgument: another form, or one name twice.
    """
    folders: dict[str, Path] = {}
    for argument in arguments:
        parts = re.fullmatch(r"([\w.-]+)=(.+)", argument, re.DOTALL)
        if parts is None:
            raise InvalidArgument(f"--dataset {argument!r}: NAME=PATH expected, such as sketch=data/sketch")
        if parts[1] in folders:
            raise InvalidArgument(f"--dataset {parts[1]} is given twice: choose two names")
        folders[parts[1]] = Path(parts[2])
    return folders
