"""What the stories in tests/scenarios do not tell of a node: its workers, its CPU on loan, its store's corners."""

from __future__ import annotations

from typing import Any

import pytest

from sparkray_core.ids import HEAD, HEAD_NODE, ActorId, FunctionId, ProcessId
from sparkray_core.messages import (
    ActorLost,
    ActorUnplaced,
    AllocateObject,
    Answer,
    Ask,
    EndSession,
    ExitWorker,
    FreeObjects,
    FreeTransfer,
    LeaseGranted,
    LeaseRefused,
    Message,
    NodeBeat,
    NodeTable,
    NotHere,
    ObjectAllocated,
    ObjectGone,
    ObjectPinned,
    OrderTaken,
    PinObject,
    ProcessGone,
    PullObject,
    ReclaimLeases,
    RegisterProcess,
    RequestLeases,
    RetireWorkers,
    ReturnLeases,
    SealObjects,
    StartActor,
    UnpinObjects,
    WorkerBlocked,
    WorkerUnblocked,
)
from sparkray_core.model.effects import (
    DropSpilled,
    KillWorker,
    PunchHole,
    RestoreObject,
    Send,
    SendChunk,
    SpillObjects,
    StartWorker,
    Stop,
    WakeAt,
)
from sparkray_core.model.events import (
    ClockTicked,
    ConnectionLost,
    PeerLost,
    Received,
    Restored,
    RestoreFailed,
    Spilled,
    Undelivered,
    WorkerExited,
)
from sparkray_core.model.invariants import check
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.moves import IllegalMove
from sparkray_core.model.node import Node
from sparkray_core.model.node_workers import WorkerState
from sparkray_core.testing.builders import (
    a_node,
    an_object,
    lease_id,
    node_id,
    node_info,
    process_id,
    raylet,
    register_workers,
)

A = node_id("a")
DRIVER = process_id(A, "driver")
OTHER = process_id(A, "other")
ONE = {"CPU": 1000}


class Bench:
    """A node with two drivers; what it wishes for, without wake-ups and beats."""

    def __init__(self, limits: NodeLimits | None = None, **facts: Any) -> None:
        self.node = a_node("a", limits, **facts)
        self.now = 0.0
        self.workers = register_workers(self.node, self.node.start(0.0), 0.0)
        for driver in (DRIVER, OTHER):
            self.say(driver, RegisterProcess("driver", 1))

    def say(self, sender: ProcessId, message: Message) -> list[Any]:
        return self.event(Received(sender, message))

    def event(self, event: Any) -> list[Any]:
        effects = self.node.handle(event, self.now)
        check(self.node)
        return [
            effect
            for effect in effects
            if not isinstance(effect, WakeAt)
            and not (isinstance(effect, Send) and isinstance(effect.message, NodeBeat))
        ]

    def lease(self, *counts: int, owner: ProcessId = DRIVER, cpus: float = 1) -> list[Any]:
        leases = [lease_id(owner, count) for count in counts]
        resources = {"CPU": round(cpus * 1000)} if cpus else {}
        return self.say(owner, RequestLeases(leases, resources, []))

    def lease_gpu(self, count: int) -> ProcessId:
        """And a CPU. The worker, which has confirmed the GPU."""
        leases = [lease_id(DRIVER, count)]
        (order,) = self.say(DRIVER, RequestLeases(leases, {"CPU": 1000, "GPU": 1000}, []))
        return granted(self.say(order.to, OrderTaken()))[0]

    def store(self, count: int, size: int, owner: ProcessId = DRIVER) -> int:
        """Allocate and seal; where it is."""
        some = an_object(owner, count)
        (answer,) = self.say(owner, AllocateObject(some, size))
        assert isinstance(answer.message, ObjectAllocated)
        self.say(owner, SealObjects([some]))
        return answer.message.offset


def granted(effects: list[Any]) -> list[ProcessId]:
    return [e.message.worker for e in effects if isinstance(e, Send) and isinstance(e.message, LeaseGranted)]


