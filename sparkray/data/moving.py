"""Tasks that move rows between blocks: cut, joined, scattered at random or by their order, and gathered again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sparkray.data import tables
from sparkray.data.blocks import Block, Facts, Promised, facts_of
from sparkray.options import Options
from sparkray.remote_function import RemoteFunction
from sparkray_core.run.object_ref import ObjectRef

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Way = Literal["ascending", "descending"]
Keys = Sequence[tuple[str, Way]]  # by column


def joined(parts: Sequence[Block], schema: pa.Schema) -> Block | Promised:
    """One block of these rows; a part of one block stays where it is."""
    if len(parts) == 1:
        return parts[0]
    cuts = [(part.start, part.rows) for part in parts]
    return Promised(*_join.remote(schema, cuts, *(part.ref for part in parts)))


def _join_tables(schema: pa.Schema, cuts: list[tuple[int, int]], *several: pa.Table) -> tuple[pa.Table, Facts]:
    parts = [tables.cut(table, start, rows) for table, (start, rows) in zip(several, cuts, strict=True)]
    made = tables.concat(parts, schema)
    return made, facts_of(made)


def scattered(
    block: Block | Promised, count: int, how: Callable[[pa.Table], Sequence[pa.Table]], name: str
) -> list[ObjectRef[pa.Table]]:
    """A reference to each of the `count` parts that `how` makes of a block."""

    def scatter(table: pa.Table, start: int, rows: int | None) -> Any:
        parts = how(table if rows is None else tables.cut(table, start, rows))
        return parts[0] if count == 1 else list(parts)

    task: RemoteFunction[..., Any] = RemoteFunction(scatter, Options(name=name, num_returns=count))
    whole = isinstance(block, Promised) or block.whole
    refs = task.remote(block.ref, *((0, None) if whole or isinstance(block, Promised) else (block.start, block.rows)))
    return [refs] if count == 1 else refs


def gathered(parts: Sequence[ObjectRef[pa.Table]], how: Callable[[pa.Table], pa.Table], name: str) -> Promised:
    """One block of the parts, one after the other, and then as `how` makes it of that."""

    def gather(*several: pa.Table) -> tuple[pa.Table, Facts]:
        made = how(tables.concat(several))
        return made, facts_of(made)

    task: RemoteFunction[..., Any] = RemoteFunction(gather, Options(name=name, num_returns=2))
    return Promised(*task.remote(*parts))


def regrouped(
    blocks: Sequence[Block | Promised],
    count: int,
    scatters: Sequence[Callable[[pa.Table], Sequence[pa.Table]]],
    gathers: Sequence[Callable[[pa.Table], pa.Table]],
    name: str,
) -> list[Promised]:
    """Each block scattered into `count` parts, and the parts of one number gathered from all blocks."""
    rows = [scattered(block, count, how, f"{name}: scatter") for block, how in zip(blocks, scatters, strict=True)]
    return [gathered([row[index] for row in rows], gathers[index], f"{name}: gather") for index in range(count)]


_join: RemoteFunction[..., Any] = RemoteFunction(_join_tables, Options(name="join_blocks", num_returns=2))


# ------------------------------------------------------------------------------------------ at random
def by_dice(seed: np.random.SeedSequence, weights: Sequence[float]) -> Callable[[pa.Table], list[pa.Table]]:
    """Each row into a part chosen at random; in the order in which they were."""
    import numpy as np

    bounds = np.cumsum(weights) / sum(weights)

    def scatter(table: pa.Table) -> list[pa.Table]:
        chosen = np.random.default_rng(seed).random(table.num_rows)
        part = np.minimum(np.searchsorted(bounds, chosen, side="right"), len(bounds) - 1)
        return [tables.taken(table, np.flatnonzero(part == index)) for index in range(len(bounds))]

    return scatter


def mixed(seed: np.random.SeedSequence) -> Callable[[pa.Table], pa.Table]:
    import numpy as np

    return lambda table: tables.taken(table, np.random.default_rng(seed).permutation(table.num_rows))


# ------------------------------------------------------------------------------------------ by order
SAMPLES = 200  # rows of a block that tell where the others lie


def keys_of(key: str | Sequence[str], descending: bool | Sequence[bool]) -> Keys:
    """Raises `ValueError` if there is not one direction for each column."""
    columns = [key] if isinstance(key, str) else list(key)
    down = [descending] * len(columns) if isinstance(descending, bool) else list(descending)
    if not columns or len(columns) != len(down):
        raise ValueError(f"sort() takes one direction for each column, not {len(down)} for {len(columns)}")
    return [(name, "descending" if each else "ascending") for name, each in zip(columns, down, strict=True)]


def in_order(keys: Keys) -> Callable[[pa.Table], pa.Table]:
    """Nulls at the end; equal rows stay in their order."""

    def ordered(table: pa.Table) -> pa.Table:
        return table.sort_by(list(keys)) if table.num_rows else table

    return ordered


def sample(keys: Keys, schema: pa.Schema) -> Callable[[pa.Table], pa.Table]:
    def some(table: pa.Table) -> pa.Table:
        import numpy as np

        columns = tables.fit(table, schema).select([name for name, _ in keys])
        if columns.num_rows <= SAMPLES:
            return columns
        return columns.take(np.linspace(0, columns.num_rows - 1, SAMPLES).astype(np.int64))

    return some


def bounds_of(samples: pa.Table, keys: Keys, count: int) -> pa.Table:
    """Rows that cut all into `count` parts of about the same size; fewer, if so many are equal."""
    import numpy as np

    ordered = in_order(keys)(samples)
    at = np.unique(np.linspace(0, samples.num_rows, count + 1)[1:-1].astype(np.int64))
    chosen = ordered.take(at)
    rows = list(map(repr, chosen.to_pylist()))
    different = [index for index, row in enumerate(rows) if row not in rows[:index]]
    return chosen.take(np.array(different, np.int64))


def by_bounds(bounds: pa.Table, keys: Keys, schema: pa.Schema) -> Callable[[pa.Table], list[pa.Table]]:
    """Each row into the part that ends with the first bound not before it: rows with equal keys into one part."""

    def scatter(table: pa.Table) -> list[pa.Table]:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        table = tables.fit(table, schema)
        columns = table.select([name for name, _ in keys])
        names = [f"c{index}" for index in range(len(keys))]
        both = pa.concat_tables([columns, bounds]).rename_columns(names)
        marks = np.zeros(both.num_rows, np.int8)
        marks[table.num_rows :] = 1  # a bound comes behind the rows that are equal to it
        both = both.append_column("mark", pa.array(marks))
        how: list[tuple[str, Way]] = [(name, way) for name, (_, way) in zip(names, keys, strict=True)]
        how.append(("mark", "ascending"))
        indices = pc.sort_indices(both, sort_keys=how).to_numpy()
        cuts = np.flatnonzero(indices >= table.num_rows)
        parts = np.split(indices, cuts)
        return [table.take(part if not index else part[1:]) for index, part in enumerate(parts)]

    return scatter
