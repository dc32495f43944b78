"""Where derived things are kept that may be deleted at any time: features and converted models."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

VARIABLE: Final = "VMEM_CACHE"
_ASIDE: Final = ".new-"  # begins the name of a folder that is being made
_ABANDONED_SECONDS: Final = 3600.0  # after which nobody is making it any more


def cache_folder(kind: str) -> Path:
    """Return the folder for one kind of derived things, ``features`` or ``models``; it may not be there yet."""
    from platformdirs import user_cache_path

    chosen = os.environ.get(VARIABLE)
    return (Path(chosen) if chosen else user_cache_path("visual-memory-agent")) / kind


def make_whole(folder: Path, fill: Callable[[Path], None], *, is_whole: Callable[[Path], bool]) -> None:
    """Make a folder by filling another one and renaming it, so that a crash leaves it whole or not there.

    What lies there and is not whole, by the caller's test, is replaced.

    Raises:
        OSError: the disk refuses.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left_over in folder.parent.glob(f"{_ASIDE}*"):
        if time.time() - left_over.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(left_over, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder.parent))
    try:
        fill(aside)
        if not is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
    except OSError:
        if not is_whole(folder):  # else another process was faster, and its result is as good
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder; 0 where there is none."""
    return sum(
        os.path.getsize(path)
        for root, _, names in os.walk(folder)
        for path in (os.path.join(root, name) for name in names)
        if os.path.exists(path)  # another process may delete what it no longer needs
    )
