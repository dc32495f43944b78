"""A model that says what it was told to: for tests, examples and trying out prompts without a key."""

from collections.abc import Callable, Iterable

from agent.errors import ModelError
from agent.types import Reply, Request
from prompts.types import Prompt


class ScriptedModel:
    """Replies from a list, in order, or by a function of the prompt; ``prompts`` keeps what it was asked.

    ScriptedModel(['{"ranking": ["B"]}', '{"ranking": ["A"]}'])
    ScriptedModel(lambda prompt: next(iter(prompt.candidates)))
    """

    def __init__(self, replies: Iterable[str] | Callable[[Prompt], str], *, keep_prompts: bool = True) -> None:
        self.prompts: list[Prompt] = []
        self._keep_prompts = keep_prompts  # with their pictures, which thousands of queries have no room for
        self._reply_to = replies if callable(replies) else _in_order(replies)

    @property
    def name(self) -> str:
        """The name "scripted"."""
        return "scripted"

    async def generate(self, request: Request) -> Reply:
        """Return the next reply.

        Raises:
            ModelError: the list is used up.
        """
        if self._keep_prompts:
            self.prompts.append(request.prompt)
        return Reply(self._reply_to(request.prompt), self.name)


def _in_order(replies: Iterable[str]) -> Callable[[Prompt], str]:
    remaining = iter([replies] if isinstance(replies, str) else replies)

    def next_reply(_: Prompt) -> str:
        reply = next(remaining, None)
        if reply is None:
            raise ModelError("the scripted model has no replies left: give it one for each query")
        return reply

    return next_reply
