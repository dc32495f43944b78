"""What every model can do."""

from typing import Protocol, runtime_checkable

from agent.types import Reply, Request


@runtime_checkable
class VisionModel(Protocol):
    """Answers a prompt of texts and pictures with text."""

    @property
    def name(self) -> str:
        """The model's name with its maker's, as it stands in replies: two models never share one."""
        ...

    async def generate(self, request: Request) -> Reply:
        """Return the reply to a request.

        Every call runs on the same event loop, that of `agent.background`.

        Raises:
            ModelError: there is none.
        """
        ...
