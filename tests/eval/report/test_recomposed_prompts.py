"""Prompts put together again from a run's log: what its prompts said, or nothing where the log does not hold it."""

import pytest

from eval.report.cases import find_template, recompose
from prompts.template import Template, load_template
from retrieval.types import Neighbor, Votes

NEIGHBORS = [Neighbor("a", "cat", 0.25, 0), Neighbor("b", "dog", 0.5, 1)]
VOTES = Votes(("cat", "dog"), (2.0, 1.0))


def template_of_run(name: str) -> Template | None:
    return find_template({"rerank": {"prompt": f"{name} {load_template(name).digest[:16]}"}})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rerank_v1", 'Neighbour 2, labelled "dog":\n[picture 2]'),
        ("labels_only_v1", '1 = "cat", distance 0.250'),
        ("mosaic_v1@1x2", "Sheet 1, neighbours 1 to 2:\n[picture 1]"),
    ],
)
def test_a_prompt_is_told_by_its_text(name: str, said: str) -> None:
    found = template_of_run(name)
    assert found is not None and said in recompose(found, NEIGHBORS, VOTES, {"a": b"x", "b": b"y"})


@pytest.mark.parametrize("name", ["rerank_balanced_v1", "zero_shot_v1"])
def test_what_showed_more_than_the_log_holds_is_not_told(name: str) -> None:
    assert template_of_run(name) is None
