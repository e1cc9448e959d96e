"""What a dataset consists of: blocks, and what is still to be done to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparkray.api import get
from sparkray.data import tables
from sparkray.data.blocks import Block, Piece, Promised, Source, look
from sparkray.data.execution import started, streamed
from sparkray.data.progress import Bar
from sparkray.data.stages import Stage, added
from sparkray.experimental import get_object_locations
from sparkray_core.run.object_ref import ObjectRef

if TYPE_CHECKING:
    import pyarrow as pa
    from typing_extensions import Self

SHOWN_COLUMNS = 20  # in a repr


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """What is known of a block. `ref` stands for a `pyarrow.Table`."""

    ref: ObjectRef[pa.Table]
    rows: int
    bytes: int  # as Arrow counts them in memory
    schema: pa.Schema
    node_ids: tuple[str, ...]  # that have it in their store; none, if it is so small that it travels in messages


def promised(ref: ObjectRef[pa.Table]) -> Promised:
    """Of a table that somebody makes who does not tell of it: a task looks at it, where it lies."""
    return Promised(ref, look.remote(ref))


class DatasetCore:
    """Blocks, stages, and what both tell."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        schema: pa.Schema | None = None,
        spark_schema: str | None = None,
        stages: tuple[Stage, ...] = (),
    ) -> None:
        """
        Args:
            schema: of every block, after all stages; None asks the blocks.
            spark_schema: JSON of the Spark schema that the blocks had, for the types that Arrow has no word for.
            stages: what is to be done to each block before it is the dataset's.
        """
        self._pieces: list[Piece] | None = list(pieces)
        self._stages = stages
        self._schema = schema
        self._spark_schema = spark_schema
        self._rows: int | None = None  # once they have been counted

    # ------------------------------------------------------------------ what it is
    def count(self) -> int:
        """Rows. What has not been computed yet is computed for it, and not kept; `materialize` keeps it."""
        if self._rows is None:
            self._rows = self._counted()
        return self._rows

    def _counted(self) -> int:
        pieces = self._open()
        if not self._stages:
            known = [piece.rows for piece in pieces if not isinstance(piece, Promised)]
            if len(known) == len(pieces) and None not in known:
                return sum(rows or 0 for rows in known)
        return sum(block.rows for block in self._each())

    def num_blocks(self) -> int:
        return len(self._open())

    def size_bytes(self) -> int:
        """Of all rows, as Arrow counts them in memory. Computes what has not been computed, and keeps it."""
        return sum(block.bytes for block in self._blocks())

    def schema(self) -> pa.Schema:
        """Names and types of the columns, without metadata.

        Of what has not been computed yet, as the first block that has a value in every column tells it.
        """
        return self._known_schema().remove_metadata()

    def columns(self) -> list[str]:
        """Names of the columns, in their order."""
        return list(self.schema().names)

    def _known_schema(self) -> pa.Schema:
        if self._schema is not None:
            return self._schema
        if not self._lazy():
            self._blocks()
            assert self._schema is not None
            return self._schema
        seen: list[pa.Schema] = []
        for _, schema in streamed(self._open(), self._stages, "schema", at_first=1):
            if schema is not None and len(schema):
                seen.append(schema)
                if not any(_is_null(kind) for kind in tables.unite(seen).types):
                    break
        return tables.unite(seen)

    def materialize(self) -> Self:
        """A dataset whose blocks are all there, in the stores. Raises what a task raised."""
        blocks = self._blocks()
        return type(self)(blocks, self._schema, self._spark_schema)

    @property
    def blocks(self) -> list[BlockInfo]:
        """Each block: reference, rows, bytes, schema, and where it lies. Computes what has not been computed."""
        schema = self._whole_schema()
        blocks = [block.stored() for block in self._blocks()]
        self._pieces = list(blocks)
        places = get_object_locations([block.ref for block in blocks]) if blocks else {}
        return [
            BlockInfo(block.ref, block.rows, block.bytes, schema, tuple(places[block.ref]["node_ids"]))
            for block in blocks
        ]

    @property
    def refs(self) -> list[ObjectRef[pa.Table]]:
        """One reference per block, in row order; each is a `pyarrow.Table`. Begins what has not been computed."""
        self._begin()
        pieces = [piece.stored() if isinstance(piece, Block) else piece for piece in self._open()]
        self._pieces = list(pieces)
        return [piece.ref for piece in pieces if not isinstance(piece, Source)]

    def to_arrow_refs(self) -> list[ObjectRef[pa.Table]]:
        """The same as `refs`, under Ray's name."""
        return self.refs

    # ------------------------------------------------------------------ its end
    def release(self) -> None:
        """Let go of the blocks now, not when Python collects this dataset. Others that have them keep them."""
        self._pieces = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    # ------------------------------------------------------------------ its blocks
    def _open(self) -> list[Piece]:
        if self._pieces is None:
            raise ValueError("this dataset was released, by release() or at the end of a with block: make it again")
        return self._pieces

    def _lazy(self) -> bool:
        """Whether anything has still to be begun."""
        return bool(self._stages) or any(isinstance(piece, Source) for piece in self._open())

    def _begin(self) -> None:
        """Have everything computed, and keep it."""
        if self._lazy():
            self._pieces = list(started(self._open(), self._stages))
            self._stages = ()

    def _blocks(self) -> list[Block]:
        """All of them, waited for and kept."""
        schemas: list[pa.Schema] = []
        blocks: list[Block] = []
        awaited = [piece for piece in self._open() if self._stages or not isinstance(piece, Block)]
        with Bar("blocks", len(awaited)) as bar:
            self._begin()  # with a pool of actors it takes until there are some
            for piece in self._open():
                if isinstance(piece, Promised):
                    piece, schema = piece.block()
                    schemas.append(schema)
                    bar.add(1, piece.rows)
                assert isinstance(piece, Block)
                blocks.append(piece)
        self._pieces = list(blocks)
        if self._schema is None:
            self._schema = tables.unite(schemas)
        return blocks

    def _whole_schema(self) -> pa.Schema:
        """That of all blocks, computed."""
        self._blocks()
        assert self._schema is not None
        return self._schema

    def _each(self, at_first: int | None = None, what: str = "blocks") -> Iterator[Block]:
        """The blocks, one after the other; what is computed for it is not kept."""
        if not self._lazy():
            yield from self._blocks()
        else:
            for block, _ in streamed(self._open(), self._stages, what, at_first):
                yield block

    def _with(self, blocks: Sequence[Piece]) -> Self:
        """Other blocks of the same schema."""
        return type(self)(blocks, self._schema, self._spark_schema)

    def _then(self, stage: Stage, schema: pa.Schema | None = None) -> Self:
        """The same blocks, with a stage more to go through."""
        return type(self)(self._open(), schema, None, added(self._stages, stage))

    def _joined(self, several: list[pa.Table]) -> pa.Table:
        """The tables of these blocks as one, with the schema of all."""
        return tables.concat(several, self._whole_schema())

    # ------------------------------------------------------------------ how it is shown
    def __repr__(self) -> str:
        if self._pieces is None:
            return "Dataset(released)"
        facts = f"num_blocks={len(self._pieces)}"
        if not self._told():
            return f"Dataset({facts}, num_rows=?, schema=?)"
        columns = [f"{field.name}: {field.type}" for field in self.schema()]
        if len(columns) > SHOWN_COLUMNS:
            columns[SHOWN_COLUMNS:] = [f"and {len(columns) - SHOWN_COLUMNS} more"]
        return f"Dataset({facts}, num_rows={self.count()}, schema={{{', '.join(columns)}}})"

    def _repr_html_(self) -> str:
        import html  # only notebooks ask

        if self._pieces is None or not self._told():
            return f"<code>{html.escape(repr(self))}</code>"
        columns = "".join(
            f"<tr><td>{html.escape(field.name)}</td><td>{html.escape(str(field.type))}</td></tr>"
            for field in self.schema()
        )
        blocks = [piece for piece in self._pieces if isinstance(piece, Block)]
        size = f", {sum(block.bytes for block in blocks):,} bytes" if len(blocks) == len(self._pieces) else ""
        return (
            f"<div><b>Dataset</b> of {self.count():,} rows in {len(self._pieces)} blocks{size}"
            f"<table><tr><th>column</th><th>type</th></tr>{columns}</table></div>"
        )

    def _told(self) -> bool:
        """Whether rows and schema are known without computing or waiting."""
        if self._schema is None or self._stages:
            return False
        return self._rows is not None or all(
            not isinstance(piece, Promised) and piece.rows is not None for piece in self._open()
        )


def _is_null(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_null(kind)


def tables_of(blocks: Sequence[Block]) -> list[pa.Table]:
    """The rows of each: views, where they lie on this node."""
    return [block.of(table) for block, table in zip(blocks, get([block.ref for block in blocks]), strict=True)]
