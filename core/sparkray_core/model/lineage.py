"""How results that lie in a store were made, so that those which get lost are made again.

    a task ends, and a result of it lies in a store:   a record of the task is kept, and holds its arguments
    the last node that has the result dies:            lost: it has no value until somebody wants it
    somebody wants it:                                 the task runs again, and before it those that make its arguments

A record goes when nobody holds a stored result of the task, nor a record of a task that has one as its argument. An
argument whose task has a record itself may be freed: it would be made again, too. Others (put, borrowed, small) are
kept for as long as the record. The records are bounded by their bytes, those of the arguments that they keep included;
beyond that the oldest turns into a *stub*, which only knows why its results cannot be made again.

Lost is an own entry without a value whose task has a record and is not under way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from sparkray_core.ids import ActorId, NodeId, object_id
from sparkray_core.messages import FAILED, Value
from sparkray_core.model.deliveries import Deliveries, Delivery
from sparkray_core.model.entries import Entry, bare, is_failure, is_stored, place
from sparkray_core.model.references import ACTOR_INDEX, References, lost_for_good
from sparkray_core.model.tasks import Actor, Task

# What a record costs beside its payload: task, lists, and its place in two tables. CPython 3.11 took 840.
RECORD_BYTES = 900
REFERENCE_BYTES = 300  # of each reference among the arguments: an entry, and its place in a list

# Of an `ObjectReconstructionFailedError`, as its `reason`.
MAX_ATTEMPTS_EXCEEDED = "MAX_ATTEMPTS_EXCEEDED"
RETRIES_DISABLED = "RETRIES_DISABLED"
LINEAGE_EVICTED = "LINEAGE_EVICTED"
TASK_CANCELLED = "TASK_CANCELLED"
ACTOR_GONE = "ACTOR_GONE"
RUN_FAILED = "RUN_FAILED"
NO_MAKER = "NO_MAKER"
MAKER_FAILED = "MAKER_FAILED"  # what was delivered from outside: whoever was to make it again says why not

_ADVICE = {
    MAX_ATTEMPTS_EXCEEDED: "all its retries are used up; raise max_retries (max_task_retries of an actor)",
    RETRIES_DISABLED: (
        "it may run once only; give the task max_retries, or the actor max_task_retries, if it may run again"
    ),
    LINEAGE_EVICTED: "how to make it was forgotten to save memory; raise the setting lineage_bytes",
    TASK_CANCELLED: "it was cancelled, and what is cancelled is not run again",
    ACTOR_GONE: "its actor ended with its last handle; keep a handle for as long as its results are needed",
    RUN_FAILED: "the generator was run again and yielded fewer items; only what always yields the same can be repeated",
    NO_MAKER: "nobody can run again the part of a job that made it; make all of it again",
}


class Record:
    """What is known of one task with results in a store."""

    __slots__ = ("alive", "bytes", "closed", "dependents", "makers", "name", "pinned", "story", "strays", "task", "why")

    def __init__(self, task: Task) -> None:
        self.name = task.function.name
        self.task: Task | None = task  # None: this is a stub
        self.why = ""  # of a stub: the reason why nothing can be made again
        self.alive: set[int] = set()  # results that somebody holds, and that are stored or lost
        self.dependents = 0  # arguments, in other records, that are results of this task
        self.closed = False  # the task has ended once, and the record holds its arguments
        self.makers: list[int] = []  # the tasks that would make its arguments again, one for each such argument
        self.pinned: list[Entry] = []  # the other arguments
        self.bytes = 0
        self.story = ""  # how a result got lost
        self.strays: list[tuple[NodeId, int]] = []  # places where a result may still lie, though it is not found there

    @property
    def needed(self) -> bool:
        return bool(self.alive) or self.dependents > 0


class Lineage:
    def __init__(self, refs: References, tasks: dict[int, Task], most_bytes: int) -> None:
        self.refs = refs
        self.tasks = tasks  # under way
        self.most_bytes = most_bytes
        self.bytes = 0
        self.records: dict[int, Record] = {}
        self.again: list[Task] = []  # that are to be submitted again; `Owner` does
        self.rebuilt = 0  # tasks that were run again since the start
        self.actor_of: Callable[[ActorId], Actor | None] = lambda some: None  # calls.py knows
        self._order: OrderedDict[int, Record] = OrderedDict()  # those that have bytes, the oldest first
        self._ended = False
        refs.lineage = self
        self.deliveries: Deliveries  # which sets this itself

    # ------------------------------------------------------------------ what becomes of results
    def stored(self, entry: Entry) -> None:
        """A result of ours lies in a store now."""
        record = self.records.get(entry.count)
        if record is None:
            task = self.tasks.get(entry.count)
            if task is None or task.stream is None:
                return  # `finished` comes, or it was put
            record = self.records[entry.count] = Record(task)
        record.alive.add(entry.index)

    def not_stored(self, entry: Entry) -> None:
        """A lost item was made again, and is a small value this time, or a failure: it cannot get lost any more."""
        if entry.count in self.records:
            self.records[entry.count].alive.discard(entry.index)

    def delivered(self, delivery: Delivery) -> None:
        """All its objects lie in stores."""
        record = self.records[delivery.count] = Record(delivery)
        record.alive.update(entry.index for entry in delivery.returns)
        self._close(record, delivery)

    def inherited(self, task: Task, entries: Iterable[Entry], story: str) -> None:
        """Another owner had submitted it and died; these of its results are ours now. Its arguments are pinned."""
        record = self.records[task.count] = Record(task)
        record.story = story
        record.alive = {entry.index for entry in entries}
        if not self._close(record, task):
            for entry in [*(entry for _, entry in task.refs or ()), *(task.nested or ())]:
                self.refs.unpin(entry)

    def let_go(self, entry: Entry) -> None:
        """Nobody holds it any more; its bytes are freed."""
        record = self.records.get(entry.count)
        if record is None:
            return
        record.alive.discard(entry.index)
        if entry.index and record.task is not None and record.task.stream is not None:
            record.task.stream.wanted.pop(entry.index, None)
        if not record.needed:
            self._drop(entry.count)
        elif record.dependents:
            self._empty(record, entry)  # for their sake it may be made again
        else:
            entry.value = None

    def is_lost(self, entry: Entry) -> bool:
        return entry.value is None and entry.count in self.records and not self.comes(entry.count)

    def comes(self, count: int) -> bool:
        """Whether these results are being made."""
        return count in self.tasks or count in self.deliveries.making

    def lose(self, entry: Entry, story: str) -> None:
        """No node has it any more."""
        self.refs.stored.pop(entry.id, None)
        record = self.records.get(entry.count)
        if record is None:
            entry.value = lost_for_good(entry, story)
            return
        record.story = story
        self._empty(record, entry)  # what is inside is held on to: some of its bytes may be read still

    @staticmethod
    def _empty(record: Record, entry: Entry) -> None:
        entry.value = None
        if entry.index and record.task is not None and record.task.stream is not None:
            record.task.stream.lacking[entry.index] = entry

    def can_rebuild(self, entry: Entry) -> bool:
        record = self.records.get(entry.count)
        return record is not None and not self.why_not(record)

    def may_lie(self, entry: Entry, nodes: Iterable[NodeId]) -> None:
        """These say that they do not have it, or we do not count on them; what they have is not wanted."""
        record = self.records.get(entry.count)
        if record is not None:
            record.strays += [(node, entry.index) for node in nodes]

    def lies_as_before(self, entry: Entry) -> bool:
        """Whether one of the nodes that have it now may have had it before it was made again, and still as it was."""
        assert entry.value is not None
        strays = self.records[entry.count].strays if entry.count in self.records else ()
        return any(index == entry.index and node in place(entry.value)[1] for node, index in strays)

    # ------------------------------------------------------------------ wanted
    def wanted(self, entry: Entry) -> None:
        """Somebody waits for it. If it is lost, its task runs again, or it fails now."""
        record = self.records.get(entry.count)
        if record is None or type(entry) is not Entry:  # who waits for the next item waits for a stream
            return
        if entry.index and record.task is not None and record.task.stream is not None:
            record.task.stream.wanted[entry.index] = entry
        if self.comes(entry.count):
            return  # it comes, or `finished` sees to it
        reason = self.why_not(record)
        if reason:
            self._fail(record, entry, reason)
            return
        task = record.task
        assert task is not None
        task.lose_retry()
        self.rebuilt += 1
        if isinstance(task, Delivery):
            self.deliveries.want(task)
            return
        self.tasks[task.count] = task
        self.again.append(task)

    def why_not(self, record: Record) -> str:
        """The reason why its task cannot run again; empty if it can."""
        task = record.task
        if task is None:
            return record.why
        if task.cancelled:
            return TASK_CANCELLED
        if task.retries == 0:
            return MAX_ATTEMPTS_EXCEEDED
        if task.actor is not None and self.actor_of(task.actor.id) is not task.actor:
            return ACTOR_GONE
        return ""

    def failure(self, record: Record, entry: Entry, reason: str) -> Value:
        sentence = (
            f"object {entry.id.hex()}, which {record.name}() had returned to process {entry.owner.hex()}, "
            f"{record.story or 'is lost'}, and cannot be made again: {_ADVICE[reason]}."
        )
        return (FAILED, "ObjectReconstructionFailedError", sentence, entry.id.hex(), reason)

    def _fail(self, record: Record, entry: Entry, reason: str) -> None:
        self.refs.settle_failed(entry, self.failure(record, entry, reason))
        record.alive.discard(entry.index)
        if record.task is not None and record.task.stream is not None:
            record.task.stream.wanted.pop(entry.index, None)
        if not record.needed and entry.count in self.records:
            self._drop(entry.count)

    # ------------------------------------------------------------------ a task ends
    def finished(self, task: Task, values: list[Value]) -> bool:
        """Its results are settled. Whether its arguments, which it has pinned, are held on to."""
        record = self.records.get(task.count)
        if record is None:
            record = Record(task)
        if task.stream is None:
            # Anew: a second run may have failed, or may have returned something small this time.
            stored = self.refs.stored
            record.alive = {entry.index for entry in task.returns if entry._id in stored}
            if record.alive:
                for entry in task.returns:
                    if entry.index not in record.alive and entry.value is not None and is_stored(entry.value):
                        entry.value = None  # it was freed as soon as it came
        if task.stream is None or not task.stream.wanted:  # else it runs again at once, maybe there
            self._free_strays(task.count, record)
        if task.stream is not None:
            self._let_go_of_what_did_not_come(task)
            self._fail_what_did_not_come(record, task, values)
        if not record.needed:
            if task.count in self.records:
                self._drop(task.count)
            return False
        self.records[task.count] = record
        takes = not record.closed and record.task is not None
        if takes:
            takes = self._close(record, task)
        if task.stream is not None:
            for entry in list(task.stream.wanted.values()):
                self.wanted(entry)  # it got lost when this run had passed it
        return takes

    def _close(self, record: Record, task: Task) -> bool:
        record.closed = True
        if isinstance(task, Delivery) and task.maker is None:
            record.task, record.why = None, NO_MAKER
            return False
        if task.retries == 0 or task.cancelled or self._ended:
            record.task = None
            record.why = TASK_CANCELLED if task.cancelled else RETRIES_DISABLED
            return False
        self._hold_arguments(record, task)
        return True

    def _let_go_of_what_did_not_come(self, task: Task) -> None:
        """Lost items that were let go of while this run might still have made them; it ended before it came to them."""
        assert task.stream is not None
        for index, entry in list(task.stream.lacking.items()):
            if not (entry.held or entry.pins or entry.borrowers):
                del task.stream.lacking[index]
                self.refs.free(entry)

    def _fail_what_did_not_come(self, record: Record, task: Task, values: list[Value]) -> None:
        """Items for which this run of their generator was begun."""
        stream = task.stream
        assert stream is not None
        expected, stream.expected = stream.expected, []
        for entry in expected:
            if stream.wanted.pop(entry.index, None) is not None:
                failed = bool(values) and is_failure(values[0])
                value = values[0] if failed else self.failure(record, entry, RUN_FAILED)
                record.alive.discard(entry.index)
                stream.lacking.pop(entry.index, None)
                self.refs.settle_failed(entry, value)

    def _hold_arguments(self, record: Record, task: Task) -> None:
        payload = task.payload
        size = RECORD_BYTES + (len(payload) if type(payload) is bytes else _weight(payload))
        for entry in [*(entry for _, entry in task.refs or ()), *(task.nested or ())]:
            size += REFERENCE_BYTES
            maker = self.records.get(entry.count) if entry.owner == self.refs.me else None
            if entry.index == ACTOR_INDEX:
                self.refs.unpin(entry)  # an actor ends with its last handle; that its name is here is none
            elif maker is not None and maker.closed and not self.why_not(maker):
                maker.dependents += 1
                record.makers.append(entry.count)
                self.refs.unpin(entry)
            else:
                record.pinned.append(entry)
                size += _weight(entry.value)
        record.bytes = size
        self.bytes += size
        self._order[task.count] = record
        while self.bytes > self.most_bytes and self._order:
            count, oldest = self._order.popitem(last=False)
            self._order[count] = oldest
            self._make_stub(count, oldest)

    def _make_stub(self, count: int, record: Record) -> None:
        record.task, record.why = None, LINEAGE_EVICTED
        self._drop_all(self._release(count, record))

    # ------------------------------------------------------------------ a record goes
    def _drop(self, count: int) -> None:
        self._drop_all([count])

    def _drop_all(self, doomed: list[int]) -> None:
        """And what was kept for their sake: in a loop, as chains may be long."""
        while doomed:
            count = doomed.pop()
            record = self.records.pop(count, None)
            if record is not None:
                self._free_strays(count, record)
                doomed += self._release(count, record)

    def _release(self, count: int, record: Record) -> list[int]:
        """Let go of its arguments. Returns the tasks whose records nobody needs any more."""
        if self._order.pop(count, None) is not None:
            self.bytes -= record.bytes
        record.bytes = 0
        pinned, record.pinned = record.pinned, []
        makers, record.makers = record.makers, []
        for entry in pinned:
            self.refs.unpin(entry)
        unneeded: list[int] = []
        for some in makers:
            maker = self.records.get(some)
            if maker is not None:
                maker.dependents -= 1
                if not maker.needed:
                    unneeded.append(some)
        return unneeded

    def _free_strays(self, count: int, record: Record) -> None:
        strays, record.strays = record.strays, []
        self.free_unless_there(count, strays)

    def free_unless_there(self, count: int, places: Iterable[tuple[NodeId, int]]) -> None:
        """What lies in these places, and is not the object as it is known."""
        for node, index in places:
            if not self.is_there(count, index, node):
                self.refs.free_at(node, object_id(self.refs.legacy.task_id(count), index))

    def is_there(self, count: int, index: int, node: NodeId) -> bool:
        """Whether this is a known place of the result."""
        entry = self.refs.stored.get(object_id(self.refs.legacy.task_id(count), index))
        return entry is not None and entry.value is not None and node in place(entry.value)[1]

    def end(self) -> None:
        """The session is over: nothing is made again."""
        self._ended = True
        self.again.clear()
        self.deliveries.end()
        for count, record in list(self._order.items()):
            self._make_stub(count, record)


def _weight(value: Value | None) -> int:
    """The bytes that an argument takes for as long as it is kept."""
    if value is None:
        return 0
    value = bare(value)
    if type(value) is bytes:
        return len(value)
    if is_stored(value):
        return place(value)[0]
    if is_failure(value):
        return 0
    return sum(len(part) for part in value if isinstance(part, (bytes, memoryview)))
