"""What several prompts would send about the same query, side by side in a notebook."""

from collections.abc import Sequence

from prompts.catalogue import load_template
from prompts.trial import render_prompts
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
    templates = [load_template(prompt) for prompt in prompts]
    return side_by_side(*render_prompts(templates, image, memory, k=neighbors, voting=DEFAULT_METHOD))
