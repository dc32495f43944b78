"""The notebooks: kept without outputs, made of imports and calls, and executed whole in a kernel of their own."""

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser, needs_chromium
from tests.gemini_server import GeminiServer

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "prompts" / "notebooks").glob("*.ipynb"))
KEY = "AIza-a-key-that-no-notebook-may-show"
LOGIC = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.If, ast.Try, ast.With)
LOOPS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the kernels keep everything, so that the second one finds what the first one embedded."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer(answer=lambda call: '{"evidence": [1], "ranking": ["A"], "confidence": 1}', key=KEY) as running:
        yield running
        assert running.wrong == []


def execute(name: str, folder: Path, **variables: str) -> Any:
    """Return a notebook after every cell has run in a fresh kernel of this interpreter, with this tree's code."""
    import nbformat
    from nbclient import NotebookClient

    read: Any = nbformat.read
    notebook = read(ROOT / "prompts" / "notebooks" / f"{name}.ipynb", as_version=4)
    hidden = {"GEMINI_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY_FILE", "GOOGLE_API_KEY_FILE", "VMEM_NOTEBOOK_IMAGES"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "VMEM_CACHE": str(folder / "cache"),
        "VMEM_PRESETS": str(folder / "presets"),
        "TMPDIR": str(folder),
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment | variables)
    return notebook


@pytest.fixture(scope="module")
def tour(folder: Path) -> Any:
    """Return the tour, executed."""
    return execute("memory_tour", folder)


def outputs(notebook: Any, kind: str) -> list[str]:
    """Return the outputs of a MIME type, or of a stream by its name, of all cells."""
    every = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    streams = [output["text"] for output in every if output.get("name") == kind]
    return streams + [output["data"][kind] for output in every if kind in output.get("data", {})]


def code(path: Path) -> list[tuple[dict[str, Any], ast.Module]]:
    """Return the code cells of a notebook as it is kept, each with its syntax tree."""
    cells = json.loads(path.read_text())["cells"]
    return [(cell, ast.parse("".join(cell["source"]))) for cell in cells if cell["cell_type"] == "code"]


def test_both_notebooks_are_there() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["memory_tour", "prompt_iteration"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell, _ in code(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_logic(path: Path) -> None:
    nodes = [node for _, tree in code(path) for node in ast.walk(tree)]
    assert not [ast.unparse(node) for node in nodes if isinstance(node, LOGIC)]
    assert not [ast.unparse(node) for node in nodes if isinstance(node, LOOPS) and node.lineno != node.end_lineno]


def test_prompts_are_iterated_offline_with_a_stand_in(folder: Path) -> None:
    ran = execute("prompt_iteration", folder)
    assert outputs(ran, "stderr") == []
    shown = outputs(ran, "text/html")
    assert len(shown) == 6 and all("data:image/jpeg;base64," in html for html in shown[:3])
    assert "Asking: scripted" in "".join(outputs(ran, "stdout"))
    assert "of 200 queries; the vote is wrong on" in shown[0]
    assert "rerank_v1" in shown[1] and "rerank_balanced_v1" in shown[1]
    assert "★ evidence" in shown[2]
    assert "Other answers: " in shown[3] and "What they took" in shown[3]
    assert "★ evidence of rerank_balanced_v1" in shown[4]
    assert (folder / "presets" / "notebook-winner.toml").is_file()


def test_prompts_are_iterated_with_gemini_where_a_key_is_set(folder: Path, server: GeminiServer) -> None:
    ran = execute("prompt_iteration", folder, GEMINI_API_KEY=KEY, GOOGLE_GEMINI_BASE_URL=server.url)
    assert outputs(ran, "stderr") == []
    assert "Asking: gemini:gemini-3.5-flash-lite" in "".join(outputs(ran, "stdout"))
    assert 80 <= len(server.calls) <= 82  # both prompts on 40 queries; the ones shown alone are among the kept replies
    assert "$" in outputs(ran, "text/html")[3].partition("What they took")[2]
    assert KEY not in json.dumps(ran)


def test_a_memory_is_built_edited_and_erased_from(tour: Any) -> None:
    assert outputs(tour, "stderr") == []
    told, shown = "".join(outputs(tour, "stdout")), outputs(tour, "text/html")
    assert (
        "pictures of '9'" in told
        and "items would count less" in told
        and "leave-one-out accuracy" in told
        and "Proven: nothing is left." in told
    )
    before, found, added, forgotten, history, worst, why, without, checks, left = shown
    answers = [html.partition('class="verdict">')[2][0] for html in (before, added, forgotten, without)]
    assert answers == ["6", "9", "6", "6"]
    assert "Query 1 of 1: the nearest of 10" in found
    assert history.count("<tr>") == 6 and "checkout" in history
    assert "hurt" in worst and "✕ taken out" in why and "added again" in checks and "erase" in left


@needs_chromium
def test_an_executed_notebook_is_a_page_without_troubles(tour: Any, tmp_path: Path) -> None:
    from nbconvert import HTMLExporter

    exporter: Any = HTMLExporter
    page, _ = exporter(embed_images=True).from_notebook_node(tour)
    path = tmp_path / "tour.html"
    path.write_text(page)
    with Browser(tmp_path / "profile") as browser:
        browser.open(path, width=390)
        pictures = "[...document.querySelectorAll('.jp-OutputArea img')]"
        assert browser.evaluate(f"{pictures}.length > 40 && {pictures}.every(one => one.naturalWidth > 0)")
        assert browser.evaluate(
            "document.querySelectorAll('.jp-OutputArea-executeResult table th[scope=col]').length > 9"
        )
