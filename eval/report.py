"""A run as one self-contained page: the table of accuracies, and queries with the pictures that decided them."""

import base64
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from eval.types import Metrics, QueryResults, Sample
from retrieval.images import ImageLike, decode, thumbnail
from retrieval.memory import VisualMemory
from retrieval.terminal import write_text
from retrieval.voting import DEFAULT_METHOD, METHODS, count_votes, predict_every_k

_SHOWN_PER_DATASET: Final = 8
_SHOWN_NEIGHBORS: Final = 10
_SHOWN_VOTES: Final = 4
_QUERY_PIXELS: Final = 160
_TEMPLATE: Final = "report.html.jinja"


@dataclass(frozen=True, slots=True)
class _Shown:
    """A query on the page; pictures as data addresses."""

    id: str
    picture: str
    truth: str
    prediction: str
    right: bool
    vote: str  # the first stage's answer
    reason: str  # of the second stage; empty where the vote alone decided
    votes: list[tuple[str, float]]  # label and share
    neighbors: list[tuple[str, str, float, bool]]  # picture, label, distance, whether the label is right


def write_report(
    path: Path,
    memory: VisualMemory,
    datasets: Mapping[str, Sequence[Sample]],
    metrics: Mapping[str, Metrics],
    results: Mapping[str, QueryResults],
) -> None:
    """Write the page. Of each data set it shows some right and some wrong decisions, drawn with a fixed seed.

    Labels and names appear as text whatever they hold. The page needs no network and runs no script.

    Raises:
        StorageError: the file cannot be written.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    galleries = {
        name: _gallery(memory, {sample.id: sample.image for sample in datasets[name]}, results[name])
        for name in metrics
    }
    page = environment.get_template(_TEMPLATE).render(
        metrics=metrics,
        galleries=galleries,
        methods=METHODS,
        deciding=DEFAULT_METHOD,
        memory=memory.stats(),
        k=next(iter(results.values())).neighbor_labels.shape[1],
    )
    write_text(path, page)


def _gallery(memory: VisualMemory, images: Mapping[str, ImageLike], results: QueryResults) -> list[_Shown]:
    predictions = predict_every_k(results.neighbor_labels, results.neighbor_distances)[:, -1].tolist()
    if results.outcomes is not None:
        predictions = [outcome.label for outcome in results.outcomes]
    right = np.array([label in truth for label, truth in zip(predictions, results.truths, strict=True)])
    queries = [query for query in _mixed(right) if results.ids[query] in images]
    near = [results.neighbor_ids[query, :_SHOWN_NEIGHBORS].tolist() for query in queries]
    pictures = iter(memory.thumbnails(list(itertools.chain.from_iterable(near))))
    return [
        _shown(results, query, images[results.ids[query]], bool(right[query]), [next(pictures) for _ in ids])
        for query, ids in zip(queries, near, strict=True)
    ]


def _mixed(right: np.ndarray) -> list[int]:
    """Return some queries, half of them wrong where there are enough, in random order with a fixed seed."""
    draw = random.Random(0)
    wrong_ones, right_ones = ([int(i) for i in np.flatnonzero(mask)] for mask in (~right, right))
    draw.shuffle(wrong_ones)
    draw.shuffle(right_ones)
    half = _SHOWN_PER_DATASET // 2
    wrong_shown = wrong_ones[: max(half, _SHOWN_PER_DATASET - len(right_ones))]
    return right_ones[: _SHOWN_PER_DATASET - len(wrong_shown)] + wrong_shown


def _shown(results: QueryResults, query: int, image: ImageLike, right: bool, pictures: list[bytes | None]) -> _Shown:
    one = slice(query, query + 1)
    (votes,) = count_votes(results.neighbor_labels[one], results.neighbor_distances[one])
    truth = results.truths[query]
    neighbors: list[Any] = [
        (_address(small), label, distance, label in truth)
        for small, label, distance in zip(
            pictures, results.neighbor_labels[query], results.neighbor_distances[query].tolist(), strict=False
        )
    ]
    return _Shown(
        id=results.ids[query],
        picture=_address(thumbnail(decode(image), longest_side=_QUERY_PIXELS)),
        truth=" or ".join(sorted(truth)),
        prediction=votes.winner if results.outcomes is None else results.outcomes[query].label,
        right=right,
        vote=votes.winner,
        reason="" if results.outcomes is None else results.outcomes[query].reason,
        votes=list(zip(votes.labels, votes.shares, strict=True))[:_SHOWN_VOTES],
        neighbors=neighbors,
    )


def _address(picture: bytes | None) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode() if picture else ""
