"""Records of an RDD into the store, attempt by attempt, with a stand-in for Spark: what counts, and what is freed."""

from __future__ import annotations

import gc
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyspark
import pytest
from pyspark.sql import Row

from sparkray.exceptions import ObjectStoreFullError

Point = namedtuple("Point", "x y")


class Rdd:
    """Runs each partition in this process: as often as it is told, of which the last attempt counts."""

    def __init__(self, partitions: Sequence[Any], attempts: int = 1) -> None:
        self.partitions, self.attempts = partitions, attempts
        self.job: Callable[[Any], Iterator[Any]] = iter
        self.number = 0
        self.partition = 0
        self.context = None  # a SparkContext, that nothing is lost with

    def mapPartitions(self, job: Callable[[Any], Iterator[Any]]) -> Rdd:
        self.job = job
        return self

    def collect(self) -> list[Any]:
        answers: list[Any] = []
        for number, partition in enumerate(self.partitions):
            self.partition = number
            told: list[Any] = []
            for _ in range(self.attempts):
                self.number += 1
                told = list(self.job(partition))  # Spark gives any iterable
            answers += told
        return answers

    def taskAttemptId(self) -> int:
        return self.number

    def partitionId(self) -> int:
        return self.partition

    def getLocalProperty(self, name: str) -> None:
        """This is a first run."""


@pytest.fixture
def moved(ray: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def move(partitions: Sequence[Any], attempts: int = 1, **how: Any) -> Any:
        rdd: Any = Rdd(partitions, attempts)
        monkeypatch.setattr(pyspark.TaskContext, "get", lambda: rdd)
        return ray.data.from_rdd(rdd, **how)

    return move


def test_records_of_any_kind_are_rows(moved: Any) -> None:
    assert moved([[{"a": 1, "b": "x"}, {"a": None}], [], [{"b": "y"}]]).take_all() == [
        {"a": 1, "b": "x"},
        {"a": None, "b": None},
        {"a": None, "b": "y"},
    ]
    assert moved([[1, 2], [3]]).take_all() == [{"item": 1}, {"item": 2}, {"item": 3}]
    rows = [[Row(a=1, b=Row(c=2))], [Point(1, 2)]]
    assert moved(rows[:1]).take_all() == [{"a": 1, "b": {"c": 2}}]
    assert moved(rows[1:]).take_all() == [{"x": 1, "y": 2}]
    assert [row["item"] for row in moved([[1], ["one"], [1j, None]]).take_all()] == [1, "one", 1j, None]
    arrays = moved([[{"v": np.full((2, 2), n)} for n in (0, 1)], [{"v": np.full((2, 2), 2)}]])
    assert arrays.take_batch(3)["v"].sum(axis=(1, 2)).tolist() == [0, 4, 8]


def test_a_partition_is_cut_into_blocks_of_the_size(moved: Any) -> None:
    dataset = moved([["x" * 1000] * 3000], target_block_bytes=500_000)
    assert 6 <= dataset.num_blocks() <= 12
    assert max(block.bytes for block in dataset.blocks) <= 500_000
    assert moved([["x" * 1000] * 30], target_block_bytes=1).num_blocks() == 30
    assert moved([range(10), range(5)], override_num_blocks=5).num_blocks() == 5
    empty = moved([[], []])
    assert (empty.count(), empty.num_blocks(), empty.columns()) == (0, 0, [])


def test_only_the_attempts_that_count_stay(moved: Any, wait_until_stored: Callable[[int], None]) -> None:
    gc.collect()
    wait_until_stored(0)
    dataset = moved([range(50_000), range(50_000, 100_000)], attempts=3)
    wait_until_stored(2)
    assert dataset.to_pandas()["item"].tolist() == list(range(100_000))
    del dataset
    gc.collect()
    wait_until_stored(0)


def test_what_a_failing_attempt_has_stored_is_freed(moved: Any, wait_until_stored: Callable[[int], None]) -> None:
    def fail() -> Iterator[int]:
        yield from range(100_000)
        raise KeyError("no such record")

    gc.collect()
    wait_until_stored(0)
    with pytest.raises(KeyError, match="no such record"):
        moved([range(50_000), fail()], target_block_bytes=100_000)
    wait_until_stored(0)


def test_a_record_that_is_larger_than_the_store_is_told_with_sizes(moved: Any) -> None:
    with pytest.raises(ObjectStoreFullError, match="can never fit into this node's store of 64 MiB"):
        moved([[b"x" * (65 << 20)]])
