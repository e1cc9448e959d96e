"""Which descriptors are ready: a process's sockets as one set (`inner`), and what its side thread sleeps in (`outer`).

Linux: two epolls, the inner one inside the outer one, so that neither has to be told of the other's changes.
Elsewhere poll(), which knows neither nesting nor changes while it sleeps: a *nudge* (a pipe in the inner set) ends the
sleep whenever the set has changed. That costs a thread switch where epoll costs nothing, and nothing else differs.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from sparkray_core.system import LINUX

READ, WRITE = select.POLLIN, select.POLLOUT  # the same numbers as epoll's
Ready = list[tuple[int, int]]  # (descriptor, READ | WRITE | whatever else the system says of it)


class Inner(Protocol):
    """The sockets. Polled by one thread at a time, changed by any."""

    def poll(self, timeout: float | None, /) -> Ready:
        """Wait for at most so many seconds (None: without limit). Raises `ValueError` once closed."""
        ...

    def register(self, fd: int, events: int, /) -> None: ...
    def modify(self, fd: int, events: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...
    def fileno(self) -> int:
        """Readable when any of them is ready; -1 where the system has no such descriptor."""
        ...

    def close(self) -> None: ...


class Outer(Protocol):
    """The inner set as long as the gate is open, and a wake-up descriptor."""

    @property
    def poll(self) -> Callable[[float | None], Ready]: ...
    @property
    def open_gate(self) -> Callable[[], object]: ...
    @property
    def close_gate(self) -> Callable[[], object]: ...
    def close(self) -> None: ...


def sets(wake: int) -> tuple[Inner, Outer]:
    """An empty inner set, and the outer one with it (gate open) and `wake`."""
    if LINUX:
        inner = select.epoll()
        return inner, _EpollOuter(inner, wake)
    polled = PollInner()
    return polled, PollOuter(polled, wake)


class _EpollOuter:
    def __init__(self, inner: select.epoll, wake: int) -> None:
        self._epoll = select.epoll()
        self._inner = inner.fileno()
        self.poll: Any = self._epoll.poll
        self._epoll.register(wake, READ)
        self._epoll.register(self._inner, READ)

        self.open_gate: Any = partial(self._epoll.modify, self._inner, READ)  # twice for each `get` that waits
        self.close_gate: Any = partial(self._epoll.modify, self._inner, 0)

    def close(self) -> None:
        self._epoll.close()


class PollInner:
    """poll() over a dictionary. A change by another thread ends a sleep with nothing found; the caller polls again."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}
        self._nudge, self._nudge_end = pipe()
        self._closed = False

    def snapshot(self) -> Any:
        """A poll object of what is in the set now; with the nudge, by which its user hears of changes."""
        poll = select.poll()
        for fd, events in list(self._events.items()):
            poll.register(fd, events)
        poll.register(self._nudge, READ)
        return poll

    def poll(self, timeout: float | None, /) -> Ready:
        if self._closed:
            raise ValueError("the set is closed")
        found: Ready = self.snapshot().poll(_milliseconds(timeout))
        if self._closed:
            raise ValueError("the set is closed")
        with contextlib.suppress(BlockingIOError):
            os.read(self._nudge, 4096)
        # A descriptor may have been closed, or taken out, while the kernel looked at it.
        return [(fd, event) for fd, event in found if fd in self._events and not event & select.POLLNVAL]

    def register(self, fd: int, events: int, /) -> None:
        self.modify(fd, events)

    def modify(self, fd: int, events: int, /) -> None:
        self._events[fd] = events
        self.nudge()

    def unregister(self, fd: int, /) -> None:
        self._events.pop(fd, None)
        self.nudge()

    def nudge(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake up. Closed: nobody polls
            os.write(self._nudge_end, b"n")

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self._closed = True
        os.close(self._nudge)
        os.close(self._nudge_end)


class PollOuter:
    """Looks at the same descriptors as the inner set, and takes nothing out of it: its nudge is the leader's to drain.

    If the gate is closed while the side thread sleeps in here, it wakes up once for nothing.
    """

    _INNER = -2  # what stands for the inner set in what `poll` returns

    def __init__(self, inner: PollInner, wake: int) -> None:
        self._inner = inner
        self._wake = wake
        self._open = True

    def poll(self, timeout: float | None, /) -> Ready:
        poll = self._inner.snapshot() if self._open else select.poll()
        poll.register(self._wake, READ)
        found = poll.poll(_milliseconds(timeout))
        ready = [(fd, event) for fd, event in found if fd == self._wake]
        return ready if len(ready) == len(found) else [*ready, (self._INNER, READ)]

    def open_gate(self) -> None:
        self._open = True  # the pump wakes the side thread if it sleeps without limit

    def close_gate(self) -> None:
        self._open = False

    def close(self) -> None:
        """It holds no descriptor of its own."""


def pipe() -> tuple[int, int]:
    """(to read from, to write to), neither of which blocks."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def _milliseconds(timeout: float | None) -> float | None:
    return None if timeout is None else max(0.0, timeout * 1000)
