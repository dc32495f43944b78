"""Reading replies: codes and whole labels are answers, everything else is none."""

import pytest

from prompts.answer import Answer, parse_answer
from prompts.types import Prompt, UnusableReply

PROMPT = Prompt("test", (), {"A": "cat", "B": "sea lion", "C": "A", "D": "0"})


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"answer": "B", "confidence": 0.8, "evidence": [1, 4]}', Answer(("sea lion",), 0.8, (1, 4))),
        ('```json\n{"answer": "B"}\n```', Answer(("sea lion",), None, ())),
        ('{"answer": "sea lion", "confidence": 7, "evidence": "1"}', Answer(("sea lion",), None, ())),
        ('{"answer": " A "}', Answer(("cat",), None, ())),  # a code goes before the label that is spelled like it
        ('{"ranking": ["B", "A", "B"], "confidence": 0.6}', Answer(("sea lion", "cat"), 0.6, ())),
        ('{"ranking": ["B", "Z", "A"]}', Answer(("sea lion",), None, ())),
        ('{"ranking": ["NONE"], "confidence": 1}', Answer((), 1.0, ())),
        ("sea lion", Answer(("sea lion",), None, ())),
        ("B\n", Answer(("sea lion",), None, ())),
        ("0", Answer(("0",), None, ())),
        ('{"answer": 0}', Answer(("0",), None, ())),
        ('{"answer": "A", "confidence": true, "evidence": [1, "2", 2.5, true, 0, -3]}', Answer(("cat",), None, (1,))),
    ],
)
def test_an_answer_is_read(reply: str, expected: Answer) -> None:
    assert parse_answer(reply, PROMPT) == expected


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I think it is a sea lion",
        '{"answer": "dog"}',
        '{"answer": null}',
        '{"label": "A"}',
        '{"ranking": []}',
        '{"ranking": "A"}',
        '{"ranking": ["Z", "A"]}',
        "[1]",
        "[" * 100_000,
        "```" + " " * 100_000,
    ],
)
def test_anything_else_is_unusable(reply: str) -> None:
    with pytest.raises(UnusableReply, match="the reply (is none of the 4 candidates|holds no answer)"):
        parse_answer(reply, PROMPT)


def test_the_name_that_the_model_read_stands_for_its_label() -> None:
    prompt = Prompt("p", (), {"A": "n01440764", "B": "n01443537"})
    assert parse_answer('{"ranking": ["goldfish"]}', prompt).ranking == ("n01443537",)
    assert parse_answer('{"ranking": ["n01440764"]}', prompt).ranking == ("n01440764",)
