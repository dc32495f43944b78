"""The house: imports point one way, names resolve inside the project, and the command line starts light."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("agent", "prompts", "retrieval", "eval")


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_resolves_inside_this_project(package: str) -> None:
    assert Path(str(importlib.import_module(package).__file__)).parent == ROOT / package


def test_imports_point_one_way() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
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
    program = "import sys, eval.cli.vmem; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not heavy & set(loaded.split())


def test_names_that_are_not_there_are_refused_as_usual() -> None:
    for package in ("agent", "retrieval"):
        with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
            _ = importlib.import_module(package).nonsense


def test_a_skip_of_what_could_have_run_fails_where_none_may_be(tmp_path: Path) -> None:
    (tmp_path / "test_skips.py").write_text(
        "import pytest\nfrom tests.conftest import cannot_here\n"
        "def test_other_machine(): cannot_here('a processor of another kind')\n"
        "def test_not_installed(): pytest.skip('no browser')\n"
    )
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_package')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "--continue-on-collection-errors"]
    where: dict[str, Any] = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    left = subprocess.run(command, capture_output=True, text=True, check=False, **where)
    assert left.returncode == 0 and "3 skipped" in left.stdout
    refused = subprocess.run([*command, "--no-skips"], capture_output=True, text=True, check=False, **where)
    assert refused.returncode == 1 and "1 failed, 1 skipped, 1 error" in refused.stdout
    assert "skipped, though it could have run here: no browser" in refused.stdout
