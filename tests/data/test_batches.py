"""What a batch looks like in each format, and what a function may return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sparkray.data import batches


def test_a_column_of_one_chunk_without_nulls_is_handed_out_in_place() -> None:
    values = np.arange(10)
    batch = batches.to_batch(pa.table({"n": pa.array(values)}), "numpy")
    assert np.shares_memory(batch["n"], values)


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
    assert batches.to_table(batch, len).equals(pa.table({"n": [1, 2]}))


def test_rows_of_an_array_of_two_dimensions_become_lists() -> None:
    made = batches.to_table({"v": np.array([[1, 2], [3, 4]])}, len)
    assert made.to_pydict() == {"v": [[1, 2], [3, 4]]}


def test_what_is_no_batch_is_refused_by_the_name_of_the_function() -> None:
    with pytest.raises(TypeError, match="len must return a"):
        batches.to_table(3, len)
