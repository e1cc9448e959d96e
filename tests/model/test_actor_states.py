"""What the head does with the states that actors save."""

from __future__ import annotations

from typing import Any

from sparkray_core.ids import HEAD, ActorId, FunctionId, ProcessId, object_id, raylet_of, task_id
from sparkray_core.messages import (
    ActorChanged,
    ActorLost,
    ActorReady,
    ActorSaved,
    CreateActor,
    DropBorrowers,
    EndActor,
    Message,
    SaveActor,
    StartActor,
)
from sparkray_core.model.effects import Send, WakeAt
from sparkray_core.model.events import ClockTicked, PeerLost, Received
from sparkray_core.model.head import Head
from sparkray_core.model.invariants import check
from sparkray_core.testing.builders import lease_id, node_id, node_info, process_id, raylet

A, B = node_id("a"), node_id("b")
DRIVER = process_id(A, "driver")
ACTOR = ActorId(lease_id(DRIVER, 1))
ON_A, ON_B = (ProcessId(node + bytes([0] * 7 + [1])) for node in (A, B))
FIRST, SECOND = (object_id(task_id(raylet_of(B), count)) for count in (1, 2))


class Bench:
    """A head with two nodes; the actor lives on b, and its next life is placed on a."""

    def __init__(self, restarts: int = -1) -> None:
        self.head = Head("test")
        self.now = 0.0
        self.head.start(0.0)
        for letter in "ba":
            self.say(raylet(letter), node_info(letter, CPU=1).join())
        self.tick(0.1)
        one = {"CPU": 1000}
        self.say(DRIVER, CreateActor(ACTOR, "Toy", FunctionId(b""), b"", b"", None, {}, one, restarts))
        self.say(ON_B, ActorReady(ACTOR, 0))

    def event(self, event: Any) -> list[Any]:
        effects = self.head.handle(event, self.now)
        check(self.head)
        return [effect for effect in effects if not isinstance(effect, WakeAt)]

    def say(self, sender: ProcessId, message: Message) -> list[Any]:
        return self.event(Received(sender, message))

    def tick(self, seconds: float) -> list[Any]:
        self.now += seconds
        return self.event(ClockTicked())


def saves(number: int, state: bytes | None, some: Any = None, life: int = 0) -> SaveActor:
    return SaveActor(ACTOR, life, number, state, some, 10)


def only(effects: list[Any], kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


def starts(effects: list[Any]) -> tuple[ProcessId, Any, Any]:
    """(where, state, object) of the one life that is started."""
    (effect,) = only(effects, StartActor)
    return effect.to, effect.message.saved, effect.message.saved_object


def drops(some: Any) -> Send:
    return Send(raylet_of(B), DropBorrowers([(some, HEAD)]))


def test_the_next_life_begins_with_the_state_that_was_saved_last() -> None:
    bench = Bench()
    assert bench.say(ON_B, saves(1, b"one")) == [Send(ON_B, ActorSaved(ACTOR, 1))]
    assert bench.say(ON_B, saves(2, b"two")) == [Send(ON_B, ActorSaved(ACTOR, 2))]

    bench.say(raylet("b"), ActorLost(ACTOR, 0, "killed by SIGKILL", meant=False))

    assert starts(bench.tick(5.0)) == (raylet("a"), b"two", None)


def test_a_small_state_survives_its_node() -> None:
    bench = Bench()
    bench.say(ON_B, saves(1, b"one"))
    bench.event(PeerLost(B, "connection refused"))
    assert starts(bench.tick(5.0)) == (raylet("a"), b"one", None)


def test_a_large_state_is_an_object_and_the_head_lets_go_of_the_former_one() -> None:
    bench = Bench()
    assert bench.say(ON_B, saves(1, None, FIRST)) == [Send(ON_B, ActorSaved(ACTOR, 1))]
    assert bench.say(ON_B, saves(2, None, SECOND)) == [drops(FIRST), Send(ON_B, ActorSaved(ACTOR, 2))]
    bench.say(raylet("b"), ActorLost(ACTOR, 0, "killed by SIGKILL", meant=False))
    assert starts(bench.tick(5.0)) == (raylet("a"), None, SECOND)
    assert drops(SECOND) in bench.say(DRIVER, EndActor(ACTOR, "killed", restart=False, gently=False))


def test_a_large_state_is_lost_with_its_node_and_so_is_the_actor() -> None:
    bench = Bench()
    bench.say(ON_B, saves(1, None, FIRST))
    effects = bench.event(PeerLost(B, "connection refused"))
    (told,) = only(effects, ActorChanged)
    assert told.message.state == "dead"
    assert "its saved state" in told.message.why
    assert "checkpoint_head_bytes" in told.message.why
    assert drops(FIRST) not in effects


def test_a_state_lost_while_its_actor_lives_elsewhere_is_missed_only_if_that_life_saves_none() -> None:
    for saves_again in (False, True):
        bench = Bench()
        bench.say(ON_B, saves(1, None, FIRST))
        bench.say(raylet("b"), ActorLost(ACTOR, 0, "killed by SIGKILL", meant=False))
        assert starts(bench.tick(5.0)) == (raylet("a"), None, FIRST)
        bench.say(ON_A, ActorReady(ACTOR, 1))
        bench.event(PeerLost(B, "connection refused"))
        if saves_again:
            bench.say(ON_A, saves(1, b"one", life=1))
        effects = bench.say(raylet("a"), ActorLost(ACTOR, 1, "killed by SIGKILL", meant=False))
        assert [effect.message.state for effect in only(effects, ActorChanged)] == [
            "restarting" if saves_again else "dead"
        ]


def test_a_life_that_was_given_up_saves_nothing_any_more() -> None:
    bench = Bench()
    bench.say(ON_B, saves(1, b"one"))
    bench.say(DRIVER, EndActor(ACTOR, "killed by ray.kill()", restart=True, gently=False))
    assert bench.say(ON_B, saves(2, None, FIRST)) == [drops(FIRST)]
    effects = bench.say(raylet("b"), ActorLost(ACTOR, 0, "killed", meant=True))
    assert starts([*effects, *bench.tick(5.0)]) == (raylet("a"), b"one", None)


def test_the_last_life_needs_no_state_once_it_has_begun() -> None:
    bench = Bench(restarts=1)
    bench.say(ON_B, saves(1, None, FIRST))
    bench.say(raylet("b"), ActorLost(ACTOR, 0, "killed by SIGKILL", meant=False))
    assert starts(bench.tick(5.0)) == (raylet("a"), None, FIRST)
    assert drops(FIRST) in bench.say(ON_A, ActorReady(ACTOR, 1))
