"""Actors and bundles of placement groups on a node that owners keep busy with tasks: they save up what comes back."""

from __future__ import annotations

from typing import Any

import pytest

from sparkray_core.ids import HEAD, ActorId, FunctionId, GroupId, ProcessId
from sparkray_core.messages import (
    ActorUnplaced,
    BundlesReserved,
    CommitBundles,
    LeaseGranted,
    Message,
    NodeDraining,
    NodeTable,
    OrderTaken,
    ReclaimLeases,
    RegisterProcess,
    ReleaseBundles,
    RequestLeases,
    ReserveBundles,
    Resources,
    ReturnLeases,
    SetGpus,
    SetThreads,
    StartActor,
)
from sparkray_core.model import where as places
from sparkray_core.model.effects import Send, StartWorker
from sparkray_core.model.events import ClockTicked, Received
from sparkray_core.model.invariants import check
from sparkray_core.testing.builders import a_node, lease_id, node_id, node_info, process_id, register_workers

DRIVER, OTHER = (process_id(node_id("a"), name) for name in ("driver", "other"))
ONE, TWO, THREE = ({"CPU": count * 1000} for count in (1, 2, 3))
GROUP, LATER = GroupId(lease_id(DRIVER, 901)), GroupId(lease_id(DRIVER, 902))


class Bench:
    """A node whose workers come up at once."""

    def __init__(self, *, cpus: float, gpus: float = 0, memory: float = 0) -> None:
        self.node = a_node("a", CPU=cpus, GPU=gpus, memory=memory)
        self.now = 0.0
        register_workers(self.node, self.node.start(0.0), 0.0)
        for driver in (DRIVER, OTHER):
            self.say(driver, RegisterProcess("driver", 1))

    def say(self, sender: ProcessId, message: Message) -> list[Any]:
        return self._see(self.node.handle(Received(sender, message), self.now))

    def sleep(self, seconds: float) -> list[Any]:
        self.now += seconds
        return self._see(self.node.handle(ClockTicked(), self.now))

    def _see(self, effects: list[Any]) -> list[Any]:
        check(self.node)
        for effect in list(effects):
            if isinstance(effect, StartWorker):
                effects += self.say(effect.worker, RegisterProcess("worker", 2))
            elif isinstance(effect, Send) and isinstance(effect.message, SetThreads | SetGpus):
                effects += self.say(effect.to, OrderTaken())
        return effects

    def stream(self, owner: ProcessId, first: int, count: int, wanted: Resources = ONE) -> list[Any]:
        leases = [lease_id(owner, number) for number in range(first, first + count)]
        return self.say(owner, RequestLeases(leases, wanted, []))

    def give_back(self, owner: ProcessId, count: int) -> list[Any]:
        return self.say(owner, ReturnLeases([lease_id(owner, count)]))

    def start(self, count: int, needs: Resources) -> list[Any]:
        actor = ActorId(lease_id(DRIVER, 500 + count))
        return self.say(HEAD, StartActor(actor, 0, "Toy", FunctionId(b""), b"", b"", None, needs, needs))

    def reserve(self, *bundles: Resources, group: GroupId = GROUP, attempt: int = 1) -> list[Any]:
        return self.say(HEAD, ReserveBundles(group, attempt, list(enumerate(bundles)), waits=True))


def told(effects: list[Any], *kinds: type) -> list[Message]:
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kinds)]


def asked_back(effects: list[Any]) -> int:
    return sum(len(message.leases) for message in told(effects, ReclaimLeases) if isinstance(message, ReclaimLeases))


def test_an_actor_of_several_cpus_is_not_overtaken_by_tasks_of_one() -> None:
    bench = Bench(cpus=3)
    bench.stream(DRIVER, 1, 10)  # three run, seven wait

    assert asked_back(bench.start(1, THREE)) == 3
    assert told(bench.give_back(DRIVER, 1), LeaseGranted, StartActor) == []
    assert told(bench.give_back(DRIVER, 2), LeaseGranted, StartActor) == []
    assert [type(message) for message in told(bench.give_back(DRIVER, 3), LeaseGranted, StartActor)] == [StartActor]


