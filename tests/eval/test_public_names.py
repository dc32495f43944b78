"""The public names of the room eval: each loads, is explained, and no other is there."""

import subprocess
import sys

import pytest

import eval  # noqa: A004 - the room, not the function

NAMES = """
Comparison Dataset Metrics NeighborFileError Neighborhoods OtherSettings QueryResults Run RunError Sample ServeError
Summary Trial Workbench compare_runs compare_with_vote estimate_run fit_fusion hard_queries judge load_dataset
make_table mcnemar_power measure model_or_stand_in needed_queries open_workbench predictions_with read_neighbors
read_run run_demo run_evaluation run_race show_flips show_prompts summarise try_prompts write_comparison
write_neighbors write_pages
""".split()


def test_the_list_is_what_is_expected() -> None:
    assert vars(eval)["__all__"] == sorted(NAMES)
    assert set(NAMES) <= set(dir(eval)) and eval.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_each_name_loads_and_is_explained(name: str) -> None:
    found = getattr(eval, name)
    assert found.__name__ == name
    assert found.__doc__ and not found.__doc__.startswith(f"{name}(")  # as a dataclass without one has it


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'eval' has no attribute 'Nothing'"):
        eval.Nothing  # type: ignore[attr-defined]  # noqa: B018


def test_an_import_of_the_room_loads_no_heavy_library() -> None:
    said = "import sys, eval; dir(eval); print(sorted({'numpy', 'PIL', 'jinja2', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout == "[]\n"
