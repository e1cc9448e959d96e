"""When memory runs out: who is ended, what its owner hears, and what waits until there is room."""

from __future__ import annotations

from typing import Any

import pytest

from sparkray_core.ids import HEAD, ActorId, FunctionId, ProcessId
from sparkray_core.messages import (
    ActorLost,
    ExitWorker,
    LeaseGranted,
    LeaseLost,
    Message,
    NodeBeat,
    RegisterProcess,
    RequestLeases,
    ReturnLeases,
    StartActor,
    WorkerBlocked,
)
from sparkray_core.model.effects import KillWorker, Send, WakeAt
from sparkray_core.model.events import MemoryRead, Received, WorkerExited
from sparkray_core.model.invariants import check
from sparkray_core.model.limits import NodeLimits
from sparkray_core.testing.builders import a_node, lease_id, node_id, process_id, register_workers

DRIVER = process_id(node_id("a"), "drv")
ONE = {"CPU": 1000}
GIB = 1 << 30


class Bench:
    """A node of which each worker serves one lease, or an actor; in a GiB of memory, of which 90 % may be used."""

    def __init__(self, cpus: int = 4) -> None:
        self.node = a_node("a", NodeLimits(memory_threshold=0.9), CPU=cpus)
        self.now = 0.0
        register_workers(self.node, self.node.start(0.0), 0.0)
        self.say(DRIVER, RegisterProcess("driver", 1))

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

    def lease(self, count: int, retriable: bool = True) -> ProcessId | None:
        self.now += 1
        asked = RequestLeases([lease_id(DRIVER, count)], ONE, [], retriable=retriable, name=f"f{count}")
        return _worker(self.say(DRIVER, asked))

    def actor(self, count: int, retriable: bool = False) -> ProcessId:
        self.now += 1
        actor = ActorId(lease_id(DRIVER, count))
        message = StartActor(actor, 0, "Toy", FunctionId(b""), b"", b"", None, {}, ONE, retriable=retriable)
        (start,) = self.say(HEAD, message)
        worker: ProcessId = start.to
        return worker

    def memory(self, share: float, **mib: int) -> list[Any]:
        """So much is in use; of it workers use so many MiB each."""
        self.now += 0.25
        used = {self.named[name]: amount << 20 for name, amount in mib.items()}
        return self.event(MemoryRead(int(share * GIB), GIB, used))

    named: dict[str, ProcessId]

    def name(self, **workers: ProcessId | None) -> None:
        self.named = {name: worker for name, worker in workers.items() if worker is not None}


def _worker(effects: list[Any]) -> ProcessId | None:
    granted = [e.message.worker for e in effects if isinstance(e, Send) and isinstance(e.message, LeaseGranted)]
    return granted[0] if granted else None


def killed(effects: list[Any]) -> list[ProcessId]:
    return [effect.worker for effect in effects if isinstance(effect, KillWorker)]


def test_below_the_threshold_nobody_is_ended() -> None:
    bench = Bench()
    bench.name(a=bench.lease(1))
    assert bench.memory(0.89, a=900) == []


def test_the_newest_whose_work_can_be_repeated_goes_first() -> None:
    bench = Bench()
    bench.name(old=bench.lease(1), new=bench.lease(2), newest_once=bench.lease(3, retriable=False))
    assert killed(bench.memory(0.95, old=300, new=300, newest_once=300)) == [bench.named["new"]]


def test_work_that_cannot_be_repeated_goes_when_there_is_no_other() -> None:
    bench = Bench()
    bench.name(once=bench.lease(1, retriable=False), actor=bench.actor(7))
    assert killed(bench.memory(0.95, once=300, actor=300)) == [bench.named["actor"]]


def test_an_actor_with_a_restart_left_can_be_repeated() -> None:
    bench = Bench()
    bench.name(actor=bench.actor(7, retriable=True), once=bench.lease(1, retriable=False))
    assert killed(bench.memory(0.95, once=300, actor=300)) == [bench.named["actor"]]


def test_who_uses_next_to_nothing_is_spared() -> None:
    bench = Bench()
    bench.name(large=bench.lease(1), small=bench.lease(2))
    assert killed(bench.memory(0.95, large=500, small=5)) == [bench.named["large"]]


