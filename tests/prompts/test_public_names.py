"""The public names of the room prompts: each loads, is explained, and no other is there."""

import subprocess
import sys

import pytest

import prompts

NAMES = """
Answer ImagePart Price Prompt PromptError PromptEstimate Template TextPart UnknownPrompt UnusableReply answer_schema
estimate_prompt find_price load_template parse_answer prompt_page template_names
""".split()


def test_the_list_is_what_is_expected() -> None:
    assert vars(prompts)["__all__"] == sorted(NAMES)
    assert set(NAMES) <= set(dir(prompts)) and prompts.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_each_name_loads_and_is_explained(name: str) -> None:
    found = getattr(prompts, name)
    assert found.__name__ == name
    assert found.__doc__ and not found.__doc__.startswith(f"{name}(")  # as a dataclass without one has it


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'prompts' has no attribute 'Nothing'"):
        prompts.Nothing  # type: ignore[attr-defined]  # noqa: B018


def test_an_import_of_the_room_loads_no_heavy_library() -> None:
    said = "import sys, prompts; dir(prompts); print(sorted({'numpy', 'PIL', 'jinja2', 'httpx2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout == "[]\n"
