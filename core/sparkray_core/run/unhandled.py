"""Errors of tasks that nobody ever looked at, reported once the last reference to them is gone.

The model notices them when it frees a failure (`References.free`), so tasks that succeed pay nothing. What was
cancelled, or called on an actor that is dead, is no news to whoever cancelled or killed it, and is not reported.
"""

from __future__ import annotations

import logging
from collections import deque

from sparkray_core.ids import ProcessId
from sparkray_core.messages import FAILED
from sparkray_core.model.entries import Entry, bare, root
from sparkray_core.wire import values

log = logging.getLogger(__name__)

_MOST_WAITING = 100  # beyond that they are counted only: who drops thousands of errors reads none of them
_REMEMBERED = 1000  # tasks that were reported: each of several returns carries the same error
_CONSTRUCTOR = "raised in its creation task"


class Unhandled:
    """Filled with the core's lock held, emptied without it."""

    def __init__(self) -> None:
        self.waiting: deque[Entry] = deque()
        self._left_out = 0
        self._reported: deque[tuple[ProcessId, int]] = deque(maxlen=_REMEMBERED)

    def note(self, entry: Entry) -> None:
        value = entry.value
        assert value is not None
        failure = bare(value)
        if failure[0] == FAILED and (
            failure[1] == "TaskCancelledError"
            or (failure[1] == "ActorDiedError" and _CONSTRUCTOR not in str(failure[2]))
        ):
            return
        task = entry.owner, entry.count
        if task in self._reported:
            return
        self._reported.append(task)
        if len(self.waiting) < _MOST_WAITING:
            self.waiting.append(entry)
        else:
            self._left_out += 1

    def report(self) -> None:
        while self.waiting:
            text = _text(self.waiting.popleft())
            log.error("Unhandled error (suppress with SPARKRAY_IGNORE_UNHANDLED_ERRORS=1): %s", text)
        if self._left_out:
            log.error("and %d further unhandled errors", self._left_out)
            self._left_out = 0


def _text(entry: Entry) -> str:
    assert entry.value is not None
    failure = bare(entry.value)
    if failure[0] == FAILED:
        return f"{failure[1]}: {failure[2]}"
    try:
        error = values.from_inline(root(failure))
    except Exception as wrong:  # noqa: BLE001 - user code: the class of what the task raised
        return f"the error of {entry.id.hex()}, which cannot be unpickled here: {wrong!r}"
    return str(error)
