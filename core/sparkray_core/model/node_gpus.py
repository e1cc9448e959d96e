"""Which GPUs of a node are whose, in thousandths of each, so that none is ever promised twice.

A whole GPU is nobody else's. Less than one is a share of a single GPU; shares are put together on the fullest one that
has room, so that whole ones stay whole.
"""

from __future__ import annotations

from collections.abc import Mapping

from sparkray_core.model.resources import UNIT

GPU = "GPU"

Shares = Mapping[int, int]  # number of the GPU -> thousandths of it


class Gpus:
    """What is free of each. They are numbered from 0, by the node, as CUDA_VISIBLE_DEVICES lists them if it is set."""

    __slots__ = ("free",)

    def __init__(self, total: int) -> None:
        """
        Args:
            total: thousandths of a GPU. What is left after the whole ones is a part of one more.
        """
        whole, part = divmod(total, UNIT)
        self.free = [UNIT] * whole + ([part] if part else [])

    def copy(self) -> Gpus:
        other = Gpus(0)
        other.free = list(self.free)
        return other

    def choose(self, amount: int) -> Shares | None:
        """The GPUs that this much would get now; None if it does not fit, however much is free of all together."""
        whole, part = divmod(max(0, amount), UNIT)
        chosen: dict[int, int] = {}
        begun = [number for number, free in enumerate(self.free) if part and part <= free < UNIT]
        if begun:
            chosen[min(begun, key=lambda number: self.free[number])] = part
        untouched = [number for number, free in enumerate(self.free) if free == UNIT]
        needed = whole + (part > 0 and not begun)
        if len(untouched) < needed:
            return None
        chosen.update(dict.fromkeys(untouched[:whole], UNIT))
        if part and not begun:
            chosen[untouched[whole]] = part
        return chosen

    def part(self, amount: int) -> int:
        """So much of it could be taken now, whole ones only if not all: pieces of several would not do."""
        if self.choose(amount) is not None:
            return amount
        return min(amount // UNIT, self.free.count(UNIT)) * UNIT

    def fits(self, amount: int) -> bool:
        return amount <= 0 or self.choose(amount) is not None

    def take(self, shares: Shares) -> None:
        for number, amount in shares.items():
            self.free[number] -= amount

    def give(self, shares: Shares) -> None:
        for number, amount in shares.items():
            self.free[number] += amount
