"""What runs in Spark's Python workers: record batches into blocks of their executor's store, and blocks out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa

from sparkray.data import tables
from sparkray.data.places import Places
from sparkray.data.repeating import CHANGED, NO_NODE, Former, makes_again, order_for, sample
from sparkray_core.ids import NodeId, ObjectId, object_id
from sparkray_core.run.guest import Guest
from sparkray_core.wire import values

# A block must leave room for others, of this and of the other workers of the node.
STORE_SHARE = 8

# The answer of a task, a row per block. The schema comes with a task's first block, and where it changes.
ANSWER = (
    "object binary, rows long, bytes long, size long, node binary, schema binary, partition int, sample long, "
    "note string"
)
_FIELDS: list[pa.Field[Any]] = [
    pa.field("object", pa.binary()),
    pa.field("rows", pa.int64()),
    pa.field("bytes", pa.int64()),  # as Arrow counts them
    pa.field("size", pa.int64()),  # in the store
    pa.field("node", pa.binary()),
    pa.field("schema", pa.binary()),
    pa.field("partition", pa.int32()),
    pa.field("sample", pa.int64()),  # where the partition has several blocks
    pa.field("note", pa.string()),  # instead of a block: why it is not made again
]
_ANSWER = pa.schema(_FIELDS)


# ------------------------------------------------------------------------------------------ into the store
@dataclass(frozen=True, slots=True)
class StoreOrder:
    places: Places
    transfer: bytes  # what the ids of this transfer's objects begin with: owner, and the head of the counter
    names: tuple[str, ...]  # of the columns, which have other names while Spark moves them
    block_bytes: int


def store(batches: Iterator[pa.RecordBatch], order: StoreOrder) -> Iterator[pa.RecordBatch]:
    """Write a partition's rows to the store of this executor's node, and yield what the driver needs to know.

    Holds one block's batches at a time. What a failing attempt has written it takes back.

    Raises:
        ObjectStoreFullError, RaySystemError: see `Guest` and `Places.visit`.
    """
    first = next(batches, None)
    if first is None:
        return
    # Those of a DataFrame without columns have one all the same, or their number would be lost on the way.
    schema = pa.schema([field.with_name(name) for field, name in zip(first.schema, order.names, strict=False)])

    def join(gathered: Sequence[pa.RecordBatch]) -> pa.Table:
        if not order.names:
            return pa.Table.from_batches([batch.select([]) for batch in gathered], schema)
        renamed = [pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in gathered]
        return pa.Table.from_batches(renamed, schema)

    with _Writer(order, join) as writer:
        if writer.has_node:
            writer.add(first)
            del first
            for batch in batches:
                writer.add(batch)
                del batch  # or it lives on while the next one is read
        answers = writer.end()
    yield pa.RecordBatch.from_pylist(answers, schema=_ANSWER)


FIRST_ROWS, MOST_ROWS = 16, 1 << 16  # records that become a table at once
CHUNK_SHARE = 8  # of a block, in bytes


def store_rows(records: Iterable[Any], order: StoreOrder) -> Iterator[dict[str, Any]]:
    """As `store`, for the records of an RDD's partition."""
    rows: list[Mapping[Any, Any]] = []
    wanted = FIRST_ROWS
    with _Writer(order, tables.concat) as writer:
        for record in records if writer.has_node else ():
            rows.append(_row(record))
            if len(rows) >= wanted:
                table = tables.from_rows(rows)
                writer.add(table)
                fit = writer.limit // CHUNK_SHARE * len(rows) // max(1, table.nbytes)
                wanted = max(1, min(wanted * 4, fit, MOST_ROWS))
                rows = []
        if rows:
            writer.add(tables.from_rows(rows))
        answers = writer.end()
    yield from answers


