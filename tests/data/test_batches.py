"""What a batch looks like in each format, and what a function may return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sparkray.data import batches


@pytest.mark.parametrize("kind", ["int64", "float32", "datetime64[us]"])
@pytest.mark.parametrize("batch_format", ["numpy", "pandas"])
def test_batches_may_be_written_to_unless_they_are_views(batch_format: str, kind: str) -> None:
    values = np.arange(10).astype(kind)
    table = pa.table({"n": pa.array(values)})

    view = batches.to_batch(table, batch_format, zero_copy=True)["n"]
    assert np.shares_memory(np.asarray(view), values)
    copy = batches.to_batch(table, batch_format)["n"]
    copy[0] = copy[1]
    assert values[0] == np.zeros(1, kind)[0]


def test_columns_of_all_kinds_become_arrays() -> None:
    table = pa.table({"s": ["a", None], "n": [1, None], "l": [[1], [2, 3]], "b": [True, False]})
    batch = batches.to_batch(pa.concat_tables([table, table]), "numpy")

    assert batch["s"].tolist() == ["a", None, "a", None]
    assert batch["n"][0] == 1.0
    assert np.isnan(batch["n"][1])
    assert [part.tolist() for part in batch["l"]] == [[1], [2, 3], [1], [2, 3]]
    assert batch["b"].tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    "batch",
    [
        {"n": np.array([1, 2])},
        {"n": [1, 2]},
        {"n": pd.Series([1, 2])},
        pd.DataFrame({"n": [1, 2]}, index=[5, 6]),
        pa.table({"n": [1, 2]}),
        pa.record_batch({"n": [1, 2]}),
    ],
    ids=["arrays", "lists", "series", "frame", "table", "record batch"],
)
def test_each_kind_of_batch_becomes_a_table(batch: Any) -> None:
    assert batches.to_table(batch, "f").equals(pa.table({"n": [1, 2]}))


def test_an_array_of_several_dimensions_comes_back_as_it_was() -> None:
    array = np.arange(24.0).reshape(4, 3, 2)
    made = batches.to_table({"v": array, "s": np.array(list("abcd"))}, "f")
    assert made.schema.field("v").type == pa.fixed_shape_tensor(pa.float64(), [3, 2])
    assert np.array_equal(batches.to_batch(made, "numpy")["v"], array)
    frame = batches.to_batch(pa.concat_tables([made, made]), "pandas")
    assert [np.array_equal(row, array[2]) for row in frame["v"]][2::4] == [True, True]
    assert batches.to_table(frame, "f").schema == made.schema


def test_what_is_no_batch_is_refused_by_the_name_of_the_function() -> None:
    with pytest.raises(TypeError, match="len must return a"):
        batches.to_table(3, "len")
