"""The two stages, readable top to bottom: neighbours vote, then a model may have the last word.

Reasons begin with a code for programs, followed by a sentence for people:

    reranked          the model answered with a candidate
    no_model          no model was given, so the vote decides
    model_failed      the call gave no reply, so the vote decides
    unusable_reply    the reply was none of the candidates, so the vote decides
"""

import os
from typing import Final

from agent.errors import ModelError
from agent.models.base import VisionModel
from agent.types import Prediction, Reply
from prompts.answer import parse_answer
from prompts.catalogue import DEFAULT as DEFAULT_PROMPT
from prompts.catalogue import load_template
from prompts.errors import UnusableReply
from prompts.render import compose_prompt
from prompts.types import Prompt
from retrieval.images import ImageLike, decode
from retrieval.memory import DEFAULT_NEIGHBORS, VisualMemory
from retrieval.types import Neighbor, Votes
from retrieval.voting import DEFAULT_METHOD, check_method, count_votes

KEY_VARIABLES: Final = ("GEMINI_API_KEY", "GOOGLE_API_KEY")


def classify_with_rerank(
    image: ImageLike,
    memory: VisualMemory,
    *,
    model: VisionModel | None = None,
    neighbors: int = DEFAULT_NEIGHBORS,
    voting: str = DEFAULT_METHOD,
    prompt: str = DEFAULT_PROMPT,
) -> Prediction:
    """Return what a picture shows, by its neighbours' vote and, where a model is given, the model's second look.

    The paper's whole pipeline (section 2.2): embed, find the nearest neighbours, vote; then show the model the
    neighbours with their labels and take its answer. Whatever keeps the model from giving a usable answer, the vote
    stands in, with the reason.

    Args:
        image: path, encoded bytes, Pillow image or uint8 array.
        memory: where the neighbours come from.
        model: who takes the second look; None leaves the decision to the vote.
        neighbors: how many neighbours vote and are shown.
        voting: ``rank``, ``plurality``, ``distance`` or ``softmax``.
        prompt: a released template's name, or the path of one's own.

    Raises:
        ImageError: the picture cannot be used.
        InvalidArgument: ``neighbors`` below 1, an unknown voting method, an empty memory.
        UnknownPrompt: no such template.
        EmbedderError: the memory's embedder cannot be had.
    """
    check_method(voting)
    template = load_template(prompt)
    picture = decode(image)
    found = memory.search(picture, k=neighbors)
    (votes,) = count_votes(found.labels, found.distances, method=voting)
    if model is None:
        return Prediction(votes.winner, "vote", _why_no_model(voting), votes, found[0])
    asked = compose_prompt(template, picture, memory, found[0], votes)
    return _second_opinion(model, asked, votes, found[0])


def key_variable() -> str | None:
    """Return the name of the environment variable that holds an API key; None when none does."""
    return next((name for name in KEY_VARIABLES if os.environ.get(name)), None)


def _second_opinion(model: VisionModel, prompt: Prompt, votes: Votes, neighbors: tuple[Neighbor, ...]) -> Prediction:
    try:
        reply = model.generate(prompt)
    except ModelError as error:
        return Prediction(votes.winner, "vote", f"model_failed: {error}", votes, neighbors)
    except Exception as error:  # somebody's own model; its words may hold a key, so only the kind is told
        return Prediction(votes.winner, "vote", f"model_failed: {type(error).__name__}", votes, neighbors)
    if not isinstance(reply, Reply):
        said = f"model_failed: it gave {type(reply).__name__} where a Reply is expected"
        return Prediction(votes.winner, "vote", said, votes, neighbors)
    try:
        answer = parse_answer(reply.text, prompt)
    except UnusableReply as error:
        return Prediction(votes.winner, "vote", f"unusable_reply: {error}", votes, neighbors, reply)
    reason = f"reranked: {model.name} chose among {len(prompt.candidates)} candidates"
    evidence = tuple(number for number in answer.evidence if number <= len(neighbors))
    return Prediction(answer.label, "rerank", reason, votes, neighbors, reply, answer.confidence, evidence)


def _why_no_model(voting: str) -> str:
    key = key_variable()
    why = "no model was given" if key else f"no model was given and no API key is set ({' or '.join(KEY_VARIABLES)})"
    return f"no_model: {why}; decided by {voting} voting"