def test_an_actor_goes_before_the_next_task_of_an_owner_that_has_nothing_just_now() -> None:
    """On a node of one CPU the owner of the stream has nothing in the moment in which its lease comes back."""
    bench = Bench(cpus=1)
    bench.stream(DRIVER, 1, 3)
    bench.start(1, ONE)

    assert [type(message) for message in told(bench.give_back(DRIVER, 1), LeaseGranted, StartActor)] == [StartActor]


def test_bundles_are_set_aside_as_leases_come_back_and_the_head_hears_when_all_are() -> None:
    bench = Bench(cpus=3)
    bench.stream(DRIVER, 1, 5)
    assert asked_back(bench.stream(OTHER, 1, 5)) == 3  # they are to come back anyhow

    first = bench.reserve(ONE, TWO)
    assert (asked_back(first), told(first, BundlesReserved)) == (0, [])
    assert told(bench.give_back(DRIVER, 1), LeaseGranted, BundlesReserved) == []
    assert told(bench.give_back(DRIVER, 2), LeaseGranted, BundlesReserved) == []
    assert told(bench.give_back(DRIVER, 3), LeaseGranted, BundlesReserved) == [BundlesReserved(GROUP, 1, True)]
    assert bench.node.claims.aside == THREE


def test_bundles_that_fit_are_there_at_once() -> None:
    bench = Bench(cpus=3)

    assert told(bench.reserve(ONE, TWO), BundlesReserved) == [BundlesReserved(GROUP, 1, True)]


def test_what_is_to_be_saved_up_no_more_goes_to_those_who_wait() -> None:
    bench = Bench(cpus=2)
    bench.stream(DRIVER, 1, 4)
    bench.reserve(ONE, ONE)
    assert told(bench.give_back(DRIVER, 1), LeaseGranted) == []  # one bundle is set aside

    effects = bench.say(HEAD, ReleaseBundles(GROUP, [0, 1], "removed"))

    assert len(told(effects, LeaseGranted)) == 1
    assert (bench.node.claims.aside, bench.node.bundles.all, bench.node.bundles.gathering) == ({}, {}, {})


def test_who_came_first_has_all_before_the_next_begins_to_save() -> None:
    bench = Bench(cpus=4)
    bench.stream(DRIVER, 1, 9)
    bench.reserve(TWO)
    bench.reserve(TWO, group=LATER)

    answers = [told(bench.give_back(DRIVER, number), LeaseGranted, BundlesReserved) for number in range(1, 5)]

    assert answers == [[], [BundlesReserved(GROUP, 1, True)], [], [BundlesReserved(LATER, 1, True)]]


def test_what_cannot_come_while_actors_live_takes_nothing_and_asks_nothing_back() -> None:
    bench = Bench(cpus=3)
    bench.start(1, TWO)
    bench.stream(DRIVER, 1, 4)

    assert asked_back(bench.start(2, TWO)) == 0
    assert len(told(bench.give_back(DRIVER, 1), LeaseGranted)) == 1


def test_what_was_saved_for_an_actor_in_vain_is_given_back_for_as_long_and_then_it_may_take_longer() -> None:
    bench = Bench(cpus=2)
    bench.stream(DRIVER, 1, 4)
    bench.start(1, TWO)
    assert told(bench.give_back(DRIVER, 1), LeaseGranted) == []

    assert len(told(bench.sleep(5.0), LeaseGranted)) == 1  # the other task runs on, and nothing idles
    assert told(bench.give_back(DRIVER, 3), LeaseGranted) != []
    assert asked_back(bench.sleep(5.0)) == 1
    bench.give_back(DRIVER, 4)
    assert told(bench.sleep(9.9), LeaseGranted) == []
    assert len(told(bench.give_back(DRIVER, 2), StartActor)) == 1


