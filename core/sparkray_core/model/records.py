"""The GCS's records of what others borrow from owners that may die first: values, places, and how to make them again.

    an owner records an object             from then on the GCS borrows what is inside it
    it frees the object                    the record goes, and lets go of that
    it dies                                its records are closed, and whoever knows heirs gets them (`EstateClosed`)
    there is an heir                       they are kept here for `handover_s`: by then it has told the owners of what
                                           is inside that it borrows it
    there is none                          they go

Keyed by owner, and nothing else is looked at. The head has this machine, or each of its shards has: the head alone says
who is whose heir.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from zlib import crc32

from sparkray_core.ids import (
    HEAD,
    FunctionId,
    NodeId,
    ObjectId,
    ProcessId,
    count_of,
    node_of,
    owner_of,
    raylet_of,
    shard_node,
)
from sparkray_core.messages import (
    HOLDS,
    AddBorrowers,
    DropBorrowers,
    EstateClosed,
    ForgetRecords,
    ProcessGone,
    RecordedObject,
    RecordedTask,
    RecordObjects,
    Value,
)
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import is_stored, place

# Why a recorded object's task is not run again when its owner is gone, and there is no value.
RUNS_ONCE = "RUNS_ONCE"
OF_AN_ACTOR = "OF_AN_ACTOR"
OF_A_GENERATOR = "OF_A_GENERATOR"
CANCELLED = "CANCELLED"
FORGOTTEN = "FORGOTTEN"  # how to make it is not known any more: lineage_bytes
NO_ROOM = "NO_ROOM"  # in the GCS

OBJECT_BYTES = 300  # what a record costs beside its value; an entry in two tables
TASK_BYTES = 900


def keeper_of(owner: ProcessId, shards: int) -> ProcessId:
    """The GCS's process that keeps the records of this owner. All of one owner's are in one place.

    Args:
        shards: how many there are beside the head; 0: the head has the records.
    """
    return raylet_of(shard_node(crc32(owner) % shards)) if shards else HEAD


@dataclass(slots=True)
class Estate:
    """What one owner has recorded."""

    driver: ProcessId  # for whose job it worked
    functions: dict[FunctionId, tuple[str, bytes]] = field(default_factory=dict)
    tasks: dict[int, RecordedTask] = field(default_factory=dict)
    objects: dict[ObjectId, RecordedObject] = field(default_factory=dict)
    results: dict[int, dict[ObjectId, None]] = field(default_factory=dict)  # recorded ones of each task
    bytes: int = 0


class Records:
    def __init__(self, most_bytes: int, most_objects: int, handover_s: float, out: list[Effect]) -> None:
        self.most_bytes = most_bytes
        self.most_objects = most_objects
        self.handover_s = handover_s
        self.out = out
        self.bytes = 0
        self.count = 0
        self.estates: dict[ProcessId, Estate] = {}
        self.closed: dict[ProcessId, list[Estate]] = {}  # of owners that died: not known yet to whom it goes
        self.heirs: dict[ProcessId, ProcessId] = {}  # of owners that died, with the heir alive
        self._passed_on: list[tuple[float, Estate]] = []  # until when they are kept for their heirs, oldest first

    # ------------------------------------------------------------------ what owners say
    def record(self, owner: ProcessId, message: RecordObjects) -> None:
        estate = self.estates.setdefault(owner, Estate(message.driver))
        for function, name, blob in message.functions:
            if function not in estate.functions:
                estate.functions[function] = name, blob
                self._weigh(estate, len(blob))
        for task in message.tasks:
            if task[0] not in estate.tasks:
                estate.tasks[task[0]] = task
                self._weigh(estate, _task_bytes(task))
                self._borrow_anew(inside_task(task))
            else:
                self._let_go(inside_task(task))
        for recorded in message.objects:
            self._keep(estate, recorded)
        for some, _, _ in message.objects:
            self._drop_task_if_unneeded(estate, count_of(some))
        for task in message.tasks:
            self._drop_task_if_unneeded(estate, task[0])

    def _keep(self, estate: Estate, recorded: RecordedObject) -> None:
        some, value, why = recorded
        known = estate.objects.get(some)
        if known is None and self.count >= self.most_objects:
            self._let_go(inside_value(value))
            return
        if known is not None:
            self._weigh(estate, -_value_bytes(known[1]))
            self._let_go(inside_value(known[1]))
        else:
            self.count += 1
            self._weigh(estate, OBJECT_BYTES)
            estate.results.setdefault(count_of(some), {})[some] = None
        size = _value_bytes(value)
        if size and self.bytes + size > self.most_bytes:
            self._let_go(inside_value(value))
            value, why, size = None, NO_ROOM, 0
        self._borrow_anew(inside_value(value))
        estate.objects[some] = some, value, why
        self._weigh(estate, size)
        count = count_of(some)
        if count in estate.tasks and self.bytes > self.most_bytes:
            self._drop_task(estate, count)
            for result in estate.results[count]:
                _, there, _ = estate.objects[result]
                estate.objects[result] = result, there, NO_ROOM

    def forget(self, owner: ProcessId, message: ForgetRecords) -> None:
        estate = self.estates.get(owner)
        if estate is None:
            return
        for some in message.objects:
            known = estate.objects.pop(some, None)
            if known is None:
                continue
            self.count -= 1
            self._weigh(estate, -OBJECT_BYTES - _value_bytes(known[1]))
            self._let_go(inside_value(known[1]))
            results = estate.results[count_of(some)]
            del results[some]
            self._drop_task_if_unneeded(estate, count_of(some))
            if not results:
                del estate.results[count_of(some)]
        if not estate.objects:
            self._weigh(estate, -estate.bytes)
            del self.estates[owner]

    def _drop_task_if_unneeded(self, estate: Estate, count: int) -> None:
        """All its results are small values, which cannot get lost, or are freed."""
        if count in estate.tasks:
            values = [estate.objects[some][1] for some in estate.results.get(count, ())]
            if not any(value is None or is_stored(value) for value in values):
                self._drop_task(estate, count)

    def _drop_task(self, estate: Estate, count: int) -> None:
        task = estate.tasks.pop(count)
        self._weigh(estate, -_task_bytes(task))
        self._let_go(inside_task(task))

    def _weigh(self, estate: Estate, by: int) -> None:
        estate.bytes += by
        self.bytes += by

    # ------------------------------------------------------------------ what is inside
    def _let_go(self, objects: list[ObjectId]) -> None:
        for some in objects:
            owner = self._owner_now(some)
            self.out.append(Send(owner, DropBorrowers([(some, HEAD)])))

    def _borrow_anew(self, objects: list[ObjectId]) -> None:
        """Whoever sent these has counted us in; but of what an heir owns each borrower says so itself."""
        for some in objects:
            if owner_of(some) in self.heirs:
                self.out.append(Send(self._owner_now(some), AddBorrowers([(some, HEAD)])))

    def _owner_now(self, some: ObjectId) -> ProcessId:
        owner = owner_of(some)
        return self.heirs.get(owner, owner)

    # ------------------------------------------------------------------ deaths
    def obituaries(self) -> list[ProcessGone]:
        """For a node that is new: of all owners that have living heirs."""
        return [ProcessGone(owner, "it ended", heir) for owner, heir in self.heirs.items()]

    def owners_on(self, node: NodeId) -> list[ProcessId]:
        return [owner for owner in self.estates if node_of(owner) == node]

    def close(self, owner: ProcessId, why: str) -> EstateClosed:
        """It died: what it had recorded is here until it is known who its heir is, and that hears of it by this."""
        estate = self.estates.pop(owner, None)
        if estate is None:
            return EstateClosed(owner, why, ProcessId(b""), [], [], [])
        self.bytes -= estate.bytes
        self.count -= len(estate.objects)
        self.closed.setdefault(owner, []).append(estate)
        functions = [(function, name, blob) for function, (name, blob) in estate.functions.items()]
        return EstateClosed(
            owner, why, estate.driver, functions, list(estate.tasks.values()), list(estate.objects.values())
        )

    def passes(self, owner: ProcessId, heir: ProcessId | None, now: float) -> None:
        """It died, and what it had is its heir's, who has been told. None: nobody's."""
        for former, later in list(self.heirs.items()):
            if later == owner and heir is None:
                del self.heirs[former]
            elif later == owner and heir is not None:
                self.heirs[former] = heir
        estates = self.closed.pop(owner, [])
        if heir is None:
            for estate in estates:
                self._let_go(_inside(estate))
            return
        first = owner not in self.heirs
        self.heirs[owner] = heir
        self._passed_on += [(now + self.handover_s, estate) for estate in estates]
        if first:
            self._say_what_is_borrowed(owner, heir)

    def _say_what_is_borrowed(self, owner: ProcessId, heir: ProcessId) -> None:
        """To the heir: of what it owns now the GCS holds what is inside these records."""
        pairs = [(some, HEAD) for estate in self._all() for some in _inside(estate) if owner_of(some) == owner]
        if pairs:
            self.out.append(Send(heir, AddBorrowers(pairs)))

    def _all(self) -> list[Estate]:
        """Those included that are kept for their heirs."""
        closed = [estate for estates in self.closed.values() for estate in estates]
        return [*self.estates.values(), *closed, *(estate for _, estate in self._passed_on)]

    def times_held(self, objects: Iterable[ObjectId]) -> dict[ObjectId, int]:
        """How often these are inside of what is kept here: so often is the GCS counted in for them."""
        found = dict.fromkeys(objects, 0)
        for estate in self._all():
            for some in _inside(estate):
                if some in found:
                    found[some] += 1
        return found

    def settle(self, now: float) -> None:
        while self._passed_on and self._passed_on[0][0] <= now:
            self._let_go(_inside(self._passed_on.pop(0)[1]))

    def next_wake(self) -> float | None:
        return self._passed_on[0][0] if self._passed_on else None


def stored_in(objects: list[RecordedObject]) -> list[ObjectId]:
    """Those that may lie in stores."""
    return [some for some, value, _ in objects if value is not None and is_stored(value)]


def places_in(objects: list[RecordedObject]) -> list[NodeId]:
    """Nodes that have these, the one with most of them first."""
    found: dict[NodeId, int] = {}
    for _, value, _ in objects:
        for node in place(value)[1] if value is not None and is_stored(value) else ():
            found[node] = found.get(node, 0) + 1
    return sorted(found, key=lambda node: (-found[node], node))


def inside_value(value: Value | None) -> list[ObjectId]:
    return list(value[2]) if type(value) is tuple and value[0] == HOLDS else []


def inside_task(task: RecordedTask) -> list[ObjectId]:
    return [*(some for _, some in task[3]), *task[4]]


def _inside(estate: Estate) -> list[ObjectId]:
    found = [some for task in estate.tasks.values() for some in inside_task(task)]
    return found + [some for _, value, _ in estate.objects.values() for some in inside_value(value)]


def _task_bytes(task: RecordedTask) -> int:
    payload = task[2]
    return TASK_BYTES + (len(payload) if isinstance(payload, bytes) else _parts(payload))


def _value_bytes(value: Value | None) -> int:
    if value is None:
        return 0
    if isinstance(value, bytes):
        return len(value)
    if value[0] == HOLDS:
        return _value_bytes(value[1]) + OBJECT_BYTES * len(value[2])
    return _parts(value)


def _parts(value: tuple[object, ...]) -> int:
    return sum(len(part) for part in value if isinstance(part, bytes | memoryview))
