"""The public names of the room agent: each loads, is explained, and no other is there."""

import subprocess
import sys

import pytest

import agent

NAMES = """
CircuitOpen CutOff EmptyReply EveryRequestFails GenerationConfig LoadedModel ModelError PassingFailure Prediction
Preset PresetError Reply ReplyCacheError Request RequestFailure ScriptedModel Settings TransportConfig Usage
VisionModel classify_batch classify_batch_async classify_with_rerank fit_fusion_weight load_model load_preset
make_ready save_preset show
""".split()


def test_the_list_is_what_is_expected() -> None:
    assert vars(agent)["__all__"] == sorted(NAMES)
    assert set(NAMES) <= set(dir(agent)) and agent.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_each_name_loads_and_is_explained(name: str) -> None:
    found = getattr(agent, name)
    assert found.__name__ == ("Settings" if name == "Preset" else name)
    assert found.__doc__ and not found.__doc__.startswith(f"{name}(")  # as a dataclass without one has it


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'agent' has no attribute 'Nothing'"):
        agent.Nothing  # type: ignore[attr-defined]  # noqa: B018


def test_an_import_of_the_room_loads_no_heavy_library() -> None:
    said = "import sys, agent; dir(agent); print(sorted({'numpy', 'PIL', 'jinja2', 'httpx2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout == "[]\n"
