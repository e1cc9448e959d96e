"""Whether Spark has the slots that a start needs: free, held by others, or not there at all. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class SlotState(Enum):
    OK = "ok"
    BUSY = "busy"  # enough are there; the start waits until they are free
    IMPOSSIBLE = "impossible"  # there will never be enough


@dataclass(frozen=True, slots=True)
class Slots:
    """Tasks that Spark's executors can run at a time."""

    total: int | None  # None: Spark does not say
    held: Sequence[tuple[int, str]] | None = ()  # (slots, the stage that holds them); None: Spark does not say

    @property
    def in_use(self) -> int:
        return sum(count for count, _ in self.held or ())

    def state(self, needed: int) -> SlotState:
        if self.total is None:
            return SlotState.OK if not self.held else SlotState.BUSY
        if self.total < needed:
            return SlotState.IMPOSSIBLE
        return SlotState.OK if self.total - self.in_use >= needed else SlotState.BUSY

    def holders(self) -> str:
        """A sentence, without its full stop."""
        of = "its" if self.total is None else f"{self.total}"
        if self.held is None:
            return f"Who holds {of} slots is not told over Spark Connect"
        if not self.held:
            return f"Of {of} slots none is in use by another job: its Python is slow to start"
        holders = ", ".join(f'{count} by "{stage}"' for count, stage in self.held)
        return f"Of {of} slots it uses {holders}"

    def told(self, needed: int) -> str:
        """One line about whether `needed` tasks can run at once."""
        total = "an unknown number of" if self.total is None else f"{self.total}"
        match self.state(needed):
            case SlotState.OK:
                if self.held is None:
                    return f"ok: {needed} needed for a moment, {total} there; how many are in use is not told"
                return f"ok: {needed} needed for a moment, {total} there, {self.in_use} in use"
            case SlotState.BUSY:
                return f"busy: {needed} needed for a moment. {self.holders()}; the start waits for them"
            case SlotState.IMPOSSIBLE:
                return (
                    f"impossible: {needed} nodes need a slot each to be started, and Spark's executors have {total} in "
                    "all: ask for fewer nodes (num_ray_nodes), or raise spark.executor.cores, or lower spark.task.cpus"
                )
