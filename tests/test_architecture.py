"""The house: imports point one way, names resolve inside the project, and the command line starts light."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("agent", "prompts", "retrieval", "eval")


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_resolves_inside_this_project(package: str) -> None:
    assert Path(str(importlib.import_module(package).__file__)).parent == ROOT / package


def test_imports_point_one_way() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    if not lint.exists():
        pytest.skip("import-linter is not installed (pip install -e '.[dev]')")
    checked = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_no_command_line_loads_a_heavy_library_at_its_start() -> None:
    heavy = {
        "torch",
        "transformers",
        "scann",
        "lance",
        "pyarrow",
        "numpy",
        "PIL",
        "sklearn",
        "scipy",
        "jinja2",
        "httpx2",
    }
    heavy |= {"google.genai", "google.generativeai", "tenacity", "diskcache"}
    program = "import sys, eval.vmem; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not heavy & set(loaded.split())


def test_names_that_are_not_there_are_refused_as_usual() -> None:
    for package in ("agent", "retrieval"):
        with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
            _ = importlib.import_module(package).nonsense
