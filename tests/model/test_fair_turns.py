"""Owners that keep all they can get, and others beside them: whose turn it is on a node, and where the head sends them
while all is busy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from sparkray_core.ids import HEAD, ActorId, FunctionId, GroupId, NodeId, ProcessId
from sparkray_core.messages import (
    Answer,
    Ask,
    CreateActor,
    LeaseGranted,
    Message,
    NodeBeat,
    NodeTable,
    ReclaimLeases,
    RegisterProcess,
    RequestLeases,
    ReserveBundles,
    Resources,
    ReturnLeases,
    StartActor,
    WorkerBlocked,
    WorkerUnblocked,
)
from sparkray_core.model.effects import Send, SendFrom, StartWorker
from sparkray_core.model.events import ClockTicked, Received
from sparkray_core.model.head import Head
from sparkray_core.model.invariants import check
from sparkray_core.testing.builders import a_node, lease_id, node_id, node_info, process_id, raylet, register_workers

A, B, C = node_id("a"), node_id("b"), node_id("c")
DRIVER, OTHER, THIRD = (process_id(A, name) for name in ("driver", "other", "third"))
ONE = {"CPU": 1000}
GROUP = GroupId(b"group")


class Bench:
    """A node; workers that are started come up at once."""

    def __init__(self, cpus: float) -> None:
        self.node = a_node("a", CPU=cpus)
        self.now = 0.0
        register_workers(self.node, self.node.start(0.0), 0.0)
        for driver in (DRIVER, OTHER, THIRD):
            self.say(driver, RegisterProcess("driver", 1))

    def say(self, sender: ProcessId, message: Message) -> list[Any]:
        effects = self.node.handle(Received(sender, message), self.now)
        check(self.node)
        for effect in list(effects):
            if isinstance(effect, StartWorker):
                effects += self.say(effect.worker, RegisterProcess("worker", 2))
        return effects

    def ask(self, owner: ProcessId, *counts: int) -> list[Any]:
        return self.say(owner, RequestLeases([lease_id(owner, count) for count in counts], ONE, []))

    def give_back(self, owner: ProcessId, count: int) -> list[Any]:
        return self.say(owner, ReturnLeases([lease_id(owner, count)]))


def granted(effects: list[Any]) -> list[tuple[ProcessId, ProcessId]]:
    """To whom, and which worker."""
    found = [(e.to, e.message) for e in effects if isinstance(e, Send)]
    return [(to, message.worker) for to, message in found if isinstance(message, LeaseGranted)]


def asked_back(effects: list[Any]) -> list[tuple[ProcessId, int]]:
    found = [(e.to, e.message) for e in effects if isinstance(e, Send)]
    return [(to, len(message.leases)) for to, message in found if isinstance(message, ReclaimLeases)]


# ---------------------------------------------------------------------------------- on a node
def test_who_has_least_goes_first_however_many_requests_came_before() -> None:
    bench = Bench(2)
    bench.ask(DRIVER, *range(1, 11))  # two run, eight wait
    ask = bench.ask(OTHER, 1)

    assert asked_back(ask) == [(DRIVER, 1)]
    assert [owner for owner, _ in granted(bench.give_back(DRIVER, 1))] == [OTHER]


def test_of_equals_who_came_first_goes_first() -> None:
    bench = Bench(2)
    bench.ask(DRIVER, 1, 2)
    bench.ask(OTHER, 1, 2)
    bench.ask(DRIVER, 3)

    assert [owner for owner, _ in granted(bench.give_back(DRIVER, 1))] == [OTHER]
    assert [owner for owner, _ in granted(bench.give_back(DRIVER, 2))] == [DRIVER]  # now OTHER has one, and it none
    assert [owner for owner, _ in granted(bench.give_back(DRIVER, 3))] == [OTHER]


def test_children_of_a_task_come_before_its_owner_s_next_tasks() -> None:
    bench = Bench(2)
    (_, parent), _ = granted(bench.ask(DRIVER, 1, 2))
    bench.ask(DRIVER, *range(3, 10))
    assert granted(bench.say(parent, WorkerBlocked())) != []

    bench.ask(parent, 1)

    assert [owner for owner, _ in granted(bench.give_back(DRIVER, 2))] == [parent]


def test_who_has_most_is_asked_back_first() -> None:
    bench = Bench(4)
    bench.ask(OTHER, 1)
    bench.ask(DRIVER, 1, 2, 3)

    assert asked_back(bench.ask(THIRD, 1, 2)) == [(DRIVER, 2)]


def test_what_a_worker_takes_back_is_asked_for_again_for_those_who_wait() -> None:
    """Its CPU was lent to a lease that has been asked back for somebody. It comes, and is not for that one any more."""
    bench = Bench(1)
    ((_, parent),) = granted(bench.ask(DRIVER, 1))
    ((_, _),) = granted(bench.ask(DRIVER, 2) + bench.say(parent, WorkerBlocked()))
    assert asked_back(bench.ask(OTHER, 1)) == [(DRIVER, 1)]  # the one that runs

    effects = bench.say(parent, WorkerUnblocked())

    assert effects[0] == Send(DRIVER, ReclaimLeases([lease_id(DRIVER, 1)]))
    assert granted(bench.give_back(DRIVER, 2)) == []
    assert [owner for owner, _ in granted(bench.give_back(DRIVER, 1))] == [OTHER]
    assert bench.node.claims.shares == {OTHER: 1}


def start(count: int, needs: Resources) -> StartActor:
    return StartActor(ActorId(lease_id(DRIVER, count)), 0, "Toy", FunctionId(b""), b"", b"", None, needs, needs)


def test_beats_tell_what_actors_and_placement_groups_hold_for_long() -> None:
    bench = Bench(4)

    def bound(message: Message, now: float) -> Resources:
        bench.now = now
        beats = [e.message for e in bench.say(HEAD, message) if isinstance(getattr(e, "message", None), NodeBeat)]
        return dict(beats[-1].bound)

    assert bound(start(1, {"CPU": 500}), 1.0) == {"CPU": 500}
    assert bound(start(2, {"CPU": 3500}), 2.0) == {"CPU": 4000}
    assert bound(start(3, {"CPU": 1000}), 3.0) == {"CPU": 5000}  # it waits for the others' end
    assert bound(ReserveBundles(GROUP, 1, [(0, {"CPU": 1000})]), 4.0) == {"CPU": 5000}  # there is no room
    bench = Bench(4)
    assert bound(ReserveBundles(GROUP, 1, [(0, {"CPU": 1000})]), 1.0) == {"CPU": 1000}


def test_how_long_a_lease_takes_to_come_back_counts_from_when_it_is_wanted() -> None:
    bench = Bench(1)

    def turn(owner: ProcessId, count: int, kept: float, wanted: float) -> float:
        """One is kept for so long, and somebody wants it for the last of that. What beats tell then."""
        bench.now += 10.0
        bench.ask(owner, count)
        bench.now += kept - wanted
        bench.ask(THIRD, count)
        bench.now += wanted
        bench.give_back(owner, count)
        bench.give_back(THIRD, count)
        return bench.node.claims.mean_s

    assert turn(DRIVER, 1, kept=9.0, wanted=2.0) == pytest.approx(2.0)
    assert turn(OTHER, 1, kept=5.0, wanted=1.0) == pytest.approx(1.5)  # quicker to believe that it is short
    bench.now += 10.0
    bench.ask(DRIVER, 2)
    bench.now += 100.0
    bench.give_back(DRIVER, 2)  # nobody wanted it
    assert bench.node.claims.mean_s == pytest.approx(1.5)


def test_a_node_that_has_a_little_of_the_arguments_asks_the_head_who_has_more() -> None:
    bench = Bench(2)
    bench.say(HEAD, NodeTable([bench.node.info.as_dict(), node_info("b", CPU=2).as_dict()]))
    request = RequestLeases([lease_id(DRIVER, 1)], ONE, [B, A], lying=[5_000_000, 1_000])
    at_home = RequestLeases([lease_id(DRIVER, 2)], ONE, [A, B], lying=[5_000_000, 1_000])

    assert SendFrom(HEAD, DRIVER, request) in bench.say(DRIVER, request)
    assert len(granted(bench.say(DRIVER, at_home))) == 1


# ---------------------------------------------------------------------------------- at the head
class HeadBench:
    def __init__(self, **cpus: int) -> None:
        self.head = Head("test")
        self.head.start(0.0)
        for letter, count in cpus.items():
            self.say(raylet(letter), node_info(letter, CPU=count).join())
        self.head.handle(ClockTicked(), 0.1)

    def say(self, sender: ProcessId, message: Message) -> list[Any]:
        effects = self.head.handle(Received(sender, message), 0.1)
        check(self.head)
        return effects

    def leases(self, *counts: int, lying: Mapping[NodeId, int] | None = None) -> Counter[ProcessId]:
        """So many on each raylet."""
        asked = [lease_id(DRIVER, count) for count in counts]
        there = lying or {}
        request = RequestLeases(asked, ONE, list(there), lying=list(there.values()))
        sent = [e for e in self.say(DRIVER, request) if isinstance(e, SendFrom)]
        return Counter({e.to: len(e.message.leases) for e in sent if isinstance(e.message, RequestLeases)})

    def actor(self, count: int) -> ProcessId:
        message = CreateActor(ActorId(lease_id(DRIVER, count)), "Toy", FunctionId(b""), b"", b"", None, {}, ONE, 0)
        (to,) = [e.to for e in self.say(DRIVER, message) if isinstance(e, Send) and isinstance(e.message, StartActor)]
        return to


def test_work_does_not_wait_behind_an_actor_that_leaves_it_no_room() -> None:
    """That node has run no tasks, so its queue looked the quickest; each lease waited there until it was offered anew,
    and was sent there again."""
    bench = HeadBench(a=1, b=2)
    bench.say(raylet("a"), NodeBeat({"CPU": 800}, 0, 0.0, 0, 0, {"CPU": 200}))
    bench.say(raylet("b"), NodeBeat({}, 20, 2.0, 0, 0))

    assert bench.leases(1, 2, 3) == {raylet("b"): 3}

    bench.say(raylet("b"), NodeBeat({}, 20, 2.0, 3, 3, {"CPU": 2000}))
    assert bench.leases(4) == {raylet("a"): 1}  # some actor has to end first, and there fewer wait for it


def test_actors_go_where_no_other_actor_will_be_though_all_nodes_are_busy() -> None:
    """The quickest node got them all, and all but its CPUs' worth of them waited until they were offered anew."""
    bench = HeadBench(a=2, b=2, c=2)
    for letter, task_s in (("a", 5.0), ("b", 0.001), ("c", 1.0)):  # tasks have just run there, and workers linger
        bench.say(raylet(letter), NodeBeat({}, 0, task_s, 0, 0))

    chosen = Counter(bench.actor(count) for count in range(1, 7))

    assert chosen == {raylet("a"): 2, raylet("b"): 2, raylet("c"): 2}


