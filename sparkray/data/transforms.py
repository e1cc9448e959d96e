"""Datasets made of others, block by block: what is asked for is remembered, and done when rows are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparkray.data import batches, tables
from sparkray.data.blocks import Block, Piece
from sparkray.data.core import DatasetCore
from sparkray.data.functions import Called, batch_step, filter_step, row_step, rows_step, table_step
from sparkray.data.stages import Stage, Step, check_options, chosen

if TYPE_CHECKING:
    import pyarrow as pa
    from typing_extensions import Self


class Transforms(DatasetCore):
    """The functions of a chain of these run in one task per block, where the block lies, and nothing that is between
    two of them is stored. An error of theirs is raised by whatever asks for rows."""

    def map_batches(
        self,
        fn: Callable[..., Any],
        *,
        batch_size: int | str | None = None,
        compute: Any = None,
        batch_format: str | None = "default",
        zero_copy_batch: bool = False,
        fn_args: Sequence[Any] | None = None,
        fn_kwargs: Mapping[str, Any] | None = None,
        fn_constructor_args: Sequence[Any] | None = None,
        fn_constructor_kwargs: Mapping[str, Any] | None = None,
        concurrency: int | tuple[int, ...] | None = None,
        **options: Any,
    ) -> Self:
        """The dataset of what `fn` returns for batches of rows.

        Args:
            fn: takes a batch and returns one, in any of the formats, or yields several. It is not called for a block
                without rows. A class: each actor of a pool makes an instance, and calls that.
            batch_size: rows of a batch, the last one of a block may have fewer; None or "default": a block is one.
            compute: `TaskPoolStrategy` or `ActorPoolStrategy`.
            batch_format: "numpy" (the default: a dict of arrays), "pandas" or "pyarrow". None: as it is stored, which
                is "pyarrow" too.
            zero_copy_batch: numpy and pandas batches may be read-only views of the store: faster, if `fn` writes to
                none.
            concurrency: how many tasks or actors at once; for a class also (least, most).
            options: of the tasks or actors, as in `@remote`: num_cpus, num_gpus, resources, max_retries, name ...

        Raises:
            ValueError, TypeError: a format, size, strategy or option that there is not.
        """
        if batch_size == "default":
            batch_size = None
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"batch_size must be at least 1 row, not {batch_size}")
        batches.check_format(batch_format)
        called = Called(fn, fn_args, fn_kwargs, fn_constructor_args, fn_constructor_kwargs)
        step = batch_step(called, batch_format, batch_size, zero_copy_batch)
        return self._added(step, called, compute, concurrency, options)

    def map(
        self,
        fn: Callable[..., Any],
        *,
        compute: Any = None,
        fn_args: Sequence[Any] | None = None,
        fn_kwargs: Mapping[str, Any] | None = None,
        fn_constructor_args: Sequence[Any] | None = None,
        fn_constructor_kwargs: Mapping[str, Any] | None = None,
        concurrency: int | tuple[int, ...] | None = None,
        **options: Any,
    ) -> Self:
        """The dataset of what `fn` returns for each row: a dict for a dict. `map_batches` is many times faster.

        The other arguments are those of `map_batches`.
        """
        called = Called(fn, fn_args, fn_kwargs, fn_constructor_args, fn_constructor_kwargs)
        return self._added(row_step(called), called, compute, concurrency, options)

    def flat_map(
        self,
        fn: Callable[..., Any],
        *,
        compute: Any = None,
        fn_args: Sequence[Any] | None = None,
        fn_kwargs: Mapping[str, Any] | None = None,
        fn_constructor_args: Sequence[Any] | None = None,
        fn_constructor_kwargs: Mapping[str, Any] | None = None,
        concurrency: int | tuple[int, ...] | None = None,
        **options: Any,
    ) -> Self:
        """The dataset of all rows that `fn` returns: a list of dicts, or what yields them, for each row."""
        called = Called(fn, fn_args, fn_kwargs, fn_constructor_args, fn_constructor_kwargs)
        return self._added(rows_step(called), called, compute, concurrency, options)

    def filter(
        self,
        fn: Callable[..., Any] | None = None,
        expr: Any = None,
        *,
        compute: Any = None,
        fn_args: Sequence[Any] | None = None,
        fn_kwargs: Mapping[str, Any] | None = None,
        fn_constructor_args: Sequence[Any] | None = None,
        fn_constructor_kwargs: Mapping[str, Any] | None = None,
        concurrency: int | tuple[int, ...] | None = None,
        **options: Any,
    ) -> Self:
        """The rows for which `fn` of the row, a dict, is true; or those for which an expression is.

        Args:
            expr: a `pyarrow.compute` expression, as `pc.field("load") > 0.5`: far faster than a function.

        Raises:
            ValueError: both or neither, or an argument that there is not.
        """
        if (fn is None) == (expr is None):
            raise ValueError("filter() takes a function or an expression, one of them")
        if fn is not None:
            called = Called(fn, fn_args, fn_kwargs, fn_constructor_args, fn_constructor_kwargs)
            return self._kept_types(self._added(filter_step(called), called, compute, concurrency, options))
        import pyarrow.compute as pc

        if not isinstance(expr, pc.Expression):
            raise TypeError(
                f"expr must be a pyarrow.compute expression, as pc.field('x') > 1, not {type(expr).__name__}: "
                "expressions in strings are not there"
            )
        return self._kept_types(self._ours(table_step("filter", lambda table: table.filter(expr))))

    def _added(
        self,
        step: Step,
        called: Called,
        compute: Any,
        concurrency: Any,
        options: Mapping[str, Any],
    ) -> Self:
        stage = Stage((step,), options, chosen(called.fn, compute, concurrency))
        check_options(stage)
        return self._then(stage)

    def _kept_types(self, made: Self) -> Self:
        made._schema, made._spark_schema = self._schema, self._spark_schema
        return made

    def _ours(self, step: Step, schema: pa.Schema | None = None) -> Self:
        return self._then(Stage((step,)), schema)

    # ------------------------------------------------------------------ columns
    def select_columns(self, cols: str | Sequence[str]) -> Self:
        """These columns only, in this order.

        Raises:
            KeyError: there is no such column; at once if the columns are known, else from whatever asks for rows.
        """
        names = [cols] if isinstance(cols, str) else list(cols)
        self._check_columns(names)
        schema = self._schema and selected(self._schema.empty_table(), names).schema
        return self._ours(table_step("select_columns", lambda table: selected(table, names)), schema)

    def drop_columns(self, cols: str | Sequence[str]) -> Self:
        """All columns but these. Raises like `select_columns`."""
        names = [cols] if isinstance(cols, str) else list(cols)
        self._check_columns(names)

        def drop(table: pa.Table) -> pa.Table:
            _check_names(table.column_names, names)
            return table.select([index for index, name in enumerate(table.column_names) if name not in names])

        schema = self._schema and drop(self._schema.empty_table()).schema
        return self._ours(table_step("drop_columns", drop), schema)

    def rename_columns(self, names: Mapping[str, str] | Sequence[str]) -> Self:
        """Other names: by the old one, or one for each column. Raises like `select_columns`."""
        if isinstance(names, str):
            raise ValueError("rename_columns() takes a dict, or a list of one name per column")
        if isinstance(names, Mapping):
            self._check_columns(list(names))

        def rename(table: pa.Table) -> pa.Table:
            if isinstance(names, Mapping):
                _check_names(table.column_names, list(names))
                return table.rename_columns([names.get(name, name) for name in table.column_names])
            if len(names) != table.num_columns:
                raise ValueError(f"{len(names)} names were given for {table.num_columns} columns")
            return table.rename_columns(list(names))

        schema = self._schema and rename(self._schema.empty_table()).schema
        return self._ours(table_step("rename_columns", rename), schema)

    def add_column(self, col: str, fn: Callable[..., Any], *, batch_format: str | None = "pandas", **how: Any) -> Self:
        """One column more, or another in the place of one: what `fn` returns for a batch, of one value per row.

        Args:
            batch_format: "pandas" (the default), "pyarrow" or "numpy".
            how: compute, concurrency and the options of tasks, as in `map_batches`.
        """
        if not callable(fn):
            raise ValueError(f"add_column() takes a function of a batch, not {fn!r}")

        def with_column(table: pa.Table) -> pa.Table:
            field, values = tables.to_column(col, fn(batches.to_batch(table, batch_format)))
            if len(values) != table.num_rows:
                raise ValueError(f"column {col!r} has {len(values)} values for {table.num_rows} rows")
            index = table.schema.get_field_index(col)
            return table.append_column(field, values) if index < 0 else table.set_column(index, field, values)

        batches.check_format(batch_format)
        return self.map_batches(with_column, batch_format="pyarrow", **how)

    def _check_columns(self, names: Sequence[str]) -> None:
        if self._schema is not None:
            _check_names(self._schema.names, names)

    # ------------------------------------------------------------------ rows
    def limit(self, limit: int) -> Self:
        """The first rows. So many blocks are computed as they lie in, now."""
        if limit < 0:
            raise ValueError(f"limit must not be negative, it is {limit}")
        schema = self._known_schema() if not limit else self._schema
        chosen_blocks: list[Block] = []
        if limit:
            for block in self._each(at_first=1, what="limit"):
                chosen_blocks.append(block if block.rows <= limit else block.cut(0, limit))
                limit -= chosen_blocks[-1].rows
                if not limit:
                    break
        made = self._with(chosen_blocks)
        if schema is None and chosen_blocks:
            from sparkray.data.core import tables_of

            schema = tables.unite([table.schema for table in tables_of(chosen_blocks)])
        made._schema = schema
        return made

    def union(self, *other: Self) -> Self:
        """The rows of this one, then those of the others. Columns that one lacks are null there."""
        united = tables.unite(
            [each._known_schema() if each._lazy() else each._whole_schema() for each in (self, *other)]
        )
        pieces: list[Piece] = []
        for each in (self, *other):
            if each._schema is None or not each._schema.equals(united):
                each = each._ours(table_step("union", lambda table: tables.fit(table, united)))
            if each._stages:
                each._begin()
            pieces += each._open()
        same = all(each._spark_schema == self._spark_schema for each in other)
        return type(self)(pieces, united, self._spark_schema if same else None)


def selected(table: pa.Table, names: list[str]) -> pa.Table:
    _check_names(table.column_names, names)
    return table.select(names)


def _check_names(there: Sequence[str], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in there]
    if missing:
        raise KeyError(f"there is no column {', '.join(map(repr, missing))}; there are {', '.join(map(repr, there))}")
