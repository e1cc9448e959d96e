"""Types that Spark cannot read have a stand-in; all others stay."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from sparkray.data.spark_types import in_zone, spark_arrow_schema

ITEM = pa.field("item", pa.uint8())
SAME: list[pa.DataType] = [
    pa.int64(),
    pa.string(),
    pa.large_string(),
    pa.binary(),
    pa.date32(),
    pa.bool_(),
    pa.null(),
    pa.timestamp("us", "Europe/Athens"),
    pa.decimal128(20, 3),
    pa.list_(pa.field("element", pa.int32(), nullable=False)),
    pa.map_(pa.string(), pa.int32()),
    pa.struct([pa.field("x", pa.int32(), nullable=False)]),
]


@pytest.mark.parametrize("given", SAME, ids=str)
def test_what_spark_reads_stays(given: pa.DataType) -> None:
    field = pa.field("x", given, nullable=given == pa.null(), metadata={"why": "kept"})
    schema = pa.schema([field])
    assert spark_arrow_schema(schema).equals(schema, check_metadata=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (pa.uint8(), pa.int16()),
        (pa.uint16(), pa.int32()),
        (pa.uint32(), pa.int64()),
        (pa.uint64(), pa.decimal128(20, 0)),
        (pa.float16(), pa.float32()),
        (pa.date64(), pa.date32()),
        (pa.timestamp("ns"), pa.timestamp("us")),
        (pa.timestamp("s", "UTC"), pa.timestamp("us", "UTC")),
        (pa.duration("ns"), pa.duration("us")),
        (pa.time32("s"), pa.time64("ns")),
        (pa.dictionary(pa.int32(), pa.string()), pa.string()),
        (pa.large_list(pa.uint8()), pa.list_(pa.int16())),
        (pa.list_(pa.timestamp("ns"), 3), pa.list_(pa.timestamp("us"))),
        (pa.struct([ITEM]), pa.struct([pa.field("item", pa.int16())])),
        (pa.map_(pa.uint8(), pa.uint8()), pa.map_(pa.int16(), pa.int16())),
    ],
    ids=str,
)
def test_what_spark_does_not_read_is_replaced(given: pa.DataType, expected: pa.DataType) -> None:
    assert spark_arrow_schema(pa.schema([pa.field("x", given)])).types == [expected]


def test_timestamps_move_to_a_zone_wherever_they_are() -> None:
    def schema(zone: str) -> pa.Schema:
        stamp = pa.timestamp("us", zone)
        any_map: Any = pa.map_
        fields: list[pa.Field[Any]] = [
            pa.field("stamp", stamp),
            pa.field("without", pa.timestamp("us")),
            pa.field("list", pa.list_(pa.field("element", stamp, False))),
            pa.field("map", any_map(pa.string(), pa.field("value", stamp, False))),
            pa.field("struct", pa.struct([pa.field("list", pa.list_(stamp))])),
            pa.field("number", pa.int64(), False),
        ]
        return pa.schema(fields)

    assert in_zone(schema("UTC"), "Europe/Athens").equals(schema("Europe/Athens"), check_metadata=True)
