"""What the stories in tests/scenarios do not tell of the head."""

from __future__ import annotations

from typing import Any

from sparkray_core.ids import ActorId, FunctionId, ProcessId
from sparkray_core.messages import (
    ActorChanged,
    ActorReady,
    ActorUnplaced,
    Answer,
    Ask,
    CreateActor,
    EndActor,
    EndSession,
    ExplainNode,
    FindActor,
    Message,
    NameActor,
    NodeBeat,
    NodeGone,
    NodeSaid,
    NodeTable,
    ProcessGone,
    RegisterJob,
    RequestLeases,
    StartActor,
    StopActor,
    WatchActor,
)
from sparkray_core.model.effects import ForgetPeer, LookForSigns, Send, SendFrom, Stop, WakeAt
from sparkray_core.model.events import ClockTicked, PeerLost, PeersHeard, Received
from sparkray_core.model.head import Head
from sparkray_core.model.invariants import check
from sparkray_core.model.limits import HeadLimits
from sparkray_core.testing.builders import lease_id, node_id, node_info, process_id, raylet

A, B, C = node_id("a"), node_id("b"), node_id("c")
DRIVER = process_id(A, "driver")
ACTOR = ActorId(lease_id(DRIVER, 1))
ONE = {"CPU": 1000}


class Bench:
    def __init__(self, **cpus: int) -> None:
        self.head = Head("test")
        self.now = 0.0
        self.head.start(0.0)
        for letter, count in cpus.items():
            self.join(letter, count)
        self.now = 0.1
        self.event(ClockTicked())

    def join(self, letter: str, cpus: int) -> list[Any]:
        return self.say(raylet(letter), node_info(letter, CPU=cpus).join())

    def say(self, sender: ProcessId, message: Message) -> list[Any]:
        return self.event(Received(sender, message))

    def event(self, event: Any) -> list[Any]:
        effects = self.head.handle(event, self.now)
        check(self.head)
        return [effect for effect in effects if not isinstance(effect, WakeAt)]

    def create(self, restarts: int = 0) -> list[Any]:
        message = CreateActor(ACTOR, "Toy", FunctionId(b""), b"", b"", None, {}, ONE, restarts)
        return self.say(DRIVER, message)


def placed(effects: list[Any]) -> dict[ProcessId, int]:
    counts: dict[ProcessId, int] = {}
    for effect in effects:
        if isinstance(effect, SendFrom) and isinstance(effect.message, RequestLeases):
            assert effect.message.placed
            counts[effect.to] = len(effect.message.leases)
    return counts


def tables(effects: list[Any]) -> list[tuple[ProcessId, str]]:
    """Who is told of which nodes."""
    sends = [(effect.to, effect.message) for effect in effects if isinstance(effect, Send)]
    return [(to, "".join(row["host"] for row in told.nodes)) for to, told in sends if isinstance(told, NodeTable)]


def test_beat_that_crossed_a_placement_does_not_hide_it() -> None:
    bench = Bench(a=2, b=2)
    request = RequestLeases([lease_id(DRIVER, 1), lease_id(DRIVER, 2)], ONE, [A], lying=[1000])
    assert placed(bench.say(DRIVER, request)) == {raylet("a"): 2}

    # Sent before the placement arrived there: all free, nothing placed.
    bench.say(raylet("a"), NodeBeat({"CPU": 2000}, 0, 0.0, 0, 0))

    assert placed(bench.say(DRIVER, RequestLeases([lease_id(DRIVER, 3)], ONE, []))) == {raylet("b"): 1}


def test_actor_waits_no_longer_than_its_node_says_it_does() -> None:
    bench = Bench(a=1, b=1)
    (start,) = bench.create()
    assert (start.to, start.message.incarnation) == (raylet("a"), 0)
    bench.say(raylet("a"), NodeBeat({}, 1, 0.0, 1, 0))

    (again,) = bench.say(raylet("a"), ActorUnplaced(ACTOR, 0))

    assert again.to == raylet("b")
    assert isinstance(again.message, StartActor)
    assert again.message.incarnation == 0


