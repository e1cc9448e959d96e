"""One thread, one selector: who waits for which descriptor, and when to look up next."""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping
from types import FrameType

from sparkray_core.run.pulse import BEAT_S, Pulse

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
Callback = Callable[[], object]


class Timer:
    """One party's wish to be woken: of several times the earliest counts; after it has rung, there is none."""

    __slots__ = ("at", "on_ring")

    def __init__(self, on_ring: Callback) -> None:
        self.on_ring = on_ring
        self.at = math.inf

    def wake_at(self, at: float) -> None:
        """On the loop's clock."""
        if at < self.at:
            self.at = at


class Loop:
    """Runs callbacks until one of them calls `stop`. All that they do happens between two polls."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, pulse: Pulse | None = None) -> None:
        """
        Args:
            pulse: by which another process sees that this loop turns.
        """
        self.clock = clock
        self._pulse = pulse
        self._selector = selectors.DefaultSelector()
        self._timers: list[Timer] = []
        self._stopped = False
        self._wake: tuple[int, ...] = ()

    # ------------------------------------------------------------------------------ who waits for what
    def watch(self, descriptor: int, on_readable: Callback, on_writable: Callback | None = None) -> None:
        """Call the first whenever there is something to read, which includes the end of the stream."""
        self._selector.register(descriptor, READ, (on_readable, on_writable))

    def want_write(self, descriptor: int, wanted: bool) -> None:
        """Whether `on_writable` of a watched descriptor is to be called too."""
        key = self._selector.get_key(descriptor)
        events = READ | WRITE if wanted else READ
        if key.events != events:
            self._selector.modify(descriptor, events, key.data)

    def forget(self, descriptor: int) -> None:
        """Before it is closed. What this poll found for it is dropped."""
        self._selector.unregister(descriptor)

    def timer(self, on_ring: Callback) -> Timer:
        timer = Timer(on_ring)
        self._timers.append(timer)
        return timer

    def catch(self, handlers: Mapping[signal.Signals, Callback]) -> None:
        """Run these in the loop, not in the midst of something, when the signal comes."""
        pending: list[int] = []
        self._wake = wake, end = os.pipe()
        for descriptor in self._wake:
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(end, warn_on_full_buffer=False)

        def note(number: int, _: FrameType | None) -> None:
            pending.append(number)

        def handle() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
            while pending:
                handlers[signal.Signals(pending.pop(0))]()

        for number in handlers:
            signal.signal(number, note)
        self.watch(wake, handle)

    # ------------------------------------------------------------------------------ running
    def run(self, after: Callback) -> None:
        """Poll and call back until `stop`.

        Args:
            after: called after all callbacks of one poll: what they gathered is sent here, in batches.
        """
        selector = self._selector
        while True:
            after()
            if self._stopped:
                return
            soonest = min((timer.at for timer in self._timers), default=math.inf)
            timeout = None if soonest == math.inf else max(0.0, soonest - self.clock())
            if self._pulse is not None:
                self._pulse.beat()
                timeout = BEAT_S if timeout is None else min(timeout, BEAT_S)
            for key, events in selector.select(timeout):
                on_readable, on_writable = key.data
                if events & WRITE and self._watches(key):
                    on_writable()
                if events & READ and self._watches(key):
                    on_readable()
            now = self.clock()
            for timer in self._timers:
                if timer.at <= now:
                    timer.at = math.inf
                    timer.on_ring()

    def _watches(self, key: selectors.SelectorKey) -> bool:
        """Whether an earlier callback of the same poll has not closed it, nor given its number to another."""
        found = self._selector.get_map().get(key.fd)
        return found is not None and found.data is key.data

    def stop(self) -> None:
        """After the callbacks of this poll, and one last `after`."""
        self._stopped = True

    def close(self) -> None:
        """Descriptors that are still watched are their owners' to close. Signals that it caught are lost then."""
        self._selector.close()
        if self._wake:
            signal.set_wakeup_fd(-1)
        for descriptor in self._wake:
            os.close(descriptor)