# ---------------------------------------------------------------------------------- workers
def test_blocked_worker_lends_its_cpu_and_takes_it_back_at_once() -> None:
    bench = Bench(CPU=1)
    (first,) = granted(bench.lease(1))
    assert bench.lease(2) == []

    (start,) = bench.say(first, WorkerBlocked())
    assert bench.say(first, WorkerBlocked()) == []  # once
    assert isinstance(start, StartWorker)
    second = granted(bench.say(start.worker, RegisterProcess("worker", 2)))
    assert second == [start.worker]

    bench.say(first, WorkerUnblocked())
    assert bench.node.claims.available == {"CPU": -1000}
    assert bench.lease(3) == []
    bench.say(DRIVER, ReturnLeases([lease_id(DRIVER, 2)]))
    assert bench.node.claims.available == {}
    assert granted(bench.say(DRIVER, ReturnLeases([lease_id(DRIVER, 1)]))) != []


def test_gpu_of_a_blocked_worker_is_not_lent() -> None:
    bench = Bench(CPU=1, GPU=1)
    worker = bench.lease_gpu(1)

    bench.say(worker, WorkerBlocked())

    assert bench.node.claims.available == {"CPU": 1000}


def test_gpu_of_a_blocked_worker_is_asked_back_for_others() -> None:
    """Also where its owner has no other lease that holds anything."""
    bench = Bench(CPU=1, GPU=1)
    bench.say(bench.lease_gpu(1), WorkerBlocked())

    effects = bench.say(OTHER, RequestLeases([lease_id(OTHER, 1)], {"GPU": 1000}, []))

    assert effects == [Send(DRIVER, ReclaimLeases([lease_id(DRIVER, 1)]))]


def test_idle_workers_beyond_the_cpus_are_told_to_end_after_a_while() -> None:
    bench = Bench(CPU=1)
    effects = bench.lease(1, 2, 3, cpus=0)
    workers = granted(effects) + [
        worker
        for effect in effects
        if isinstance(effect, StartWorker)
        for worker in granted(bench.say(effect.worker, RegisterProcess("worker", 2)))
    ]
    assert len(workers) == 3

    assert bench.say(DRIVER, ReturnLeases([lease_id(DRIVER, n) for n in (1, 2, 3)])) == []
    bench.now += 0.9
    assert granted(bench.lease(4, 5, 6, cpus=0)) == workers[::-1]  # they were there still: nothing is forked
    assert bench.say(DRIVER, ReturnLeases([lease_id(DRIVER, n) for n in (4, 5, 6)])) == []
    bench.now += 1.1

    ended = [effect.message for effect in bench.event(ClockTicked()) if isinstance(effect, Send)]

    assert ended == [ExitWorker("it is not needed")] * 2
    bench.now = 60.0  # they go when nobody needs what they own, however long that takes
    assert not [effect for effect in bench.event(ClockTicked()) if isinstance(effect, KillWorker)]


def test_who_writes_to_the_dead_hears_that_they_are_dead() -> None:
    bench = Bench(CPU=1)
    bench.event(ConnectionLost(OTHER))

    (answer,) = bench.event(Undelivered(DRIVER, OTHER))

    assert answer == Send(DRIVER, ProcessGone(OTHER, "it closed its connection to the raylet"))
    assert bench.event(Undelivered(HEAD, OTHER)) == []


def test_a_start_that_always_fails_is_told_and_not_tried_for_ever() -> None:
    bench = Bench(NodeLimits(warm_workers=0, start_failures=3), CPU=1)
    effects = bench.lease(1)
    starts = 0
    while effects and isinstance(effects[0], StartWorker):
        starts += 1
        effects = bench.event(WorkerExited(effects[0].worker, "exit code 1"))

    assert starts == 3
    (refused,) = effects
    assert isinstance(refused.message, LeaseRefused)
    assert "exit code 1" in refused.message.why


def test_worker_that_never_registers_is_killed() -> None:
    node = a_node("a", CPU=1)
    (start,) = [effect for effect in node.start(0.0) if isinstance(effect, StartWorker)]

    effects = node.handle(ClockTicked(), 61.0)

    assert KillWorker(start.worker, "it did not register within 60 s") in effects


def test_worker_nobody_started_is_sent_away() -> None:
    bench = Bench(CPU=1)
    stranger = process_id(A, "stranger")

    (answer,) = bench.say(stranger, RegisterProcess("worker", 3))

    assert isinstance(answer.message, ExitWorker)


def test_worker_cannot_be_idle_after_it_was_told_to_leave() -> None:
    bench = Bench(CPU=1)
    worker = bench.node.workers.all[bench.workers[0]]
    bench.node.workers.kill(worker, "for a test", 0.0)

    with pytest.raises(IllegalMove, match="cannot go from leaving to idle"):
        bench.node.workers.move(worker, WorkerState.IDLE, 0.0)


