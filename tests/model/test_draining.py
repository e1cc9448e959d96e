"""Nodes that are drained, as the head and as the node itself sees it. (Whole sessions: tests/simulation, LEAVING.)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sparkray_core.ids import HEAD, ActorId
from sparkray_core.messages import (
    ActorChanged,
    ActorLost,
    ActorReady,
    ActorUnplaced,
    DrainNode,
    FreeObjects,
    NodeDraining,
    NodeGone,
    NodeTable,
    ObjectChunk,
    ObjectMoved,
    ObjectTaken,
    ReclaimLeases,
    RequestLeases,
    ReturnLeases,
    StartActor,
    StopActor,
    TakeObject,
)
from sparkray_core.model.effects import Send, SendFrom, Stop
from sparkray_core.model.events import ClockTicked, PeerLost
from sparkray_core.model.node_draining import AGAIN_S, AT_ONCE, LOOK_S
from sparkray_core.testing.builders import an_object, lease_id, node_id, node_info, process_id, raylet
from tests.model.test_head import Bench as HeadBench
from tests.model.test_head import placed
from tests.model.test_node import Bench as NodeBench

A, B = node_id("a"), node_id("b")
DRIVER = process_id(A, "driver")
AFAR = process_id(B, "driver")
ACTOR = ActorId(lease_id(DRIVER, 1))
ONE = {"CPU": 1000}


def messages(effects: list[Any], kind: type) -> list[Any]:
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


# ---------------------------------------------------------------------------------- the head
def test_nothing_is_placed_on_a_node_that_is_drained_and_its_end_is_planned() -> None:
    bench = HeadBench(a=1, b=1)

    told = bench.say(DRIVER, DrainNode(0, B, "sold", 5.0))

    assert Send(raylet("b"), NodeDraining("sold", 5.0)) in told
    request = RequestLeases([lease_id(DRIVER, n) for n in range(1, 4)], ONE, [B])
    assert placed(bench.say(DRIVER, request)) == {raylet("a"): 3}
    there = RequestLeases([lease_id(DRIVER, 9)], ONE, [], where=("node", B, False, False, False))
    (refused,) = bench.say(DRIVER, there)
    assert "is being drained: sold" in refused.message.why
    assert messages(bench.event(PeerLost(B, "its connection broke")), NodeGone) == [
        NodeGone(B, "its connection broke"),
        NodeGone(B, "its connection broke", planned=True),
    ]


def test_an_actor_moves_without_using_up_a_restart_and_its_callers_wait() -> None:
    bench = HeadBench(b=1, a=1)
    bench.create(restarts=1)
    worker = process_id(B, "worker")
    bench.say(worker, ActorReady(ACTOR, 0))

    (held,) = messages(bench.say(DRIVER, DrainNode(0, B, "sold", None)), ActorChanged)
    bench.now += 0.25
    stops = messages(bench.event(ClockTicked()), StopActor)
    effects = bench.say(raylet("b"), ActorLost(ACTOR, 0, "it ended", meant=True))

    assert (held.state, held.worker) == ("moving", worker)
    assert [stop.gently for stop in stops] == [True]
    assert [one.state for one in messages(effects, ActorChanged)] == ["moving"]
    (start,) = messages(effects, StartActor)
    assert start.incarnation == 1
    assert Send(raylet("a"), start) in effects
    assert bench.head.actors.all[ACTOR].restarts_left == 1
    (alive,) = messages(bench.say(process_id(A, "worker"), ActorReady(ACTOR, 1)), ActorChanged)
    assert alive.state == "alive"


def test_an_actor_that_fits_nowhere_else_or_may_not_be_restarted_stays() -> None:
    for restarts, elsewhere in ((0, 1), (1, 0)):
        bench = HeadBench(b=1, a=elsewhere)
        bench.create(restarts=restarts)
        bench.say(process_id(B, "worker"), ActorReady(ACTOR, 0))

        bench.say(DRIVER, DrainNode(0, B, "sold", None))
        bench.now += 1.0

        assert messages(bench.event(ClockTicked()), StopActor) == []


# ---------------------------------------------------------------------------------- the node
def leaving(**facts: Any) -> NodeBench:
    """A node without drivers, that knows of another."""
    bench = NodeBench(**facts)
    for driver in list(bench.node.processes):
        if bench.node.processes[driver] == "driver":
            del bench.node.processes[driver]
    bench.say(HEAD, NodeTable([node_info("a", CPU=1).as_dict(), node_info("b", CPU=4).as_dict()]))
    return bench


def ask(bench: NodeBench, *counts: int) -> list[Any]:
    return bench.say(AFAR, RequestLeases([lease_id(AFAR, n) for n in counts], ONE, [], placed=True))


def test_what_waits_goes_back_to_the_head_and_what_runs_finishes_first() -> None:
    bench = leaving(CPU=1)
    ask(bench, 1)
    ask(bench, 2)

    effects = bench.say(HEAD, NodeDraining("sold", None))

    onward: Any = next(effect for effect in effects if isinstance(effect, SendFrom))
    assert (onward.to, onward.sender, onward.message.leases) == (HEAD, AFAR, [lease_id(AFAR, 2)])
    assert Send(AFAR, ReclaimLeases([lease_id(AFAR, 1)])) in effects
    (bounced,) = ask(bench, 3)
    assert (bounced.to, bounced.message.leases) == (HEAD, [lease_id(AFAR, 3)])
    start = StartActor(ACTOR, 0, "Toy", b"", b"", b"", None, {}, {})  # type: ignore[arg-type]
    assert bench.say(HEAD, start) == [Send(HEAD, ActorUnplaced(ACTOR, 0))]
    assert bench.node.ended is None
    bench.say(AFAR, ReturnLeases([lease_id(AFAR, 1)]))
    assert bench.node.drain.holds_up() == {"workers": 1}


def test_it_leaves_at_its_deadline_whatever_still_runs() -> None:
    bench = leaving(CPU=1)
    ask(bench, 1)
    bench.say(HEAD, NodeDraining("sold", 2.0))
    bench.now = 2.0

    effects = bench.event(ClockTicked())

    why = "it was drained: sold (its deadline came, and it still had 1 leases)"
    assert [effect for effect in effects if not isinstance(effect, Send) or effect.to == HEAD] == [
        Send(HEAD, NodeGone(A, why)),
        Stop(why),
    ]


def test_its_objects_are_taken_by_another_node_before_their_owner_lets_them_be_freed() -> None:
    bench = leaving(CPU=1)
    some = an_object(AFAR, 1)
    offset = bench.node.store.take(some, bench.workers[0], 100, 0.0)
    assert offset is not None
    bench.node.store.seal(some, bench.workers[0], 0.0)

    assert Send(raylet("b"), TakeObject(some)) in bench.say(HEAD, NodeDraining("sold", None))
    assert bench.say(raylet("b"), ObjectTaken(some, True)) == [Send(AFAR, ObjectMoved(some, A, B))]
    assert some in bench.node.store.stored


def test_what_another_node_has_taken_is_passed_on_once_unless_that_node_dies_or_it_stays() -> None:
    bench = leaving(CPU=1)
    some = an_object(process_id(node_id("c"), "driver"), 1)
    assert bench.node.store.take(some, bench.workers[0], 100, 0.0) is not None
    bench.node.store.seal(some, bench.workers[0], 0.0)
    bench.say(HEAD, NodeDraining("sold", None))
    bench.say(raylet("b"), ObjectTaken(some, True))

    bench.now = LOOK_S
    assert messages(bench.event(ClockTicked()), TakeObject) == []

    bench.say(HEAD, NodeGone(B, "power cut"))
    bench.say(HEAD, NodeTable([node_info(name, CPU=1).as_dict() for name in "ac"]))
    bench.now = 2 * LOOK_S
    assert messages(bench.event(ClockTicked()), TakeObject) == [TakeObject(some)]
    bench.say(raylet("c"), ObjectTaken(some, True))
    bench.now += AGAIN_S
    assert messages(bench.event(ClockTicked()), TakeObject) == [TakeObject(some)]


def test_each_of_many_objects_is_passed_on_once() -> None:
    bench = leaving(CPU=1)
    for number in range(3 * AT_ONCE):
        some = an_object(process_id(node_id("c"), "driver"), number)
        assert bench.node.store.take(some, bench.workers[0], 10, 0.0) is not None
        bench.node.store.seal(some, bench.workers[0], 0.0)
    asked = messages(bench.say(HEAD, NodeDraining("sold", None)), TakeObject)

    for word in asked:  # grows meanwhile
        bench.now += LOOK_S / 4
        asked += messages(bench.event(ClockTicked()), TakeObject)
        asked += messages(bench.say(raylet("b"), ObjectTaken(word.object, True)), TakeObject)

    assert len(asked) == len({word.object for word in asked}) == 3 * AT_ONCE


def test_what_was_freed_while_this_node_took_it_is_not_taken() -> None:
    bench = NodeBench(CPU=1)
    bench.say(HEAD, NodeTable([node_info("a", CPU=1).as_dict(), node_info("b", CPU=4).as_dict()]))
    some = an_object(process_id(node_id("c"), "driver"), 1)
    bench.say(raylet("b"), TakeObject(some))
    bench.node.pulls.limits = replace(bench.node.limits, chunk_bytes=10)
    bench.say(raylet("b"), ObjectChunk(some, 0, 20, bytes(10)))
    bench.say(AFAR, FreeObjects([some]))
    effects = bench.say(raylet("b"), ObjectChunk(some, 10, 20, bytes(10)))

    assert Send(raylet("b"), ObjectTaken(some, False)) in effects
    assert some not in bench.node.store.stored
