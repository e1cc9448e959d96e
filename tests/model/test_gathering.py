"""Placement groups at the head while all nodes are busy with tasks: nodes are asked to save up for them."""

from __future__ import annotations

from typing import Any

import pytest

from sparkray_core.ids import ActorId, FunctionId, GroupId
from sparkray_core.messages import (
    BundlesReserved,
    CommitBundles,
    CreateActor,
    CreateGroup,
    Message,
    NodeBeat,
    ReleaseBundles,
    RemoveGroup,
    ReserveBundles,
)
from sparkray_core.model.effects import Send
from sparkray_core.model.events import ClockTicked, Received
from sparkray_core.model.groups import GroupState
from sparkray_core.model.head import Head
from sparkray_core.model.invariants import check
from sparkray_core.testing.builders import lease_id, node_id, node_info, process_id, raylet

DRIVER = process_id(node_id("a"), "driver")
ONE = {"CPU": 1000}
GROUP, LATER = GroupId(lease_id(DRIVER, 901)), GroupId(lease_id(DRIVER, 902))


class Bench:
    """A head whose nodes say at once that tasks have all they have."""

    def __init__(self, *letters: str, cpus: int = 2, task_s: float = 0.0) -> None:
        self.head = Head("test")
        self.head.start(0.0)
        self.now = 0.1
        for letter in letters:
            self.say(letter, node_info(letter, CPU=cpus).join())
        self.letters = letters
        self.task_s = task_s
        self.beats()

    def say(self, letter: str, message: Message) -> list[str]:
        return self._see(self.head.handle(Received(raylet(letter), message), self.now))

    def beats(self, bound: int = 0) -> list[str]:
        """All are busy, and actors or groups have so many CPUs of it."""
        seen: list[str] = []
        for letter in self.letters:
            placed = self.head.nodes.all[node_id(letter)].placed
            seen += self.say(letter, NodeBeat({}, 3, self.task_s, placed, placed, {"CPU": bound * 1000}))
        return seen

    def sleep(self, seconds: float) -> list[str]:
        self.now += seconds
        seen = self._see(self.head.handle(ClockTicked(), self.now))
        return seen + self.beats()

    def create(self, group: GroupId, strategy: str, count: int, cpus: int = 1) -> list[str]:
        bundles = [{"CPU": cpus * 1000}] * count
        return self.say("a", CreateGroup(0, group, "", bundles, strategy, (), False, ""))

    def _see(self, effects: list[Any]) -> list[str]:
        check(self.head)
        letters = {raylet(letter): letter for letter in "abcd"}
        seen = []
        for effect in effects:
            match effect:
                case Send(to, ReserveBundles(group, attempt, bundles, waits)):
                    which = ",".join(str(index) for index, _ in bundles)
                    seen.append(f"{letters[to]} {'saves' if waits else 'reserves'} {which} of {name(group)} {attempt}")
                case Send(to, CommitBundles(group, indexes)):
                    seen.append(f"{letters[to]} commits {','.join(map(str, indexes))} of {name(group)}")
                case Send(to, ReleaseBundles(group, indexes)):
                    seen.append(f"{letters[to]} releases {','.join(map(str, indexes))} of {name(group)}")
                case _:
                    pass
        return seen


def name(group: GroupId) -> str:
    return {GROUP: "G", LATER: "H"}[group]


@pytest.mark.parametrize(
    ("strategy", "count", "expected"),
    [
        ("STRICT_PACK", 2, ["a saves 0,1 of G 1"]),
        ("PACK", 3, ["a saves 0,1 of G 1", "b saves 2 of G 1"]),
        ("SPREAD", 3, ["a saves 0,2 of G 1", "b saves 1 of G 1"]),
        ("STRICT_SPREAD", 2, ["a saves 0 of G 1", "b saves 1 of G 1"]),
    ],
)
def test_nodes_whose_tasks_leave_no_room_are_asked_to_save_up(strategy: str, count: int, expected: list[str]) -> None:
    bench = Bench("a", "b")

    assert bench.create(GROUP, strategy, count) == expected
    assert bench.head.groups.all[GROUP].state is GroupState.PENDING
    seen = [bench.say(line[0], BundlesReserved(GROUP, 1, True)) for line in expected]
    assert seen[:-1] == [[]] * (len(expected) - 1)  # not before all have it
    assert [line.replace("saves", "commits")[:-2] for line in expected] == seen[-1]
    assert bench.head.groups.all[GROUP].state is GroupState.CREATED


def test_what_is_promised_to_one_group_is_not_promised_to_the_next() -> None:
    bench = Bench("a", "b")

    assert bench.create(GROUP, "STRICT_SPREAD", 2, cpus=2) == ["a saves 0 of G 1", "b saves 1 of G 1"]
    assert bench.create(LATER, "STRICT_SPREAD", 2) == []
    assert bench.beats(bound=2) == []
    seen = bench.say("a", RemoveGroup(GROUP))
    assert seen == ["a releases 0 of G", "b releases 1 of G"]
    assert bench.beats(bound=0) == ["a saves 0 of H 1", "b saves 1 of H 1"]


def test_where_actors_have_the_room_nobody_saves_up() -> None:
    bench = Bench("a", "b")
    actor = ActorId(lease_id(DRIVER, 1))
    bench.say("a", CreateActor(actor, "Toy", FunctionId(b""), b"", b"", None, {"CPU": 2000}, ONE, 0))  # on its way to a

    assert bench.create(GROUP, "STRICT_SPREAD", 2, cpus=2) == []
    assert bench.create(LATER, "STRICT_PACK", 2) == ["b saves 0,1 of H 1"]


def test_nodes_that_saved_up_for_long_give_back_rest_as_long_and_may_then_take_twice_as_long() -> None:
    bench = Bench("a", "b")
    bench.create(GROUP, "STRICT_SPREAD", 2)
    bench.say("a", BundlesReserved(GROUP, 1, True))

    assert bench.sleep(4.9) == []
    assert bench.sleep(0.2) == ["a releases 0 of G", "b releases 1 of G"]
    assert bench.say("b", BundlesReserved(GROUP, 1, True)) == []  # crossed
    assert bench.sleep(4.8) == []
    assert bench.sleep(0.3) == ["a saves 0 of G 2", "b saves 1 of G 2"]
    assert bench.sleep(9.8) == []
    assert bench.sleep(0.3) == ["a releases 0 of G", "b releases 1 of G"]


def test_nodes_may_save_up_for_longer_where_leases_take_longer_to_come_back() -> None:
    bench = Bench("a", "b", task_s=4.0)
    bench.create(GROUP, "STRICT_SPREAD", 2)

    assert bench.sleep(15.9) == []
    assert bench.sleep(0.2) == ["a releases 0 of G", "b releases 1 of G"]


def test_who_asks_hears_that_nodes_save_up() -> None:
    bench = Bench("a", "b")
    bench.create(GROUP, "STRICT_SPREAD", 2)

    (facts,) = bench.head.groups.describe([GROUP], "", bench.now)

    assert facts["why"] == "2 nodes have not answered yet: they save up what tasks give back as they end"
