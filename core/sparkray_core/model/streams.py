"""Streams: what a remote generator yields, one object after the other, as the process has it that made the call.

    worker --StreamItems--> unread items, in order and each once --take--> references
      ^-----StreamRead----- how many were taken, when the worker waits for that; or that nobody takes any more
    worker --TaskResults--> the last items, and the end

The items are results of the task, with the numbers 1, 2, ...; number 0 is its end: None, or what ended it. A task that
is run again after a crash is told how many items there are: it replays, and sends what comes after these. (So the same
item may have been stored by two runs, on two nodes: see `strays`.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from sparkray_core.ids import NodeId, ProcessId
from sparkray_core.messages import HOLDS, STREAM_CLOSED, STREAM_GATHERED, STREAM_UNREAD, StreamRead, Value
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import Entry, Waiter, is_failure, is_stored, place
from sparkray_core.model.references import References

_WAITING: Value = b""  # what `Stream.value` is when there is something to take: anything but None


class Stream:
    """One task's items. For those who wait it looks like an `Entry`: its value is there when `take` gives something."""

    __slots__ = (
        "ahead",
        "arrived",
        "count",
        "early",
        "end",
        "expected",
        "gathers",
        "items",
        "lacking",
        "late",
        "over",
        "owner",
        "position",
        "taken",
        "told",
        "unwanted",
        "waiters",
        "wanted",
        "worker",
    )

    def __init__(self, owner: ProcessId, count: int, ahead: int = 0, gathers: bool = False) -> None:
        """
        Args:
            ahead: how many items may lie unread before the task pauses; 0: without limit.
            gathers: nobody takes; the end is one value with all the items' references inside (num_returns="dynamic").
        """
        self.owner = owner
        self.count = count
        self.ahead = ahead
        self.gathers = gathers
        self.end = Entry(owner, count)
        self.end.held = gathers
        self.items: deque[Value | Entry] = deque()  # unread. An entry where somebody must be told when it is freed
        self.arrived = 0  # items that came, in order
        self.position = 0  # the last item that the present run has sent: it may begin with some that had come before
        self.lacking: dict[int, Entry] = {}  # items that got lost, by number
        self.wanted: dict[int, Entry] = {}  # of these, those that somebody waits for
        self.expected: list[Entry] = []  # and those of them for which the present run began early enough
        self.taken = 0
        self.over = False  # no more will come
        self.unwanted = 0  # STREAM_CLOSED or STREAM_UNREAD once the generator object died: what comes is let go
        self.waiters: list[Waiter] | None = None
        self.worker: ProcessId | None = None  # that runs the task
        self.told = 0  # items taken, as far as that worker knows; below zero: it knows that nobody takes any more
        self.early: dict[int, list[Value]] = {}  # batches that overtook others, by how many items precede them
        self.late: tuple[int, list[Any], Any] | None = None  # the task's answer, if it overtook items

    @property
    def value(self) -> Value | None:
        return _WAITING if self.items or self.over else None

    def take(self) -> Entry | None:
        """The next item, from now on held by a reference. None: not there yet, or (when `over`) the end."""
        if not self.items:
            return None
        item = self.items.popleft()
        self.taken += 1
        if type(item) is Entry:
            return item
        entry = Entry(self.owner, self.count, self.taken)
        entry.value = item  # type: ignore[assignment]
        return entry

    def unread(self) -> list[Entry]:
        """The entries among the unread items."""
        return [item for item in self.items if type(item) is Entry]

    def __repr__(self) -> str:
        return f"Stream({self.count}: {self.taken} of {self.arrived} taken{', over' if self.over else ''})"