def test_guest_comes_and_goes_without_a_word_to_the_head() -> None:
    bench = Bench(CPU=1)
    guest = process_id(A, "guest")
    bench.say(guest, RegisterProcess("guest", 5))
    bench.say(guest, AllocateObject(an_object(DRIVER, 1), 100))

    assert bench.event(ConnectionLost(guest)) == []
    assert bench.node.store.allocator.used == 0


def test_actor_that_gets_no_worker_is_lost_and_not_meant() -> None:
    bench = Bench(NodeLimits(warm_workers=0, start_failures=1), CPU=1)
    actor = ActorId(lease_id(DRIVER, 1))
    (start,) = bench.say(HEAD, StartActor(actor, 0, "Toy", FunctionId(b""), b"", b"", None, ONE, ONE))

    (lost,) = bench.event(WorkerExited(start.worker, "exit code 1"))

    assert isinstance(lost.message, ActorLost)
    assert (lost.to, lost.message.incarnation, lost.message.meant) == (HEAD, 0, False)


def test_hundreds_of_actors_do_not_start_all_at_once() -> None:
    """They would take turns on the CPUs until each is late to register."""
    bench = Bench(NodeLimits(warm_workers=0, starts_per_cpu=2), CPU=2)
    starting: list[ProcessId] = []
    for count in range(200):
        actor = ActorId(lease_id(DRIVER, count))
        effects = bench.say(HEAD, StartActor(actor, 0, "Toy", FunctionId(b""), b"", b"", None, {}, {}))
        starting += [effect.worker for effect in effects if isinstance(effect, StartWorker)]
    assert len(starting) == 4

    started = 0
    while starting:
        started += 1
        effects = bench.say(starting.pop(), RegisterProcess("worker", started))
        starting += [effect.worker for effect in effects if isinstance(effect, StartWorker)]
        assert len(starting) <= 4
    assert started == 200


def test_lease_and_actor_of_one_number_are_told_apart() -> None:
    bench = Bench(CPU=2)
    (worker,) = granted(bench.lease(7))
    bench.say(HEAD, StartActor(ActorId(lease_id(DRIVER, 7)), 0, "Toy", FunctionId(b""), b"", b"", None, ONE, ONE))

    assert len(bench.node.claims.all) == 2
    bench.say(DRIVER, ReturnLeases([lease_id(DRIVER, 7)]))
    assert bench.node.workers.all[worker].state is WorkerState.IDLE
    assert len(bench.node.claims.all) == 1


# ---------------------------------------------------------------------------------- leases
def test_small_request_overtakes_a_large_one_that_does_not_fit() -> None:
    bench = Bench(CPU=2)
    bench.lease(1)

    assert granted(bench.lease(2, cpus=2)) == []
    assert len(granted(bench.lease(3))) == 1


def test_no_more_leases_are_asked_back_than_are_missing() -> None:
    bench = Bench(CPU=4)
    bench.lease(1, 2, 3, 4)

    (asked,) = bench.lease(1, owner=OTHER, cpus=3)

    assert asked.to == DRIVER
    assert len(asked.message.leases) == 3


def test_cancelled_request_is_not_granted_later() -> None:
    bench = Bench(CPU=1)
    bench.lease(1)
    bench.lease(2)

    assert bench.say(DRIVER, ReturnLeases([lease_id(DRIVER, 2)])) == []
    assert bench.say(DRIVER, ReturnLeases([lease_id(DRIVER, 1)])) == []


def urgent(count: int, priority: int, owner: ProcessId = DRIVER) -> RequestLeases:
    return RequestLeases([lease_id(owner, count)], ONE, [], priority=priority)


def test_the_most_urgent_of_those_that_wait_goes_first_whoever_asked() -> None:
    bench = Bench(CPU=1)
    bench.lease(1)
    bench.say(DRIVER, urgent(2, 0))
    bench.say(OTHER, urgent(1, 5, OTHER))
    bench.say(DRIVER, urgent(3, 9))

    first = bench.say(DRIVER, ReturnLeases([lease_id(DRIVER, 1)]))
    second = bench.say(DRIVER, ReturnLeases([lease_id(DRIVER, 3)]))

    assert [(e.to, e.message.lease) for e in first if isinstance(e.message, LeaseGranted)] == [
        (DRIVER, lease_id(DRIVER, 3))
    ]
    assert [(e.to, e.message.lease) for e in second if isinstance(e.message, LeaseGranted)] == [
        (OTHER, lease_id(OTHER, 1))
    ]


