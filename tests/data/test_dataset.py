"""Datasets on a session of `init()`: what they tell, how they are cut and mapped, when their blocks go."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

ROWS = 30_000  # too many for a message, so the tables are in the store


def table(first: int = 0, rows: int = ROWS) -> pa.Table:
    numbers = np.arange(first, first + rows)
    return pa.table({"n": pa.array(numbers), "half": pa.array(numbers / 2)})


# ------------------------------------------------------------------------------------------ what it is
def test_a_dataset_tells_what_is_in_it(ray: Any) -> None:
    dataset = ray.data.from_arrow([table(), table(ROWS, 10)])

    assert dataset.count() == ROWS + 10
    assert dataset.num_blocks() == 2
    assert dataset.schema() == table().schema
    assert dataset.size_bytes() == (ROWS + 10) * 16
    assert repr(dataset) == "Dataset(num_blocks=2, num_rows=30010, schema={n: int64, half: double})"
    assert dataset.to_arrow() == table(0, ROWS + 10)
    assert dataset.to_pandas().equals(table(0, ROWS + 10).to_pandas())
    assert [ray.get(ref) for ref in dataset.refs] == [table(), table(ROWS, 10)]
    assert dataset.to_arrow_refs() == dataset.refs


def test_take_and_show_read_across_blocks(ray: Any, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = ray.data.from_arrow([table(0, 2), table(2, 2)])

    assert dataset.take(3) == [{"n": 0, "half": 0.0}, {"n": 1, "half": 0.5}, {"n": 2, "half": 1.0}]
    assert dataset.take(0) == []
    dataset.show(1)
    assert capsys.readouterr().out == "{'n': 0, 'half': 0.0}\n"
    with pytest.raises(ValueError, match="negative"):
        dataset.take(-1)


def test_a_wide_schema_is_cut_in_the_repr(ray: Any) -> None:
    dataset = ray.data.from_arrow(pa.table({f"c{index}": [1] for index in range(25)}))
    assert repr(dataset).endswith("c19: int64, and 5 more})")


def test_datasets_are_made_of_frames_and_items(ray: Any) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=[7, 8])
    assert ray.data.from_pandas(frame).to_pandas().equals(frame.reset_index(drop=True))
    assert ray.data.from_pandas([frame, frame]).count() == 4

    assert ray.data.from_items([1, 2]).take() == [{"item": 1}, {"item": 2}]
    mixed = ray.data.from_items([{"a": 1}, {"b": "x"}, {"a": 2}], override_num_blocks=2)
    assert mixed.take() == [{"a": 1, "b": None}, {"a": None, "b": "x"}, {"a": 2, "b": None}]
    assert mixed.num_blocks() == 2


def test_tables_that_tasks_return_make_a_dataset(ray: Any) -> None:
    @ray.remote
    def make(rows: int) -> pa.Table:
        return table(0, rows)

    dataset = ray.data.from_arrow_refs([make.remote(10), make.remote(ROWS)])
    assert (dataset.count(), dataset.schema().names) == (ROWS + 10, ["n", "half"])
    assert ray.data.from_arrow_refs(make.remote(3)).to_arrow() == table(0, 3)
    with pytest.raises(TypeError, match=r"a block is a pyarrow\.Table, not int"):
        ray.data.from_arrow_refs([ray.put(3)]).count()
    with pytest.raises(TypeError, match="takes ObjectRefs"):
        ray.data.from_arrow_refs([table(0, 3)])


def test_nothing_makes_a_dataset_of_nothing(ray: Any) -> None:
    dataset = ray.data.from_items([])
    assert (dataset.count(), dataset.num_blocks(), dataset.take(), dataset.schema()) == (0, 0, [], pa.schema([]))
    assert dataset.to_pandas().empty
    assert [part.count() for part in dataset.split(2)] == [0, 0]


def test_what_cannot_be_a_dataset_is_refused(ray: Any) -> None:
    with pytest.raises(TypeError, match=r"from_arrow\(\) takes pyarrow Tables, not int"):
        ray.data.from_arrow([1])
    with pytest.raises(TypeError, match=r"from_pandas\(\) takes pandas DataFrames, not Table"):
        ray.data.from_pandas([table()])
    with pytest.raises(ValueError, match="schemas differ"):
        ray.data.from_arrow([table(), pa.table({"x": [1]})])
    with pytest.raises(ValueError, match="at least 1, not 0"):
        ray.data.from_items([1], override_num_blocks=0)


# ------------------------------------------------------------------------------------------ map_batches
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "numpy": lambda batch: {"n": batch["n"] + 1, "half": batch["half"]},
    "default": lambda batch: {"n": batch["n"] + 1, "half": batch["half"]},
    "pandas": lambda batch: batch.assign(n=batch.n + 1),
    "pyarrow": lambda batch: batch.set_column(0, "n", pa.array(batch["n"].to_numpy() + 1)),
}


@pytest.mark.parametrize("batch_format", FUNCTIONS)
def test_map_batches_hands_out_and_takes_each_format(ray: Any, batch_format: str) -> None:
    mapped = ray.data.from_arrow([table(), table(ROWS)]).map_batches(FUNCTIONS[batch_format], batch_format=batch_format)

    assert repr(mapped) == "Dataset(num_blocks=2, num_rows=?, schema=?)"
    assert mapped.to_arrow()["n"].to_pylist() == list(range(1, 2 * ROWS + 1))
    assert mapped.count() == 2 * ROWS


def test_map_batches_cuts_blocks_into_batches(ray: Any) -> None:
    dataset = ray.data.from_arrow([table(0, 5), table(5, 3)])
    sizes = dataset.map_batches(lambda batch: {"rows": [len(batch["n"])]}, batch_size=2)
    assert sizes.to_pandas()["rows"].tolist() == [2, 2, 1, 2, 1]


def test_map_batches_passes_arguments_and_chains(ray: Any) -> None:
    def add(batch: Any, much: int, *, times: int) -> Any:
        return batch.assign(n=batch.n + much * times)

    dataset = ray.data.from_arrow(table(0, 2))
    once = dataset.map_batches(add, batch_format="pandas", fn_args=(10,), fn_kwargs={"times": 2})
    twice = once.map_batches(add, batch_format="pandas", fn_args=(1,), fn_kwargs={"times": 1}, num_cpus=0.5)
    assert [row["n"] for row in twice.take()] == [21, 22]


def test_map_batches_of_cut_blocks_sees_the_cut_rows_only(ray: Any) -> None:
    parts = ray.data.from_arrow(table()).split(3, equal=True)
    counts = [part.map_batches(lambda batch: {"rows": [len(batch["n"])]}).take()[0]["rows"] for part in parts]
    assert counts == [ROWS // 3] * 3


def test_a_block_without_rows_is_not_mapped(ray: Any) -> None:
    def first(batch: Any) -> Any:
        return batch.iloc[[0]]  # raises for an empty one

    mapped = ray.data.from_arrow([table(0, 0), table(0, 2)]).map_batches(first, batch_format="pandas")
    assert mapped.take() == [{"n": 0, "half": 0.0}]
    assert mapped.schema().names == ["n", "half"]
    assert ray.data.from_arrow(table(0, 0)).map_batches(first, batch_format="pandas").count() == 0


def test_blocks_that_differ_by_nulls_only_have_one_schema(ray: Any) -> None:
    def classify(batch: Any) -> Any:
        return {"label": [None if number < 2 else "big" for number in batch["n"]]}

    mapped = ray.data.from_arrow([table(0, 2), table(2, 2)]).map_batches(classify)
    assert mapped.schema() == pa.schema({"label": pa.string()})
    assert [row["label"] for row in mapped.to_arrow().to_pylist()] == [None, None, "big", "big"]


def test_what_the_function_raises_reaches_whoever_reads(ray: Any) -> None:
    mapped = ray.data.from_arrow(table(0, 2)).map_batches(lambda batch: batch["no such column"])
    with pytest.raises(KeyError):
        mapped.count()
    with pytest.raises(TypeError, match="must return a"):
        ray.data.from_arrow(table(0, 2)).map_batches(lambda batch: 1).materialize()


def test_map_batches_refuses_what_it_cannot_do(ray: Any) -> None:
    dataset = ray.data.from_arrow(table(0, 2))
    with pytest.raises(TypeError, match="a class with a method __call__"):
        dataset.map_batches(dict)
    with pytest.raises(ValueError, match="batch_format must be one of"):
        dataset.map_batches(len, batch_format="polars")
    with pytest.raises(ValueError, match="at least 1 row"):
        dataset.map_batches(len, batch_size=0)
    with pytest.raises(ValueError, match="nonsense"):
        dataset.map_batches(len, nonsense=1)


# ------------------------------------------------------------------------------------------ split
@pytest.mark.parametrize(
    ("blocks", "n", "expected"),
    [
        ([10, 10, 10, 10], 2, [20, 20]),
        ([10, 10, 10, 10], 4, [10, 10, 10, 10]),
        ([100, 1, 1, 1], 2, [100, 3]),
        ([1, 1, 1, 100], 2, [3, 100]),
        ([1, 1, 100], 3, [1, 1, 100]),
        ([10], 4, [2, 3, 2, 3]),  # fewer blocks than parts: blocks are cut
        ([2], 3, [0, 1, 1]),
        ([10, 20], 1, [30]),
    ],
)
def test_split_makes_parts_of_about_the_same_size(ray: Any, blocks: list[int], n: int, expected: list[int]) -> None:
    starts = np.cumsum([0, *blocks])
    dataset = ray.data.from_arrow([table(int(start), rows) for start, rows in zip(starts, blocks, strict=False)])
    parts = dataset.split(n)

    assert [part.count() for part in parts] == expected
    assert [row["n"] for part in parts for row in part.to_arrow().to_pylist()] == list(range(sum(blocks)))


def test_an_equal_split_leaves_out_what_is_over(ray: Any) -> None:
    parts = ray.data.from_arrow([table(0, 5), table(5, 6)]).split(3, equal=True)
    assert [part.to_arrow()["n"].to_pylist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    with pytest.raises(ValueError, match="at least 1"):
        parts[0].split(0)


def test_splitting_copies_nothing_until_references_are_asked_for(ray: Any, stored: Callable[[], int]) -> None:
    dataset = ray.data.from_arrow(table())
    before = stored()
    parts = dataset.split(2)
    assert parts[1].to_arrow()["n"][0].as_py() == ROWS // 2
    assert stored() == before

    assert ray.get(parts[1].refs[0]) == table(ROWS // 2, ROWS // 2)
    assert parts[1].refs == parts[1].refs


# ------------------------------------------------------------------------------------------ lifetimes
def test_tasks_take_datasets(ray: Any) -> None:
    @ray.remote
    def total(dataset: Any) -> int:
        return int(dataset.to_arrow()["n"].to_numpy().sum()) if dataset.count() else 0

    @ray.remote
    def halves(dataset: Any) -> Any:
        return dataset.split(2)

    dataset = ray.data.from_arrow([table(), table(ROWS)])
    assert sum(ray.get([total.remote(part) for part in dataset.split(3)])) == sum(range(2 * ROWS))
    assert [part.count() for part in ray.get(halves.remote(dataset))] == [ROWS, ROWS]


def test_blocks_are_freed_with_the_last_dataset_that_has_them(
    ray: Any, wait_until_stored: Callable[[int], None]
) -> None:
    gc.collect()
    wait_until_stored(0)
    dataset = ray.data.from_arrow([table(), table(ROWS)])
    mapped = dataset.map_batches(lambda batch: batch).materialize()
    wait_until_stored(4)
    first, _ = dataset.split(2)
    del dataset, _
    gc.collect()
    wait_until_stored(4)  # what has been put is kept for those that were made of it: lineage needs it
    view = mapped.to_arrow()
    del first, mapped
    gc.collect()
    wait_until_stored(2)  # the table is a view of them
    del view
    gc.collect()
    wait_until_stored(0)
