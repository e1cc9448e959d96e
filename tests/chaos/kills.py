"""Which kills, and when: a Poisson process, from a seed alone."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

# A minute of chaos has so many, on average. After what ends a node another one starts, which takes a core a second.
PER_MINUTE: Mapping[str, float] = {
    "worker": 20,
    "head": 2,
    "scheduler": 3,
    "shard": 2,
    "raylet": 1.5,
    "zygote": 0.5,
    "keeper": 0.5,
    "node": 1.5,
    "pause": 3,
    "full": 2,
}
JOURNALLED = ("head", "shard")
WATCHED = (*JOURNALLED, "scheduler")  # one of these may also hang: its keeper is to kill it
HANGS = 0.25  # so often
ENDS_A_MINUTE = 4  # with the fifth end of one of these within a minute a session ends, as it should


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill -9: of "head", the process of the GCS, of a "scheduler" or a "shard" beside it, of the "raylet" of a
    node, of all of a "node" at once, and so on. Or the process stands still for good (`hangs`).

    "pause" and "full" kill nobody: a node stands still, for a time that is not enough to bury it; a raylet, or a
    process of the GCS, cannot write to any file for a moment, as if all disks were full.
    """

    at: float  # seconds after the beginning
    kind: str
    pick: float  # in [0, 1): which of those that then live
    hangs: bool = False

    def of(self, count: int) -> int:
        """Which of so many."""
        return int(self.pick * count)


def schedule(seed: int, seconds: float, per_minute: Mapping[str, float] = PER_MINUTE) -> list[Kill]:
    """All kills of a run, in order. Those of a longer run begin with those of a shorter one."""
    dice = random.Random(seed)
    rate = sum(per_minute.values()) / 60
    kinds, weights = list(per_minute), list(per_minute.values())
    kills: list[Kill] = []
    now = dice.expovariate(rate)
    while now < seconds:
        kill = Kill(now, dice.choices(kinds, weights)[0], dice.random(), dice.random() < HANGS)
        kill = kill if kill.kind in WATCHED else replace(kill, hangs=False)
        alike = [one.at for one in kills if one.kind == kill.kind and one.at > now - 60]
        if kill.kind not in JOURNALLED or len(alike) < ENDS_A_MINUTE - 1:
            kills.append(kill)
        now += dice.expovariate(rate)
    return kills
