"""Stage one: pictures become unit vectors, near ones are found, their labels vote.

    from retrieval import VisualMemory

    memory = VisualMemory.open("memory/")
    neighbors = memory.search("query.jpg", k=50)

Every public name of this room can be imported from here; it is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from retrieval.support.lazy import lazy_names

if TYPE_CHECKING:
    from retrieval.building import build_from_features as build_from_features
    from retrieval.building import build_memory as build_memory
    from retrieval.cluster import RayEmbedding as RayEmbedding
    from retrieval.cluster import Shard as Shard
    from retrieval.curation.duplicates import find_duplicates as find_duplicates
    from retrieval.curation.explaining import explain as explain
    from retrieval.edits import AddReport as AddReport
    from retrieval.embedders import load_embedder as load_embedder
    from retrieval.embedders.base import foreign_vectors as foreign_vectors
    from retrieval.errors import DamagedImage as DamagedImage
    from retrieval.errors import DuplicateId as DuplicateId
    from retrieval.errors import EmbedderError as EmbedderError
    from retrieval.errors import EmbedderMismatch as EmbedderMismatch
    from retrieval.errors import EmptyImage as EmptyImage
    from retrieval.errors import FolderError as FolderError
    from retrieval.errors import ImageError as ImageError
    from retrieval.errors import ImageTooLarge as ImageTooLarge
    from retrieval.errors import IndexUnavailable as IndexUnavailable
    from retrieval.errors import InvalidArgument as InvalidArgument
    from retrieval.errors import MemoryBusy as MemoryBusy
    from retrieval.errors import MemoryExists as MemoryExists
    from retrieval.errors import MissingWeights as MissingWeights
    from retrieval.errors import NotAMemory as NotAMemory
    from retrieval.errors import NotAnImage as NotAnImage
    from retrieval.errors import PruningRefused as PruningRefused
    from retrieval.errors import StorageError as StorageError
    from retrieval.errors import UnknownEmbedder as UnknownEmbedder
    from retrieval.errors import UnknownItem as UnknownItem
    from retrieval.errors import UnknownVersion as UnknownVersion
    from retrieval.errors import UnusableVectors as UnusableVectors
    from retrieval.errors import VisualMemoryError as VisualMemoryError
    from retrieval.errors import VisualMemoryWarning as VisualMemoryWarning
    from retrieval.memory import VisualMemory as VisualMemory
    from retrieval.sources import Item as Item
    from retrieval.types import Neighbor as Neighbor
    from retrieval.types import Neighbors as Neighbors
    from retrieval.types import Votes as Votes
    from retrieval.view import MemoryView as MemoryView
    from retrieval.voting import count_votes as count_votes

    __version__: str
else:
    _ERRORS = """
        DamagedImage DuplicateId EmbedderError EmbedderMismatch EmptyImage FolderError ImageError ImageTooLarge
        IndexUnavailable InvalidArgument MemoryBusy MemoryExists MissingWeights NotAMemory NotAnImage PruningRefused
        StorageError UnknownEmbedder UnknownItem UnknownVersion UnusableVectors VisualMemoryError VisualMemoryWarning
    """

    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "AddReport": "retrieval.edits",
            "Item": "retrieval.sources",
            "MemoryView": "retrieval.view",
            "Neighbor": "retrieval.types",
            "Neighbors": "retrieval.types",
            "RayEmbedding": "retrieval.cluster",
            "Shard": "retrieval.cluster",
            "VisualMemory": "retrieval.memory",
            "Votes": "retrieval.types",
            "build_from_features": "retrieval.building",
            "build_memory": "retrieval.building",
            "count_votes": "retrieval.voting",
            "explain": "retrieval.curation.explaining",
            "find_duplicates": "retrieval.curation.duplicates",
            "foreign_vectors": "retrieval.embedders.base",
            "load_embedder": "retrieval.embedders",
            **dict.fromkeys(_ERRORS.split(), "retrieval.errors"),
        },
    )
