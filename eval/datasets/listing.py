"""What an archive holds, by path: names as any program wrote them, links followed inside, what is left out counted."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from eval.datasets.trees import ArchiveTree
from eval.types import StoredPicture
from eval.wording import counted
from retrieval.folder import is_left_behind

_LONGEST_CHAIN: Final = 40  # links that lead to links, as Linux follows them
_REASONS: Final = {
    "link": "no file inside the archive lies at the other end",
    "file": "a path with .. in it leads out of the archive",
    "special file": "pipes and devices hold no pictures",
}


class Listing:
    """An archive's files as they are found."""

    def __init__(self) -> None:
        self._members: dict[str, int] = {}
        self._links: dict[str, str | None] = {}
        self._passed_over: Counter[str] = Counter()

    def add(self, name: str, number: int, *, above: str = "") -> None:
        """Add a file; of two with the same path the later one stays, as in unpacking.

        Args:
            name: as the archive has it.
            number: by which it is read.
            above: the folder that the archive stands for inside another one, with a slash; else nothing.
        """
        path = self._path(name, above)
        if path is not None:
            self._members[path] = number

    def add_hard_link(self, name: str, target: str, *, above: str = "") -> None:
        """Add another path of a file that came before, whose name is `target`."""
        path, found = self._path(name, above), path_inside(target)
        if path is None:
            return
        number = None if found is None else self._members.get(above + found)
        if number is None:
            self._links[path] = None if found is None else above + found
        else:
            self._members[path] = number

    def add_link(self, name: str, target: str, *, above: str = "") -> None:
        """Add a symbolic link; `target` leads from its own folder to a file that may come later."""
        path = self._path(name, above)
        if path is not None:
            found = _followed(path.removeprefix(above).rpartition("/")[0], target)
            self._links[path] = None if found is None else above + found

    def add_special(self, name: str, *, above: str = "") -> None:
        """Count a pipe or a device."""
        self._passed_over["special file"] += self._path(name, above) is not None

    def tree(self, root: Path, picture: Callable[[int], StoredPicture]) -> ArchiveTree:
        """Return what was added as folders and files."""
        members = dict(self._members)
        for path in self._links:
            number = self._members.get(self._end_of_links(path) or "")
            if number is not None:
                members.setdefault(path, number)
        self._passed_over["link"] = len(self._links.keys() - members.keys())
        notes = (f"{counted(n, what)} passed over: {_REASONS[what]}" for what, n in self._passed_over.items() if n)
        return ArchiveTree(root, members, picture, tuple(notes))

    def _path(self, name: str, above: str) -> str | None:
        path = path_inside(name)
        if path is None:
            self._passed_over["file"] += 1
        return above + path if path and not is_left_behind(above + path) else None

    def _end_of_links(self, path: str) -> str | None:
        end: str | None = path
        for _ in range(_LONGEST_CHAIN):
            if end is None or end not in self._links:
                break
            end = self._links[end]
        return end


def path_inside(name: str) -> str | None:
    """Return a member's path below the archive's root, without "./" and "/" before it; None where it leads out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/".join(parts)


def _followed(folder: str, target: str) -> str | None:
    """Return where a link in a folder leads; None where that is outside."""
    if target.startswith("/"):
        return None
    parts = folder.split("/") if folder else []
    for part in target.split("/"):
        if part == ".." and not parts:
            return None
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