def _row(record: Any) -> Mapping[Any, Any]:
    """A record by column names. (A Row is a tuple, too.)"""
    if isinstance(record, Mapping):
        return record
    if isinstance(record, tuple):
        some: Any = record
        if hasattr(some, "asDict"):
            return cast("Mapping[Any, Any]", some.asDict(recursive=True))
        if hasattr(some, "_asdict"):
            return cast("Mapping[Any, Any]", some._asdict())
    return {"item": record}


class _Writer:
    """Gathers batches until they make a block. What it has written it takes back, if it is left by an error.

    A partition that is made again is cut where it was cut before, whatever its batches are like this time.
    """

    def __init__(self, order: StoreOrder, join: Callable[[Sequence[Any]], pa.Table]) -> None:
        """
        Args:
            join: makes one table of batches (or tables), in order.
        """
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        self._partition = context.partitionId()
        # Unlike a partition's number, an attempt's is of one attempt: retries and speculation never write to one id.
        attempt = context.taskAttemptId()
        self._former: Former | None = None
        self._guest: Guest | None
        again = order_for(context, order.transfer, order.places.token)
        if again is None:
            self._guest = order.places.visit()
        else:  # under the ids that it had: attempts do write to one id then, and all write the same
            places, self._former = again
            attempt = self._former.attempt
            self._guest = places.visit_living()
        self._task = order.transfer + attempt.to_bytes(5, "big")
        self._join = join
        self.limit = order.block_bytes
        if self._guest is not None:
            self.limit = max(1, min(order.block_bytes, self._guest.store_bytes // STORE_SHARE))
        self._gathered: list[Any] = []
        self._bytes = 0
        self._rows = 0  # that are gathered
        self._seen = 0  # rows, of all blocks
        self._schema: pa.Schema | None = None  # that was told last
        self._written: list[ObjectId] = []
        self._answers: list[dict[str, Any]] = []

    def __enter__(self) -> _Writer:
        return self

    @property
    def has_node(self) -> bool:
        """False: nothing can be stored from here. (Only of what is made again; else that is an error.)"""
        return self._guest is not None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._guest is None:
            return
        if kind is not None and self._former is None:
            # The task fails, or Spark kills it: nobody will hear of these objects. (Not where another attempt may have
            # written the same: the driver sees to what is left then.)
            self._guest.free(self._written)
        self._guest.close()

    def add(self, batch: pa.RecordBatch | pa.Table) -> None:
        if self._former is not None:
            self._cut(batch, self._former.rows)
            return
        size = batch.nbytes
        if size > self.limit and batch.num_rows > 1:  # wide rows: one batch is several blocks
            rows = max(1, batch.num_rows * self.limit // size)
            for begin in range(0, batch.num_rows, rows):
                self._gather(batch.slice(begin, rows))
        else:
            self._gather(batch)

    def _gather(self, batch: pa.RecordBatch | pa.Table) -> None:
        if self._gathered and self._bytes + batch.nbytes > self.limit:
            self._flush(last=False)
        self._gathered.append(batch)
        self._bytes += batch.nbytes

    def _cut(self, batch: pa.RecordBatch | pa.Table, rows: tuple[int, ...]) -> None:
        self._seen += batch.num_rows
        if rows == (0,) and not self._written:
            self._gathered.append(batch)
            self._flush(last=True)
        begin = 0
        while begin < batch.num_rows and len(self._written) < len(rows):
            part = batch.slice(begin, rows[len(self._written)] - self._rows)
            begin += part.num_rows
            self._gathered.append(part)
            self._rows += part.num_rows
            if self._rows == rows[len(self._written)]:
                self._flush(last=len(rows) == 1)

    def end(self) -> list[dict[str, Any]]:
        """What the driver is to be told."""
        if self._former is None:
            self._flush(last=True)
        elif self._guest is None:
            return [self._note(NO_NODE)]
        elif self._seen != sum(self._former.rows):
            return [self._note(CHANGED)]
        return self._answers

    def _note(self, note: str) -> dict[str, Any]:
        nothing: dict[str, Any] = dict.fromkeys(_ANSWER.names)
        return nothing | {"rows": self._seen, "partition": self._partition, "note": note}

    def _flush(self, last: bool) -> None:
        """
        Args:
            last: nothing follows in this partition, as far as is known.
        """
        if not self._gathered:
            return
        assert self._guest is not None
        table = self._join(self._gathered)
        some = object_id(self._task, len(self._written))
        only = last and not self._written  # the rows of one block are the same in any order
        known = None if only else sample(table)
        size = self._guest.write(some, values.serialize(table))
        self._written.append(some)
        schema = None
        if self._schema is None or not self._schema.equals(table.schema, check_metadata=True):
            self._schema, schema = table.schema, table.schema.serialize().to_pybytes()
        self._answers.append(
            {"object": some, "rows": table.num_rows, "bytes": table.nbytes, "size": size, "schema": schema}
            | {"node": self._guest.node, "partition": self._partition, "sample": known, "note": None}
        )
        self._gathered.clear()
        self._bytes = self._rows = 0


# ------------------------------------------------------------------------------------------ out of the store
BATCH_BYTES = 4 << 20  # of a batch for the JVM, which copies it
REMAKER_WAIT_S = 1.0  # for the owner to say where a block is, if it is somewhere


@dataclass(frozen=True, slots=True)
class Piece:
    """One block, for a worker to find."""

    object: ObjectId
    nodes: tuple[NodeId, ...]  # that have it in their store
    inline: tuple[Any, ...] | bytes | None  # the value itself, when it is too small for a store
    start: int
    rows: int


@dataclass(frozen=True, slots=True)
class LoadOrder:
    places: Places
    pieces: tuple[Piece, ...]
    schema: bytes  # of what is yielded, as an IPC message
    blocks: bytes  # of what is stored; a block of its own may lack columns, or have narrower types
    wait_s: float  # for one that is lost to be made again


def load(batches: Iterator[pa.RecordBatch], order: LoadOrder) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the blocks whose numbers come in.

    Raises:
        ObjectLostError, RaySystemError: see `Guest` and `Places.visit`.
    """
    schema = pa.ipc.read_schema(pa.py_buffer(order.schema))
    stored = pa.ipc.read_schema(pa.py_buffer(order.blocks))
    numbers: list[int] = [number for batch in batches for number in batch.column(0).to_numpy().tolist()]
    if not numbers:
        return
    # Where this is to make lost blocks again itself, its job waits for those that it lacks without a slot: `Repeater`.
    wait_s = min(order.wait_s, REMAKER_WAIT_S) if makes_again() else order.wait_s
    with order.places.visit() as guest:
        for number in numbers:
            piece = order.pieces[number]
            table = tables.cut(_read(guest, piece, wait_s), piece.start, piece.rows)
            yield from _cut(_fitted(tables.fit(table, stored), schema))


def _read(guest: Guest, piece: Piece, wait_s: float) -> pa.Table:
    if piece.inline is not None:
        return values.from_inline(piece.inline)  # type: ignore[no-any-return]
    return guest.read(piece.object, piece.nodes, wait_s)  # type: ignore[no-any-return]


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns that Spark expects, found by position."""
    if not table.num_columns:
        return pa.Table.from_arrays([pa.array([None] * table.num_rows, schema.types[0])], schema=schema)
    # Not safe: Spark's microseconds have no place for a nanosecond, and that is no reason to refuse the others.
    columns = [
        column if column.type.equals(wanted) else column.cast(wanted, safe=False)
        for column, wanted in zip(map(tables.without_tensors, table.columns), schema.types, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _cut(table: pa.Table) -> Iterator[pa.RecordBatch]:
    rows = max(1, table.num_rows * BATCH_BYTES // max(1, table.nbytes))
    yield from table.to_batches(max_chunksize=rows)
