"""A network that does its worst, by seeded dice. It carries packets between nodes; `model.link` has to live with it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from sparkray_core.ids import NodeId


@dataclass(frozen=True, slots=True)
class Conditions:
    drop: float = 0.05  # of packets that never arrive
    double: float = 0.05  # of packets that arrive twice
    delay_s: tuple[float, float] = (0.0002, 0.003)  # least and most for an ordinary packet
    slow: float = 0.03  # of packets that come late, and so behind others that were sent after them
    slow_s: float = 0.1  # at most


PERFECT = Conditions(drop=0.0, double=0.0, slow=0.0)


class Network:
    """Says when copies of a packet arrive. Both ways between two nodes can be cut, for a time or for good."""

    def __init__(self, dice: Random, conditions: Conditions) -> None:
        self.dice = dice
        self.conditions = conditions
        self.cuts: dict[tuple[NodeId, NodeId], float] = {}  # pair: until when
        self.sent = self.lost = 0

    def cut(self, one: NodeId, other: NodeId, until: float) -> None:
        self.cuts[min(one, other), max(one, other)] = until

    def is_cut(self, one: NodeId, other: NodeId, now: float) -> bool:
        if not self.cuts:
            return False
        return now < self.cuts.get((min(one, other), max(one, other)), float("-inf"))

    def arrivals(self, source: NodeId, target: NodeId, now: float) -> list[float]:
        """When a packet sent now arrives: at no time, at one, or at two. Later cuts do not stop it."""
        self.sent += 1
        rules = self.conditions
        if self.is_cut(source, target, now) or self.dice.random() < rules.drop:
            self.lost += 1
            return []
        copies = 2 if self.dice.random() < rules.double else 1
        return [now + self._delay() for _ in range(copies)]

    def _delay(self) -> float:
        rules, throw = self.conditions, self.dice.random
        least, most = rules.delay_s
        delay = least + (most - least) * throw()  # as `Random.uniform` has it
        if throw() < rules.slow:
            delay += rules.slow_s * throw()
        return delay