def test_leases_are_not_asked_back_for_what_is_less_urgent() -> None:
    bench = Bench(CPU=1)
    bench.say(DRIVER, urgent(1, 5))

    assert bench.say(OTHER, urgent(1, 4, OTHER)) == []
    (asked,) = bench.say(OTHER, urgent(2, 6, OTHER))
    assert asked == Send(DRIVER, ReclaimLeases([lease_id(DRIVER, 1)]))


def test_the_worker_of_a_lease_that_retires_it_is_nobody_s_any_more() -> None:
    bench = Bench(CPU=1)
    (worker,) = granted(bench.lease(1))
    bench.lease(2)

    effects = bench.say(DRIVER, RetireWorkers([lease_id(DRIVER, 1)]))

    assert Send(worker, ExitWorker("it has run as many calls as max_calls allows")) in effects
    assert granted(effects) == []
    assert [type(e) for e in effects if isinstance(e, StartWorker)] == [StartWorker]


# ---------------------------------------------------------------------------------- store
def test_first_to_seal_an_object_wins() -> None:
    bench = Bench(CPU=1)
    some = an_object(DRIVER, 1)
    (first,) = bench.say(DRIVER, AllocateObject(some, 64))
    (second,) = bench.say(OTHER, AllocateObject(some, 128))

    bench.say(OTHER, SealObjects([some]))
    bench.say(DRIVER, SealObjects([some]))

    assert bench.say(DRIVER, PinObject(some, [A])) == [Send(DRIVER, ObjectPinned(some, second.message.offset, 128))]
    assert first.message.offset != second.message.offset
    assert bench.node.store.allocator.used == 128


def test_reader_waits_for_an_object_that_is_being_written_here() -> None:
    bench = Bench(CPU=1)
    some = an_object(DRIVER, 1)
    (room,) = bench.say(DRIVER, AllocateObject(some, 64))

    assert bench.say(OTHER, PinObject(some, [A])) == []
    assert bench.say(DRIVER, SealObjects([some])) == [Send(OTHER, ObjectPinned(some, room.message.offset, 64))]


def test_object_freed_before_it_was_sealed_goes_when_it_is() -> None:
    bench = Bench(CPU=1)
    some = an_object(DRIVER, 1)
    bench.say(DRIVER, AllocateObject(some, 64))
    bench.say(DRIVER, FreeObjects([some]))

    assert bench.node.store.allocator.used == 64
    bench.say(DRIVER, SealObjects([some]))
    assert bench.node.store.allocator.used == 0


def test_what_a_transfer_did_not_keep_goes_even_if_it_is_sealed_after_its_end() -> None:
    bench = Bench(CPU=1)
    kept, doubled, late = (an_object(DRIVER, 1, index) for index in range(3))
    for some in (kept, doubled, late):
        bench.say(DRIVER, AllocateObject(some, 64))
    bench.say(DRIVER, SealObjects([kept, doubled]))

    bench.say(DRIVER, FreeTransfer(kept[:24], [kept]))
    bench.say(DRIVER, SealObjects([late]))

    assert list(bench.node.store.stored) == [kept]


def test_serving_holds_a_pin_until_the_last_chunk() -> None:
    bench = Bench(NodeLimits(chunk_bytes=100), CPU=1)
    some, offset = an_object(DRIVER, 1), bench.store(1, 150)
    peer = raylet("b")

    assert bench.say(peer, PullObject(some, 0, 100)) == [SendChunk(peer, some, offset, 0, 100, 150)]
    bench.say(DRIVER, FreeObjects([some]))
    assert bench.node.store.allocator.used > 0
    assert bench.say(peer, PullObject(some, 100, 100)) == [SendChunk(peer, some, offset, 100, 50, 150)]
    assert bench.node.store.allocator.used == 0
    assert bench.say(peer, PullObject(some, 0, 100)) == [Send(peer, NotHere(some))]


def test_puller_that_stops_asking_is_forgotten() -> None:
    bench = Bench(NodeLimits(chunk_bytes=100), CPU=1)
    bench.store(1, 150)
    bench.say(raylet("b"), PullObject(an_object(DRIVER, 1), 0, 100))

    bench.now = 31.0
    bench.event(ClockTicked())

    assert not bench.node.store.pins
    assert not bench.node.serves.transfers