def test_nobody_is_ended_when_others_use_the_memory() -> None:
    bench = Bench()
    bench.name(small=bench.lease(1))
    assert bench.memory(0.99, small=3) == []


def test_a_second_one_is_not_ended_before_the_first_has_gone() -> None:
    bench = Bench()
    bench.name(a=bench.lease(1), b=bench.lease(2))
    assert killed(bench.memory(0.95, a=300, b=300)) == [bench.named["b"]]
    assert bench.memory(0.95, a=300, b=300) == []
    bench.event(WorkerExited(bench.named["b"], "killed by SIGKILL"))
    assert killed(bench.memory(0.95, a=300)) == [bench.named["a"]]


def test_an_idle_worker_with_much_retires_before_anybody_is_ended() -> None:
    bench = Bench()
    bench.name(idle=bench.lease(1), busy=bench.lease(2))
    bench.say(DRIVER, ReturnLeases([lease_id(DRIVER, 1)]))
    effects = bench.memory(0.95, idle=400, busy=400)
    assert Send(bench.named["idle"], ExitWorker("memory is short")) in effects
    assert killed(effects) == []
    assert killed(bench.memory(0.95, idle=400, busy=400)) == [bench.named["busy"]]


def test_the_owner_hears_that_memory_was_the_reason_and_who_used_it() -> None:
    bench = Bench()
    bench.name(a=bench.lease(1), b=bench.lease(2))
    bench.memory(0.95, a=512, b=100)
    effects = bench.event(WorkerExited(bench.named["b"], "killed by SIGKILL"))
    (lost,) = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, LeaseLost)]
    assert (lost.lease, lost.kind) == (lease_id(DRIVER, 2), "OutOfMemoryError")
    for words in ("972.8 MiB of 1.00 GiB", "90%", "which used 100.0 MiB", "512.0 MiB  pid", "leased for f1()"):
        assert words in lost.why


def test_the_head_hears_it_of_an_actor() -> None:
    bench = Bench()
    bench.name(a=bench.actor(7))
    bench.memory(0.95, a=900)
    effects = bench.event(WorkerExited(bench.named["a"], "killed by SIGKILL"))
    (lost,) = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, ActorLost)]
    assert (lost.meant, lost.kind) == (False, "OutOfMemoryError")
    assert "actor Toy" in lost.why


def test_what_the_system_has_killed_for_memory_is_told_likewise() -> None:
    bench = Bench()
    bench.name(a=bench.lease(1))
    effects = bench.event(WorkerExited(bench.named["a"], "killed by SIGKILL", no_memory=True))
    (lost,) = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, LeaseLost)]
    assert lost.kind == "OutOfMemoryError"


def test_until_there_is_room_for_what_was_ended_nothing_new_begins_beside_others() -> None:
    bench = Bench()
    bench.name(a=bench.lease(1), b=bench.lease(2))
    bench.memory(0.95, a=600, b=300)
    bench.event(WorkerExited(bench.named["b"], "killed by SIGKILL"))
    bench.memory(0.65, a=600)  # and 0.29 were too much
    assert bench.lease(3) is None
    assert _worker(bench.memory(0.5, a=500)) is not None


def test_alone_it_may_begin_whatever_is_used() -> None:
    bench = Bench()
    bench.name(a=bench.lease(1))
    bench.memory(0.95, a=600)
    assert bench.lease(2) is None
    assert _worker(bench.event(WorkerExited(bench.named["a"], "killed by SIGKILL"))) is not None


def test_a_task_that_waits_for_others_does_not_keep_them_out() -> None:
    bench = Bench()
    bench.name(a=bench.lease(1), b=bench.lease(2))
    bench.memory(0.95, a=300, b=300)
    bench.event(WorkerExited(bench.named["b"], "killed by SIGKILL"))
    assert bench.lease(3) is None
    assert _worker(bench.say(bench.named["a"], WorkerBlocked())) is not None


@pytest.mark.parametrize("threshold", [0.0])
def test_it_can_be_turned_off(threshold: float) -> None:
    bench = Bench()
    bench.node.memory.limits = NodeLimits(memory_threshold=threshold)
    bench.name(a=bench.lease(1))
    assert bench.memory(0.999, a=900) == []