def test_constructor_that_may_have_begun_uses_up_a_restart() -> None:
    bench = Bench(b=1, a=1)
    bench.create()
    bench.say(raylet("b"), NodeBeat({"CPU": 1000}, 0, 0.0, 1, 1))  # settled: it got a worker

    effects = bench.event(PeerLost(B, "connection refused"))

    (told,) = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, ActorChanged)]
    assert (told.state, told.why) == ("dead", f"its node {B.hex()} died: connection refused")


def test_end_of_the_owner_ends_its_actors() -> None:
    bench = Bench(b=1, a=1)
    bench.create(restarts=-1)
    worker = ProcessId(B + bytes([0] * 7 + [1]))
    bench.say(worker, ActorReady(ACTOR, 0))
    watcher = process_id(B, "watcher")
    bench.say(watcher, WatchActor(ACTOR))

    effects = bench.say(raylet("a"), ProcessGone(DRIVER, "killed by SIGKILL"))

    assert Send(raylet("b"), StopActor(ACTOR, 0, "its owner is gone", False)) in effects
    assert [effect.to for effect in effects if isinstance(effect.message, ActorChanged)] == [watcher]
    assert [effect.to for effect in effects if isinstance(effect.message, ProcessGone)] == [raylet("b"), raylet("a")]


def test_actor_of_an_owner_that_is_gone_is_told_dead_to_whoever_asks() -> None:
    bench = Bench(a=1)
    bench.say(raylet("a"), ProcessGone(DRIVER, "exit code 0"))

    (answer,) = bench.say(process_id(A, "watcher"), WatchActor(ACTOR))

    assert answer.message.state == "dead"


def test_who_asked_for_an_actor_hears_that_its_owner_died_before_it_was_created() -> None:
    for death in (ProcessGone(DRIVER, "exit code 1"), None):
        bench = Bench(b=1, a=1)
        watcher = process_id(B, "watcher")
        bench.say(watcher, WatchActor(ACTOR))

        effects = bench.say(raylet("a"), death) if death else bench.event(PeerLost(A, "connection refused"))

        told = [
            (effect.to, effect.message.state)
            for effect in effects
            if isinstance(getattr(effect, "message", None), ActorChanged)
        ]
        assert told == [(watcher, "dead")]


def test_a_name_is_free_as_soon_as_its_actor_is_to_end() -> None:
    bench = Bench(a=1)
    assert bench.say(DRIVER, NameActor(1, "space\0name", ACTOR, "facts"))[0].message.value is None
    bench.create()

    bench.say(DRIVER, EndActor(ACTOR, "all its handles went out of scope", restart=False, gently=True))

    (answer,) = bench.say(DRIVER, FindActor(2, "space\0name"))
    assert answer.message.value is None


def test_head_that_slept_buries_nobody_for_it() -> None:
    bench = Bench(a=1)
    bench.now = 60.0

    assert bench.event(ClockTicked()) == []
    assert bench.head.nodes.is_alive(A)


def test_a_node_whose_words_get_lost_lives_while_anything_comes_from_it() -> None:
    bench = Bench(a=1, b=1)
    effects: list[Any] = []
    while not effects:
        bench.now += 0.2
        effects = bench.event(ClockTicked())

    assert effects == [LookForSigns([A, B])]
    assert ForgetPeer(B) in bench.event(PeersHeard({A: 0.5, B: 2.6}))
    assert [bench.head.nodes.is_alive(node) for node in (A, B)] == [True, False]


def test_node_that_takes_its_leave_is_buried_at_once() -> None:
    bench = Bench(a=1, b=1)

    effects = bench.say(raylet("b"), NodeGone(B, "its node was ended"))

    assert ForgetPeer(B) in effects
    assert Send(raylet("a"), NodeGone(B, "its node was ended")) in effects


def test_what_a_node_warns_of_is_passed_on_to_the_drivers_of_the_time() -> None:
    bench = Bench(a=1, b=1)
    assert bench.say(raylet("b"), NodeSaid(B, ["early"])) == []
    bench.say(DRIVER, RegisterJob(1, {}))

    assert bench.say(raylet("b"), NodeSaid(B, ["memory is short"])) == [Send(DRIVER, NodeSaid(B, ["memory is short"]))]
    assert bench.say(raylet("b"), NodeSaid(A, ["of another"])) == []


