"""What people get who install it or read about it: the wheel, the version, the README, the documentation."""

import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("agent", "prompts", "retrieval", "eval")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the names in a wheel of this checkout."""
    pytest.importorskip("hatchling", reason="hatchling builds the wheel: install the extra dev")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with ZipFile(next(folder.glob("*.whl"))) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_file_of_the_rooms_and_nothing_else(wheel: list[str]) -> None:
    files = {
        file.relative_to(ROOT).as_posix()
        for room in ROOMS
        for file in (ROOT / room).rglob("*")
        if file.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(file.parts)
    }
    assert {name for name in wheel if ".dist-info/" not in name} == files
    assert {f"{room}/py.typed" for room in ROOMS} <= files
    kinds = {Path(name).suffix for name in files}
    assert {".py", ".md", ".toml", ".ipynb", ".jinja", ".css", ".js", ".csv", ".tsv", ".gz"} <= kinds


def test_the_wheel_holds_the_licence_and_the_command(wheel: list[str]) -> None:
    inside = {re.sub(r".*\.dist-info/", "", name) for name in wheel if ".dist-info/" in name}
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= inside


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_says_the_version_of_the_installed_package(room: str) -> None:
    assert importlib.import_module(room).__version__ == version("visual-memory-agent")


def test_the_version_costs_no_start_up() -> None:
    program = "import sys, retrieval, agent; assert 'importlib.metadata' not in sys.modules"
    subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"], check=True
    )


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"\nversion: {project['version']}\n" in citation
    assert "Towards flexible perception with visual memory" in citation


def test_libraries_of_which_private_parts_are_used_have_an_upper_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["page"]]
    for library in ("pylance", "scann", "openvino", "nicegui", "google-genai"):
        (one,) = (line for line in needed if re.match(rf"{library}\b(?!-)", line))
        assert re.search(r",<\d+(;|$)", one), one


def test_everything_that_is_needed_has_a_version_that_was_tested() -> None:
    tested = {
        _plain(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = {
        _plain(re.split(r"[\s\[<>=;]", line)[0]) for line in (*project["dependencies"], *extras["dev"], *extras["docs"])
    }
    assert needed - tested == {"visual-memory-agent"}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_readme_is_short_and_points_at_what_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 220
    links = re.findall(r"\]\(([^)#]+)", text)
    assert len(links) > 20
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what the documentation is made from, in which it may be built and spoilt."""
    pytest.importorskip("zensical", reason="zensical builds the documentation: install the extra dev")
    folder = tmp_path_factory.mktemp("house")
    for name in ("docs", "tools"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "zensical.toml", folder)
    for room in ROOMS:
        (folder / room).symlink_to(ROOT / room)
    return folder


def _build(house: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(house / "tools" / "docs.py")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_documentation_builds_with_every_command_and_every_public_name(house: Path) -> None:
    built = _build(house)
    assert built.returncode == 0, built.stderr
    reference = house / "site" / "reference"
    commands = (reference / "command-line.html").read_text(encoding="utf-8")
    for command in ("vmem memory verify-forgotten", "vmem prompt tune", "vmem eval analyse", "--prove-later"):
        assert command in commands
    for room in ROOMS:
        page = (reference / f"{room}.html").read_text(encoding="utf-8")
        assert [name for name in importlib.import_module(room).__all__ if name not in page] == []


FAULTS = {
    "page": ("[a page](nowhere.md)", "page does not exist"),
    "heading": ("[a heading](limits.md#nowhere)", "anchor does not exist"),
    "name": ("[a name][retrieval.memory.Nothing]", "unresolved autoref"),
    "picture": ("![a picture](images/nowhere.png)", "there is nothing at images/nowhere.png"),
    "script": ('<script src="https://example.org/script.js"></script>', "would fetch https://example.org/script.js"),
}


@pytest.fixture(scope="module")
def spoilt(house: Path) -> str:
    """Return what is said of a page with every fault."""
    page = house / "docs" / "limits.md"
    text = page.read_text(encoding="utf-8")
    page.write_text("\n\n".join([text, *(fault for fault, _ in FAULTS.values())]), encoding="utf-8")
    built = _build(house)
    page.write_text(text, encoding="utf-8")
    assert built.returncode == 1
    return built.stderr


@pytest.mark.parametrize("fault", list(FAULTS))
def test_the_documentation_is_not_built_with_a_fault(spoilt: str, fault: str) -> None:
    assert FAULTS[fault][1] in spoilt