class Streams:
    """What becomes of the items of an owner's streams."""

    def __init__(self, me: ProcessId, refs: References) -> None:
        self.me = me
        self.refs = refs

    def begin(self, stream: Stream, worker: ProcessId) -> tuple[int, int, int]:
        """The task is pushed: what its worker has to know, instead of a number of returns.

        It skips the items that came before, up to the first that got lost and is waited for.
        """
        stream.worker = worker
        stream.position = stream.arrived
        stream.expected = list(stream.wanted.values())
        if stream.expected:
            stream.position = min(entry.index for entry in stream.expected) - 1
        if stream.over:
            stream.told = 0
            return (stream.position, 0, 0)
        stream.told = stream.taken if stream.expected else stream.unwanted or stream.taken
        return (stream.position, stream.told, STREAM_GATHERED if stream.gathers else stream.ahead)

    # ------------------------------------------------------------------ items come
    def add(self, stream: Stream, first: int, values: list[Value], effects: list[Effect]) -> None:
        """Items from the worker that runs the task; `first` items precede them."""
        if first > stream.position:
            stream.early[first] = values
            return
        before = stream.arrived
        self._append(stream, first, values, effects)
        while stream.early and (more := stream.early.pop(stream.position, None)) is not None:
            self._append(stream, stream.position, more, effects)
        if stream.arrived > before:
            self._notify(stream)
            self.tell(stream, effects)

    def _append(self, stream: Stream, first: int, values: Sequence[Value], effects: list[Effect]) -> None:
        known = stream.position - first  # an interrupt between sending and counting makes a worker repeat itself
        for value in values[:known] if known else ():
            self.refs.decline(value)
        for value in values[known:] if known else values:
            stream.position += 1
            if stream.position <= stream.arrived:
                self._replay(stream, value, effects)
                continue
            if stream.over:
                self._discard(stream, stream.position, value)
                self._end_unless_wanted(stream, effects)
                continue
            stream.arrived += 1
            if stream.unwanted:
                self._discard(stream, stream.arrived, value)
            elif stream.gathers or (type(value) is tuple and (value[0] == HOLDS or is_stored(value))):
                entry = Entry(self.me, stream.count, stream.arrived)
                if stream.gathers:
                    self.refs.export(entry)
                self.refs.settle(entry, value, effects)
                stream.items.append(entry)
            else:
                stream.items.append(value)

    def _replay(self, stream: Stream, value: Value, effects: list[Effect]) -> None:
        """The item that comes next in this run had come before, and got lost; or only others did."""
        entry = stream.lacking.pop(stream.position, None)
        stream.wanted.pop(stream.position, None)
        if entry is None or entry.value is not None:
            self._discard(stream, stream.position, value)
        else:
            self.refs.settle(entry, value, effects)
            if self.refs.lineage is not None and not is_stored(value):
                self.refs.lineage.not_stored(entry)
        if stream.over or stream.unwanted:
            self._end_unless_wanted(stream, effects)

    def _end_unless_wanted(self, stream: Stream, effects: list[Effect]) -> None:
        """Nobody reads what comes now: the worker is told so once it has made again what it still can of what is
        waited for. It may be a generator that never ends."""
        if stream.worker is None or stream.told < 0 or any(index > stream.position for index in stream.wanted):
            return
        stream.told = STREAM_CLOSED if stream.over else stream.unwanted
        effects.append(Send(stream.worker, StreamRead(stream.count, stream.told)))

    def complete(self, stream: Stream, values: list[Value]) -> bool:
        """Whether all items that precede those in a task's answer have come."""
        return len(values) == 1 or values[1] <= stream.position  # type: ignore[operator]

    def last(self, stream: Stream, values: list[Value], effects: list[Effect]) -> list[Value]:
        """Take the last items out of a task's answer: (end, how many items precede these, items...)."""
        if len(values) > 2:
            self._append(stream, values[1], values[2:], effects)  # type: ignore[arg-type]
        return values[:1]

    # ------------------------------------------------------------------ the end
    def close(self, stream: Stream) -> None:
        """The task's end is settled: nothing more comes, except the failure if it did not end by itself."""
        again, stream.over = stream.over, True
        self._give_up(stream)
        end = stream.end.value
        assert end is not None
        if again:
            pass  # it was over, and ran for the sake of items that had got lost
        elif stream.gathers:
            self._let_go_of_unread(stream)
        elif is_failure(end) and not stream.unwanted:
            stream.arrived += 1
            stream.items.append(end)
            stream.end.seen = True  # as the last item it is
        self._notify(stream)

    def lost(self, stream: Stream, node: NodeId) -> None:
        """The worker died. It tells of a stored item at once, so it may have left one that we do not know of."""
        self.refs.strays.note(stream.count, stream.position + 1, (node,))
        self._give_up(stream)

    def _give_up(self, stream: Stream) -> None:
        """The run, and what it has sent that other items of it should precede."""
        stream.worker = None
        for first, values in stream.early.items():
            self.refs.strays.late(stream.count, first, values)
        stream.early.clear()
        if stream.late is not None:
            _, answer, _ = stream.late
            self.refs.strays.late(stream.count, answer[1], answer[2:])
            stream.late = None

    # ------------------------------------------------------------------ the reader
    def tell(self, stream: Stream, effects: list[Effect]) -> None:
        """Let the worker go on if it is as far ahead as it may be, by what it knows, and more has been read since."""
        paused = stream.ahead and stream.arrived >= stream.told + stream.ahead
        if paused and stream.taken > stream.told and stream.worker is not None and not stream.unwanted:
            stream.told = stream.taken
            effects.append(Send(stream.worker, StreamRead(stream.count, stream.taken)))

    def drop(self, stream: Stream, effects: list[Effect]) -> None:
        """The generator object died. Unread items go.

        A task that somebody has begun to read, or that would wait for its reader, ends at its next `yield`, as a
        generator does that nobody holds any more. One that was never read runs on to its end, for its effects.
        """
        if stream.over:
            self._let_go_of_unread(stream)
            return
        stream.unwanted = STREAM_CLOSED if stream.taken or stream.ahead else STREAM_UNREAD
        self._let_go_of_unread(stream)
        self._end_unless_wanted(stream, effects)

    def _let_go_of_unread(self, stream: Stream) -> None:
        entries = stream.unread()
        stream.items.clear()
        self.refs.drop(entries)

    def _discard(self, stream: Stream, index: int, value: Value) -> None:
        """Nobody will read it: free what it has in a store, but for what is in use, and what it holds."""
        self.refs.decline(value)
        if is_stored(value) and self.refs.lineage is not None:
            nodes = [*place(value)[1], *self.refs.strays.forget(stream.count, index)]
            self.refs.lineage.free_unless_there(stream.count, [(node, index) for node in nodes])

    @staticmethod
    def _notify(stream: Stream) -> None:
        if stream.waiters:
            waiters, stream.waiters = stream.waiters, None
            for waiter in waiters:
                waiter.entry_ready(stream)  # type: ignore[arg-type]
