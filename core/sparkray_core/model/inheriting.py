"""A driver takes over what a worker of its job owned when it died: its shared objects, and the tasks that make them.

They become objects of its own, under their old ids. What has no value is to `Lineage` as something lost: its task runs
as soon as somebody wants it, and before it those that make its arguments.
"""

from __future__ import annotations

from sparkray_core.ids import FunctionId, ObjectId, ProcessId, count_of, object_id, owner_of, raylet_of
from sparkray_core.messages import (
    HOLDS,
    STORED,
    AddBorrowers,
    InheritObjects,
    Message,
    RecordedObject,
    RecordedTask,
    Value,
)
from sparkray_core.model import records
from sparkray_core.model.book import Book
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import Entry, is_stored, place
from sparkray_core.model.leasing import Leasing
from sparkray_core.model.references import ACTOR_INDEX, References
from sparkray_core.model.tasks import Function, Task

_REASONS = {
    records.RUNS_ONCE: "its task may run once only; give it max_retries, if it may run again",
    records.OF_AN_ACTOR: "it is the result of an actor's method, which is not called again in the name of another",
    records.OF_A_GENERATOR: "a generator is not run again in the name of another",
    records.CANCELLED: "its task was cancelled",
    records.FORGOTTEN: "how to make it was forgotten to save memory; raise the setting lineage_bytes",
    records.NO_ROOM: "the GCS had no room for a record of how it is made",
}


class Inheriting:
    def __init__(self, book: Book, leasing: Leasing) -> None:
        self.book = book
        self.refs = book.refs
        self.leasing = leasing

    def inherit(self, message: InheritObjects, effects: list[Effect]) -> list[tuple[ProcessId, Message]]:
        """Returns what had been said of these objects before, and is to be heard now."""
        legacy = self.refs.legacy
        legacy.begin(message.owner, message.why)
        entries = {some: legacy.take(some) for some, _, _ in message.objects}
        for entry in entries.values():
            legacy.hold(entry, effects)
        functions = {some: Function(some, name, blob) for some, name, blob in message.functions}
        makers = self._inherit_tasks(message, functions, entries, effects)
        for recorded in message.objects:
            self._settle(recorded, entries[recorded[0]], makers, effects)
        self._end_the_rest(message.owner, effects)
        return legacy.early.pop(message.owner, [])

    # ------------------------------------------------------------------ tasks
    def _inherit_tasks(
        self,
        message: InheritObjects,
        functions: dict[FunctionId, Function],
        entries: dict[ObjectId, Entry],
        effects: list[Effect],
    ) -> set[int]:
        """In the order in which they were submitted: those that make arguments come first. Returns their numbers."""
        results: dict[int, list[Entry]] = {}
        for some, value, _ in message.objects:
            if not (_is_safe(value) or _is_safe(entries[some].value)):
                results.setdefault(count_of(some), []).append(entries[some])
        made: set[int] = set()
        for described in sorted(message.tasks, key=lambda task: task[0]):
            function = functions.get(described[1])
            of = results.get(described[0])
            if function is None or not of:
                continue
            number = of[0].count
            known = self.book.lineage.records.get(number)
            if known is not None:  # word of more of its results came later
                known.alive.update(entry.index for entry in of)
                if known.task is not None:
                    returns = list(known.task.returns)
                    for entry in of:
                        returns[entry.index] = entry
                    known.task.returns = tuple(returns)
                made.add(number)
                continue
            task = self._task(message.owner, described, function, entries, effects)
            story = f"was of process {message.owner.hex()}, which is gone: {message.why}"
            self.book.lineage.inherited(task, of, story)
            made.add(task.count)
        return made

    def _task(
        self,
        owner: ProcessId,
        described: RecordedTask,
        function: Function,
        entries: dict[ObjectId, Entry],
        effects: list[Effect],
    ) -> Task:
        count, _, payload, refs, nested, num_returns, retries, resources, env, priority, max_calls, where = described
        first = object_id(owner + count.to_bytes(8, "big"))
        number = self.refs.legacy.number(first)
        returns: list[Entry] = []
        for index in range(num_returns):
            some = object_id(first[:24], index)
            entry = entries.get(some)
            if entry is None:  # it was never lent, so nobody has it
                entry = Entry(self.refs.me, number, index)
                entry._id, entry.held = some, False
            returns.append(entry)
        worn_by = (function.id, max_calls) if max_calls else None
        shape = self.leasing.shape(resources, retries != 0, env, priority, worn_by, where)
        arguments = [(at, self._argument(some, effects)) for at, some in refs]
        inside = [self._argument(some, effects) for some in nested]
        return Task(number, function, payload, arguments or None, inside or None, returns, retries, shape)

    def _argument(self, some: ObjectId, effects: list[Effect]) -> Entry:
        """We borrow it from now on; the GCS still does, too."""
        entry = self.refs.find(some)
        entry.pins += 1
        if owner_of(some) in self.refs.heirs and entry.index != ACTOR_INDEX:
            self.refs.legacy.registers(entry, effects)
        elif entry.owner != self.refs.me:
            entry.registered += 1
            effects.append(Send(entry.owner, AddBorrowers([(some, self.refs.me)])))
        return entry

    # ------------------------------------------------------------------ objects
    def _settle(self, recorded: RecordedObject, entry: Entry, makers: set[int], effects: list[Effect]) -> None:
        some, value, why = recorded
        value = without_dead_nodes(self.refs, value)
        waited = bool(entry.waiters)
        entry.asked = None
        if value is not None:
            borrow_inside(self.refs, value, effects)
            entry.value = None
            self.refs.settle(entry, value, effects)
            return
        if _is_safe(entry.value):
            return  # it had been told here, before it was recorded
        entry.value = None
        if entry.count not in makers:
            reason = _REASONS.get(why, _REASONS[records.NO_ROOM])
            self.refs.settle(entry, self.refs.legacy.not_inherited(some, reason), effects)
        elif waited:
            self.refs.ask(entry, effects)

    def _end_the_rest(self, owner: ProcessId, effects: list[Effect]) -> None:
        """Of what this owner had, and that was not recorded: a value that had been told here is ours from now on, since
        others may have it, too. What lies in stores goes with its owner."""
        for entry in list(self.refs.exported.values()):
            if entry.owner == owner and entry.index != ACTOR_INDEX:
                if entry.value is None:
                    entry.registered = 0
                    self.refs.settle(entry, self.refs.legacy.not_inherited(entry.id), effects)
                elif is_stored(entry.value):
                    entry.registered = 0
                else:
                    self.refs.legacy.hold(self.refs.legacy.take(entry.id), effects)
                    entry.seen = True  # whoever gets it looks at it, if it is a failure


def _is_safe(value: Value | None) -> bool:
    """It is there, and cannot get lost."""
    return value is not None and not is_stored(value)


def without_dead_nodes(refs: References, value: Value | None) -> Value | None:
    """The value with only those places that are left. None: there are none."""
    if value is None or not is_stored(value):
        return value
    size, nodes = place(value)
    left = tuple(node for node in nodes if not refs.is_gone(raylet_of(node)))
    if not left:
        return None
    stored: Value = (STORED, size, left)
    return (HOLDS, stored, value[2]) if value[0] == HOLDS else stored


def borrow_inside(refs: References, value: Value, effects: list[Effect]) -> None:
    """Say that we hold what is inside; `settle` counts on it."""
    for some in records.inside_value(value):
        owner = owner_of(some)
        if owner != refs.me and owner not in refs.heirs:
            effects.append(Send(owner, AddBorrowers([(some, refs.me)])))