def test_large_hole_that_nobody_fills_is_given_back_to_the_system() -> None:
    bench = Bench(NodeLimits(punch_bytes=64 << 10), CPU=1)
    offset = bench.store(1, 100_000)
    small = bench.store(2, 1000)
    bench.say(DRIVER, FreeObjects([an_object(DRIVER, 1), an_object(DRIVER, 2)]))

    bench.now = 6.0
    assert bench.event(ClockTicked()) == [PunchHole(offset, 100_000)]
    assert small != offset


def test_hole_that_was_filled_again_is_not_punched() -> None:
    bench = Bench(NodeLimits(punch_bytes=64 << 10), CPU=1)
    offset = bench.store(1, 100_000)
    bench.say(DRIVER, FreeObjects([an_object(DRIVER, 1)]))
    assert bench.store(2, 80_000) == offset

    bench.now = 6.0
    assert bench.event(ClockTicked()) == []


def test_an_object_freed_while_it_is_written_out_takes_its_file_along() -> None:
    bench = Bench(CPU=1, store_bytes=1000 * 64)
    bench.store(1, 40_000)
    (spill,) = bench.say(DRIVER, AllocateObject(an_object(DRIVER, 2), 40_000))
    assert spill == SpillObjects(1, 40_000, ((spill.pieces[0][0], 0, 40_000),))

    (room,) = bench.say(DRIVER, FreeObjects([an_object(DRIVER, 1)]))
    assert isinstance(room.message, ObjectAllocated)
    assert bench.event(Spilled(1)) == [DropSpilled(1)]
    assert bench.node.store.spills.status()["files"] == 0


def test_an_object_pinned_while_it_is_written_out_stays_in_memory() -> None:
    bench = Bench(CPU=1, store_bytes=1000 * 64)
    offset = bench.store(1, 40_000)
    bench.say(DRIVER, AllocateObject(an_object(DRIVER, 2), 40_000))

    (pinned,) = bench.say(OTHER, PinObject(an_object(DRIVER, 1), [A]))
    assert pinned == Send(OTHER, ObjectPinned(an_object(DRIVER, 1), offset, 40_000))
    assert bench.event(Spilled(1)) == []
    (room,) = bench.say(OTHER, UnpinObjects([an_object(DRIVER, 1)]))
    assert isinstance(room.message, ObjectAllocated)


def test_an_object_freed_while_it_is_read_back_goes_when_it_was_read() -> None:
    bench = Bench(CPU=1, store_bytes=1000 * 64)
    some = an_object(DRIVER, 1)
    bench.store(1, 40_000)
    bench.say(DRIVER, AllocateObject(an_object(DRIVER, 2), 40_000))
    bench.event(Spilled(1))
    bench.say(DRIVER, FreeObjects([an_object(DRIVER, 2)]))
    bench.say(DRIVER, SealObjects([an_object(DRIVER, 2)]))
    bench.say(OTHER, PinObject(some, [A]))
    bench.event(ConnectionLost(OTHER))

    assert bench.say(DRIVER, FreeObjects([some])) == []
    assert bench.event(Restored(some)) == [DropSpilled(1)]
    assert bench.node.store.allocator.used == 0


def test_what_cannot_be_read_back_is_lost_to_its_readers() -> None:
    bench = Bench(CPU=1, store_bytes=1000 * 64)
    some = an_object(DRIVER, 1)
    bench.store(1, 40_000)
    bench.say(DRIVER, AllocateObject(an_object(DRIVER, 2), 40_000))
    bench.event(Spilled(1))
    bench.say(DRIVER, FreeObjects([an_object(DRIVER, 2)]))
    bench.say(DRIVER, SealObjects([an_object(DRIVER, 2)]))
    (restore,) = bench.say(OTHER, PinObject(some, [A]))
    assert isinstance(restore, RestoreObject)

    gone, dropped = bench.event(RestoreFailed(some, "input/output error"))
    assert isinstance(gone.message, ObjectGone)
    assert "input/output error" in gone.message.why
    assert dropped == DropSpilled(1)
    assert bench.node.store.allocator.used == 0


