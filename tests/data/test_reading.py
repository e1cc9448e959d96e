"""Rows and batches out of datasets, and datasets that are larger than the store."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparkray import session
from sparkray.data import tables
from sparkray.data.batching import Batcher, Shuffler

STORE = 64 << 20


def numbers(ray: Any, rows: int = 10, blocks: int = 3) -> Any:
    return ray.data.range(rows, override_num_blocks=blocks)


def spilled() -> int:
    core = session.core()
    return int(core.ask(core.raylet_id, "status")["spilled"]["spilled_bytes"])


# ------------------------------------------------------------------------------------------ rows
def test_rows_are_taken_and_iterated(ray: Any) -> None:
    dataset = numbers(ray)
    everything = [{"id": number} for number in range(10)]
    assert dataset.take_all() == list(dataset.iter_rows()) == everything
    assert dataset.take(4) == everything[:4]
    assert dataset.take_batch(4)["id"].tolist() == [0, 1, 2, 3]
    assert dataset.take_batch(1000, batch_format="pandas")["id"].tolist() == list(range(10))
    assert dataset.to_pandas(limit=10).shape == (10, 1)
    assert numbers(ray, 0).take_all() == []
    with pytest.raises(ValueError, match="more rows than the limit of 9"):
        dataset.take_all(limit=9)
    with pytest.raises(ValueError, match="more than the limit of 9"):
        dataset.to_pandas(limit=9)
    with pytest.raises(ValueError, match="no rows"):
        numbers(ray, 0).take_batch()


def test_rows_without_columns_are_kept(ray: Any) -> None:
    dataset = numbers(ray).drop_columns("id")
    for each in (dataset, dataset.materialize(), dataset.repartition(2)):
        assert each.take(2) == [{}, {}]
        assert len(list(each.iter_rows())) == each.to_arrow().num_rows == 10
        assert [batch.num_rows for batch in each.iter_batches(batch_size=6, batch_format="pyarrow")] == [6, 4]


def test_what_is_not_computed_is_told_without_computing_it(ray: Any) -> None:
    dataset = numbers(ray)
    assert repr(dataset) == "Dataset(num_blocks=3, num_rows=10, schema={id: int64})"
    assert dataset.columns() == ["id"]
    mapped = dataset.map(lambda row: {"x": None if row["id"] < 5 else "y"})
    assert repr(mapped) == "Dataset(num_blocks=3, num_rows=?, schema=?)"
    assert mapped.schema() == pa.schema({"x": pa.string()})
    assert "not" not in dataset._repr_html_()
    assert "<td>id</td><td>int64</td>" in dataset._repr_html_()
    assert mapped._repr_html_() == "<code>Dataset(num_blocks=3, num_rows=?, schema=?)</code>"


def test_blocks_tell_what_they_are(ray: Any) -> None:
    dataset = numbers(ray, 60_000, 2).map_batches(lambda batch: batch)
    here = session.core().node.hex()
    assert [(b.rows, b.bytes, b.schema.names, b.node_ids) for b in dataset.blocks] == [
        (30_000, 240_000, ["id"], (here,))
    ] * 2
    assert [ray.get(block.ref).num_rows for block in dataset.blocks] == [30_000] * 2
    assert [frame.shape for frame in ray.get(dataset.to_pandas_refs())] == [(30_000, 1)] * 2
    assert [array["id"].sum() for array in ray.get(dataset.to_numpy_refs())] == [449985000, 1349985000]
    assert [array[0] for array in ray.get(dataset.to_numpy_refs(column="id"))] == [0, 30_000]


def test_a_released_dataset_says_so_and_frees_its_blocks(ray: Any, wait_until_stored: Callable[[int], None]) -> None:
    gc.collect()
    wait_until_stored(0)
    with numbers(ray, 60_000, 2).materialize() as dataset:
        other = dataset.materialize()
        wait_until_stored(2)
    wait_until_stored(2)
    assert other.count() == 60_000
    other.release()
    wait_until_stored(0)
    assert repr(dataset) == "Dataset(released)"
    with pytest.raises(ValueError, match="was released"):
        dataset.count()


# ------------------------------------------------------------------------------------------ batches
def test_batches_go_across_blocks(ray: Any) -> None:
    def batches(**how: Any) -> list[list[int]]:
        return [batch["id"].tolist() for batch in numbers(ray).iter_batches(**how)]

    assert batches(batch_size=4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert batches(batch_size=4, drop_last=True, prefetch_batches=0) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert batches(batch_size=None) == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    assert batches() == [list(range(10))]
    frames = list(numbers(ray).iter_batches(batch_size=3, batch_format="pandas"))
    assert pd.concat(frames)["id"].tolist() == list(range(10))
    shuffled = batches(batch_size=3, local_shuffle_buffer_size=5, local_shuffle_seed=1)
    assert [len(batch) for batch in shuffled] == [3, 3, 3, 1]
    assert sorted(chain(*shuffled)) == list(range(10)) != list(chain(*shuffled))
    for wrong in ({"batch_size": 0}, {"batch_format": "polars"}, {"prefetch_batches": -1}):
        with pytest.raises(ValueError, match="must"):
            numbers(ray).iter_batches(**wrong)


def test_an_error_of_a_task_is_raised_where_batches_are_read_and_threads_end(ray: Any) -> None:
    def fail(batch: Any) -> Any:
        if batch["id"][0]:
            raise KeyError("no such row")
        return batch

    seen = []
    with pytest.raises(KeyError, match="no such row"):
        seen.extend(numbers(ray).map_batches(fail).iter_batches(batch_size=3))
    some = iter(numbers(ray).iter_batches(batch_size=1))
    assert next(some)["id"].tolist() == [0]
    del some
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name == "sparkray-ahead"]


@pytest.mark.parametrize("rows", [[], [0], [1], [5, 0, 1, 7], [100]])
@pytest.mark.parametrize("size", [1, 3, 100, None])
def test_batchers_lose_no_row(rows: list[int], size: int | None) -> None:
    ends = np.cumsum([0, *rows])
    several = [
        tables.from_columns({"n": np.arange(first, first + count)}) for first, count in zip(ends, rows, strict=False)
    ]
    cut = [table.to_pandas()["n"].tolist() for table in Batcher(size).cut(iter(several), False)]
    assert list(chain(*cut)) == list(range(sum(rows)))
    assert size is None or all(len(batch) == size for batch in cut[:-1])
    if size is not None:
        mixed = [table.to_pandas()["n"].tolist() for table in Shuffler(size, 4, 0).cut(iter(several), False)]
        assert sorted(chain(*mixed)) == list(range(sum(rows)))
        assert [len(batch) for batch in mixed] == [len(batch) for batch in cut]


# ------------------------------------------------------------------------------------------ files
def test_parquet_is_written_and_read_by_blocks(ray: Any, tmp_path: Any) -> None:
    folder = str(tmp_path / "made" / "here")
    dataset = numbers(ray, 1000, 4).map(lambda row: {"id": row["id"], "k": row["id"] % 2, "s": str(row["id"])})
    assert dataset.write_parquet(folder, row_group_size=100) is None
    assert len(os.listdir(folder)) == 4

    back = ray.data.read_parquet(folder)
    assert (back.count(), back.columns(), back.num_blocks()) == (1000, ["id", "k", "s"], 4)
    assert sorted(row["id"] for row in back.iter_rows()) == list(range(1000))
    assert ray.data.read_parquet(folder, override_num_blocks=8).num_blocks() >= 8
    import pyarrow.compute as pc

    some = ray.data.read_parquet(folder, columns=["s"], filter=pc.field("id") < 3)
    assert sorted(row["s"] for row in some.take_all()) == ["0", "1", "2"]
    one = ray.data.read_parquet([os.path.join(folder, name) for name in os.listdir(folder)[:1]])
    assert one.count() == 250
    with pytest.raises(ValueError, match="mode must be"):
        dataset.write_parquet(folder, mode="upsert")
    with pytest.raises(FileExistsError):
        dataset.write_parquet(folder, mode="error")
    dataset.write_parquet(folder, mode="ignore")
    back.map_batches(lambda batch: batch).write_parquet(folder, mode="overwrite")
    assert ray.data.read_parquet(folder).count() == 1000
    with pytest.raises(FileNotFoundError):
        ray.data.read_parquet(str(tmp_path / "nowhere"))


def test_parquet_folders_tell_of_columns(ray: Any, tmp_path: Any) -> None:
    folder = str(tmp_path / "parts")
    numbers(ray).map(lambda row: {"id": row["id"], "k": row["id"] % 2}).write_parquet(folder, partition_cols=["k"])
    assert sorted(os.listdir(folder)) == ["k=0", "k=1"]
    back = ray.data.read_parquet(folder)
    assert sorted((row["k"], row["id"]) for row in back.take_all())[:3] == [(0, 0), (0, 2), (0, 4)]


def test_arrays_make_a_dataset(ray: Any) -> None:
    array = np.arange(24.0).reshape(4, 3, 2)
    dataset = ray.data.from_numpy([array, array[:1]])
    assert dataset.count() == 5
    assert np.array_equal(dataset.take_batch(4)["data"], array)
    assert dataset.take(1)[0]["data"].tolist() == array[0].tolist()
    assert ray.data.from_numpy(np.arange(3)).take() == [{"data": 0}, {"data": 1}, {"data": 2}]
    with pytest.raises(TypeError, match="numpy arrays"):
        ray.data.from_numpy([[1, 2]])


# ------------------------------------------------------------------------------------------ larger than the store
@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> str:
    """192 MB in a folder of Parquet files of 8 MB: three times the store."""
    folder = tmp_path_factory.mktemp("big")
    for index in range(24):
        values = np.random.default_rng(index).random(1_000_000)
        pq.write_table(
            tables.from_columns({"x": values}), folder / f"{index}.parquet", compression="none", use_dictionary=False
        )
    return str(folder)


def test_what_is_larger_than_the_store_passes_through_it_without_disk(ray: Any, big: str, tmp_path: Any) -> None:
    before = spilled()
    dataset = ray.data.read_parquet(big).map_batches(lambda batch: {"y": batch["x"] + 1})
    assert dataset.num_blocks() == 24

    rows, total = 0, 0.0
    for batch in dataset.iter_batches(batch_size=100_000):
        rows += len(batch["y"])
        total += batch["y"].sum()
    assert rows == 24_000_000
    assert 1.49 < total / rows < 1.51
    assert dataset.count() == rows
    dataset.limit(100).write_parquet(str(tmp_path))
    assert spilled() == before
