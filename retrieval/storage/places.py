"""Memories whose table lies on an object store: the table there, index and writer's lock in a folder here."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from retrieval.cachedir import cache_folder
from retrieval.errors import MemoryExists, StorageError
from retrieval.outside import parse_address

TABLE: Final = "items.lance"
_SCHEMES: Final = ("s3", "gs", "az", "abfss")  # that Lance opens; its keys come from the environment (AWS_…, GOOGLE_…)
_ADDRESS: Final = re.compile(rf"({'|'.join(_SCHEMES)}):/+(?=[^/])")  # one slash is left where an address was a Path
_POINTER: Final = "address.txt"  # in the local folder: where the memory is


def local_folder(path: str | Path) -> Path:
    """Return where a memory's files on this machine are: the path itself, or a folder in the cache for an address.

    What lies in such a folder is made again where it is missing.

    Raises:
        InvalidArgument: no address, or one with a user, a password or a query in it.
        StorageError: the cache cannot be written.
    """
    found = _ADDRESS.match(str(path))
    if not found:
        return Path(path)
    address = f"{found[1]}://{str(path)[found.end() :].rstrip('/')}"
    instead = "keys are taken from the environment (AWS_ACCESS_KEY_ID and the like), give the address alone"
    parse_address(address, "a memory", schemes=_SCHEMES, instead=instead, user=found[1] == "abfss")
    folder = cache_folder("remote") / hashlib.sha256(address.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _POINTER).write_text(address, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"{folder}, where the index of {address} goes, cannot be written: {error.strerror}; set VMEM_CACHE to a"
            " folder you may write to"
        ) from error
    return folder


def address_of(folder: Path) -> str | None:
    """Return the address of the memory that a local folder belongs to; None where its table lies in the folder."""
    try:
        return (folder / _POINTER).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def table_uri(folder: Path) -> str:
    """Return where Lance finds the table of the memory whose local folder this is."""
    address = address_of(folder)
    # From the root: Lance takes what stands before a colon for the kind of an address.
    return f"{address}/{TABLE}" if address else os.path.abspath(folder / TABLE)


def shown(folder: Path) -> str:
    """Return what people call the memory whose local folder this is."""
    return address_of(folder) or str(folder)


def is_stored(address: str) -> bool:
    """Tell whether there is a memory at an address.

    Raises:
        StorageError: the object store does not answer, has no such bucket, or wants other keys.
    """
    import lance

    try:
        lance.dataset(f"{address}/{TABLE}")
    except (OSError, ValueError) as error:
        if "was not found" in str(error):
            return False
        raise store_error(address, error) from error
    return True


@contextmanager
def storing(address: str) -> Iterator[None]:
    """Translate what an object store raises while a table is made."""
    try:
        yield
    except (OSError, ValueError) as error:
        if "already exists" in str(error):
            raise MemoryExists(f"{address} holds a memory already: choose another address") from error
        raise store_error(address, error) from error


def store_error(address: str, error: Exception) -> StorageError:
    """Return what an object store's refusal is in a sentence."""
    code = re.search(r"<Code>(\w+)</Code>", str(error))
    reason = code[1] if code else str(error).split(", /")[0].splitlines()[0]
    return StorageError(
        f"{address} cannot be used: {reason}; see that the bucket is there and that the environment has its keys"
        " (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and AWS_ENDPOINT for others than Amazon)"
    )
