"""A prediction as JSON: for `vmem classify --json` and for run logs."""

from dataclasses import asdict
from typing import Any

from agent.types import Prediction, Reply
from retrieval.pipeline import Failure
from retrieval.types import Neighbor


def rerank_record(prediction: Prediction) -> dict[str, Any]:
    """Return what the second stage made of a query, in JSON's types; neighbours are named by their ids."""
    return {
        "label": prediction.label,
        "source": prediction.source,
        "reason": prediction.reason,
        "confidence": prediction.confidence,
        "ranking": list(prediction.ranking),
        "evidence": [neighbor.id for neighbor in prediction.evidence],
        "orders": [[order.seed, order.label, order.confidence] for order in prediction.orders],
        "replies": [_reply(reply) for reply in prediction.replies],
        "spent": asdict(prediction.spent),
    }


def prediction_record(prediction: Prediction | Failure[Any]) -> dict[str, Any]:
    """Return a whole prediction in JSON's types; of a picture that cannot be used no more than its reason."""
    if isinstance(prediction, Failure):
        return {"label": None, "source": prediction.source, "reason": prediction.reason}
    votes = zip(prediction.votes.labels, prediction.votes.weights, strict=True)
    return rerank_record(prediction) | {
        "votes": [list(pair) for pair in votes],
        "neighbors": [neighbor_record(neighbor) for neighbor in prediction.neighbors],
    }


def neighbor_record(neighbor: Neighbor) -> dict[str, Any]:
    """Return a neighbour in JSON's types, its reliability only where that is not 1."""
    told = {"id": neighbor.id, "label": neighbor.label, "distance": neighbor.distance}
    return told if neighbor.reliability == 1.0 else told | {"reliability": neighbor.reliability}


def _reply(reply: Reply) -> dict[str, Any]:
    return {
        "text": reply.text,
        "served_by": reply.served_by,
        "from_cache": reply.from_cache,
        "seconds": None if reply.seconds is None else round(reply.seconds, 4),
    }
