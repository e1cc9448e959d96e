"""Signs of life between a child and its keeper: one that hangs is ended like one that has died.

    child   beats with each turn of its loop, and at least every `BEAT_S`
    keeper  looks every `LOOK_S`; who has not beaten for so many looks hangs

Looks are counted, not seconds: where the keeper stood still, too (the machine slept, or was too busy), nobody hangs for
that. A child is not looked at before its first beat: to go on where another life ended may take long.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass

BEAT_S = 0.5
LOOK_S = 0.5

_COUNT = struct.Struct("=Q")


class Pulse:
    """A counter in memory that a process shares with those that it forks."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _COUNT.size)
        self._beats = 0

    def beat(self) -> None:
        self._beats += 1
        _COUNT.pack_into(self._memory, 0, self._beats)

    @property
    def beats(self) -> int:
        """As whoever beats has counted them."""
        return int(_COUNT.unpack_from(self._memory)[0])


@dataclass(slots=True)
class _Patient:
    pulse: Pulse
    looks: int  # in vain, after which it hangs
    beats: int = 0
    missed: int = 0


class Watchdog:
    """The keeper's."""

    def __init__(self) -> None:
        self._patients: dict[int, _Patient] = {}
        self._looked_at = -math.inf

    def watch(self, pid: int, pulse: Pulse, limit_s: float) -> None:
        """
        Args:
            limit_s: without a beat, after which it hangs.
        """
        self._patients[pid] = _Patient(pulse, math.ceil(limit_s / LOOK_S))

    def forget(self, pid: int) -> None:
        self._patients.pop(pid, None)

    def look(self, now: float) -> list[int]:
        """Who hangs; each is told once."""
        if now - self._looked_at < LOOK_S:
            return []
        self._looked_at = now
        hanging = [pid for pid, one in self._patients.items() if _hangs(one)]
        for pid in hanging:
            self.forget(pid)
        return hanging


def _hangs(one: _Patient) -> bool:
    beats = one.pulse.beats
    if beats != one.beats or not beats:
        one.beats, one.missed = beats, 0
        return False
    one.missed += 1
    return one.missed >= one.looks
