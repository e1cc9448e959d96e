"""A worker has one environment for life, and runs nothing that asks for another."""

from __future__ import annotations

from typing import Any

from sparkray_core.ids import HEAD, ActorId, FunctionId, LeaseId, ProcessId
from sparkray_core.messages import (
    FAILED,
    ActorFailed,
    ExitWorker,
    LeaseGranted,
    LeaseRefused,
    Message,
    NodeBeat,
    OrderTaken,
    RegisterProcess,
    RequestLeases,
    ReturnLeases,
    SetThreads,
    SetUpWorker,
    StartActor,
    WorkerSetUp,
)
from sparkray_core.model.effects import KillWorker, Send, StartWorker, WakeAt
from sparkray_core.model.events import ClockTicked, Received, WorkerExited
from sparkray_core.model.invariants import check
from sparkray_core.model.limits import NodeLimits
from sparkray_core.testing.builders import a_node, lease_id, node_id, process_id, register_workers

DRIVER = process_id(node_id("a"), "drv")
ONE = {"CPU": 1000}


class Bench:
    def __init__(self, cpus: int, limits: NodeLimits | None = None) -> None:
        self.node = a_node("a", limits, CPU=cpus)
        self.now = 0.0
        self.workers = register_workers(self.node, self.node.start(0.0), 0.0)
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

    def ask(self, count: int, env: str, cpus: int = 1) -> list[Any]:
        return self.say(DRIVER, RequestLeases([lease(count)], {"CPU": cpus * 1000}, [], env=env))

    def give_back(self, count: int) -> list[Any]:
        return self.say(DRIVER, ReturnLeases([lease(count)]))


def lease(count: int) -> LeaseId:
    return lease_id(DRIVER, count)


def test_a_fresh_worker_takes_on_the_environment_and_is_granted_once_it_has() -> None:
    bench = Bench(1)
    (worker,) = bench.workers

    assert bench.ask(1, "red") == [Send(worker, SetUpWorker("red"))]
    assert bench.say(worker, WorkerSetUp("")) == [Send(DRIVER, LeaseGranted(lease(1), worker))]


def test_a_worker_of_an_environment_serves_it_again_and_no_other() -> None:
    bench = Bench(1, NodeLimits(keep_idle=2))
    (worker,) = bench.workers
    bench.ask(1, "red")
    bench.say(worker, WorkerSetUp(""))
    bench.give_back(1)

    assert bench.ask(2, "red") == [Send(DRIVER, LeaseGranted(lease(2), worker))]
    bench.give_back(2)
    (start,) = bench.ask(3, "")
    assert isinstance(start, StartWorker)
    assert bench.say(start.worker, RegisterProcess("worker", 2))[1:] == [
        Send(DRIVER, LeaseGranted(lease(3), start.worker))
    ]


def test_a_used_worker_does_not_take_on_an_environment() -> None:
    bench = Bench(1)
    bench.ask(1, "")
    bench.give_back(1)

    effects = bench.ask(2, "red")

    assert [type(effect) for effect in effects] == [StartWorker, Send]
    (start, retired) = effects
    assert retired == Send(bench.workers[0], ExitWorker("it is not needed"))  # one is kept, and one is on its way
    assert bench.say(start.worker, RegisterProcess("worker", 2))[1:] == [Send(start.worker, SetUpWorker("red"))]


def test_two_environments_are_made_at_once_and_each_claim_gets_its_own() -> None:
    bench = Bench(2)
    red, blue = bench.ask(1, "red"), bench.ask(2, "blue")
    assert red[0].message == SetUpWorker("red")
    assert blue[0].message == SetUpWorker("blue")

    assert bench.say(blue[0].to, WorkerSetUp("")) == [Send(DRIVER, LeaseGranted(lease(2), blue[0].to))]
    assert bench.say(red[0].to, WorkerSetUp("")) == [Send(DRIVER, LeaseGranted(lease(1), red[0].to))]


def test_a_failed_set_up_is_told_to_all_who_wait_for_that_environment_and_to_nobody_else() -> None:
    bench = Bench(1)
    (worker,) = bench.workers
    bench.ask(1, "red")
    bench.ask(2, "red")
    bench.ask(3, "blue")
    actor = ActorId(lease_id(DRIVER, 9))
    bench.say(HEAD, StartActor(actor, 0, "Toy", FunctionId(b""), b"", b"", None, ONE, ONE, env="red"))

    effects = bench.say(worker, WorkerSetUp("no such folder"))

    sentence = f"the runtime_env cannot be set up on {bench.node.info}: no such folder"
    assert KillWorker(worker, "its environment cannot be set up") in effects
    refused = [effect for effect in effects if isinstance(effect, Send) and not isinstance(effect.message, SetUpWorker)]
    assert refused == [
        Send(DRIVER, LeaseRefused(lease(2), sentence, "RuntimeEnvSetupError")),
        Send(HEAD, ActorFailed(actor, 0, (FAILED, "RuntimeEnvSetupError", sentence))),
        Send(DRIVER, LeaseRefused(lease(1), sentence, "RuntimeEnvSetupError")),
    ]
    (start,) = [effect for effect in effects if isinstance(effect, StartWorker)]
    bench.event(WorkerExited(worker, "killed by SIGKILL"))
    assert bench.say(start.worker, RegisterProcess("worker", 2))[1:] == [Send(start.worker, SetUpWorker("blue"))]


def test_a_worker_that_ends_while_it_sets_up_fails_it() -> None:
    bench = Bench(1)
    (worker,) = bench.workers
    bench.ask(1, "red")

    effects = bench.event(WorkerExited(worker, "killed by SIGSEGV"))

    (refused,) = [effect.message for effect in effects if isinstance(effect, Send) and effect.to == DRIVER]
    assert isinstance(refused, LeaseRefused)
    assert refused.kind == "RuntimeEnvSetupError"
    assert "killed by SIGSEGV" in refused.why
    assert bench.node.claims.available == ONE


def test_a_set_up_that_hangs_is_killed() -> None:
    bench = Bench(1, NodeLimits(setup_s=5.0))
    bench.ask(1, "red")
    bench.now = 6.0

    effects = bench.event(ClockTicked())

    assert KillWorker(bench.workers[0], "its environment was not set up within 5 s") in effects


def test_a_worker_is_told_how_many_threads_it_may_use_before_it_is_granted() -> None:
    bench = Bench(3, NodeLimits(warm_workers=1))
    (worker,) = bench.workers

    assert bench.ask(1, "", cpus=3) == [Send(worker, SetThreads(3))]
    assert bench.say(worker, OrderTaken()) == [Send(DRIVER, LeaseGranted(lease(1), worker))]
    bench.give_back(1)
    assert bench.ask(2, "", cpus=3) == [Send(DRIVER, LeaseGranted(lease(2), worker))]  # it knows
    bench.give_back(2)
    assert bench.ask(3, "") == [Send(worker, SetThreads(1))]
    bench.give_back(3)  # it has not confirmed yet
    assert bench.ask(4, "") == []
    assert bench.say(worker, OrderTaken()) == [Send(DRIVER, LeaseGranted(lease(4), worker))]


def test_the_default_of_one_cpu_costs_no_message() -> None:
    bench = Bench(1)
    assert bench.ask(1, "") == [Send(DRIVER, LeaseGranted(lease(1), bench.workers[0]))]