def test_an_actor_that_saves_up_is_not_sent_elsewhere_meanwhile() -> None:
    bench = Bench(cpus=2)
    bench.say(HEAD, NodeTable([bench.node.info.as_dict(), node_info("b", CPU=2).as_dict()]))
    bench.say(DRIVER, RequestLeases([lease_id(DRIVER, n) for n in range(1, 4)], ONE, [], placed=True))
    bench.start(1, TWO)

    assert told([effect for _ in range(9) for effect in bench.sleep(0.5)], ActorUnplaced) == []
    assert len(told([effect for _ in range(9) for effect in bench.sleep(0.5)], ActorUnplaced)) == 1


def test_more_urgent_tasks_keep_their_leases_and_go_first() -> None:
    bench = Bench(cpus=2)
    bench.say(DRIVER, RequestLeases([lease_id(DRIVER, n) for n in range(1, 4)], ONE, [], priority=1))

    assert asked_back(bench.reserve(TWO)) == 0
    assert len(told(bench.give_back(DRIVER, 1), LeaseGranted)) == 1


def test_whole_gpus_are_saved_up_and_pieces_are_not() -> None:
    bench = Bench(cpus=8, gpus=2)
    bench.stream(DRIVER, 1, 3, {"CPU": 1000, "GPU": 500})  # a pair on one GPU, and one on the other
    assert asked_back(bench.reserve({"CPU": 1000, "GPU": 2000})) == 3

    assert told(bench.give_back(DRIVER, 1), BundlesReserved) == []
    assert bench.node.claims.gpus.free == [500, 500]
    assert told(bench.give_back(DRIVER, 2), BundlesReserved) == []
    assert bench.node.claims.gpus.free == [0, 500]
    assert told(bench.give_back(DRIVER, 3), BundlesReserved) == [BundlesReserved(GROUP, 1, True)]


def test_a_node_that_is_drained_stops_saving_up() -> None:
    bench = Bench(cpus=2)
    bench.say(HEAD, NodeTable([bench.node.info.as_dict(), node_info("b", CPU=2).as_dict()]))
    bench.stream(DRIVER, 1, 2)
    bench.reserve(ONE, ONE)
    bench.give_back(DRIVER, 1)

    effects = bench.say(HEAD, NodeDraining("to be serviced", None))

    assert told(effects, BundlesReserved) == [BundlesReserved(GROUP, 1, False)]
    assert bench.node.claims.available == ONE
    assert told(bench.reserve(ONE, attempt=2), BundlesReserved) == [BundlesReserved(GROUP, 2, False)]


def granted(effects: list[Any]) -> list[Any]:
    return [message.lease for message in told(effects, LeaseGranted) if isinstance(message, LeaseGranted)]


@pytest.mark.parametrize("owner", [DRIVER, OTHER])
def test_a_task_of_several_cpus_is_overtaken_by_tasks_of_one_for_a_second_and_then_no_more(owner: ProcessId) -> None:
    """It waited for as long as their stream lasted."""
    bench = Bench(cpus=3)
    bench.stream(DRIVER, 1, 10)  # three run, seven wait
    bench.stream(owner, 21, 1, THREE)

    assert granted(bench.give_back(DRIVER, 1)) == [lease_id(DRIVER, 4)]
    bench.sleep(1.0)
    assert granted(bench.give_back(DRIVER, 2)) == []
    assert granted(bench.give_back(DRIVER, 3)) == []
    assert granted(bench.give_back(DRIVER, 4)) == [lease_id(owner, 21)]


def test_a_task_of_several_cpus_saves_nothing_while_one_like_it_runs() -> None:
    """Its owner gets on, and a CPU would idle for each of its tasks."""
    bench = Bench(cpus=3)
    bench.stream(OTHER, 1, 3, TWO)
    bench.stream(DRIVER, 1, 3)
    bench.sleep(1.0)

    assert granted(bench.give_back(DRIVER, 1)) == [lease_id(DRIVER, 2)]


def test_what_was_saved_for_a_task_in_vain_is_given_back_for_as_long() -> None:
    bench = Bench(cpus=2)
    bench.stream(DRIVER, 1, 4)
    bench.stream(OTHER, 1, 1, TWO)
    bench.sleep(1.0)
    assert granted(bench.give_back(DRIVER, 1)) == []

    assert granted(bench.sleep(5.0)) == [lease_id(DRIVER, 3)]
    assert granted(bench.give_back(DRIVER, 3)) == [lease_id(DRIVER, 4)]
    bench.sleep(5.0)
    assert granted(bench.give_back(DRIVER, 4)) == []
    assert granted(bench.give_back(DRIVER, 2)) == [lease_id(OTHER, 1)]


