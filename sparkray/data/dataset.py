"""`Dataset`: rows of one schema in Arrow blocks, which lie in the stores of the nodes that made them."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from sparkray.api import get
from sparkray.data import batches
from sparkray.data.blocks import Block, Facts, facts_of, schema_of
from sparkray.options import Options
from sparkray.remote_function import RemoteFunction
from sparkray_core.run.object_ref import ObjectRef

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

SHOWN_COLUMNS = 20  # in a repr


@dataclass(frozen=True, slots=True)
class Promised:
    """A block that a task is making, and what it will tell of it."""

    ref: ObjectRef[pa.Table]
    facts: ObjectRef[Facts]


def promised(ref: ObjectRef[pa.Table]) -> Promised:
    """Of a table that somebody makes who does not tell of it: a task looks at it, where it lies."""
    return Promised(ref, _look.remote(ref))


class Dataset:
    """An immutable list of blocks. Tasks and actors may be passed it; the blocks live as long as anyone refers to them.

    Made by `sparkray.data.from_spark` and its neighbours. What is computed is begun at once and runs in the background;
    the methods that tell or return rows wait for it, and raise what a task raised.
    """

    def __init__(
        self, pieces: Sequence[Block | Promised], schema: pa.Schema | None = None, spark_schema: str | None = None
    ) -> None:
        """
        Args:
            schema: of every block; None asks the blocks.
            spark_schema: JSON of the Spark schema that the blocks had, for the types that Arrow has no word for.
        """
        self._pieces = list(pieces)
        self._schema = schema
        self._spark_schema = spark_schema

    # ------------------------------------------------------------------ what it is
    def count(self) -> int:
        """Rows."""
        return sum(block.rows for block in self._blocks())

    def num_blocks(self) -> int:
        return len(self._pieces)

    def size_bytes(self) -> int:
        """Of all rows, as Arrow counts them in memory."""
        return sum(block.bytes for block in self._blocks())

    def schema(self) -> pa.Schema:
        """Names and types of the columns, without metadata."""
        if self._schema is None:
            self._blocks()
        assert self._schema is not None
        return self._schema.remove_metadata()

    def materialize(self) -> Dataset:
        """Wait until every block is there; the dataset itself is returned. Raises what a task raised."""
        self._blocks()
        return self

    @property
    def refs(self) -> list[ObjectRef[pa.Table]]:
        """One reference per block, in row order; each is a `pyarrow.Table`."""
        self._pieces = [piece if isinstance(piece, Promised) else piece.stored() for piece in self._pieces]
        return [piece.ref for piece in self._pieces]

    def to_arrow_refs(self) -> list[ObjectRef[pa.Table]]:
        """The same as `refs`, under Ray's name."""
        return self.refs

    def __repr__(self) -> str:
        facts = f"num_blocks={len(self._pieces)}"
        if any(isinstance(piece, Promised) for piece in self._pieces):
            return f"Dataset({facts}, num_rows=?, schema=?)"
        columns = [f"{field.name}: {field.type}" for field in self.schema()]
        if len(columns) > SHOWN_COLUMNS:
            columns[SHOWN_COLUMNS:] = [f"and {len(columns) - SHOWN_COLUMNS} more"]
        return f"Dataset({facts}, num_rows={self.count()}, schema={{{', '.join(columns)}}})"

    # ------------------------------------------------------------------ its rows
    def to_arrow(self) -> pa.Table:
        """All rows as one table: views of the blocks that lie on this node, copies of those that do not.

        Raises:
            ObjectLostError: the node that had a block is gone.
            RayTaskError: the task that was to make a block raised.
        """
        blocks = self._blocks()
        tables = get([block.ref for block in blocks])
        return self._joined([block.of(table) for block, table in zip(blocks, tables, strict=True)])

    def to_pandas(self) -> pd.DataFrame:
        """All rows as one DataFrame, in this process's memory. Raises like `to_arrow`."""
        return self.to_arrow().to_pandas()

    def take(self, limit: int = 20) -> list[dict[str, Any]]:
        """The first rows, as dicts. Only the blocks that they lie in are read."""
        if limit < 0:
            raise ValueError(f"limit must not be negative, it is {limit}")
        rows: list[dict[str, Any]] = []
        for block in self._blocks():
            if len(rows) >= limit:
                break
            wanted = min(block.rows, limit - len(rows))  # a table without columns has any rows that are asked for
            if wanted:
                rows += block.of(get(block.ref)).slice(0, wanted).to_pylist()
        return rows

    def show(self, limit: int = 20) -> None:
        """Print the first rows, one dict a line."""
        for row in self.take(limit):
            sys.stdout.write(f"{row}\n")

    def to_spark(self, spark: SparkSession | None = None) -> DataFrame:
        """A Spark DataFrame of these rows; its tasks read the blocks from the store of their own executor.

        Blocks that lie elsewhere are fetched, executor to executor. The blocks live as long as the DataFrame, or any
        that was derived from it, can still be computed. After `from_spark` the Spark schema is the one that the data
        had there; else it follows from the Arrow schema.

        Args:
            spark: the active session, if not given.

        Raises:
            RuntimeError: no session is active, or this is no driver.
            TypeError: Spark has no type for a column.
        """
        from sparkray.data.to_spark import to_spark

        return to_spark(self, spark)

    # ------------------------------------------------------------------ others made of it
    def map_batches(
        self,
        fn: Callable[..., Any],
        *,
        batch_size: int | None = None,
        batch_format: str | None = "default",
        zero_copy_batch: bool = False,
        fn_args: Sequence[Any] = (),
        fn_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Dataset:
        """The dataset of what `fn` returns, by one task per block, each where its block lies. Returns at once.

        Args:
            fn: takes a batch and returns one, in any of the formats. It is not called for a block without rows.
            batch_size: rows of a batch, the last one of a block may have fewer; None: a block is one batch.
            batch_format: "numpy" (the default: a dict of arrays), "pandas" or "pyarrow". None: as it is stored, which
                is "pyarrow" too.
            zero_copy_batch: numpy and pandas batches may be read-only views of the store: faster, if `fn` writes to
                none.
            options: of the tasks, as in `@remote`: num_cpus, resources, max_retries, name ...

        Raises:
            TypeError: `fn` is a class: actors are not used for it yet.
            ValueError: a format, batch size or option that there is not.
        """
        if isinstance(fn, type):
            raise TypeError(
                f"map_batches() takes a function; {fn.__name__} is a class, and these are not used as actors yet"
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 row, not {batch_size}")
        batches.check_format(batch_format)
        wanted = {"name": f"map_batches({getattr(fn, '__name__', type(fn).__name__)})", **options, "num_returns": 2}
        task: RemoteFunction[..., Any] = RemoteFunction(
            _mapper(fn, tuple(fn_args), dict(fn_kwargs or {}), batch_format, batch_size, zero_copy_batch),
            Options().updated(wanted, "task"),
        )
        made: list[Block | Promised] = []
        for piece in self._pieces:
            rows = (0, None) if isinstance(piece, Promised) or piece.whole else (piece.start, piece.rows)
            made.append(Promised(*task.remote(piece.ref, *rows)))
        return Dataset(made)

    def split(self, n: int, *, equal: bool = False, locality_hints: Sequence[Any] | None = None) -> list[Dataset]:
        """Cut into n datasets of consecutive rows. Nothing is copied.

        Args:
            equal: False: as even as it goes without cutting a block; if there are fewer blocks than n, blocks are cut.
                True: the same number of rows in each, and up to n - 1 rows at the end are in none.
            locality_hints: accepted for Ray's sake.

        Raises:
            ValueError: n is below 1.
        """
        if n < 1:
            raise ValueError(f"split() makes at least 1 dataset, not {n}")
        blocks = self._blocks()
        ends = [0, *accumulate(block.rows for block in blocks)]
        total = ends[-1]
        if equal:
            cuts = [total // n * index for index in range(n + 1)]
            return [self._rows(blocks, ends, first, last) for first, last in pairwise(cuts)]
        if len(blocks) < n:
            cuts = [total * index // n for index in range(n + 1)]
            return [self._rows(blocks, ends, first, last) for first, last in pairwise(cuts)]
        at = [0]
        for index in range(1, n):
            best = bisect_left(ends, total * index / n)
            if best and ends[best] - total * index / n > total * index / n - ends[best - 1]:
                best -= 1
            at.append(min(max(best, at[-1] + 1), len(blocks) - (n - index)))  # at least one block for each
        return [self._with(blocks[first:last]) for first, last in pairwise([*at, len(blocks)])]

    def _rows(self, blocks: list[Block], ends: list[int], first: int, last: int) -> Dataset:
        chosen = []
        for block, begin in zip(blocks, ends, strict=False):
            low, high = max(first, begin), min(last, begin + block.rows)
            if low < high:
                chosen.append(block.cut(low - begin, high - begin))
        return self._with(chosen)

    def _with(self, blocks: list[Block]) -> Dataset:
        return Dataset(blocks, self._schema, self._spark_schema)

    # ------------------------------------------------------------------ its blocks
    def _blocks(self) -> list[Block]:
        """All of them, waited for."""
        promised = [piece for piece in self._pieces if isinstance(piece, Promised)]
        told = iter(get([piece.facts for piece in promised]))
        schemas: list[pa.Schema] = []
        blocks: list[Block] = []
        for piece in self._pieces:
            if isinstance(piece, Promised):
                rows, size, schema = next(told)
                schemas.append(schema_of(schema))
                piece = Block(piece.ref, 0, rows, size)
            blocks.append(piece)
        self._pieces = list(blocks)
        if self._schema is None:
            self._schema = _united(schemas)
        return blocks

    def _joined(self, tables: list[pa.Table]) -> pa.Table:
        """The tables of these blocks as one, with the schema of all."""
        import pyarrow as pa

        assert self._schema is not None
        filled = [table for table in tables if table.num_rows]
        if not filled:
            return self._schema.empty_table()
        if len(self._schema) == 0:  # the rows of a table without columns do not survive a concatenation
            rows = sum(table.num_rows for table in filled)
            return pa.table({"": pa.nulls(rows)}).select([])
        return pa.concat_tables(filled, promote_options="default")


def _facts_of_any(table: pa.Table) -> Facts:
    import pyarrow as pa

    if not isinstance(table, pa.Table):
        raise TypeError(f"a block is a pyarrow.Table, not {type(table).__name__}")
    return facts_of(table)


_look: RemoteFunction[..., Any] = RemoteFunction(_facts_of_any, Options(name="look_at_block", num_cpus=0))


def _united(schemas: list[pa.Schema]) -> pa.Schema:
    """Blocks without rows have no columns either, and one without values has not got its column's type."""
    import pyarrow as pa

    return pa.unify_schemas([schema for schema in schemas if len(schema)] or [pa.schema([])])


def _mapper(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch_format: str | None,
    batch_size: int | None,
    zero_copy: bool,
) -> Callable[[pa.Table, int, int | None], tuple[pa.Table, Facts]]:
    """What the task runs: rows [start, start + rows) of a stored table go through the user's function."""

    def call(batch: Any) -> Any:
        return fn(batch, *args, **kwargs)

    call.__name__ = getattr(fn, "__name__", type(fn).__name__)

    def map_block(table: pa.Table, start: int, rows: int | None) -> tuple[pa.Table, Facts]:
        table = table.slice(start, rows)
        made = table.select([])
        if table.num_rows:
            made = batches.apply(call, table, batch_format, batch_size, zero_copy)
        return made, facts_of(made)

    return map_block
