"""What a prompt would take: pictures, bytes, tokens, dollars."""

from pathlib import Path

import pytest

from agent.preview import stand_in
from prompts.cost import estimate_prompt
from prompts.template import load_template
from prompts.types import ImagePart, Prompt, TextPart
from retrieval.errors import InvalidArgument

PROMPT = Prompt("p", (TextPart("four" * 10), ImagePart(b"x" * 3000), ImagePart(b"y" * 1000)), {"A": "cat"})


def test_a_prompt_is_counted_and_priced() -> None:
    found = estimate_prompt(PROMPT, model="gemini-3.5-flash-lite")
    assert (found.pictures, found.kilobytes, found.prompt_tokens) == (2, 4.04, 10 + 2 * 1120)
    assert found.dollars == pytest.approx((found.prompt_tokens * 0.30 + found.reply_tokens * 2.50) / 1e6)
    assert str(found).startswith("2 pictures, 4 kB, about 2,250 tokens and 40 of reply, $0.0007")


def test_a_chosen_resolution_a_batch_and_a_longer_reply_change_the_price() -> None:
    whole = estimate_prompt(PROMPT).dollars or 0
    assert estimate_prompt(PROMPT, media_resolution="low").prompt_tokens == 10 + 2 * 280
    assert estimate_prompt(PROMPT, batch=True).dollars == pytest.approx(whole / 2)
    assert (estimate_prompt(PROMPT, reply_tokens=1000).dollars or 0) > whole


def test_the_makers_name_may_stand_before_the_models() -> None:
    assert estimate_prompt(PROMPT, model="gemini:gemini-2.5-flash").prompt_tokens == 10 + 2 * 258


def test_an_unknown_price_is_said() -> None:
    found = estimate_prompt(PROMPT, model="openai:mine@http://127.0.0.1/v1")
    assert found.dollars is None and "price of openai:mine unknown" in str(found)


def test_a_file_that_holds_no_prices_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text("x = 1")
    with pytest.raises(InvalidArgument, match="holds no prices"):
        estimate_prompt(PROMPT, prices=tmp_path / "prices.toml")


def test_a_description_makes_a_longer_reply() -> None:
    described, plain = (
        estimate_prompt(stand_in(load_template(name), neighbors=5, classes=3))
        for name in ("describe_then_decide_v1", "rerank_v1")
    )
    assert described.reply_tokens > 3 * plain.reply_tokens


def test_a_large_sheet_counts_by_its_squares_where_the_model_does_so() -> None:
    sheet = ImagePart(b"x", size=(1530, 855))
    prompt = Prompt("p", (sheet, ImagePart(b"y")), {"A": "cat"})
    assert estimate_prompt(prompt, model="gemini-2.5-flash").prompt_tokens == 5 * 258
    assert estimate_prompt(prompt, model="gemini-3.8-flash").prompt_tokens == 2 * 1120


@pytest.mark.parametrize(("model", "fold"), [("gemini-2.5-flash", 8), ("gemini-3.5-flash-lite", 20)])
def test_a_mosaic_takes_about_a_tenth_of_the_tokens(model: str, fold: float) -> None:
    mosaic, apart = (
        estimate_prompt(stand_in(load_template(name), neighbors=50, classes=10), model=model).prompt_tokens
        for name in ("mosaic_v1", "rerank_v1")
    )
    assert apart > fold * mosaic


@pytest.mark.parametrize(
    ("name", "pictures", "candidates"),
    [("rerank_v1", 6, 5), ("labels_only_v1", 1, 5), ("mosaic_v1", 2, 5), ("zero_shot_v1", 1, 12)],
)
def test_a_stand_in_has_as_many_pictures_and_candidates_as_a_real_prompt(
    name: str, pictures: int, candidates: int
) -> None:
    prompt = stand_in(load_template(name), neighbors=5, classes=12)
    assert estimate_prompt(prompt).pictures == pictures and len(prompt.candidates) == candidates
