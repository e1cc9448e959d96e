"""Rows in other blocks, in another order, and in shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sparkray.data import moving, tables
from sparkray.data.blocks import Block
from sparkray.data.locality import shared_out


def numbers(ray: Any, rows: int = 10, blocks: int = 3) -> Any:
    return ray.data.range(rows, override_num_blocks=blocks)


def values(dataset: Any, column: str = "id") -> list[Any]:
    return [row[column] for row in dataset.take_all()]


def sizes(dataset: Any) -> list[int]:
    return [block.rows for block in dataset.blocks]


# ------------------------------------------------------------------------------------------ blocks
def test_rows_go_into_more_or_fewer_blocks_in_their_order(ray: Any) -> None:
    for count, expected in [(1, [10]), (3, [3, 3, 4]), (12, [0, *[1] * 5, 0, *[1] * 5])]:
        made = numbers(ray).repartition(count)
        assert sizes(made) == expected
        assert values(made) == list(range(10))
    assert sizes(numbers(ray).repartition(target_num_rows_per_block=4)) == [3, 3, 4]
    assert numbers(ray, 7).drop_columns("id").repartition(2).count() == 7
    for wrong in ({}, {"num_blocks": 0}, {"num_blocks": 1, "target_num_rows_per_block": 1}):
        with pytest.raises(ValueError, match="repartition"):
            numbers(ray).repartition(**wrong)


def test_a_shuffle_keeps_all_rows_and_is_repeatable(ray: Any) -> None:
    shuffled = [values(numbers(ray, 1000).random_shuffle(seed=seed)) for seed in (1, 1, 2)]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert sorted(shuffled[0]) == list(range(1000))
    assert shuffled[0] != list(range(1000))
    assert numbers(ray).random_shuffle(num_blocks=5).num_blocks() == 5
    assert sorted(values(numbers(ray).randomize_block_order(seed=3))) == list(range(10))


# ------------------------------------------------------------------------------------------ order
def test_rows_are_sorted_across_blocks(ray: Any) -> None:
    rng = np.random.default_rng(5)
    table = tables.from_columns({"k": rng.integers(0, 9, 500), "x": rng.random(500), "n": np.arange(500)})
    dataset = ray.data.from_arrow([table.slice(0, 100), table.slice(100, 250), table.slice(350)])

    by_x = dataset.sort("x")
    assert by_x.num_blocks() == 3
    assert values(by_x, "x") == sorted(table.to_pandas()["x"])
    both = dataset.sort(["k", "x"], descending=[True, False]).take_all()
    assert both == sorted(table.to_pylist(), key=lambda row: (-row["k"], row["x"]))
    stable = [(row["k"], row["n"]) for row in dataset.sort("k").take_all()]
    assert stable == sorted(stable)


def test_nulls_and_strings_are_sorted_and_equal_rows_stay_together(ray: Any) -> None:
    dataset = ray.data.from_items([{"s": s} for s in ["b", None, "a", "b", "c", None, "b", "b"]], override_num_blocks=4)
    in_order = dataset.sort("s")
    assert values(in_order, "s") == ["a", "b", "b", "b", "b", "c", None, None]
    assert sum("b" in block["s"].to_pylist() for block in ray.get(in_order.refs)) == 1
    assert values(dataset.sort("s", descending=True), "s") == ["c", "b", "b", "b", "b", "a", None, None]
    assert dataset.filter(lambda row: False).sort("s").count() == 0
    with pytest.raises(KeyError, match="no column 'z'"):
        dataset.sort("z")
    with pytest.raises(ValueError, match="one direction"):
        dataset.sort("s", descending=[True, False])


def test_bounds_cut_rows_where_they_differ() -> None:
    keys = moving.keys_of("k", False)
    table = pa.table({"k": [3, 1, 2, 2, 2, 2]})
    bounds = moving.bounds_of(table, keys, 3)
    parts = moving.by_bounds(bounds, keys, table.schema)(table)
    assert bounds.to_pydict() == {"k": [2]}
    assert [part["k"].to_pylist() for part in parts] == [[1, 2, 2, 2, 2], [3]]


# ------------------------------------------------------------------------------------------ shares
def test_datasets_are_cut_by_numbers_and_parts(ray: Any) -> None:
    dataset = numbers(ray)
    assert [values(part) for part in dataset.split_at_indices([2, 2, 9])] == [[0, 1], [], [2, 3, 4, 5, 6, 7, 8], [9]]
    assert [part.count() for part in dataset.split_proportionately([0.2, 0.5])] == [2, 5, 3]
    train, test = dataset.train_test_split(0.3)
    assert (values(train), values(test)) == ([0, 1, 2, 3, 4, 5, 6], [7, 8, 9])
    train, test = dataset.train_test_split(4, shuffle=True, seed=1)
    assert sorted(values(train) + values(test)) == list(range(10))
    assert test.count() == 4
    with pytest.raises(ValueError, match="must be"):
        dataset.split_at_indices([3, 1])
    with pytest.raises(ValueError, match="must be"):
        dataset.split_proportionately([1.0])
    for size in (0.0, 1.5, 10):
        with pytest.raises(ValueError, match="test_size must be"):
            dataset.train_test_split(size)


def test_a_random_split_puts_each_row_into_one_share(ray: Any) -> None:
    shares = [values(part) for part in numbers(ray, 3000).random_split([2, 1], seed=4)]
    assert sorted(shares[0] + shares[1]) == list(range(3000))
    assert shares[0] == sorted(shares[0])
    assert 1800 < len(shares[0]) < 2200
    assert [values(part) for part in numbers(ray, 3000).random_split([2, 1], seed=4)] == shares
    with pytest.raises(ValueError, match="weights"):
        numbers(ray).random_split([1, 0])


def test_shares_are_of_blocks_that_lie_near_and_of_the_same_size() -> None:
    blocks = [Block(None, 0, rows, rows) for rows in (10, 10, 10, 10, 4)]  # type: ignore[arg-type]
    places = [("a",), ("b",), ("a",), ("b", "c"), ()]

    def shares(nodes: list[str], equal: bool = False) -> list[list[tuple[int, int]]]:
        shared = shared_out(blocks, places, nodes, equal)
        number = {id(block): index for index, block in enumerate(blocks)}
        return [[(number.get(id(block), -1), block.rows) for block in share] for share in shared]

    assert shares(["a", "b"]) == [[(0, 10), (2, 10), (4, 4)], [(1, 10), (3, 10)]]
    assert shares(["b", "a"]) == [[(1, 10), (3, 10), (4, 4)], [(0, 10), (2, 10)]]
    assert shares(["a", "a"]) == [[(0, 10), (1, 10), (4, 4)], [(2, 10), (3, 10)]]
    equal = shares(["a", "b"], equal=True)
    assert [sum(rows for _, rows in share) for share in equal] == [22, 22]
    assert sum(rows for share in shares(["x", "y", "z"], equal=True) for _, rows in share) == 42


def test_shares_for_actors_hold_all_rows(ray: Any) -> None:
    class Reader:
        def total(self, share: Any) -> int:
            return sum(values(share))

    readers = [ray.remote(Reader).remote() for _ in range(2)]
    shares = numbers(ray, 100, 4).split(2, locality_hints=readers, equal=True)
    assert [share.count() for share in shares] == [50, 50]
    totals = [reader.total.remote(share) for reader, share in zip(readers, shares, strict=True)]
    assert sum(ray.get(totals)) == sum(range(100))
    with pytest.raises(ValueError, match="one for each of the 2"):
        numbers(ray).split(2, locality_hints=readers[:1])
    with pytest.raises(TypeError, match="actors or ids"):
        numbers(ray).split(1, locality_hints=[3])
