"""Parquet files: read block by block by the tasks that need them, written by the tasks that have them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sparkray.data import tables
from sparkray.data.blocks import Source
from sparkray.data.build import wanted_blocks
from sparkray.data.context import DataContext
from sparkray.data.dataset import Dataset
from sparkray.data.execution import capacity

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads

STORE_SHARE = 8  # a block must leave room for others in the smallest store


def read_parquet(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    filesystem: Any = None,
    columns: Sequence[str] | None = None,
    filter: Any = None,
    schema: pa.Schema | None = None,
    partitioning: Any = "hive",
    parallelism: int | None = None,
    override_num_blocks: int | None = None,
    concurrency: int | None = None,
) -> Dataset:
    """A dataset of Parquet files. Their footers are read now, their rows by the tasks that need them.

    A block is one row group or several of a file, and no larger than `DataContext.target_max_block_size`, or an eighth
    of the store, as far as row groups allow: so files larger than all stores pass through them.

    Args:
        paths: files, or folders of them, on a file system that every node sees.
        filesystem: of pyarrow, fsspec or its address; by the paths, if not given.
        columns: to be read; all, if not given.
        filter: a `pyarrow.compute` expression; row groups that cannot have such rows are not read.
        schema: of the files, if that of the first is not right for all.
        partitioning: how folders tell of columns; "hive" is `key=value`. None: not at all.
        override_num_blocks: at least so many, as far as there are row groups. `parallelism` is its older name.
        concurrency: accepted for Ray's sake.

    Raises:
        FileNotFoundError: there is no such file, or none in the folder.
        pyarrow.ArrowInvalid: a file is not Parquet.
    """
    import pyarrow.dataset as pads

    several = [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    one_or_more: Any = several[0] if len(several) == 1 else several
    found: Any = pads.dataset(one_or_more, schema, "parquet", filesystem, partitioning)
    fragments = [fragment for fragment in found.get_fragments(filter=filter) if fragment.row_groups]
    if not fragments and not found.files:
        raise FileNotFoundError(f"there is no Parquet file in {paths}")
    kept = None if columns is None else list(columns)
    wanted = found.schema if kept is None else tables_schema(found.schema, kept)
    least = wanted_blocks(parallelism, override_num_blocks, 1)
    _, store = capacity()
    limit = max(1, min(DataContext.get_current().target_max_block_size, store // STORE_SHARE))
    total = sum(group.total_byte_size for fragment in fragments for group in fragment.row_groups)
    limit = min(limit, max(1, total // least))
    pieces = []
    for fragment in fragments:
        for groups in _groups(fragment, limit):
            rows = sum(group.num_rows for group in groups) if filter is None else None
            part = fragment.subset(row_group_ids=[group.id for group in groups])
            pieces.append(Source(_RowGroups(part, found.schema, kept, filter), rows))
    return Dataset(pieces, wanted)


def tables_schema(schema: pa.Schema, columns: list[str]) -> pa.Schema:
    from sparkray.data.transforms import selected

    return selected(schema.empty_table(), columns).schema


def _groups(fragment: Any, limit: int) -> list[list[Any]]:
    """Runs of row groups that are no larger than the limit, if they are several."""
    groups = list(fragment.row_groups)
    cuts, size = [0], 0
    for index, group in enumerate(groups):
        if size and size + group.total_byte_size > limit:
            cuts.append(index)
            size = 0
        size += group.total_byte_size
    return [groups[first:last] for first, last in pairwise([*cuts, len(groups)])]


@dataclass(frozen=True, slots=True)
class _RowGroups:
    fragment: pads.Fragment
    schema: pa.Schema
    columns: list[str] | None
    filter: Any

    def read(self) -> pa.Table:
        table: pa.Table = self.fragment.to_table(
            schema=self.schema, columns=self.columns, filter=self.filter, use_threads=False
        )
        return table


# ------------------------------------------------------------------------------------------ writing
@dataclass(frozen=True, slots=True)
class Writer:
    """Writes each block to a file of its own, under a name that is there only when the file is whole."""

    folder: str
    filesystem: Any  # of pyarrow
    run: str
    partition_cols: tuple[str, ...]
    arguments: dict[str, Any]

    def write(self, table: pa.Table) -> pa.Table:
        """Returns a row per file: its name and rows."""
        import uuid

        import pyarrow.parquet as pq

        table = table.replace_schema_metadata(None)
        unique = uuid.uuid4().hex[:12]  # of this attempt: one that is run again writes under another name
        name = f"{self.run}_{unique}.parquet"
        if self.partition_cols:
            pq.write_to_dataset(
                table,
                self.folder,
                partition_cols=list(self.partition_cols),
                filesystem=self.filesystem,
                basename_template=f"{self.run}_{unique}-{{i}}.parquet",
                existing_data_behavior="overwrite_or_ignore",
                **self.arguments,
            )
        else:
            unfinished = f"{self.folder}/.{name}.unfinished"
            with self.filesystem.open_output_stream(unfinished) as file:
                pq.write_table(table, file, **self.arguments)
            self.filesystem.move(unfinished, f"{self.folder}/{name}")
        return tables.from_columns({"file": [name], "rows": [table.num_rows]})


def files_in(filesystem: Any, folder: str) -> list[str]:
    import pyarrow.fs as pafs

    found = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))
    return [info.path for info in found if info.type == pafs.FileType.File]


def filesystem_of(path: str, filesystem: Any) -> tuple[Any, str]:
    """pyarrow's file system and the path in it."""
    import pyarrow.fs as pafs

    if filesystem is None:
        if "://" not in path:
            return pafs.LocalFileSystem(), os.path.abspath(path)
        return pafs.FileSystem.from_uri(path)
    if isinstance(filesystem, str):
        return pafs.FileSystem.from_uri(filesystem)[0], path
    if not isinstance(filesystem, pafs.FileSystem):
        handler: Any = pafs.FSSpecHandler  # complete, whatever its stub says
        return pafs.PyFileSystem(handler(filesystem)), path
    return filesystem, path
