"""A session that lives for its driver's node ends with it."""

from __future__ import annotations

from sparkray_core.ids import NodeId, raylet_of
from sparkray_core.messages import EndSession, JoinNode, NodeBeat, NodeGone
from sparkray_core.model.effects import Effect, LookForSigns, Send, Stop
from sparkray_core.model.events import ClockTicked, PeerLost, PeersHeard, Received
from sparkray_core.model.head import Head
from sparkray_core.model.limits import HeadLimits

DRIVER, OTHER = NodeId(b"driver.."), NodeId(b"other...")
LIMITS = HeadLimits(driver_s=10.0, node_timeout_s=3.0, check_s=0.5)


def join(head: Head, node: NodeId, now: float) -> None:
    message = JoinNode(node, "tcp://h:1", "h", 1, {}, {}, 1 << 20, "/f")
    head.handle(Received(raylet_of(node), message), now)


def a_head() -> Head:
    head = Head("s", LIMITS, lives_for=DRIVER)
    head.start(0.0)
    return head


def told_to_end(effects: list[Effect]) -> list[NodeId]:
    return [NodeId(e.to[:8]) for e in effects if isinstance(e, Send) and isinstance(e.message, EndSession)]


def test_the_session_ends_when_the_driver_s_node_leaves() -> None:
    head = a_head()
    join(head, DRIVER, 1.0)
    join(head, OTHER, 1.0)

    effects = head.handle(PeerLost(DRIVER, "its node was ended"), 2.0)

    assert told_to_end(effects) == [OTHER]
    assert head.ended == "the driver's node is gone: its node was ended"


def test_the_session_ends_when_the_driver_s_node_is_silent() -> None:
    head = a_head()
    join(head, DRIVER, 0.5)
    join(head, OTHER, 0.5)
    effects: list[Effect] = []
    for step in range(1, 12):
        effects += head.handle(Received(raylet_of(OTHER), NodeBeat({}, 0, 0.0)), step / 2)
        effects += head.handle(ClockTicked(), step / 2)
        if any(isinstance(effect, LookForSigns) for effect in effects):
            effects += head.handle(PeersHeard({DRIVER: 4.0}), step / 2)

    assert told_to_end(effects) == [OTHER]


def test_the_session_goes_on_when_another_node_leaves() -> None:
    head = a_head()
    join(head, DRIVER, 1.0)
    join(head, OTHER, 1.0)

    effects = head.handle(Received(raylet_of(OTHER), NodeGone(OTHER, "bye")), 2.0)

    assert told_to_end(effects) == []
    assert head.ended is None


def test_the_session_ends_when_the_driver_s_node_never_joins() -> None:
    head = a_head()
    join(head, OTHER, 1.0)
    for step in range(2, 20):
        head.handle(Received(raylet_of(OTHER), NodeBeat({}, 0, 0.0)), step / 2)
        head.handle(ClockTicked(), step / 2)
        assert head.ended is None

    effects = head.handle(ClockTicked(), 10.0)

    assert told_to_end(effects) == [OTHER]
    assert head.ended == "the driver's node did not join within 10 s"


def test_a_head_for_which_nobody_ever_joins_stops() -> None:
    head = a_head()
    effects: list[Effect] = []
    for step in range(1, 22):
        effects += head.handle(ClockTicked(), step / 2)

    assert [e for e in effects if isinstance(e, Stop)] == [Stop("the driver's node did not join within 10 s")]


def test_a_session_without_such_a_node_goes_on() -> None:
    head = Head("s", LIMITS)
    head.start(0.0)
    join(head, OTHER, 1.0)
    for step in range(2, 60):
        head.handle(Received(raylet_of(OTHER), NodeBeat({}, 0, 0.0)), step / 2)
        head.handle(ClockTicked(), step / 2)

    assert head.ended is None
