"""Where the time goes from a command to its first answer, step by step in this very process."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def time_first_answer(memory: Path) -> list[tuple[str, float]]:
    """Return the steps of answering one picture from a memory, and each one's seconds, in order.

    The picture is one of the memory's own thumbnails. Features are neither looked up nor kept. What was imported
    before is not counted again: for the times of a fresh process, call this first.

    Raises:
        NotAMemory, EmbedderError: as their names say.
        InvalidArgument: a memory without pictures.
    """
    steps: list[tuple[str, float]] = []

    @contextmanager
    def step(name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        steps.append((name, time.perf_counter() - started))

    with step("import of the memory's libraries"):
        from retrieval.memory import VisualMemory
        from retrieval.voting import count_votes
    with step("open the memory"):
        opened = VisualMemory.open(memory, cache=False)
        picture = opened.any_picture()
    with step("load the embedder"):
        embedder = opened.embedder
    with step("embed one picture, the first time"):
        vectors = opened.embed([picture])
    with step("search, the first time"):
        found = opened.search_vectors(vectors)
    with step("vote"):
        count_votes(found.labels, found.distances, method="rank", factors=found.reliabilities)
    with step(f"embed one picture, then ({embedder.execution.backend})"):
        opened.embed([picture])
    with step("search, then"):
        opened.search_vectors(vectors)
    return steps
