"""Rendered prompts as pages for people: the very texts and pictures that a model would receive."""

import base64
import difflib
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import typer

from prompts.cost import PromptEstimate, estimate_prompt
from prompts.template import Template
from prompts.types import ImagePart, Prompt, TextPart
from retrieval.support.terminal import printable

if TYPE_CHECKING:
    import jinja2


_LONGEST: Final = 1_000_000  # characters of a line; templates write no longer ones

# Everything of a prompt stands in one macro, styled by attributes, so that it looks the same inside a notebook.
_PARTS: Final = """
{%- macro heading(prompt, estimate) -%}
<b>{{ plain(prompt.template) }}</b>: {{ plain(estimate) }},
{{ prompt.candidates | length }} {{ "candidate" if prompt.candidates | length == 1 else "candidates" }}
{%- endmacro -%}
{%- macro contents(prompt) -%}
{% for part in prompt.parts %}
{% if is_text(part) %}<pre style="white-space:pre-wrap;overflow-wrap:anywhere;word-break:normal;font:inherit;
 margin:.5em 0">
{{ plain(part.text) }}</pre>
{% else %}<img style="max-width:{{ "100%" if part.size else "min(12em, 100%)" }};height:auto" alt="{{ describe(part) }}"
 src="{{ source(part) }}">
{% endif %}{% endfor %}
{%- endmacro -%}
"""
_FRAGMENT: Final = (
    _PARTS
    + """<section style="text-align:left" aria-label="Prompt {{ plain(prompt.template) }}">
<p>{{ heading(prompt, estimate) }}</p>
<details open><summary>Texts and pictures, in order</summary>{{ contents(prompt) }}</details></section>
"""
)
_PAGE: Final = (
    _PARTS
    + """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ plain(title) }}</title>
<style>
  :root { color-scheme: light dark }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: {{ "100rem" if shown | length > 1 else "46rem" }};
         margin: 1.5rem auto; padding: 0 1rem }
  main { display: grid; gap: 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)) }
  article { min-width: 0 }
  header { border-bottom: 1px solid GrayText; margin-bottom: 1rem; padding-bottom: .5rem; overflow-wrap: anywhere }
  h1 { font-size: 1.25rem } h2 { font-size: 1rem; font-weight: normal; margin: 0 }
  img { border-radius: 4px }
</style>
<h1>{{ plain(title) }}</h1>
<main>{% for prompt, estimate in shown %}
<article><header><h2>{{ heading(prompt, estimate) }}</h2></header>{{ contents(prompt) }}</article>
{% endfor %}</main>
</html>
"""
)


def prompt_page(prompt: Prompt, estimate: PromptEstimate | None = None) -> str:
    """Return a self-contained HTML page of a prompt; labels appear as text whatever they hold."""
    return prompts_page(f"Prompt {prompt.template}", [(prompt, estimate or estimate_prompt(prompt))])


def prompts_page(title: str, shown: list[tuple[Prompt, PromptEstimate]]) -> str:
    """Return a self-contained HTML page of some prompts side by side; below each other where there is no room."""
    return _compiled(_PAGE).render(title=title, shown=shown)


def prompt_fragment(prompt: Prompt) -> str:
    """Return a prompt as a piece of HTML for inside another page, such as a notebook."""
    return _compiled(_FRAGMENT).render(prompt=prompt, estimate=estimate_prompt(prompt))


def plain(text: Any) -> str:  # noqa: ANN401 - whatever is shown
    """Return text whose line ends stay, and otherwise without control or bidirectional characters."""
    return "\n".join(printable(line, longest=_LONGEST) for line in str(text).split("\n"))


@lru_cache(maxsize=2)
def _compiled(source: str) -> "jinja2.Template":
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.globals |= {
        "plain": plain,
        "describe": _described,
        "is_text": lambda part: isinstance(part, TextPart),
        "source": _source,
    }
    return environment.from_string(source)


def _source(picture: ImagePart) -> str:
    return f"data:{picture.mime_type};base64,{base64.b64encode(picture.encoded).decode()}"


def _described(picture: ImagePart) -> str:
    return f"contact sheet, {picture.size[0]} × {picture.size[1]} pixels" if picture.size else "picture"


_COLOURS: Final = {"+": "green", "-": "red", "@": "cyan"}


def differing_lines(first: Template, second: Template) -> Iterator[str]:
    """Yield the lines of a unified diff of two templates; none where they say the same."""
    return difflib.unified_diff(_lines(first), _lines(second), plain(first.name), plain(second.name), lineterm="")


def coloured(line: str) -> str:
    """Return a line of a diff in the colours that terminals give it; where there is none, typer takes them off."""
    colour = _COLOURS.get(line[:1])
    return typer.style(line, fg=colour) if colour else line


def _lines(template: Template) -> list[str]:
    header = {
        "about": template.about,
        "version": template.version,
        "answer": template.answer,
        "neighbors": template.neighbors,
        "candidates": template.candidates,
        "sheet": "x".join(map(str, template.sheet or ())),
        "labels": template.labels if template.sheet else "",
    }
    said = [f"{name}: {value}" for name, value in header.items() if value]
    return [*map(plain, said), "", *plain(template.body).split("\n")]