def test_what_a_driver_knows_of_a_node_s_end_is_in_the_table_from_then_on() -> None:
    bench = Bench(a=1, b=1)
    bench.say(DRIVER, RegisterJob(1, {}))
    bench.say(DRIVER, ExplainNode(B, "it lives"))
    bench.event(PeerLost(B, "silent"))
    bench.say(raylet("a"), ExplainNode(B, "no driver's"))
    bench.now = 5.0
    bench.event(ClockTicked())

    bench.say(DRIVER, ExplainNode(B, "Spark says so"))
    bench.now = 10.0
    (sent,) = bench.event(ClockTicked())

    assert isinstance(sent.message, NodeTable)
    assert [row["why"] for row in sent.message.nodes] == ["silent. Spark says so"]


def test_buried_node_that_joins_again_is_told_so() -> None:
    bench = Bench(a=1, b=1)
    bench.event(PeerLost(B, "silent"))

    assert bench.join("b", 1) == [Send(raylet("b"), NodeGone(B, "silent"))]


def test_joins_close_together_share_a_table() -> None:
    bench = Bench(a=1)
    bench.now = 1.0
    told = tables(bench.join("b", 1))
    bench.now = 1.01
    soon = tables(bench.join("c", 1))
    soon += tables(bench.join("d", 1))
    bench.now = 1.05
    later = tables(bench.event(ClockTicked()))

    assert told == [(raylet("b"), "ab"), (raylet("a"), "b")]
    assert soon == [(raylet("c"), "abc"), (raylet("d"), "abcd")]
    assert later == [(raylet(letter), "cd") for letter in "abcd"]


def test_after_a_death_only_that_is_told_and_nothing_twice() -> None:
    bench = Bench(a=1, b=1, c=1)
    bench.now = 1.0

    told = tables(bench.event(PeerLost(B, "its end")))
    bench.now = 2.0
    joined = tables(bench.join("d", 1))

    assert told == [(raylet("a"), "b"), (raylet("c"), "b")]
    assert joined == [(raylet("d"), "abcd"), (raylet("a"), "d"), (raylet("c"), "d")]


def test_of_many_nodes_tables_are_rarer() -> None:
    limits = HeadLimits()

    assert [limits.table_after(nodes) for nodes in (1, 200, 10_000)] == [0.05, 0.05, 2.5]


def test_session_ends_when_the_last_node_has_gone() -> None:
    bench = Bench(a=1, b=1)
    bench.say(DRIVER, EndSession("done"))
    bench.event(PeerLost(A, "its end"))

    assert bench.event(PeerLost(B, "its end"))[-1] == Stop("done")
    assert bench.event(ClockTicked()) == []


def test_head_answers_questions() -> None:
    bench = Bench(a=1)
    bench.create()

    (nodes,) = bench.say(DRIVER, Ask(1, "nodes"))
    (actors,) = bench.say(DRIVER, Ask(2, "actors"))

    assert nodes.message == Answer(1, [node_info("a", CPU=1).as_dict()])
    assert [(actor["name"], actor["state"], actor["node"]) for actor in actors.message.value] == [("Toy", "pending", A)]


def test_actors_that_hold_nothing_spread_over_the_nodes_and_stay_spread() -> None:
    bench = Bench(a=4, b=2)

    def create(count: int) -> ProcessId:
        message = CreateActor(ActorId(lease_id(DRIVER, count)), "Toy", FunctionId(b""), b"", b"", None, {}, {}, 0)
        (start,) = [effect for effect in bench.say(DRIVER, message) if isinstance(effect.message, StartActor)]
        return ProcessId(start.to)

    first = [create(count) for count in range(1, 7)]
    assert sorted(first) == sorted([raylet("a")] * 4 + [raylet("b")] * 2)

    for letter, cpus in (("a", 4), ("b", 2)):  # which says that all CPUs are free
        bench.say(raylet(letter), NodeBeat({"CPU": cpus * 1000}, 0, 0.0, 6, 6))
    second = [create(count) for count in range(7, 13)]
    assert sorted(second) == sorted(first)
