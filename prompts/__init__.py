"""What the model is asked, and how its reply is read: neighbours and query to prompt, reply to answer.

    from prompts import load_template

    template = load_template("rerank_v1")

Every public name of this room can be imported from here; it is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from retrieval.support.lazy import lazy_names

if TYPE_CHECKING:
    from prompts.answer import Answer as Answer
    from prompts.answer import answer_schema as answer_schema
    from prompts.answer import parse_answer as parse_answer
    from prompts.cost import Price as Price
    from prompts.cost import PromptEstimate as PromptEstimate
    from prompts.cost import estimate_prompt as estimate_prompt
    from prompts.cost import find_price as find_price
    from prompts.preview import prompt_page as prompt_page
    from prompts.template import Template as Template
    from prompts.template import load_template as load_template
    from prompts.template import template_names as template_names
    from prompts.types import ImagePart as ImagePart
    from prompts.types import Prompt as Prompt
    from prompts.types import PromptError as PromptError
    from prompts.types import TextPart as TextPart
    from prompts.types import UnknownPrompt as UnknownPrompt
    from prompts.types import UnusableReply as UnusableReply

    __version__: str
else:
    _HOMES = {
        "prompts.answer": "Answer answer_schema parse_answer",
        "prompts.cost": "Price PromptEstimate estimate_prompt find_price",
        "prompts.preview": "prompt_page",
        "prompts.template": "Template load_template template_names",
        "prompts.types": "ImagePart Prompt PromptError TextPart UnknownPrompt UnusableReply",
    }
    __getattr__, __dir__, __all__ = lazy_names(
        __name__, {name: home for home, names in _HOMES.items() for name in names.split()}
    )
