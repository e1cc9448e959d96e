"""What is done block by block: rows, batches, columns, by tasks and by pools of actors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from sparkray.exceptions import ActorDiedError


def numbers(ray: Any, rows: int = 10, blocks: int = 2) -> Any:
    return ray.data.range(rows, override_num_blocks=blocks)


def values(dataset: Any, column: str = "id") -> list[Any]:
    return [row[column] for row in dataset.take_all()]


# ------------------------------------------------------------------------------------------ rows
def test_rows_are_mapped_filtered_and_multiplied(ray: Any) -> None:
    dataset = numbers(ray)

    assert values(dataset.map(lambda row: {"id": row["id"] * 2})) == list(range(0, 20, 2))
    assert values(dataset.filter(lambda row: row["id"] % 3 == 0)) == [0, 3, 6, 9]
    assert values(dataset.flat_map(lambda row: [row] * row["id"]).limit(4)) == [1, 2, 2, 3]
    assert values(dataset.filter(expr=pc.field("id") > 7)) == [8, 9]

    def add(row: dict[str, Any], much: int, *, times: int) -> dict[str, Any]:
        return {"id": row["id"] + much * times}

    assert values(dataset.map(add, fn_args=[10], fn_kwargs={"times": 2}, num_cpus=0.5)) == list(range(20, 30))


def test_rows_may_hold_arrays_and_any_object(ray: Any) -> None:
    def make(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "v": np.full((2, 3), row["id"]),
            "o": complex(row["id"], 1),
            "mixed": row["id"] if row["id"] % 2 else "even",
        }

    made = numbers(ray, 4).map(make)
    rows = made.map(lambda row: {**row, "sum": int(row["v"].sum() + row["o"].imag)}).take_all()
    assert [row["sum"] for row in rows] == [1, 7, 13, 19]
    assert [row["mixed"] for row in rows] == ["even", 1, "even", 3]
    assert rows[2]["o"] == 2 + 1j
    batch = made.take_batch(3)
    assert batch["v"].shape == (3, 2, 3)
    assert batch["o"].tolist() == [1j, 1 + 1j, 2 + 1j]
    assert made.to_pandas()["v"][3].tolist() == [[3, 3, 3], [3, 3, 3]]


def test_blocks_of_other_types_meet_in_one_that_fits_all(ray: Any) -> None:
    def by_block(kinds: list[Any]) -> Any:
        dataset = numbers(ray, len(kinds), len(kinds))
        return dataset.map(lambda row: {"x": kinds[row["id"]]}).materialize()

    assert by_block([1, 2.5]).to_arrow()["x"].to_pylist() == [1.0, 2.5]
    assert by_block([None, 1]).schema().field("x").type == pa.int64()
    assert values(by_block([1, "a"]), "x") == [1, "a"]
    assert by_block([1, "a"]).to_pandas()["x"].tolist() == [1, "a"]
    vectors = by_block([np.zeros(2), np.ones(3)])
    assert vectors.to_arrow()["x"].to_pylist() == [[0, 0], [1, 1, 1]]
    matrices = by_block([np.zeros((1, 2)), np.ones((2, 2))])
    assert matrices.to_arrow()["x"].to_pylist() == [[[0, 0]], [[1, 1], [1, 1]]]


def test_what_is_no_row_is_refused_by_the_function_s_name(ray: Any) -> None:
    def seven(row: Any) -> Any:
        return 7

    for made, text in [
        (numbers(ray).map(seven), "seven must return a dict"),
        (numbers(ray).flat_map(seven), "seven must return a list of dicts"),
        (numbers(ray).flat_map(lambda row: [7]), "must return a list of dicts"),
    ]:
        with pytest.raises(TypeError, match=text):
            made.take_all()
    with pytest.raises(ValueError, match="one of them"):
        numbers(ray).filter()
    with pytest.raises(TypeError, match="pyarrow"):
        numbers(ray).filter(expr="id > 3")


# ------------------------------------------------------------------------------------------ batches
def test_functions_may_yield_batches_and_be_coroutines(ray: Any) -> None:
    def halves(batch: Any) -> Iterator[Any]:
        yield batch.iloc[:1]
        yield {"id": batch.id[1:].to_numpy()}

    async def later(batch: Any) -> Any:
        return batch

    chained = numbers(ray).map_batches(halves, batch_format="pandas").map_batches(later, batch_size="default")
    assert values(chained) == list(range(10))


def test_a_chain_of_functions_is_one_task_per_block(ray: Any, stored: Any) -> None:
    def process(batch: Any) -> Any:
        return {**batch, "pid": [os.getpid()] * len(batch["id"]), "count": [_called()] * len(batch["id"])}

    before = stored()
    first = numbers(ray, 60_000).map_batches(process)
    chained = first.map_batches(lambda batch: {**batch, "second": [os.getpid()] * len(batch["id"])}, num_cpus=None)
    rows = chained.select_columns(["pid", "second"]).materialize()
    assert all(row["pid"] == row["second"] for row in rows.take(5))
    assert stored() == before + 2
    assert chained.num_blocks() == 2


def _called() -> int:
    return 1


# ------------------------------------------------------------------------------------------ columns
def test_columns_are_chosen_dropped_renamed_and_added(ray: Any) -> None:
    dataset = ray.data.from_items([{"a": 1, "b": 2, "c": 3}])

    assert dataset.select_columns(["c", "a"]).take() == [{"c": 3, "a": 1}]
    assert dataset.select_columns("b").schema() == pa.schema({"b": pa.int64()})
    assert dataset.drop_columns(["a"]).columns() == ["b", "c"]
    assert dataset.rename_columns({"a": "x"}).columns() == ["x", "b", "c"]
    assert dataset.rename_columns(["x", "y", "z"]).take() == [{"x": 1, "y": 2, "z": 3}]
    assert dataset.add_column("d", lambda frame: frame.a + frame.b).take() == [{"a": 1, "b": 2, "c": 3, "d": 3}]
    assert dataset.add_column("a", lambda batch: batch["a"] * 10, batch_format="numpy").take(1)[0]["a"] == 10
    assert dataset.add_column("s", lambda table: pa.array(["x"]), batch_format="pyarrow").take(1)[0]["s"] == "x"
    assert dataset.drop_columns(["a", "b", "c"]).count() == 1
    with pytest.raises(KeyError, match="no column 'z'; there are 'a', 'b', 'c'"):
        dataset.select_columns(["a", "z"])
    with pytest.raises(KeyError, match="no column 'z'"):
        dataset.map(lambda row: row).drop_columns("z").take()
    with pytest.raises(ValueError, match="2 values for 1 rows"):
        dataset.add_column("d", lambda frame: [1, 2]).take()
    with pytest.raises(ValueError, match="2 names were given for 3 columns"):
        dataset.rename_columns(["x", "y"])


def test_datasets_are_put_behind_each_other(ray: Any) -> None:
    first = ray.data.from_items([{"a": 1}])
    second = ray.data.from_items([{"a": 2.5, "b": "x"}])
    assert first.union(second, numbers(ray, 1, 1)).take_all() == [
        {"a": 1.0, "b": None, "id": None},
        {"a": 2.5, "b": "x", "id": None},
        {"a": None, "b": None, "id": 0},
    ]
    assert values(numbers(ray).union(numbers(ray).map(lambda row: {"id": -row["id"]})))[-2:] == [-8, -9]


def test_a_limit_computes_no_more_blocks_than_it_needs(ray: Any, tmp_path: Any) -> None:
    folder = str(tmp_path)

    def note(batch: Any) -> Any:
        open(os.path.join(folder, str(batch["id"][0])), "w").close()
        return batch

    dataset = numbers(ray, 100, 10).map_batches(note)
    assert values(dataset.limit(12)) == list(range(12))
    assert len(os.listdir(folder)) < 10
    assert dataset.limit(0).count() == 0
    assert dataset.limit(1000).count() == 100
    with pytest.raises(ValueError, match="negative"):
        dataset.limit(-1)


# ------------------------------------------------------------------------------------------ pools
class Adder:
    def __init__(self, much: int, times: int = 1) -> None:
        self.much = much * times
        self.calls = 0

    def __call__(self, batch: Any, more: int = 0) -> Any:
        self.calls += 1
        rows = len(batch["id"])
        return {"id": batch["id"] + self.much + more, "pid": [os.getpid()] * rows, "calls": [self.calls] * rows}


def test_a_class_is_made_once_in_each_actor_of_a_pool(ray: Any) -> None:
    dataset = numbers(ray, 40, 8)
    made = dataset.map_batches(
        Adder, concurrency=2, fn_constructor_args=[10], fn_constructor_kwargs={"times": 2}, fn_args=[1]
    ).to_pandas()
    assert made["id"].tolist() == list(range(21, 61))
    assert made["pid"].nunique() <= 2
    assert made["pid"].nunique() * made["calls"].max() >= 8


@pytest.mark.parametrize("how", [{"concurrency": (1, 2)}, {"compute": "actors"}, {}, {"concurrency": 5}])
def test_pools_of_any_size_do_all_blocks(ray: Any, how: dict[str, Any]) -> None:
    made = numbers(ray, 12, 6).map(lambda row: row).map_batches(Adder, fn_constructor_args=[1], **how)
    assert values(made.filter(lambda row: row["id"] > 3)) == list(range(4, 13))


def test_two_pools_that_need_all_cpus_go_one_after_the_other(ray: Any) -> None:
    first = numbers(ray, 6, 3).map_batches(Adder, fn_constructor_args=[1], concurrency=2)
    second = first.map_batches(lambda batch: batch, num_cpus=2).map_batches(
        Adder, fn_constructor_args=[10], concurrency=1
    )
    assert values(second) == list(range(11, 17))


def test_rows_are_mapped_by_actors_and_by_a_limited_number_of_tasks(ray: Any) -> None:
    class Double:
        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            return {"id": row["id"] * 2}

    class Even:
        def __call__(self, row: dict[str, Any]) -> bool:
            return bool(row["id"] % 4 == 0)

    assert values(numbers(ray).map(Double, concurrency=1).filter(Even, concurrency=1)) == [0, 4, 8, 12, 16]
    pool = ray.data.TaskPoolStrategy(size=1)
    assert values(numbers(ray).map(lambda row: row, compute=pool)) == list(range(10))


def test_what_a_constructor_raises_reaches_whoever_reads(ray: Any) -> None:
    class Broken:
        def __init__(self) -> None:
            raise KeyError("no model")

        def __call__(self, batch: Any) -> Any:
            return batch

    with pytest.raises(ActorDiedError, match="no model"):
        numbers(ray).map_batches(Broken).take()


def test_an_actor_that_dies_starts_again_and_its_block_is_done(ray: Any, tmp_path: Any) -> None:
    mark = str(tmp_path / "died")

    class Dies:
        def __call__(self, batch: Any) -> Any:
            if 3 in batch["id"] and not os.path.exists(mark):
                open(mark, "w").close()
                os._exit(1)
            return batch

    assert values(numbers(ray, 8, 4).map_batches(Dies, concurrency=1)) == list(range(8))


def test_ways_to_compute_that_there_are_not_are_refused(ray: Any) -> None:
    dataset = numbers(ray)
    for fn, how, text in [
        (Adder, {"compute": ray.data.TaskPoolStrategy()}, "is a class"),
        (len, {"compute": ray.data.ActorPoolStrategy(size=1)}, "is a function"),
        (len, {"concurrency": 0}, "at least 1"),
        (len, {"concurrency": (1, 2)}, "must be a number"),
        (len, {"concurrency": 1, "compute": "tasks"}, "either compute or concurrency"),
        (len, {"fn_constructor_args": [1]}, "are for classes"),
        (Adder, {"max_retries": 1}, "max_retries"),
        (len, {"num_returns": 3}, "num_returns"),
    ]:
        with pytest.raises(ValueError, match=text):
            dataset.map_batches(fn, **how)
    with pytest.raises(TypeError, match="TaskPoolStrategy or an ActorPoolStrategy"):
        dataset.map_batches(len, compute="gpus")
    for given in [{"size": 1, "min_size": 1}, {"size": 0}, {"min_size": 3, "max_size": 2}]:
        with pytest.raises(ValueError, match=r"either size|at least 1"):
            ray.data.ActorPoolStrategy(**given)


# ------------------------------------------------------------------------------------------ frames of odd columns
def test_frames_with_arrays_objects_and_twice_the_same_name_become_tables(ray: Any) -> None:
    frame = pd.DataFrame([[1, 1j, np.zeros(2)], [2, 2j, np.ones(2)]], columns=["a", "a", "v"])
    back = ray.data.from_pandas(frame).to_pandas()
    assert back.columns.tolist() == ["a", "a", "v"]
    assert back.iloc[1, 1] == 2j
    assert back.iloc[1, 2].tolist() == [1.0, 1.0]
