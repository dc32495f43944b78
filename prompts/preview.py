"""A rendered prompt as a page for people: the very texts and pictures that a model would receive."""

import base64
from typing import Final

from prompts.types import ImagePart, Prompt, TextPart

_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Prompt {{ prompt.template }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
         color: #222; background: #fff }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; margin: .5rem 0 }
  img { max-width: 12rem; border: 1px solid #ccc; border-radius: 4px }
  header { color: #666; border-bottom: 1px solid #ccc; margin-bottom: 1rem }
</style>
<header>Prompt <b>{{ prompt.template }}</b>: {{ pictures }} pictures, {{ kilobytes }} kB,
{{ prompt.candidates | length }} candidates</header>
{% for text, picture in parts %}
{% if text is not none %}<pre>{{ text }}</pre>
{% else %}<img src="data:{{ picture.mime_type }};base64,{{ encode(picture.encoded) }}" alt="picture {{ loop.index }}">
{% endif %}{% endfor %}
</html>
"""


def prompt_page(prompt: Prompt) -> str:
    """Return a self-contained HTML page of a prompt; labels appear as text whatever they hold."""
    import jinja2

    pictures = [part for part in prompt.parts if isinstance(part, ImagePart)]
    parts = [(p.text, None) if isinstance(p, TextPart) else (None, p) for p in prompt.parts]
    page = jinja2.Environment(autoescape=True).from_string(_PAGE)
    return page.render(
        prompt=prompt,
        parts=parts,
        pictures=len(pictures),
        kilobytes=round(sum(len(picture.encoded) for picture in pictures) / 1000),
        encode=lambda encoded: base64.b64encode(encoded).decode(),
    )
