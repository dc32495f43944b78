"""Prompts as pages and inside notebooks: labels are text, pages need nothing from elsewhere, phones have room."""

from pathlib import Path

import pytest

from prompts.cost import estimate_prompt
from prompts.preview import prompt_page, prompts_page
from prompts.render import Exemplar, render
from prompts.template import load_template
from prompts.types import ImagePart, Prompt, TextPart
from retrieval.images import thumbnail
from tests.browser import Browser, needs_chromium
from tests.conftest import draw

HOSTILE = "</pre></section><script>document.title = 'taken'</script><img src=x onerror=alert(1)>\u202e"
WIDTH = 390


def ask(name: str, label: str = HOSTILE) -> Prompt:
    small = thumbnail(draw((200, 30, 30), 1), longest_side=64)
    return render(load_template(name), small, [Exemplar(label, small, 0.25)] * 12, {label: 1.0, "x" * 300: 0.0})


@pytest.mark.parametrize("name", ["rerank_v1", "mosaic_v1", "labels_only_v1"])
def test_a_notebook_shows_a_prompt_with_its_labels_as_text(name: str) -> None:
    fragment = ask(name)._repr_html_()
    assert "<script" not in fragment and "onerror=alert(1)&gt;" in fragment and "\u202e" not in fragment
    assert fragment.startswith("<section") and "<html" not in fragment and "<style" not in fragment
    assert 'src="data:image/jpeg;base64,' in fragment and "tokens" in fragment


def test_a_prompts_own_name_is_text_too() -> None:
    prompt = Prompt("<script>", (TextPart("a"), ImagePart(b"")), {"A": "x"})
    for page in (prompt._repr_html_(), prompt_page(prompt)):
        assert "<script" not in page and "&lt;script&gt;" in page


def test_a_page_says_what_the_prompt_would_cost() -> None:
    prompt = ask("rerank_v1")
    page = prompt_page(prompt, estimate_prompt(prompt, model="gemini-2.5-flash"))
    assert "13 pictures" in page and "with gemini-2.5-flash" in page and "2 candidates" in page


@needs_chromium
@pytest.mark.parametrize("width", [1280, WIDTH])
def test_two_prompts_stand_side_by_side_where_there_is_room(tmp_path: Path, width: int) -> None:
    prompts = [ask("rerank_v1"), ask("mosaic_v1")]
    page = tmp_path / "both.html"
    page.write_text(prompts_page("Both <b>", [(prompt, estimate_prompt(prompt)) for prompt in prompts]))
    with Browser(tmp_path / "profile") as browser:
        browser.open(page, width=width)
        tops = browser.evaluate("[...document.querySelectorAll('article')].map(a => a.getBoundingClientRect().top)")
        assert (tops[0] == tops[1]) is (width > WIDTH)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("document.title") == "Both <b>" and browser.troubles == []
        assert browser.evaluate("[...document.images].every(image => image.alt)")