def test_never_less_than_nothing_is_available() -> None:
    bench = HeadBench(a=1, b=2)
    bench.say(raylet("a"), NodeBeat({"CPU": -3000}, 0, 0.0))

    (answer,) = bench.say(DRIVER, Ask(1, "available"))

    assert answer.message == Answer(1, {"CPU": 2000})


MB = 1_000_000


@pytest.mark.parametrize(
    ("size", "bytes_s", "chosen"), [(10, 0.0, "b"), (100, 0.0, "a"), (10, 2e7, "a"), (100, 2e9, "b")]
)
def test_to_wait_where_the_arguments_lie_is_worth_what_it_takes_to_bring_them(
    size: int, bytes_s: float, chosen: str
) -> None:
    """0.2 s of waiting there, or their bytes by the mean bandwidth; 0.2 GB/s as long as no node has measured it."""
    bench = HeadBench(a=2, b=2)
    bench.say(raylet("a"), NodeBeat({}, 1, 0.2, 0, 0))
    bench.say(raylet("b"), NodeBeat({"CPU": 2000}, 0, 0.2, pull_bytes_s=bytes_s))

    assert bench.leases(1, lying={A: size * MB}) == {raylet(chosen): 1}


def test_arguments_on_two_nodes_draw_by_their_bytes() -> None:
    bench = HeadBench(a=2, b=2, c=2)

    assert bench.leases(1, lying={B: 2 * MB, C: 3 * MB}) == {raylet("c"): 1}


def test_the_bandwidth_is_a_running_mean_of_what_nodes_measure() -> None:
    bench = HeadBench(a=1, b=1)

    for letter, bytes_s in (("a", 1e8), ("a", 1e8), ("b", 2e8), ("a", 1e8)):
        bench.say(raylet(letter), NodeBeat({}, 0, 0.0, pull_bytes_s=bytes_s))

    assert bench.head.nodes.pull_bytes_s == pytest.approx(1.2e8)
