"""A transfer from Spark: which objects its attempts write, which of them count, and that nothing else stays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from sparkray import session
from sparkray.data import lifetimes, places
from sparkray.data.blocks import Block
from sparkray.data.places import Places
from sparkray.data.repeater import Answer, Repeater, Rerun, live_nodes, stored_value
from sparkray.data.spark_job import own_error
from sparkray_core.errors import NodeDiedError, ObjectStoreFullError, RayError
from sparkray_core.ids import NodeId, ObjectId, count_of, raylet_of
from sparkray_core.messages import FreeTransfer
from sparkray_core.run.core import Core

DEFAULT_BLOCK_BYTES = 64 << 20

_transfers = itertools.count()
# The counters of a transfer's ids: the highest bit (no task of the driver has it), the transfer, then Spark's number of
# the attempt, which counts every attempt of every task of a SparkContext.
_TRANSFER_BIT, _TRANSFER_BITS, _ATTEMPT_BITS = 1 << 63, 23, 40


def check_block_bytes(target_block_bytes: int) -> None:
    if target_block_bytes < 1:
        raise ValueError(f"target_block_bytes must be at least 1, not {target_block_bytes}")


def transferred(
    name: str, run: Callable[[Places, bytes], tuple[Sequence[Answer], Rerun | None]]
) -> tuple[list[Block], list[bytes]]:
    """The blocks that a Spark job has stored, in order, and their schemas as far as they were told.

    Args:
        name: of the function that the user has called, for errors.
        run: the job; is told where the nodes are, and what the ids of its objects begin with. Returns the answers of
            the attempts that count, which are those of tasks that ended well; and what runs some partitions again.

    Raises:
        what `run` raises, or the error of ours that is inside it. Whatever is raised, nothing stays in the stores.
    """
    lifetimes.let_go()
    where = places.of_session()
    core = session.core()
    number = next(_transfers) % (1 << _TRANSFER_BITS)
    counter = _TRANSFER_BIT | number << _ATTEMPT_BITS
    prefix = core.me + (counter >> _ATTEMPT_BITS).to_bytes(3, "big")
    kept: list[ObjectId] = []
    try:
        answers, rerun = run(where, prefix)
        _check_nodes(core, {NodeId(bytes(answer.node)) for answer in answers})
        kept = [ObjectId(bytes(answer.object)) for answer in answers]
        blocks = _blocks(core, name, prefix, answers, rerun)
    except Exception as error:
        ours = own_error(error)
        if ours is None:
            raise
        raise _explained(ours) from error
    finally:
        # Attempts that failed, that were too late, or that still run: what they store is of no use to anyone.
        for node in live_nodes(core):
            core.send(raylet_of(node), FreeTransfer(prefix, kept))
    return blocks, [bytes(answer.schema) for answer in answers if answer.schema is not None]


def _blocks(core: Core, name: str, prefix: bytes, answers: Sequence[Answer], rerun: Rerun | None) -> list[Block]:
    """Each partition's are one delivery: they have one number, that of the attempt which has stored them."""
    again = None if rerun is None else Repeater(core, name, prefix, rerun)
    blocks: list[Block] = []
    for count, group in itertools.groupby(answers, lambda answer: count_of(bytes(answer.object))):
        told = list(group)
        if again is not None:
            again.remember(count, told)
        refs = core.deliver(count, name, [stored_value(answer) for answer in told], again)
        blocks += [Block(ref, 0, answer.rows, answer.bytes) for ref, answer in zip(refs, told, strict=True)]
    return blocks


def _check_nodes(core: Core, used: set[NodeId]) -> None:
    lost = used - live_nodes(core)
    if lost:
        raise NodeDiedError(
            f"{len(lost)} of the {len(used)} nodes that the blocks were written to ended before all blocks "
            f"were there ({', '.join(node.hex() for node in lost)}): call from_spark() again"
        )


def _explained(error: RayError) -> RayError:
    if isinstance(error, ObjectStoreFullError):
        return ObjectStoreFullError(
            f"{error}. The DataFrame does not fit: select fewer columns or rows, use more executors, or free datasets"
        )
    return error
