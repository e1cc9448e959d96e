"""The more nodes there are, the less often each beats, and the longer the head waits for it."""

from __future__ import annotations

import pytest

from sparkray_core.ids import HEAD
from sparkray_core.messages import NodeBeat, NodeTable
from sparkray_core.model.effects import LookForSigns, Send, WakeAt
from sparkray_core.model.events import ClockTicked, Received
from sparkray_core.model.head import Head
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node import Node
from sparkray_core.testing.builders import a_node, node_id, node_info, raylet


def beats_until(node: Node, end: float, wake: float) -> tuple[list[tuple[float, NodeBeat]], float]:
    """What it tells the head, waking when it wants to; and when it wants to next."""
    beats: list[tuple[float, NodeBeat]] = []
    while wake <= end:
        now = wake
        effects = node.handle(ClockTicked(), now)
        told = [effect.message for effect in effects if isinstance(effect, Send) and effect.to == HEAD]
        beats += [(round(now, 3), beat) for beat in told if isinstance(beat, NodeBeat)]
        wake = min(effect.at for effect in effects if isinstance(effect, WakeAt))
    return beats, wake


def test_a_node_among_many_beats_less_often_and_says_so() -> None:
    node = a_node("a", NodeLimits(beats_per_s=0.4, warm_workers=0))
    node.start(0.0)

    alone, wake = beats_until(node, 6.0, 2.5)
    node.handle(Received(HEAD, NodeTable([node_info(letter).as_dict() for letter in "abcd"])), 6.0)
    crowded, _ = beats_until(node, 40.0, wake)

    assert [(at, beat.longer_s) for at, beat in alone] == [(2.5, 2.0), (5.0, 2.0)]
    assert [(at, beat.longer_s) for at, beat in crowded] == [(6.25, 9.5), (16.25, 9.5), (26.25, 9.5), (36.25, 9.5)]


def test_a_thousand_nodes_beat_as_often_as_one() -> None:
    limits = NodeLimits()

    assert [limits.beat_after(nodes) for nodes in (1, 1_000, 10_000)] == [0.5, 0.5, 5.0]


@pytest.mark.parametrize(("longer_s", "suspected_at"), [(0.0, 2.75), (4.5, 7.25)])
def test_a_node_may_be_silent_for_as_long_as_it_said(longer_s: float, suspected_at: float) -> None:
    head = Head("test")
    head.start(0.0)
    head.handle(Received(raylet("a"), node_info("a").join()), 0.0)
    head.handle(Received(raylet("a"), NodeBeat({}, 0, 0.0, longer_s=longer_s)), 0.0)

    at, effects = 0.0, head.handle(ClockTicked(), 0.05)
    while not any(isinstance(effect, LookForSigns) for effect in effects):
        at += 0.25
        effects = head.handle(ClockTicked(), at)

    assert at == suspected_at
    assert LookForSigns([node_id("a")]) in effects
