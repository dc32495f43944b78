"""Work split over machines."""

from pathlib import Path

import pytest

from retrieval.cluster import Shard, parse_shard
from retrieval.errors import InvalidArgument


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_the_shards_share_out_everything_once(count: int) -> None:
    files = [f"label{number % 3}/{number}" for number in range(50)]
    picked = [file for number in range(1, count + 1) for file in Shard(number, count).pick(files)]
    assert sorted(picked) == sorted(files)


def test_what_is_read_is_shared_out_as_what_is_listed() -> None:
    shard = Shard(3, 7)
    assert list(shard.stream(iter(range(50)))) == list(shard.pick(range(50)))
    assert [shard.size(total) for total in (0, 2, 3, 50)] == [len(shard.pick(range(n))) for n in (0, 2, 3, 50)]


def test_shards_differ_by_one_item_at_most() -> None:
    sizes = {len(Shard(number, 8).pick(range(50))) for number in range(1, 9)}
    assert sizes == {6, 7}


def test_a_shard_is_read_from_text() -> None:
    assert parse_shard("2/8") == Shard(2, 8)


@pytest.mark.parametrize(
    "text", ["", "2", "0/8", "9/8", "-1/8", "1/0", "1/2/3", " 1/2", "a/b", "²/8", "1/2\n", "9" * 99]
)
def test_anything_else_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(InvalidArgument, match="worker i of n as i/n"):
        parse_shard(text)


def test_each_worker_has_a_file_of_its_own() -> None:
    assert Shard(2, 8).name(Path("out/features.parquet")) == Path("out/features-2-of-8.parquet")
