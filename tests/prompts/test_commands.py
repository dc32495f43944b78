"""vmem prompt: list, show, preview, diff and cost as a user meets them."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eval.cli.vmem import app
from prompts.cost import MODEL
from prompts.template import template_names
from prompts.types import UnknownPrompt
from retrieval.errors import InvalidArgument

HOSTILE = "---\nabout: \x1b[31mred\x1b[0m <script>\n---\nIs it\x1b[2J so? {{ query }}"


def vmem(*arguments: object) -> Result:
    found = CliRunner().invoke(app, ["prompt", *map(str, arguments)], env={"COLUMNS": "200"})
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


@pytest.fixture
def query(pictures: Path) -> Path:
    return pictures / "red" / "0.png"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    (tmp_path / "hostile.md").write_text(HOSTILE)
    return tmp_path / "hostile.md"


def test_the_list_names_every_released_prompt_and_what_it_shows() -> None:
    listed = vmem("list").stdout
    assert [name for name in template_names() if name not in listed] == []
    assert "sheets of 5 × 10" in listed and "described ranking" in listed and "no neighbours" in listed


def test_a_template_is_shown_without_what_drives_a_terminal(hostile: Path) -> None:
    shown = vmem("show", hostile)
    assert "\x1b" not in shown.output and "Is it" in shown.stdout


def test_a_preview_says_what_it_would_cost(built: Path, query: Path) -> None:
    found = vmem("preview", query, "--memory", built, "--k", 4, "--prompt", "labels_only_v1")
    assert '1 = "red", distance' in found.stdout and "[picture 1]" in found.stdout
    assert re.search(rf"Estimate: 1 picture, \d kB, about 1,\d+ tokens .* with {MODEL}", found.stderr)


def test_a_preview_as_a_page_holds_the_sheet(built: Path, query: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    vmem("preview", query, "--memory", built, "--k", 6, "--prompt", "mosaic_v1@2x3", "--html", page)
    text = page.read_text()
    assert text.count("<img ") == 2 and "contact sheet, 684 × " in text and "mosaic_v1@2x3" in text


def test_a_preview_may_price_another_model(built: Path, query: Path) -> None:
    found = vmem("preview", query, "--memory", built, "--k", 2, "--model", "unheard-of")
    assert "price of unheard-of unknown" in found.stderr


def test_templates_are_compared_line_by_line() -> None:
    found = vmem("diff", "rerank_v1", "mosaic_v1").stdout.splitlines()
    assert "-neighbors: nearest" in found and "+neighbors: mosaic" in found and "+sheet: 5x10" in found
    assert "\x1b" not in "".join(found)
    assert vmem("diff", "rerank_v1", "rerank_v1").stdout == "The templates are the same.\n"


def test_two_layouts_of_a_mosaic_differ_by_their_sheets() -> None:
    found = vmem("diff", "mosaic_v1", "mosaic_v1@4x4").stdout.splitlines()
    assert [line for line in found if line.startswith(("+sheet", "-sheet"))] == ["-sheet: 5x10", "+sheet: 4x4"]


def test_what_two_prompts_would_send_is_compared_with_its_price(
    built: Path, query: Path, hostile: Path, tmp_path: Path
) -> None:
    page = tmp_path / "both.html"
    found = vmem("diff", "rerank_v1", hostile, query, "--memory", built, "--k", 4, "--html", page)
    table = found.stdout[found.stdout.index("$ a query") :]
    assert re.search(r"rerank_v1 +4 +5 ", table) and re.search(r"hostile +4 +1 ", table)
    assert page.read_text().count("<img ") == 6 and "\x1b" not in page.read_text() + found.output


@pytest.mark.parametrize("more", [["query.png"], ["--memory", "m"], ["--html", "x.html"]])
def test_a_comparison_of_what_is_sent_takes_both_a_query_and_a_memory(more: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="takes a query picture and --memory: give both, or neither"):
        vmem("diff", "rerank_v1", "mosaic_v1", *more)


def test_prompts_are_priced_without_a_memory() -> None:
    found = vmem("cost", "rerank_v1", "mosaic_v1", "--k", 10, "--k", 50, "--queries", 5000, "--batch")
    rows = re.findall(r"(rerank_v1|mosaic_v1) +(\d+) +(\d+) ", found.stdout)
    assert [" ".join(row) for row in rows] == ["rerank_v1 10 11", "mosaic_v1 10 2", "rerank_v1 50 51", "mosaic_v1 50 2"]
    assert "$ for 5,000" in found.stdout and "kB" not in found.stdout
    assert "With grey pictures and 10 classes; give --memory and --query for real ones" in found.stderr


def test_prompts_are_priced_with_real_pictures(built: Path, query: Path) -> None:
    found = vmem("cost", "rerank_v1", "zero_shot_v1", "--k", 6, "--query", query, "--memory", built)
    assert re.search(r"rerank_v1 +6 +7 ", found.stdout) and "kB" in found.stdout and str(query) in found.stderr


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["cost", "rerank_v9"], UnknownPrompt, "no prompt 'rerank_v9': one of "),
        (["cost", "rerank_v1@4x4"], UnknownPrompt, "is no mosaic"),
        (["cost", "rerank_v1", "--query", "q.png"], InvalidArgument, "real prompts take --query and --memory"),
        (["show", "nothing.md"], UnknownPrompt, "no prompt 'nothing.md'"),
    ],
)
def test_a_mistake_is_said_in_a_sentence(arguments: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vmem(*arguments)


def test_no_neighbours_are_refused_before_anything_is_opened() -> None:
    assert vmem("cost", "rerank_v1", "--k", 0).exit_code == 2


def test_the_price_named_in_the_help_is_the_one_that_is_taken() -> None:
    from agent.cli.prompt_cli import DEFAULT_MODEL

    assert DEFAULT_MODEL == MODEL
