"""The owner's model of streams: items in order and once, what is freed, when the worker may go on."""

from __future__ import annotations

import pytest

from sparkray_core.ids import FunctionId, LeaseId, NodeId, ObjectId, ProcessId, node_of, object_id, raylet_of, task_id
from sparkray_core.messages import (
    FAILED,
    HOLDS,
    STORED,
    STREAM_CLOSED,
    STREAM_GATHERED,
    STREAM_UNREAD,
    ActorChanged,
    CreateActor,
    DropBorrowers,
    FreeObjects,
    LeaseGranted,
    LeaseLost,
    Message,
    PushCalls,
    PushTasks,
    Returns,
    StreamItems,
    StreamRead,
    TaskResults,
    Value,
)
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import Entry
from sparkray_core.model.invariants import check_owner
from sparkray_core.model.owner import Actor, Function, Owner, Task
from sparkray_core.model.streams import Stream

NODE = NodeId(b"node-one")
OTHER_NODE = NodeId(b"node-two")
ME = ProcessId(NODE + b"driver..")
WORKER = ProcessId(NODE + b"worker-1")
SECOND = ProcessId(NODE + b"worker-2")
REMOTE = ProcessId(OTHER_NODE + b"worker-3")
RAYLET = raylet_of(NODE)
F = Function(FunctionId(b"f" * 16), "f", b"pickle of f")
END = b"none"


class Bench:
    """An owner with one stream, and short words for what happens to it."""

    def __init__(self, ahead: int = 0, retries: int = 3, gathers: bool = False, worker: ProcessId = WORKER) -> None:
        self.owner = Owner(ME)
        self.stream = Stream(ME, 1, ahead, gathers)
        shape = self.owner.leasing.shape({"CPU": 1000}, retries != 0)
        self.task = Task(1, F, b"args", None, None, [self.stream.end], retries, shape)
        self.task.stream = self.stream
        self.leases = 0
        self.held: list[Entry] = []
        self.owner.submit([self.task], 0.0)
        self.pushed = self.lease(worker)

    def lease(self, worker: ProcessId) -> Returns:
        """Grant one; what the worker is told about the stream."""
        self.leases += 1
        self.granted_by = raylet_of(node_of(worker))
        granted = LeaseGranted(LeaseId(task_id(ME, self.leases)), worker)
        (push,) = [message for message in self.hear(granted) if isinstance(message, PushTasks)]
        return push.tasks[0][2]

    def lose(self) -> list[Message]:
        return self.hear(LeaseLost(LeaseId(task_id(ME, self.leases)), "killed by SIGKILL"), self.granted_by)

    def hear(self, message: Message, sender: ProcessId = RAYLET) -> list[Message]:
        return self._sent(self.owner.handle(sender, message, 0.0))

    def items(self, first: int, *values: Value, sender: ProcessId = WORKER) -> list[Message]:
        return self.hear(StreamItems(1, first, list(values)), sender)

    def done(self, first: int, *values: Value, end: Value = END, sender: ProcessId = WORKER) -> list[Message]:
        return self.hear(TaskResults([(1, [end, first, *values], None)], 1e-5), sender)  # type: ignore[list-item]

    def take(self) -> Value | None:
        entry, effects = self.owner.take(self.stream)
        if entry is not None:
            self.held.append(entry)
        self.sent = self._sent(effects)
        return None if entry is None else entry.value

    def take_all(self) -> list[Value]:
        values: list[Value] = []
        while (value := self.take()) is not None:
            values.append(value)
        return values

    def drop(self) -> list[Message]:
        return self._sent(self.owner.drop_stream(self.stream))

    def drop_items(self) -> list[Message]:
        gone, self.held = self.held, []
        return self._sent(self.owner.drop(gone))

    def _sent(self, effects: list[Effect]) -> list[Message]:
        check_owner(self.owner, [*self.held, *self.stream.unread()])
        return [effect.message for effect in effects if isinstance(effect, Send)]


def item_id(index: int) -> ObjectId:
    return object_id(task_id(ME, 1), index)


def stored(node: NodeId = NODE) -> Value:
    return (STORED, 1000, (node,))


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("over", [True, False])
def test_the_last_items_of_a_run_that_was_given_up_go_where_they_lie(over: bool) -> None:
    bench = Bench(retries=0 if over else 3, worker=REMOTE)
    bench.lose()
    inner = object_id(task_id(SECOND, 6))

    sent = bench.done(4, stored(OTHER_NODE), (HOLDS, b"b", (inner,)), sender=REMOTE)

    assert DropBorrowers([(inner, ME)]) in sent
    if not over:
        bench.lease(SECOND)
        sent = bench.done(0, sender=SECOND)
    assert item_id(5) in [some for message in sent if isinstance(message, FreeObjects) for some in message.objects]


