"""The public names of the retrieval room: each loads, is explained, and no other is there."""

import subprocess
import sys

import pytest

import retrieval

NAMES = """
AddReport DamagedImage DuplicateId EmbedderError EmbedderMismatch EmptyImage FolderError ImageError ImageTooLarge
IndexUnavailable InvalidArgument Item MemoryBusy MemoryExists MemoryView MissingWeights Neighbor Neighbors NotAMemory
NotAnImage PruningRefused RayEmbedding Shard StorageError UnknownEmbedder UnknownItem UnknownVersion UnusableVectors
VisualMemory VisualMemoryError VisualMemoryWarning Votes build_from_features build_memory count_votes explain
find_duplicates foreign_vectors load_embedder
""".split()


def test_the_list_is_what_is_expected() -> None:
    assert vars(retrieval)["__all__"] == sorted(NAMES)
    assert set(NAMES) <= set(dir(retrieval))
    assert retrieval.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_each_name_loads_and_is_explained(name: str) -> None:
    found = getattr(retrieval, name)
    assert found.__name__ == name
    assert found.__doc__ and not found.__doc__.startswith(f"{name}(")  # as a dataclass without one has it


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'retrieval' has no attribute 'VisualMemories'"):
        retrieval.VisualMemories  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="VisualMemories"):
        from retrieval import VisualMemories  # type: ignore[attr-defined]  # noqa: F401


def test_an_import_of_one_name_loads_no_heavy_library() -> None:
    said = "import sys, retrieval; dir(retrieval); print(sorted({'numpy', 'torch', 'lance'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout == "[]\n"
