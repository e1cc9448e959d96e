"""What a `Dataset` is made of: stored tables, and runs of rows in them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sparkray.api import get
from sparkray.data import tables
from sparkray.options import Options
from sparkray.remote_function import RemoteFunction
from sparkray_core.run.object_ref import ObjectRef

if TYPE_CHECKING:
    import pyarrow as pa

Facts = tuple[int, int, bytes]  # rows, bytes, schema as an IPC message: what a task tells of the table that it made


@dataclass(frozen=True, slots=True)
class Block:
    """Rows [start, stop) of a stored table. Cutting a block copies nothing: both parts refer to the same table."""

    ref: ObjectRef[pa.Table]
    start: int
    stop: int
    bytes: int  # of these rows; an estimate if they are not all of the table's
    whole: bool = True

    @property
    def rows(self) -> int:
        return self.stop - self.start

    def cut(self, first: int, last: int) -> Block:
        """Rows [first, last) of this block's."""
        if (first, last) == (0, self.rows):
            return self
        share = self.bytes * (last - first) // self.rows
        return replace(self, start=self.start + first, stop=self.start + last, bytes=share, whole=False)

    def of(self, table: pa.Table) -> pa.Table:
        """This block's rows of the table that `ref` stands for."""
        return table if self.whole else tables.cut(table, self.start, self.rows)

    def stored(self) -> Block:
        """The same rows as all of an object; a task makes one where the table lies, if there is none."""
        if self.whole:
            return self
        return Block(_cut.remote(self.ref, self.start, self.rows), 0, self.rows, self.bytes)


@dataclass(frozen=True, slots=True)
class Promised:
    """A block that a task is making, and what it will tell of it."""

    ref: ObjectRef[pa.Table]
    facts: ObjectRef[Facts]

    def block(self) -> tuple[Block, pa.Schema]:
        """Waits for it. Raises what the task raised."""
        rows, size, schema = get(self.facts)
        return Block(self.ref, 0, rows, size), schema_of(schema)


@dataclass(frozen=True, slots=True)
class Source:
    """A block that is made when it is needed, by the first task that has to do with it."""

    reader: Any  # a `stages.Reader`: picklable
    rows: int | None = None  # if that is known beforehand


Piece = Block | Promised | Source


def facts_of(table: pa.Table) -> Facts:
    return table.num_rows, table.nbytes, table.schema.serialize().to_pybytes()


def schema_of(facts: bytes) -> pa.Schema:
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(facts))


def _cut_table(table: pa.Table, start: int, rows: int) -> pa.Table:
    return tables.cut(table, start, rows)


_cut: RemoteFunction[..., Any] = RemoteFunction(_cut_table, Options(name="cut_block", num_cpus=0))


def _facts_of_any(table: pa.Table) -> Facts:
    import pyarrow as pa

    if not isinstance(table, pa.Table):
        raise TypeError(f"a block is a pyarrow.Table, not {type(table).__name__}")
    return facts_of(table)


look: RemoteFunction[..., Any] = RemoteFunction(_facts_of_any, Options(name="look_at_block", num_cpus=0))
