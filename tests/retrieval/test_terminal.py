"""What is printed stays text, whatever a label or a file name holds."""

import pytest

from retrieval.support.terminal import print_table, printable


def test_escape_sequences_and_direction_marks_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\u202ed\u2028e") == "a�[2Jb�c�d�e"


def test_endless_names_are_cut() -> None:
    assert printable("x" * 10_000_000) == "x" * 200 + "…"


def test_markup_in_a_table_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["label"], [["[red]bold[/red]"]])
    assert "[red]bold[/red]" in capsys.readouterr().out
