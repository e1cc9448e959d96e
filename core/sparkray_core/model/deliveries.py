"""Objects that somebody outside the session has made in an owner's name: the blocks of a partition of Spark.

A delivery is to `Lineage` what a task is: it has a record for as long as a block of it is held, or the record of a task
that has one as argument. But no worker can run it again. When a lost block of it is wanted, the shell is told to
`MakeAgain`, once for all blocks, and comes back with `Deliveries.made_again`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sparkray_core.ids import FunctionId, NodeId
from sparkray_core.messages import FAILED, Value
from sparkray_core.model.effects import Effect, MakeAgain
from sparkray_core.model.entries import Entry
from sparkray_core.model.tasks import Function, Task

if TYPE_CHECKING:
    from sparkray_core.model.lineage import Lineage
    from sparkray_core.model.references import References

_NO_FUNCTION = FunctionId(bytes(16))


class Delivery(Task):
    """The objects of one number, which were all made together, and are made again together."""

    __slots__ = ("maker",)

    def __init__(self, count: int, name: str, entries: list[Entry], maker: object) -> None:
        """
        Args:
            name: what the objects are said to come from, in errors.
            maker: the shell's; goes with the record. None: they cannot be made again.
        """
        super().__init__(count, Function(_NO_FUNCTION, name, b""), b"", None, None, entries, -1, None)
        self.maker = maker


class Deliveries:
    def __init__(self, refs: References, lineage: Lineage) -> None:
        self.refs = refs
        self.lineage = lineage
        self.making: dict[int, Delivery] = {}  # that are being made again
        lineage.deliveries = self

    def want(self, delivery: Delivery) -> None:
        """Have it made again; it is not under way."""
        self.making[delivery.count] = delivery
        self.refs.late(MakeAgain(delivery.count, delivery.maker))

    def made_again(
        self, count: int, made: list[Value] | tuple[str, str], nodes: Iterable[NodeId], effects: list[Effect]
    ) -> None:
        """The shell's answer to `MakeAgain`.

        Args:
            made: the places of all objects of the delivery; or a reason and a sentence that says why there are none.
            nodes: where something may have been written to under these ids, on the way.
        """
        delivery = self.making.pop(count, None)
        if delivery is None:
            return  # the session has ended
        strays = [(node, entry.index) for node in nodes for entry in delivery.returns]
        record = self.lineage.records.get(count)
        story = record.story if record is not None else ""
        if record is not None:
            record.strays += strays
        for index, entry in enumerate(delivery.returns):
            if isinstance(made, tuple):
                entry.seen = True  # whoever wants it is told; those that nobody wants yet are no news
                self.refs.settle(entry, _failure(delivery, entry, made, story), effects)
            else:
                self.refs.settle(entry, made[index], effects)
        self.refs.strays.end(count)
        self.lineage.finished(delivery, [])
        record = self.lineage.records.get(count)
        if record is None:
            self.lineage.free_unless_there(count, strays)
        else:
            record.strays += strays  # an attempt that is late may still write: again when the record goes

    def end(self) -> None:
        self.making.clear()


def _failure(delivery: Delivery, entry: Entry, why: tuple[str, str], story: str) -> Value:
    reason, sentence = why
    told = (
        f"object {entry.id.hex()}, which {delivery.function.name}() had stored, {story or 'is lost'}, and could not be "
        f"made again: {sentence}"
    )
    return (FAILED, "ObjectReconstructionFailedError", told, entry.id.hex(), reason)
