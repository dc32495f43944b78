"""What every model can do."""

from typing import Protocol, runtime_checkable

from agent.types import Reply
from prompts.types import Prompt


@runtime_checkable
class VisionModel(Protocol):
    """Answers a prompt of texts and pictures with text."""

    @property
    def name(self) -> str:
        """The model's name, as it stands in replies."""
        ...

    def generate(self, prompt: Prompt) -> Reply:
        """Return the reply to a prompt.

        Raises:
            ModelError: there is none.
        """
        ...
