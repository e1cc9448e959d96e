"""What a task of Spark is told that makes lost blocks of its partition again, and how they are known to be the same.

The function that `mapInArrow` has runs again as it was, so that Spark computes no more than it must. What is different
this time comes as a local property of the job: where the nodes are now, the ids that the blocks had, and their rows.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sparkray.data.places import Place, Places
from sparkray_core.ids import NodeId
from sparkray_core.run.processes import Identity

if TYPE_CHECKING:
    import pyarrow as pa

PROPERTY = "sparkray.again"
SAMPLES = 8  # rows of a block that are compared with those it had

# Of an answer that tells of no block, its `note`.
NO_NODE = "this executor has no node"
CHANGED = "the partition has other rows than before"


@dataclass(frozen=True, slots=True)
class Former:
    """A partition as it was stored."""

    attempt: int  # of which its blocks have their ids
    rows: tuple[int, ...]  # of each block


def as_property(transfer: bytes, places: Places, partitions: Mapping[int, Former]) -> str:
    """Without the token: properties are written to Spark's event log, and the function has it anyway."""
    return json.dumps(
        {
            "transfer": transfer.hex(),
            "nodes": [[place.node.hex(), place.folder, place.jvm] for place in places.nodes],
            "partitions": {number: [former.attempt, former.rows] for number, former in partitions.items()},
        }
    )


def order_for(context: Any, transfer: bytes, token: bytes) -> tuple[Places, Former] | None:
    """In a task of Spark: what its job is to make again of this transfer; None if it is the transfer itself."""
    text = context.getLocalProperty(PROPERTY)
    told = json.loads(text) if text else {}
    if told.get("transfer") != transfer.hex():
        return None
    attempt, rows = told["partitions"][str(context.partitionId())]
    nodes = tuple(
        Place(NodeId(bytes.fromhex(node)), folder, None if jvm is None else Identity(*jvm))
        for node, folder, jvm in told["nodes"]
    )
    return Places(nodes, token), Former(attempt, tuple(rows))


def makes_again() -> bool:
    """Whether this is a task of Spark in whose job lost blocks are made again, of whatever transfer."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return context is not None and context.getLocalProperty(PROPERTY) is not None


def sample(table: pa.Table) -> int:
    """A number that another order of rows would change, most likely; of a partition cut into several blocks.

    Of values and not of bytes: what lies under a null or behind the last row may be anything.
    """
    rows = table.num_rows
    chosen = sorted({index * (rows - 1) // (SAMPLES - 1) for index in range(SAMPLES)}) if rows else []
    seen = [_plain(column.slice(index, 1)) for index in chosen for column in table.columns]
    return zlib.crc32(repr(seen).encode("utf-8", "surrogatepass"))


def _plain(column: pa.ChunkedArray[Any]) -> Sequence[Any]:
    import pyarrow as pa

    if isinstance(column.type, pa.BaseExtensionType):
        return [cast("Any", chunk).storage.to_pylist() for chunk in column.chunks if len(chunk)]
    return column.to_pylist()
