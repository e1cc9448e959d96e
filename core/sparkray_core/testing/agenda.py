"""What is to be done when, for a simulator with very many events.

One heap of all would be large, and each step would go down all of it. So it is cut into slices of time: only the
slice that is being lived through is a heap, and what comes later lies in its slice, unsorted.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

Entry = tuple[float, int, Callable[..., None], tuple[Any, ...]]

_SLICES_PER_S = 2000  # a message or two of a busy driver in each, and what follows from these


class Agenda:
    """What is due at the same time is done in the order in which it was put down."""

    def __init__(self) -> None:
        self._ties = 0
        self._now: list[Entry] = []  # a heap: what is due in this slice, or was before it
        self._slice = 0  # its number
        self._later: dict[int, list[Entry]] = {}  # by the slice's number
        self._numbers: list[int] = []  # of these, a heap

    def at(self, when: float, do: Callable[..., None], *args: Any) -> None:
        """
        Args:
            do: gets `when`, and then these.
        """
        self._ties += 1
        number = int(when * _SLICES_PER_S)
        if number <= self._slice:
            heapq.heappush(self._now, (when, self._ties, do, args))
        elif number in self._later:
            self._later[number].append((when, self._ties, do, args))
        else:
            self._later[number] = [(when, self._ties, do, args)]
            heapq.heappush(self._numbers, number)

    def pop(self) -> Entry:
        """What is due next.

        Raises:
            IndexError: nothing is.
        """
        if not self._now:
            self._slice = heapq.heappop(self._numbers)
            self._now = self._later.pop(self._slice)
            heapq.heapify(self._now)
        return heapq.heappop(self._now)
