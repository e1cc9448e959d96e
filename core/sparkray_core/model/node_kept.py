"""What workers of this node have put: the raylet owns it, so that it outlives the worker that made it.

A worker gives such an object an id of its raylet's, with its own number inside. As soon as somebody else might learn of
the object (its reference is pickled, or it lies in the segment anyway) the worker hands it over, `AdoptObject`, and is
from then on a borrower like any other. Word of third parties may come before the object itself, over other connections;
then the entry waits for it, or for its maker's end.
"""

from __future__ import annotations

from collections.abc import Callable

from sparkray_core.ids import ObjectId, ProcessId, count_of, node_of, owner_of
from sparkray_core.messages import (
    FAILED,
    AddBorrowers,
    AdoptObject,
    AskObjects,
    BorrowedCounts,
    CheckBorrowed,
    CopyMade,
    DropBorrowers,
    InheritObjects,
    ObjectMissing,
    ObjectMoved,
    Value,
)
from sparkray_core.model.bounded import Recent
from sparkray_core.model.effects import Effect
from sparkray_core.model.entries import Entry, is_stored
from sparkray_core.model.inheriting import borrow_inside, without_dead_nodes
from sparkray_core.model.node_replicas import Recorded
from sparkray_core.model.references import References, freed, lost_for_good

_NUMBER_BITS = 32  # of a worker's counter within the count of an id that it gives for its raylet
Message = (
    AdoptObject
    | AskObjects
    | AddBorrowers
    | DropBorrowers
    | CopyMade
    | ObjectMissing
    | ObjectMoved
    | CheckBorrowed
    | BorrowedCounts
)


def kept_count(worker: ProcessId, count: int) -> int | None:
    """For an id of the raylet's, from a worker's own counter; None when the numbers are too large for that."""
    number = int.from_bytes(worker[8:], "big")
    if number >> _NUMBER_BITS or count >> _NUMBER_BITS:
        return None
    return number << _NUMBER_BITS | count


def maker_of(some: ObjectId) -> ProcessId:
    """The worker that put an object which its raylet owns."""
    return ProcessId(node_of(owner_of(some)) + (count_of(some) >> _NUMBER_BITS).to_bytes(8, "big"))


class _Kept(References):
    """References of a raylet. Unlike others it may hear of an own object before it has it."""

    def __init__(self, me: ProcessId, remembered: int) -> None:
        super().__init__(me)
        self.is_here: Callable[[ProcessId], bool] = lambda process: False  # node.py knows
        self.freed: Recent[ObjectId, None] = Recent(remembered)

    def unknown(self, some_object: ObjectId) -> Value | None:
        expected = some_object not in self.freed and self.is_here(maker_of(some_object))
        return None if expected else freed(some_object)

    def free(self, entry: Entry) -> None:
        if entry.owner == self.me and entry.value is not None:
            self.freed.remember(entry.id, None)
        super().free(entry)


class Kept:
    def __init__(self, me: ProcessId, remembered: int, out: list[Effect]) -> None:
        self.me = me
        self.out = out
        self.refs = _Kept(me, remembered)
        self.recorded = Recorded(self.refs)

    def receive(self, sender: ProcessId, message: Message) -> None:
        match message:
            case AdoptObject(some, value):
                self._adopt(some, value, sender)
            case AskObjects(objects):
                self.refs.asked(sender, objects, self.out)
            case AddBorrowers(pairs):
                self.refs.counted(sender, pairs, 1)
            case DropBorrowers(pairs):
                self.refs.counted(sender, pairs, -1)
            case CheckBorrowed():
                self.refs.check_borrowed(sender, message, self.out)
            case BorrowedCounts():
                self.refs.recounted(sender, message)
            case CopyMade():
                self.refs.copied(message)
            case ObjectMoved():
                self.refs.moved(message)
            case ObjectMissing():
                self.refs.missing_for(sender, message, None, self.out)

    def _adopt(self, some: ObjectId, value: Value, maker: ProcessId) -> None:
        entry = self.refs.exported.get(some)
        if entry is None:
            entry = Entry(self.me, count_of(some))
            entry.held = False
            self.refs.exported[some] = entry
        self.refs.count_in(entry, maker)
        self.refs.settle(entry, value, self.out)

    def settle(self, now: float) -> None:
        """What time alone does."""
        legacy, recount = self.refs.legacy, self.refs.recount
        if legacy.busy:
            legacy.settle(now)
        if recount.at is not None or recount.below:
            self.refs.settle_counts(now, self.out)

    def wakes(self) -> list[float]:
        return [at for at in (self.refs.legacy.next_wake(), self.refs.recount.next_wake()) if at is not None]

    def record(self, some: ObjectId) -> None:
        """There are to be copies of it elsewhere: should this node die, another raylet is to own it."""
        entry = self.refs.exported.get(some)
        if entry is not None and entry.owner == self.me:
            self.recorded.begin(entry)

    def inherit(self, message: InheritObjects) -> dict[ObjectId, Value]:
        """Another raylet died, and its objects with copies are ours. Returns those that are left, and where."""
        legacy, left = self.refs.legacy, {}
        owners = dict.fromkeys([message.owner, *(owner_of(some) for some, _, _ in message.objects)])
        for owner in owners:  # it may have inherited itself
            legacy.begin(owner, message.why)
        for some, told, _ in message.objects:
            entry = legacy.take(some)
            legacy.hold(entry, self.out)
            value = without_dead_nodes(self.refs, told)
            if value is None:
                self.refs.settle(entry, lost_for_good(entry, f"was on nodes that died: {message.why}"), self.out)
                continue
            borrow_inside(self.refs, value, self.out)
            entry.value = entry.asked = None
            self.refs.settle(entry, value, self.out)
            self.recorded.begin(entry)
            if is_stored(value):
                left[some] = value
        for owner in owners:
            for sender, early in legacy.early.pop(owner, []):
                self.receive(sender, early)  # type: ignore[arg-type]
        return left

    def process_gone(self, process: ProcessId, why: str, heir: ProcessId | None) -> None:
        """It holds nothing any more, and what it has not handed over will not come."""
        for entry in list(self.refs.exported.values()):
            if entry.owner == self.me and entry.value is None and maker_of(entry.id) == process:
                sentence = f"object {entry.id.hex()}: the process that made it ({process.hex()}) is gone: {why}"
                self.refs.settle(entry, (FAILED, "OwnerDiedError", sentence), self.out)
        self.refs.process_gone(process, why, self.out, heir)

    def is_left_over(self, some: ObjectId, process: ProcessId) -> bool:
        """Written by this process, which died, and never handed over."""
        return owner_of(some) == self.me and maker_of(some) == process and some not in self.refs.exported
