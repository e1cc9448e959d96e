"""Arrow types that Spark reads, in place of those that it has no reader for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparkray.data.tables import plain

if TYPE_CHECKING:
    import pyarrow as pa


def spark_arrow_schema(schema: pa.Schema) -> pa.Schema:
    """The schema that data of this one is cast to on its way to Spark."""
    import pyarrow as pa

    return pa.schema([_fitted(field) for field in schema])


def _fitted(field: pa.Field[Any]) -> pa.Field[Any]:
    return field.with_type(_type(field.type))


def _type(given: pa.DataType) -> pa.DataType:
    """Of equal or greater range, but for nanoseconds, which become microseconds, and decimals of over 38 digits."""
    import pyarrow as pa

    is_ = pa.types
    any_: Any = given  # its parameters depend on what it is
    map_: Any = pa.map_  # takes fields too, whatever its stub says
    if is_.is_dictionary(given):
        return _type(any_.value_type)
    if isinstance(given, pa.FixedShapeTensorType):
        return _type(plain(given))
    if is_.is_timestamp(given):
        return pa.timestamp("us", any_.tz)
    if is_.is_duration(given):
        return pa.duration("us")
    if is_.is_time(given):
        return pa.time64("ns")
    if is_.is_decimal(given):
        return pa.decimal128(min(any_.precision, 38), any_.scale)
    if is_.is_struct(given):
        return pa.struct([_fitted(any_.field(index)) for index in range(any_.num_fields)])
    if is_.is_map(given):
        mapped: pa.DataType = map_(_fitted(any_.key_field), _fitted(any_.item_field))
        return mapped
    if is_.is_list(given) or is_.is_large_list(given) or is_.is_fixed_size_list(given):
        return pa.list_(_fitted(any_.value_field))
    return _simple().get(str(given), given)


def in_zone(schema: pa.Schema, zone: str) -> pa.Schema:
    """The same, with this zone for the timestamps that have one."""
    import pyarrow as pa

    def moved(field: pa.Field[Any]) -> pa.Field[Any]:
        return field.with_type(kind(field.type))

    def kind(given: pa.DataType) -> pa.DataType:
        any_: Any = given
        map_: Any = pa.map_
        if pa.types.is_timestamp(given) and any_.tz is not None:
            return pa.timestamp(any_.unit, zone)
        if pa.types.is_struct(given):
            return pa.struct([moved(any_.field(index)) for index in range(any_.num_fields)])
        if pa.types.is_map(given):
            mapped: pa.DataType = map_(moved(any_.key_field), moved(any_.item_field))
            return mapped
        if pa.types.is_list(given):
            return pa.list_(moved(any_.value_field))
        return given

    return pa.schema([moved(field) for field in schema])


def _simple() -> dict[str, pa.DataType]:
    import pyarrow as pa

    return {
        "uint8": pa.int16(),
        "uint16": pa.int32(),
        "uint32": pa.int64(),
        "uint64": pa.decimal128(20, 0),
        "halffloat": pa.float32(),
        "date64[ms]": pa.date32(),
        "string_view": pa.string(),
        "binary_view": pa.binary(),
    }
