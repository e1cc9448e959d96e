"""When an actor's state is saved, and which of its answers wait for that. One for each life of an actor that saves.

    a call ends, its answer is held --> the state is taken, and sent to the head --> the head has it: the answer leaves

So whatever a caller was told is in the state that the next life begins with. One save is under way at a time; states
that are taken meanwhile take each other's place, and the last one is sent next, for all the answers held by then.

With a pace (`every_s`) answers leave at once, and the state is saved at most that often: as long as so many seconds of
answered calls may be lost.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

Answer = Any  # the shell's business


class Save(NamedTuple):
    """To be sent to the head."""

    number: int
    state: Any  # as the shell took it


class Checkpoints:
    def __init__(self, every_s: float) -> None:
        self.every_s = every_s  # 0: with each answer
        self.stopped = False
        self._ended: list[Answer] = []  # of calls that ended since the state was taken
        self._held: deque[tuple[int, list[Answer]]] = deque()  # until the state of this number is saved
        self._free: list[Answer] = []  # may leave
        self._changed = False  # a call ended since the state was taken
        self._taken_at = float("-inf")
        self._number = 0  # of the last state that was taken
        self._next: Save | None = None  # taken, and not sent yet
        self._under_way = False

    # ------------------------------------------------------------------ when
    @property
    def due_at(self) -> float | None:
        """When the state is to be taken next; None: when another call has ended."""
        return self._taken_at + self.every_s if self._changed and not self.stopped else None

    def due(self, now: float) -> bool:
        due_at = self.due_at
        return due_at is not None and (not self.every_s or now >= due_at)

    # ------------------------------------------------------------------ what happens
    def ended(self, answer: Answer) -> None:
        """A call did, with this answer."""
        self._changed = True
        if self.every_s or self.stopped:
            self._free.append(answer)
        else:
            self._ended.append(answer)

    def take(self, now: float) -> list[Answer]:
        """The state is about to be taken: the answers that it covers, for `taken` or `failed`."""
        self._changed, self._taken_at = False, now
        covered, self._ended = self._ended, []
        return covered

    def taken(self, covered: list[Answer], state: Any | None) -> Save | None:
        """
        Args:
            state: None when it is what was taken the last time.

        Returns:
            What is to be sent now.
        """
        if self.stopped:
            self._free += covered
            return None
        if state is not None:
            self._number += 1
            self._next = Save(self._number, state)
        if state is None and not (self._under_way or self._next):
            self._free += covered
        elif covered:
            self._held.append((self._number, covered))
        return self._send()

    def failed(self, answers: list[Answer]) -> None:
        """The state could not be taken; these say so to those whose calls it was to cover."""
        self._free += answers

    def saved(self, number: int) -> Save | None:
        """The head has it. Returns what is to be sent now."""
        self._under_way = False
        while self._held and self._held[0][0] <= number:
            self._free += self._held.popleft()[1]
        return self._send()

    def stop(self) -> None:
        """There will be no next life: nothing waits any more."""
        self.stopped = True
        for _, answers in self._held:
            self._free += answers
        self._held.clear()
        self._free += self._ended
        self._ended, self._next = [], None

    def leaving(self) -> list[Answer]:
        """The answers that may go, in the order in which their calls ended."""
        free, self._free = self._free, []
        return free

    def _send(self) -> Save | None:
        if self._under_way or self._next is None:
            return None
        self._under_way = True
        save, self._next = self._next, None
        return save
