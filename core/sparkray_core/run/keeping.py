"""What processes share that start others for somebody and end them with him: order in, facts out, one place to wait."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from typing import Any

from sparkray_core.run.config import BadConfig
from sparkray_core.run.tie import Tie

NOTHING_TO_GO_ON_FROM = 3  # exit code of a head or shard, of which another life would find nothing either
TOLD_TO_END = 5  # exit code of a shard that got SIGTERM while its session goes on
TIE_POLL_S = 0.5  # where the system has no pidfd
_LONGEST_LINE = 1 << 20  # bytes


def read_order() -> bytes:
    """The one line of stdin that says what to start.

    Raises:
        BadConfig: it is none.
    """
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 1 << 16)
        line += more
        if not more or len(line) > _LONGEST_LINE:
            raise BadConfig(f"stdin ended, or went on, after {len(line)} bytes that are not one line")
    return line


def say(facts: dict[str, Any]) -> None:
    """One line of JSON on stdout, for who gave the order."""
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more; the tie will tell
        os.write(1, json.dumps(facts).encode() + b"\n")


class Watch:
    """Wakes for a signal, the end of a child, and the end of the tie. Who waits looks which of them it was."""

    def __init__(self, tie: Tie) -> None:
        self.tie = tie
        self.signals: list[str] = []  # names of those that ask us to end
        self._wake, self._wake_end = os.pipe()
        self.descriptors = {self._wake, self._wake_end, *tie.descriptors}  # no child should have these
        self.poll = select.poll()  # others may be registered too
        for descriptor in (self._wake, *tie.descriptors):
            self.poll.register(descriptor, select.POLLIN)

    def catch_signals(self) -> None:
        for descriptor in (self._wake, self._wake_end):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: self.signals.append(signal.Signals(number).name))
        signal.signal(signal.SIGCHLD, lambda *_: None)  # it has only to wake the poll

    def wait(self, limit: float | None) -> set[int]:
        """Until something happens, or for `limit` seconds; which descriptors have something to read."""
        if self.tie.needs_asking:
            limit = TIE_POLL_S if limit is None else min(limit, TIE_POLL_S)
        readable = {descriptor for descriptor, _ in self.poll.poll(None if limit is None else limit * 1000)}
        if self._wake in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        return readable
