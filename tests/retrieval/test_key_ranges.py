"""Numbers that come in ranges of successive ones are found where they stand."""

import numpy as np
import pytest

from retrieval.items import KeyRanges


def test_every_number_is_found_where_it_stands_and_no_other() -> None:
    numbers = np.array([50, 51, 52, 7, 9, 10, 11, 49, 2**62])
    ranges = KeyRanges.of(numbers)
    assert ranges.find(numbers).tolist() == list(range(len(numbers)))
    assert ranges.find(np.array([6, 8, 12, 48, 53, 2**62 - 1, -1])).tolist() == [-1] * 7
    assert len(ranges.starts) == 5


def test_a_million_successive_numbers_are_one_range() -> None:
    ranges = KeyRanges.of(np.arange(10**12, 10**12 + 1_000_000))
    assert len(ranges.starts) == 1 and ranges.find(np.array([10**12 + 999_999])).tolist() == [999_999]


def test_negative_numbers_stand_for_nothing() -> None:
    numbers = np.array([-1, 0, 1, -1, 2, -1, -1, 8])
    assert KeyRanges.of(numbers).find(np.array([0, 1, 2, 8, -1])).tolist() == [1, 2, 4, 7, -1]


@pytest.mark.parametrize("numbers", [[], [-1, -1]])
def test_of_no_numbers_none_is_found(numbers: list[int]) -> None:
    assert KeyRanges.of(np.array(numbers, np.int64)).find(np.array([0, 5])).tolist() == [-1, -1]


def test_shuffled_numbers_are_found_as_well() -> None:
    numbers = np.random.default_rng(0).permutation(np.delete(np.arange(5_000), [17, 400, 4_999]))
    wanted = np.arange(-3, 5_003)
    expected = {number: place for place, number in enumerate(numbers.tolist())}
    assert KeyRanges.of(numbers).find(wanted).tolist() == [expected.get(number, -1) for number in wanted.tolist()]


@pytest.mark.parametrize("numbers", [[3, 4, 3], [10, 11, 12, 11, 12], [5, 5]])
def test_a_number_that_is_there_twice_is_refused(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match="a key is there twice"):
        KeyRanges.of(np.array(numbers))