def test_the_last_items_of_a_run_go_with_it_that_came_before_others_and_then_died() -> None:
    bench = Bench(worker=REMOTE)
    bench.done(1, stored(OTHER_NODE), sender=REMOTE)
    bench.lose()
    bench.lease(SECOND)
    sent = bench.done(0, sender=SECOND)
    assert item_id(2) in [some for message in sent if isinstance(message, FreeObjects) for some in message.objects]


def test_items_come_in_order_and_then_the_end(bench: Bench) -> None:
    assert bench.pushed == (0, 0, 0)
    bench.items(0, b"a", b"b")
    assert bench.take_all() == [b"a", b"b"]
    bench.items(2, b"c")
    bench.done(3, b"d")
    assert bench.take_all() == [b"c", b"d"]
    assert bench.stream.over
    assert bench.stream.end.value == END
    assert [entry.index for entry in bench.held] == [1, 2, 3, 4]
    assert not bench.owner.book.tasks


def test_messages_that_overtake_others_wait_for_them(bench: Bench) -> None:
    bench.items(2, b"c")
    bench.done(3, b"d")
    assert bench.take_all() == []
    assert not bench.stream.over
    bench.items(0, b"a", b"b")
    assert bench.take_all() == [b"a", b"b", b"c", b"d"]
    assert bench.stream.over


def test_items_that_are_sent_twice_count_once(bench: Bench) -> None:
    bench.items(0, b"a", b"b")
    bench.items(1, b"b", b"c")
    bench.done(2, b"c", b"d")
    assert bench.take_all() == [b"a", b"b", b"c", b"d"]


def test_who_waits_hears_of_the_next_item_and_of_the_end(bench: Bench) -> None:
    heard: list[object] = []

    class Waiter:
        missing = 1

        def entry_ready(self, entry: Entry) -> None:
            heard.append(entry)

    bench.stream.waiters = [Waiter()]
    bench.items(1, b"b")
    assert not heard
    bench.items(0, b"a")
    assert heard == [bench.stream]
    bench.take_all()
    assert bench.stream.value is None
    bench.stream.waiters = [Waiter()]
    bench.done(2)
    assert heard == [bench.stream, bench.stream]


def test_a_failure_of_the_system_is_the_last_item() -> None:
    bench = Bench(retries=0)
    bench.items(0, b"a")
    bench.lose()
    first, failure = bench.take_all()
    assert first == b"a"
    assert failure[:2] == (FAILED, "WorkerCrashedError")
    assert bench.stream.end.value == failure


def test_a_second_run_is_told_what_is_there(bench: Bench) -> None:
    bench.items(0, b"a", b"b")
    bench.take()
    bench.lose()
    assert bench.lease(SECOND) == (2, 1, 0)
    bench.items(2, b"c", sender=SECOND)
    bench.items(2, b"too late")
    bench.done(3, sender=SECOND)
    assert bench.take_all() == [b"b", b"c"]


def test_stored_items_are_freed_when_their_references_die(bench: Bench) -> None:
    bench.items(0, stored())
    bench.items(1, stored(OTHER_NODE))
    bench.take()
    assert bench.drop_items() == [FreeObjects([item_id(1)])]
    assert bench.drop() == [StreamRead(1, STREAM_CLOSED), FreeObjects([item_id(2)])]
    assert bench.items(2, stored()) == [FreeObjects([item_id(3)])]
    assert bench.done(3, stored()) == [FreeObjects([item_id(4)])]
    assert not bench.owner.refs.stored


def test_what_a_lost_run_left_in_a_store_goes_at_the_end() -> None:
    bench = Bench(worker=REMOTE)
    bench.items(0, stored(OTHER_NODE), sender=REMOTE)
    bench.lose()
    bench.lease(SECOND)
    bench.items(1, stored(OTHER_NODE), sender=REMOTE)  # was on its way
    bench.items(1, stored(), sender=SECOND)
    assert bench.done(2, sender=SECOND) == [FreeObjects([item_id(2)])]
    assert bench.take_all() == [stored(OTHER_NODE), stored()]


