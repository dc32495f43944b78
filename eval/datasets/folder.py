"""Any folder laid out as ``<label>/<image>``."""

from pathlib import Path

from eval.types import Sample
from retrieval.folder import list_labelled_files


def read_folder(folder: str | Path) -> list[Sample]:
    """Return a folder's pictures as samples, in a fixed order; ids are the paths below it.

    Raises:
        FolderError: the folder is missing, empty or laid out otherwise.
    """
    return [Sample(file.id, file.path, frozenset([file.label])) for file in list_labelled_files(folder)]
