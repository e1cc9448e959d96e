"""Which GPU is whose: whatever is asked for and given back in whatever order, none is promised twice."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparkray_core.ids import HEAD, ProcessId
from sparkray_core.messages import (
    LeaseGranted,
    NodeDraining,
    NodeTable,
    OrderTaken,
    ReclaimLeases,
    RegisterProcess,
    RequestLeases,
    RetireWorkers,
    ReturnLeases,
    SetGpus,
    WorkerBlocked,
    WorkerUnblocked,
)
from sparkray_core.model.effects import KillWorker, Send, StartWorker
from sparkray_core.model.events import Received, WorkerExited
from sparkray_core.model.invariants import check
from sparkray_core.model.node_gpus import Gpus
from sparkray_core.testing.builders import a_node, lease_id, node_id, node_info, process_id, register_workers

DRIVER = process_id(node_id("a"), "driver")
OTHER = process_id(node_id("a"), "other")


class Bench:
    """A node of four CPUs. What each worker was told last, and who was granted what."""

    def __init__(self, gpus: float) -> None:
        self.node = a_node("a", CPU=4, GPU=gpus)
        self.workers = register_workers(self.node, self.node.start(0.0), 0.0)
        self.gpus: dict[ProcessId, list[int]] = {}
        self.granted: dict[bytes, ProcessId] = {}
        self.reclaimed: list[bytes] = []
        for driver in (DRIVER, OTHER):
            self.say(driver, RegisterProcess("driver", 1))

    def say(self, sender: ProcessId, message: Any) -> None:
        self.do(Received(sender, message))

    def do(self, event: Any) -> None:
        effects = self.node.handle(event, 0.0)
        check(self.node)
        for effect in effects:
            match effect:
                case StartWorker(worker):
                    self.say(worker, RegisterProcess("worker", 2))
                case KillWorker(worker):
                    self.do(WorkerExited(worker, "killed"))
                case Send(to, SetGpus(gpus)):
                    assert to not in self.granted.values(), "it was granted before it was told"
                    self.gpus[to] = gpus
                    self.say(to, OrderTaken())
                case Send(_, LeaseGranted(lease, worker)):
                    self.granted[lease] = worker
                case Send(_, ReclaimLeases(leases)):
                    self.reclaimed += leases
                case _:
                    pass

    def ask(self, count: int, gpus: float, owner: ProcessId = DRIVER) -> list[int] | None:
        """The numbers that it got; None if it has to wait."""
        self.say(owner, RequestLeases([lease_id(owner, count)], {"GPU": round(gpus * 1000)} if gpus else {}, []))
        return self.of(count, owner)

    def of(self, count: int, owner: ProcessId = DRIVER) -> list[int] | None:
        worker = self.granted.get(lease_id(owner, count))
        return None if worker is None else self.gpus.get(worker, [])

    def back(self, count: int, retire: bool = True) -> None:
        lease = lease_id(DRIVER, count)
        self.granted.pop(lease, None)  # before another gets its worker
        self.say(DRIVER, RetireWorkers([lease]) if retire else ReturnLeases([lease]))


def test_shares_are_put_together_and_whole_ones_stay_whole() -> None:
    bench = Bench(gpus=3)

    assert bench.ask(1, 0.5) == [0]
    assert bench.ask(2, 0.3) == [0]
    assert bench.ask(3, 0.3) == [1]  # 0.2 is left of the first
    assert bench.ask(4, 0.2) == [0]
    assert bench.ask(5, 1) == [2]
    assert bench.ask(6, 1) is None  # there is 0.7 of the second


def test_pieces_of_several_are_no_gpu() -> None:
    bench = Bench(gpus=2)
    assert bench.ask(1, 0.6) == [0]
    assert bench.ask(2, 0.6) == [1]

    assert bench.ask(3, 0.8) is None  # 0.4 is free of each
    assert bench.node.claims.available["GPU"] == 800
    bench.back(2)

    assert bench.of(3) == [1]


def test_several_whole_ones_and_a_part() -> None:
    bench = Bench(gpus=3.5)

    assert bench.ask(1, 2) == [0, 1]
    assert bench.ask(2, 1.5) == [2, 3]
    assert bench.ask(3, 0) == []


def test_a_worker_that_is_used_again_is_told_that_it_has_none() -> None:
    bench = Bench(gpus=1)
    assert bench.ask(1, 1) == [0]
    worker = bench.granted[lease_id(DRIVER, 1)]
    bench.back(1, retire=False)

    assert bench.ask(2, 0) == []
    assert bench.granted[lease_id(DRIVER, 2)] == worker


def test_leases_of_others_are_asked_back_when_what_is_free_lies_in_pieces() -> None:
    bench = Bench(gpus=2)
    assert bench.ask(1, 0.6) == [0]
    assert bench.ask(2, 0.6) == [1]
    assert bench.reclaimed == []

    assert bench.ask(1, 0.8, OTHER) is None

    assert bench.reclaimed == [lease_id(DRIVER, 1)]


AMOUNTS = st.one_of(st.integers(0, 1000), st.integers(1, 4).map(lambda whole: whole * 1000), st.integers(0, 4500))


@given(
    st.integers(0, 4500),
    st.lists(st.tuples(st.sampled_from(["ask", "back", "retire", "block", "die"]), AMOUNTS), max_size=60),
)
@example(4000, [("ask", 1), ("ask", 4000), ("back", 0)])
@settings(max_examples=150, deadline=None)
def test_no_gpu_is_ever_promised_twice(total: int, steps: list[tuple[str, int]]) -> None:
    """`check` after each step says so; and in the end all of it is free again."""
    bench = Bench(gpus=total / 1000)
    live: list[int] = []
    for number, (step, amount) in enumerate(steps, 1):
        if step == "ask":
            bench.ask(number, amount / 1000)
            live.append(number)
        elif live:
            one = live[amount % len(live)]
            worker = bench.granted.get(lease_id(DRIVER, one))
            if step == "block":
                if worker is not None:
                    bench.say(worker, WorkerBlocked() if amount % 2 else WorkerUnblocked())
                continue
            live.remove(one)
            if step == "die" and worker is not None:
                del bench.granted[lease_id(DRIVER, one)]
                bench.do(WorkerExited(worker, "killed"))
            else:
                bench.back(one, retire=step == "retire")

    for one in live:
        bench.back(one)

    assert bench.node.claims.gpus.free == Gpus(total).free


@given(st.integers(0, 4500), st.lists(AMOUNTS, max_size=12))
def test_what_fits_is_chosen_and_what_does_not_is_not(total: int, amounts: list[int]) -> None:
    gpus = Gpus(total)
    for amount in amounts:
        chosen = gpus.choose(amount)
        whole, part = divmod(amount, 1000)
        free = sorted(gpus.free)
        untouched = free.count(1000)
        possible = untouched > whole or (untouched == whole and (not part or any(part <= f < 1000 for f in free)))
        assert (chosen is not None) == possible == gpus.fits(amount)
        if chosen is not None:
            assert sorted(chosen.values()) == sorted([1000] * whole + [part] * bool(part))
            gpus.take(chosen)
            assert min(gpus.free, default=0) >= 0


class Slow(Bench):
    """Workers confirm what they are told only when asked to."""

    def do(self, event: Any) -> None:
        if not (isinstance(event, Received) and isinstance(event.message, OrderTaken)):
            super().do(event)

    def confirm(self, worker: ProcessId) -> None:
        super().do(Received(worker, OrderTaken()))


def test_a_lease_is_not_granted_to_who_asks_again_before_its_worker_knows_the_gpus() -> None:
    bench = Slow(gpus=1)
    assert bench.ask(1, 1) is None
    assert bench.ask(1, 1) is None

    bench.confirm(*bench.gpus)
    assert bench.of(1) == [0]


def test_what_others_began_to_wait_for_before_it_was_granted_is_asked_back_then() -> None:
    bench = Slow(gpus=1)
    bench.ask(1, 1)
    bench.ask(1, 1, OTHER)
    assert bench.reclaimed == []

    bench.confirm(*bench.gpus)
    assert bench.reclaimed == [lease_id(DRIVER, 1)]


def test_a_node_that_is_drained_asks_back_what_it_grants_after_that() -> None:
    """The owner did not know the lease when it was asked for it."""
    bench = Slow(gpus=1)
    bench.say(HEAD, NodeTable([bench.node.info.as_dict(), node_info("b", CPU=2, GPU=1).as_dict()]))
    bench.ask(1, 1)
    bench.say(HEAD, NodeDraining("to be serviced", None))
    bench.reclaimed.clear()

    bench.confirm(*bench.gpus)
    assert bench.reclaimed == [lease_id(DRIVER, 1)]