def test_a_task_that_saves_up_is_not_offered_elsewhere_meanwhile() -> None:
    bench = Bench(cpus=2)
    bench.say(HEAD, NodeTable([bench.node.info.as_dict(), node_info("b", CPU=2).as_dict()]))
    bench.say(DRIVER, RequestLeases([lease_id(DRIVER, n) for n in range(1, 3)], ONE, [], placed=True))
    bench.say(OTHER, RequestLeases([lease_id(OTHER, 1)], TWO, [], placed=True))
    for _ in range(3):
        bench.sleep(0.5)
    bench.give_back(DRIVER, 1)

    slept = [bench.sleep(0.5) and bench.node.claims.waiting_count() for _ in range(14)]

    assert slept == [1] * 12 + [0] * 2


def test_what_a_task_saved_that_is_wanted_no_more_goes_to_those_who_wait() -> None:
    bench = Bench(cpus=2)
    bench.stream(DRIVER, 1, 4)
    bench.stream(OTHER, 1, 1, TWO)
    bench.sleep(1.0)
    assert granted(bench.give_back(DRIVER, 1)) == []

    assert granted(bench.give_back(OTHER, 1)) == [lease_id(DRIVER, 3)]


def test_a_task_saves_nothing_while_another_part_of_what_it_is_short_of_is_all_taken() -> None:
    """A CPU would idle for as long as the GPU is gone."""
    bench = Bench(cpus=3, gpus=1)
    bench.stream(OTHER, 1, 1, {"GPU": 1000})
    bench.stream(DRIVER, 1, 5)
    bench.stream(OTHER, 2, 1, {"CPU": 2000, "GPU": 1000})
    bench.sleep(1.0)

    assert granted(bench.give_back(DRIVER, 1)) == [lease_id(DRIVER, 4)]
    bench.give_back(OTHER, 1)
    assert granted(bench.give_back(DRIVER, 2)) == []
    assert granted(bench.give_back(DRIVER, 3)) == [lease_id(OTHER, 2)]


def test_another_bundle_s_task_does_not_count_as_one_like_it() -> None:
    bench = Bench(cpus=4)
    bench.reserve(TWO)
    bench.say(HEAD, CommitBundles(GROUP, [0]))
    there = (places.GROUP, GROUP, places.ANY_BUNDLE, False)
    bench.say(OTHER, RequestLeases([lease_id(OTHER, 1)], TWO, [], where=there))
    bench.stream(DRIVER, 1, 4)
    bench.stream(OTHER, 2, 1, TWO)
    bench.sleep(1.0)

    assert granted(bench.give_back(DRIVER, 1)) == []
    assert granted(bench.give_back(DRIVER, 2)) == [lease_id(OTHER, 2)]


def test_an_owner_of_many_kinds_that_fit_does_not_go_before_one_that_has_nothing() -> None:
    bench = Bench(cpus=1, memory=1.0)
    for number in range(1, 6):
        bench.stream(DRIVER, number, 1, {"CPU": 1000, "memory": number})
    bench.sleep(1.5)
    bench.stream(OTHER, 1, 1)
    bench.sleep(0.1)
    bench.stream(DRIVER, 6, 1, {"memory": 6})  # so that it has something in that moment

    assert granted(bench.give_back(DRIVER, 1)) == [lease_id(OTHER, 1)]


def test_a_task_saves_only_what_it_is_short_of() -> None:
    bench = Bench(cpus=2, gpus=1)
    bench.stream(DRIVER, 1, 4)
    bench.stream(OTHER, 1, 1, {"CPU": 2000, "GPU": 1000})
    bench.sleep(1.0)

    assert granted(bench.give_back(DRIVER, 1)) == []
    assert bench.node.claims.available == {"GPU": 1000}
