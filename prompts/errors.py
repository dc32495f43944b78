"""What can go wrong around a prompt.

VisualMemoryError
└── PromptError
    ├── UnknownPrompt       no such template, or a file that is none
    └── UnusableReply       a reply that answers with none of the candidates; the vote decides instead
"""

from retrieval.errors import VisualMemoryError


class PromptError(VisualMemoryError):
    """A prompt that cannot be made or a reply that cannot be read."""


class UnknownPrompt(PromptError):
    """No such template, or a file that is none."""


class UnusableReply(PromptError):
    """A reply that answers with none of the candidates."""