def test_an_object_on_disk_is_read_there_if_all_memory_is_being_read() -> None:
    bench = Bench(CPU=1, store_bytes=1000 * 64)
    some, other = an_object(DRIVER, 1), an_object(DRIVER, 2)
    bench.store(1, 40_000)
    bench.say(DRIVER, AllocateObject(other, 40_000))
    bench.event(Spilled(1))
    bench.say(DRIVER, SealObjects([other]))
    bench.say(DRIVER, PinObject(other, [A]))

    assert bench.say(OTHER, PinObject(some, [A])) == [Send(OTHER, ObjectPinned(some, 0, 40_000, file=1))]
    assert bench.say(DRIVER, FreeObjects([some])) == []
    assert bench.say(OTHER, UnpinObjects([some])) == [DropSpilled(1)]


def test_objects_of_an_owner_go_with_it() -> None:
    bench = Bench(CPU=1)
    bench.store(1, 100)
    far = process_id(node_id("b"), "far")
    bench.say(OTHER, AllocateObject(an_object(far, 1), 64))
    bench.say(OTHER, SealObjects([an_object(far, 1)]))

    bench.event(ConnectionLost(DRIVER))
    bench.say(HEAD, ProcessGone(far, "exit code 0"))

    assert bench.node.store.allocator.used == 0


# ---------------------------------------------------------------------------------- the session
def test_loss_of_the_head_ends_the_node_and_tells_its_processes() -> None:
    bench = Bench(CPU=1)

    effects = bench.event(PeerLost(HEAD_NODE, "silent for 10 s"))

    why = "the master is gone: silent for 10 s"
    told = [effect.to for effect in effects[:-1] if effect.message == EndSession(why)]
    assert told == [*bench.workers, DRIVER, OTHER]
    assert effects[-1] == Stop(why)
    assert bench.node.handle(ClockTicked(), 1.0) == []


def test_node_answers_for_itself_and_from_the_table() -> None:
    bench = Bench(CPU=2)
    bench.lease(1)
    bench.say(HEAD, NodeTable([node_info("a").as_dict(), node_info("b").as_dict()]))

    (nodes,) = bench.say(DRIVER, Ask(1, "nodes"))
    (status,) = bench.say(DRIVER, Ask(2, "status"))

    assert nodes.message == Answer(1, [node_info("a").as_dict(), node_info("b").as_dict()])
    assert status.message.value["available"] == {"CPU": 1000}
    assert status.message.value["workers"] == {"starting": 0, "idle": 1, "preparing": 0, "busy": 1, "leaving": 0}


def test_beat_follows_a_change_but_not_each_one() -> None:
    node = a_node("a", CPU=2)
    register_workers(node, node.start(0.0), 0.0)

    def beats(now: float, message: Message) -> list[NodeBeat]:
        effects = node.handle(Received(DRIVER, message), now)
        return [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, NodeBeat)]

    beats(0.2, RegisterProcess("driver", 1))
    first = beats(0.4, RequestLeases([lease_id(DRIVER, 1)], ONE, []))
    second = beats(0.45, RequestLeases([lease_id(DRIVER, 2)], ONE, []))
    effects = node.handle(ClockTicked(), 0.5)

    assert [beat.available for beat in first] == [{"CPU": 1000}]
    assert second == []
    assert [e.message.available for e in effects if isinstance(e, Send) and isinstance(e.message, NodeBeat)] == [{}]


def test_stray_message_is_counted_and_breaks_nothing() -> None:
    node: Node = a_node("a")
    node.start(0.0)

    node.handle(Received(HEAD, Answer(1, None)), 0.0)

    with pytest.raises(AssertionError, match="no use for them"):
        check(node)


def test_what_has_no_room_beside_the_actors_here_is_offered_to_the_head_however_old_it_is() -> None:
    bench = Bench(CPU=1)
    bench.say(HEAD, NodeTable([bench.node.info.as_dict(), node_info("b", CPU=1).as_dict()]))
    actor = ActorId(lease_id(DRIVER, 1))
    bench.say(HEAD, StartActor(actor, 0, "Toy", FunctionId(b""), b"", b"", None, {"CPU": 800}, {"CPU": 800}))
    late = ActorId(lease_id(DRIVER, 2))
    bench.say(HEAD, StartActor(late, 0, "Toy", FunctionId(b""), b"", b"", None, {"CPU": 400}, {"CPU": 400}))
    for count in range(3, 9):  # younger, and placed here again each time: half of all was never the oldest
        bench.say(DRIVER, RequestLeases([lease_id(DRIVER, count)], ONE, [], placed=True))

    bench.now = 4.0

    assert Send(HEAD, ActorUnplaced(late, 0)) in bench.event(ClockTicked())
