"""A masked memory answers as one made anew of the same items."""

import numpy as np
import pytest

from eval.experiments.embedded import class_order
from retrieval.errors import InvalidArgument
from tests.eval.experiments.made_embedded import made_embedded, rebuilt


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("k", [1, 20, 100])
def test_masking_equals_rebuilding(share: float, k: int) -> None:
    embedded = made_embedded(each=120)  # 960 items, more than the wide search finds: both ways are taken
    kept = np.random.default_rng(1).random(960) < share
    masked, anew = embedded.neighbors_within(kept, k=k), rebuilt(embedded, kept).neighbors(k).results
    assert (np.flatnonzero(kept)[anew.neighbor_ids.codes] == masked.neighbor_ids.codes).all()
    assert (anew.neighbor_labels.codes == masked.neighbor_labels.codes).all()
    assert (anew.neighbor_distances == masked.neighbor_distances).all()


def test_a_mask_that_leaves_fewer_than_k_gives_all_of_them() -> None:
    embedded = made_embedded()
    kept = np.zeros(240, bool)
    kept[[3, 77, 200]] = True
    found = embedded.neighbors_within(kept, k=50)
    assert {frozenset(found.neighbor_ids.of(query)) for query in range(len(found))} == {
        frozenset({"item 3", "item 77", "item 200"})
    }


def test_an_empty_memory_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no item of the memory is kept"):
        made_embedded().neighbors_within(np.zeros(240, bool))


def test_an_order_within_classes_counts_each_class_from_0() -> None:
    labels = np.random.default_rng(0).integers(5, size=200)
    order = class_order(labels, np.random.default_rng(1))
    for label in range(5):
        assert sorted(order[labels == label].tolist()) == list(range((labels == label).sum()))
    assert (order != class_order(labels, np.random.default_rng(2))).any()
