"""What a driver or worker remembers of its past, for those who look later: rings that forget their oldest entries.

Nothing is sent while nobody looks. Recording a task costs one tuple; its end is a time that the worker takes anyway.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from sparkray_core.ids import ProcessId
from sparkray_core.model.bounded import Recent

SPAN_RECORDS = 10_000  # of waits and copies, per process
FAILURE_RECORDS = 1_000  # of errors' texts, per process
MOST_TEXT = 4_000  # characters kept of an error; its end says what was raised
MOST_HANDED_OVER = 2_000  # task records that a worker leaves behind when it ends

# Set by `sparkray.util.metrics`, once something is counted here: all of it, and what must outlive the process.
user_metrics: Callable[[], list[Any]] | None = None
user_counters: Callable[[], dict[Any, Any]] | None = None

clock = time.perf_counter  # of all records; `wall` turns it into seconds since 1970
CREATION = b"__init__"  # in the place of a function's id: the construction of an actor


# A task or call that ended here: caller, number, function's id (of an actor's call the method's name), begin, end
Ran = tuple[ProcessId, int, bytes, float, float]


def wall() -> float:
    """What to add to `clock` to get seconds since 1970."""
    return time.time() - clock()


class Records:
    """One process's. Appending is atomic, so that any thread may record without a lock."""

    def __init__(self, most_tasks: int) -> None:
        self.began = clock()
        self.ran: deque[Ran] = deque(maxlen=most_tasks)
        self.active: dict[tuple[ProcessId, int], tuple[bytes, float]] = {}  # in threads and coroutines: since when
        self.spans: deque[tuple[str, float, float, str]] = deque(maxlen=SPAN_RECORDS)  # kind, begin, end, note
        self.failures: Recent[tuple[ProcessId, int], tuple[str, str]] = Recent(FAILURE_RECORDS)
        self.cancelled: Recent[tuple[ProcessId, int], None] = Recent(FAILURE_RECORDS)  # asked to be, while they ran
        self.finished = 0  # tasks and calls that were answered from here

    def failed(self, caller: ProcessId, count: int, error: BaseException | str) -> None:
        """What a task of ours raised. With a string: the name of the system's error, as in `FAILED` values."""
        if isinstance(error, str):
            self.failures.remember((caller, count), (error, ""))
        else:
            text = f"{type(error).__name__}: {_text(error)}"
            self.failures.remember((caller, count), ("", text[-MOST_TEXT:]))

    def begins(self, caller: ProcessId, count: int, function: bytes) -> None:
        """Of several at once: this one runs now."""
        self.active[caller, count] = function, clock()

    def ends(self, caller: ProcessId, count: int) -> None:
        found = self.active.pop((caller, count), None)
        if found is not None:
            self.ran.append((caller, count, found[0], found[1], clock()))

    def span(self, kind: str, begin: float, note: str = "") -> None:
        """Something that took from `begin` until now: a wait in `get`, the storing of a large object."""
        self.spans.append((kind, begin, clock(), note))

    def recent(self, most: int) -> list[Ran]:
        """The last so many tasks, oldest first."""
        ran = list(self.ran)
        return ran[-most:] if most else []

    def errors(self, ran: list[Any]) -> list[tuple[ProcessId, int, str, str]]:
        """(caller, count, system error or "", text) of those that failed."""
        found = []
        for caller, count, *_ in ran:
            failure = self.failures.get((caller, count))
            if failure is not None:
                found.append((caller, count, *failure))
        return found


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the user's exception class decides what its text raises
        return "(its text cannot be made)"
