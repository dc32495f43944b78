"""The first stage of a run: a data set's queries to vectors, centred where that is asked for, and to questions."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from agent.stages import Stages
from eval.types import Dataset, Sample
from prompts.question import Question
from retrieval.centring import CentredMemory, centre_queries
from retrieval.pipeline import EmbeddedBatch, Failure
from retrieval.progress import track
from retrieval.view import MemoryView

_BATCH: Final = 256  # centred vectors given out at a time


class FirstStage:
    """Embeds the queries of a data set, and says what is to be searched for their neighbours."""

    def __init__(self, memory: MemoryView) -> None:
        self.searched: MemoryView | CentredMemory = memory
        self._memory = memory

    def embed(self, samples: Sequence[Sample]) -> Iterator[EmbeddedBatch[Sample]]:
        """Yield some of the queries in batches with their vectors, in order."""
        return self._memory.embed_stream(samples, image_of=Sample.picture)

    def pose(self, stages: Stages, samples: Sequence[Sample]) -> Iterator[tuple[Sample, Question | Failure[Sample]]]:
        """Yield some of the queries as questions, and those whose pictures cannot be used."""
        for batch in self.embed(samples):
            yield from ((failure.item, failure) for failure in batch.failures)
            if batch.items:
                pictures = [sample.picture() for sample in batch.items]
                yield from zip(batch.items, stages.questions(pictures, batch.vectors), strict=True)


class CentredFirstStage(FirstStage):
    """The same with embeddings that are taken from the mean of the data set's own queries.

    That mean is over all queries, also those that a run which was cut off has in its log already, and so every query is
    embedded before the first is answered. Their vectors are held in memory.
    """

    def __init__(
        self,
        memory: MemoryView,
        centred: CentredMemory,
        name: str,
        samples: Sequence[Sample],
        *,
        how: str,
        progress: bool,
    ) -> None:
        super().__init__(memory)
        self.searched: CentredMemory = centred
        self._name = name
        self._samples = samples
        self._how = how
        self._progress = progress
        self._row_of: dict[str, int] = {}
        self._failures: dict[str, Failure[Sample]] = {}
        self._vectors = np.empty((0, memory.settings.embedder.dimension), np.float32)

    def embed(self, samples: Sequence[Sample]) -> Iterator[EmbeddedBatch[Sample]]:
        """Yield some of the data set's queries in batches with their centred vectors, in order.

        Raises:
            InvalidArgument: too few queries for a mean.
        """
        if not self._row_of and not self._failures:
            self._embed_all()
        for start in range(0, len(samples), _BATCH):
            some = samples[start : start + _BATCH]
            good = [sample for sample in some if sample.id in self._row_of]
            failures = [self._failures[sample.id] for sample in some if sample.id not in self._row_of]
            yield EmbeddedBatch(good, self._vectors[[self._row_of[sample.id] for sample in good]], [], [], failures)

    def _embed_all(self) -> None:
        queue = track(self._samples, f"Embedding {self._name}", total=len(self._samples), shown=self._progress)
        parts = [self._vectors]
        for batch in self._memory.embed_stream(queue, image_of=Sample.picture):
            parts.append(batch.vectors)
            self._row_of |= {sample.id: len(self._row_of) + row for row, sample in enumerate(batch.items)}
            self._failures |= {failure.item.id: failure for failure in batch.failures}
        vectors = np.concatenate(parts)
        if len(vectors):
            self._vectors = centre_queries(vectors, self._how, memory_mean=self.searched.mean)


def open_first_stage(
    memory: MemoryView, centred: CentredMemory | None, name: str, dataset: Dataset, *, how: str, progress: bool
) -> FirstStage:
    """Return the first stage of a data set.

    Args:
        memory: what decides.
        centred: the same centred, where embeddings are to be.
        name: of the data set, for the progress bar.
        dataset: its queries.
        how: one of `retrieval.centring.CENTRES`; without meaning where nothing is centred.
        progress: whether to show a bar.
    """
    if centred is None:
        return FirstStage(memory)
    return CentredFirstStage(memory, centred, name, dataset.samples, how=how, progress=progress)