def test_what_a_second_run_stored_on_the_same_node_stays(bench: Bench) -> None:
    bench.lose()
    bench.lease(SECOND)
    bench.items(0, stored(), sender=SECOND)
    assert bench.done(1, sender=SECOND) == []
    assert bench.items(0, stored()) == []  # from the first run, late as can be
    assert bench.take_all() == [stored()]
    assert bench.drop_items() == [FreeObjects([item_id(1)])]


def test_references_in_items_are_held_as_long_as_the_item(bench: Bench) -> None:
    inner = object_id(task_id(REMOTE, 7))
    bench.items(0, (HOLDS, b"a", (inner,)))
    bench.items(1, (HOLDS, b"b", (inner,)))
    bench.take()
    assert bench.drop() == [StreamRead(1, STREAM_CLOSED)]
    assert bench.drop_items() == [DropBorrowers([(inner, ME)] * 2)]
    assert bench.items(2, (HOLDS, b"c", (inner,))) == [DropBorrowers([(inner, ME)])]


def test_the_worker_goes_on_when_it_is_as_far_ahead_as_it_knows() -> None:
    bench = Bench(ahead=3)
    assert bench.pushed == (0, 0, 3)
    bench.items(0, b"a", b"b")
    bench.take()
    assert bench.sent == []  # it may make one more by itself
    assert bench.items(2, b"c") == [StreamRead(1, 1)]
    bench.take()
    assert bench.sent == []
    assert bench.items(3, b"d") == [StreamRead(1, 2)]
    assert bench.items(4, b"e") == []
    bench.take()
    assert bench.sent == [StreamRead(1, 3)]


def test_a_stream_that_was_never_read_runs_on_and_one_that_was_is_closed() -> None:
    bench = Bench()
    bench.items(0, b"a")
    assert bench.drop() == [StreamRead(1, STREAM_UNREAD)]
    bench.lose()
    assert bench.lease(SECOND) == (1, STREAM_UNREAD, 0)
    bench = Bench()
    bench.items(0, b"a")
    bench.take()
    assert bench.drop() == [StreamRead(1, STREAM_CLOSED)]
    bench = Bench(ahead=2)
    assert bench.drop() == [StreamRead(1, STREAM_CLOSED)]


def test_gathered_items_live_as_long_as_the_value_that_refers_to_them() -> None:
    bench = Bench(gathers=True)
    assert bench.pushed == (0, 0, STREAM_GATHERED)
    bench.held = [bench.stream.end]
    bench.items(0, stored())
    bench.done(1, b"b", end=(HOLDS, b"generator", (item_id(1), item_id(2))))
    assert [entry.index for entry in bench.stream.end.contained or ()] == [1, 2]
    assert not bench.stream.items
    assert bench.drop_items() == [FreeObjects([item_id(1)])]
    assert not bench.owner.refs.exported


def test_cancelled_before_it_ran() -> None:
    owner = Owner(ME)
    stream = Stream(ME, 1)
    task = Task(1, F, b"", None, None, [stream.end], 0, owner.leasing.shape({"CPU": 1000}, False))
    task.stream = stream
    owner.submit([task], 0.0)
    owner.cancel(1, force=False, recursive=True, now=0.0)
    assert stream.over
    (failure,) = stream.items
    assert failure[:2] == (FAILED, "TaskCancelledError")  # type: ignore[index]


def test_an_actors_death_is_the_last_item_of_its_streams() -> None:
    owner = Owner(ME)
    actor, _ = owner.calls.create(9, lambda some: CreateActor(some, "A", F.id, b"", b"", None, {}, {}, 0))
    stream = Stream(ME, 1)
    call = Task(1, F, b"", None, None, [stream.end], 0, None, actor)
    call.stream = stream
    owner.submit([call], 0.0)
    effects = owner.handle(RAYLET, alive(actor), 0.0)
    assert [e.message for e in effects if isinstance(e, Send)] == [
        PushCalls(actor.id, [(1, F.id, (0, 0, 0), b"", None)])
    ]
    owner.handle(WORKER, StreamItems(1, 0, [stored()]), 0.0)
    effects = owner.handle(RAYLET, ActorChanged(actor.id, "dead", 0, None, "killed by SIGKILL", None), 0.0)
    assert Send(RAYLET, FreeObjects([item_id(2)])) in effects  # which it may have stored without telling us
    assert [item.value if isinstance(item, Entry) else item[1] for item in stream.items] == [stored(), "ActorDiedError"]


def alive(actor: Actor) -> ActorChanged:
    return ActorChanged(actor.id, "alive", 0, WORKER, "", None)
