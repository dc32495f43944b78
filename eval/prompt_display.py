"""What several prompts would send about the same query, side by side in a notebook."""

from collections.abc import Sequence

from prompts.catalogue import load_template
from prompts.question import pose_questions
from prompts.types import Prompt
from retrieval.display import Shown, side_by_side
from retrieval.images import ImageLike
from retrieval.view import DEFAULT_NEIGHBORS, MemoryView
from retrieval.voting import DEFAULT_METHOD


def show_prompts(
    memory: MemoryView,
    image: ImageLike,
    prompts: Sequence[str],
    *,
    neighbors: int = DEFAULT_NEIGHBORS,
) -> Shown:
    """Return what each prompt would send, with about what one call would take, to be looked at in a notebook.

    Args:
        memory: where the neighbours come from.
        image: the query.
        prompts: released ones' names, or paths of one's own.
        neighbors: how many vote and are shown.

    Raises:
        UnknownPrompt: no such prompt, or one with an error.
        ImageError: the query cannot be used.
        InvalidArgument: ``neighbors`` below 1, or an empty memory.
    """
    return side_by_side(*(_compose(memory, image, prompt, neighbors) for prompt in prompts))


def _compose(memory: MemoryView, image: ImageLike, prompt: str, neighbors: int) -> Prompt:
    template, vectors = load_template(prompt), memory.embed([image])
    (question,) = pose_questions(memory, [image], vectors, k=neighbors, voting=DEFAULT_METHOD, template=template)
    return question.prompt(template, memory)[0]
