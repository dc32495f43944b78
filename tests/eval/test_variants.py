"""The shifted variants: five of them, each a change, each repeatable."""

import numpy as np
import pytest

from eval.demo import VARIANTS, split
from retrieval.errors import FolderError
from retrieval.sources import LabelledFile
from tests.conftest import draw


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_keeps_the_size_and_is_the_same_for_the_same_seed(name: str) -> None:
    picture = draw((120, 60, 30), 2)
    shifted, again = VARIANTS[name](picture, 3), VARIANTS[name](picture, 3)
    assert shifted.size == picture.size and shifted.mode == "RGB"
    assert np.array_equal(np.asarray(shifted), np.asarray(again))
    assert np.array_equal(np.asarray(shifted), np.asarray(picture)) == (name == "original")


def files(**counts: int) -> list[LabelledFile]:
    return [LabelledFile(f"{label}/{n}", label, None) for label, count in counts.items() for n in range(count)]  # type: ignore[arg-type]


def test_queries_are_held_out_evenly_and_never_more_than_half_a_class() -> None:
    remembered, held_out = split(files(a=10, b=3, c=1), queries=9)
    assert [file.label for file in held_out] == ["a", "a", "a", "b"]
    assert len(remembered) == 10 and not {f.id for f in remembered} & {f.id for f in held_out}


def test_classes_of_a_single_picture_are_refused() -> None:
    with pytest.raises(FolderError, match="every class has a single picture"):
        split(files(a=1, b=1), queries=4)
