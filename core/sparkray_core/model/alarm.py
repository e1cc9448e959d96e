"""Turns "I want to be woken then" into few `WakeAt`s."""

from __future__ import annotations

import math

from sparkray_core.model.effects import Effect, WakeAt


class Alarm:
    """One per model. It assumes of the shell only that the earliest `WakeAt` given since the last tick rings."""

    def __init__(self) -> None:
        self.set_for = math.inf

    def rang(self, now: float) -> None:
        """To be told of every `ClockTicked`."""
        if now >= self.set_for:
            self.set_for = math.inf

    def ask(self, at: float) -> list[Effect]:
        if at >= self.set_for:
            return []
        self.set_for = at
        return [WakeAt(at)]
