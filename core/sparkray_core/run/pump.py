"""Who reads the sockets of a driver or worker: whoever waits, and otherwise one side thread.

A hop from an I/O thread to the thread that waits costs some 50 us, more than the message itself. So a thread that has
to wait *leads*: it polls the sockets itself and handles what comes, until its own condition holds. While nobody
leads, the side thread does, so that leases, steals and other people's questions are answered while user code runs.

The hand-over must not cost a thread switch. There are two sets of descriptors (`readiness.py`): `inner` holds the
sockets, `outer` holds `inner` and a wake-up descriptor, and the side thread sleeps in `outer`. A leader takes `inner`
out of `outer` (the gate), and the side thread puts it back when it looks up and nobody has led since it last did. So
between the `get`s of a loop the gate stays closed: no system call, and no answer that comes early wakes a second thread
to fight over the interpreter.

A worker's main thread, which has tasks queued, *glances*: a turn between two tasks, without waiting.

    gate closed  leader:       turn -> turn -> ...          side thread: now and then, has anybody?
    gate open    side thread:  outer.poll -> turn
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from sparkray_core.run import readiness

now = time.monotonic
_signal: Any = sys.modules["_signal"]  # what `signal` wraps: that converts to enums and back, 10 us for each `get`
_SIGINT = int(signal.SIGINT)
_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
_SEVERAL_CPUS = (os.cpu_count() or 1) > 1  # on one, looking on would keep the other side from running

QUIET_POLL_S = 0.002  # how often the side thread looks while there is something under way that nobody waits for
LED_POLL_S = 0.01  # and while somebody leads again and again: each look costs a switch and a fight for the interpreter
OFTEN_S = 0.001  # again and again: once per so many seconds, or more often
GLANCED_POLL_S = 0.02  # and while the code that runs here looks itself, between a task and the next
QUIET_TURNS = 1  # looks in vain, after which it sleeps until it is woken: more of them hold up what comes meanwhile
EMBEDDED_TURN_S = 0.05  # an event loop that does not turn for so long is told again
# A CPU that falls asleep takes some 50 us to wake, twice per call and answer. So who waits looks on for so long
# first, as long as that pays: after a few times in vain it sleeps at once, until a sleep turns out to be short.
SPIN_S = 0.0003
SPINS = 4
SHORT_SLEEP_S = SPIN_S
PAUSED = -(1 << 60)  # added to what is missing to a wait that is paused
NO_RESTS = 16  # a rest that brings nothing together costs one more wake-up
LEAD_WAIT_S = 0.001  # a thread that has to wait gives the present leader this long to finish its turn


class Getter:
    """One thread's wait for some entries. `entry_ready` is called with the core's lock held."""

    __slots__ = ("fail_fast", "failed", "gate", "missing", "reader", "stir")

    def __init__(self, missing: int, fail_fast: Callable[[Any], bool] | None = None) -> None:
        self.missing = missing  # entries to come until the wait is over
        self.fail_fast = fail_fast
        self.failed: Any = None  # the first entry that `fail_fast` said ends the wait
        self.gate: threading.Lock | None = None  # held while a follower waits
        self.reader = 0  # the thread, if it reads the sockets meanwhile
        self.stir: Callable[[], None] | None = None  # and what ends its sleep

    def entry_ready(self, entry: Any) -> None:
        self.missing -= 1
        if self.fail_fast is not None and self.failed is None and self.fail_fast(entry):
            self.failed = entry
            self.missing = 0
        if self.missing <= 0:
            self._wake()

    def pause(self) -> None:
        """End the wait for now, though something is missing; what comes meanwhile is counted."""
        self.missing += PAUSED
        self._wake()

    def resume(self) -> None:
        if self.is_paused:  # and did not end meanwhile
            self.missing -= PAUSED

    @property
    def is_paused(self) -> bool:
        return self.missing < PAUSED // 2

    def finish(self) -> None:
        """Over, whatever is missing."""
        self.missing = 0
        self._wake()

    def _wake(self) -> None:
        gate = self.gate  # read once: a follower whose patience ends takes it away, and holds no lock for that
        if gate is not None:
            if gate.locked():
                gate.release()
        elif self.stir is not None and self.reader != threading.get_ident():
            self.stir()  # not something that it has read has ended its wait, but what another thread did


class Pump:
    """The two sets, the leader's lock and the side thread."""

    # Signals that interrupt whoever waits: noted while a thread leads, handled between two turns.
    interrupts: tuple[int, ...] = (_SIGINT,)

    def __init__(self, name: str, turn: Callable[[float | None], bool]) -> None:
        """
        Args:
            turn: polls `inner` for at most so many seconds (None: until something comes) and handles what came; it
                returns whether anything did. Only called by the leader.
        """
        self.asleep = False  # the side thread sleeps without limit: what needs it must call `wake`
        self.next_wake: float | None = None  # the model's own alarm
        self.look_s: float | None = None  # the side thread looks up at least so often
        self.again_s = 0.0  # set by a turn that has to have another one in so many seconds, if nobody else turns
        self._turn = turn
        self._leader = threading.Lock()
        self._gate_open = True  # the side thread is woken by what comes. Changed by who holds `_leader`
        self._leads = 0  # how often a thread has begun to lead
        self._glanced = 0.0  # since the side thread looked; and for how long it may look away
        self._led = False  # a thread leads until its own wait is over; not just for one turn of the side thread
        self._embedder: int | None = None  # the thread whose event loop does the reading, for good
        self._embedder_wake: Callable[[], object] | None = None
        self._closed = False
        self._main_thread = threading.main_thread().ident
        self._spins = SPINS if _SEVERAL_CPUS else 0  # so many looks in vain are left; see SPIN_S
        self._wake_read, self._wake_write = readiness.pipe()
        self._signal_read, self._signal_write = readiness.pipe()  # in `inner`: a signal ends a leader's sleep
        self.inner, self.outer = readiness.sets(self._wake_read)
        self.inner.register(self._signal_read, readiness.READ)
        self._barren = False  # `outer` has just said that nothing is ready
        self.idle = False  # the leader had to wait for what it handles now
        self.lull: tuple[float, int] = (0.0, 0)  # seconds for which a wait for more than so many may look away
        self._rest_s = 0.0  # what the next poll may
        self._no_rests = 0  # so many lulls are left out, because one brought no two answers together
        self._followers: set[threading.Lock] = set()  # of threads that wait while another one leads
        self._lulled = select.poll()
        self._lulled.register(self._signal_read, readiness.READ)
        self._turned = threading.Event()  # by the embedder, where the side thread has to tell it to turn
        self._thread = threading.Thread(target=self._side, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def poll(self, timeout: float | None) -> Any:
        """What is ready of the sockets; for the turn. It waits for at most so many seconds (None: without limit)."""
        if timeout == 0:
            self.idle = False
            return () if self._barren else self.inner.poll(0)
        if self._rest_s > 0:
            self._lulled.poll(self._rest_s * 1000)
            timeout = None if timeout is None else timeout - self._rest_s
            self._rest_s = 0.0
            self.idle = True
            events = self.inner.poll(0)
            if len(events) < 2:
                self._no_rests = NO_RESTS
            return events or self.inner.poll(timeout)
        began = now()
        if self._spins > 0:
            until = began + SPIN_S
            while True:
                events = self.inner.poll(0)
                if events:
                    self._spins = SPINS
                    self.idle = False
                    return events
                if now() >= until:
                    break
                _yield()  # whoever else wants this CPU, perhaps to answer us
            self._spins -= 1
            self.idle = True
            return self.inner.poll(timeout)
        events = self.inner.poll(timeout)
        self.idle = now() - began >= SHORT_SLEEP_S
        if _SEVERAL_CPUS and not self.idle:
            self._spins = 1
        return events

    def register(self, fd: int) -> None:
        self.inner.register(fd, readiness.READ)

    def want_write(self, fd: int, wanted: bool) -> None:
        self.inner.modify(fd, readiness.READ | (readiness.WRITE if wanted else 0))

    def unregister(self, fd: int) -> None:
        """Before or after it is closed."""
        with contextlib.suppress(OSError):  # epoll has let go of a closed one by itself
            self.inner.unregister(fd)

    def wake(self) -> None:
        """Have the side thread look soon. Safe anywhere, also in a destructor."""
        self.asleep = False
        if self._embedder_wake is not None:
            self._embedder_wake()
            return
        self._wake_side()

    def _stir(self) -> None:
        """Have whoever reads look up."""
        with contextlib.suppress(OSError):  # as in `_wake_side`
            os.write(self._signal_write, b"s")

    def calm(self, fd: int) -> None:
        """What `turn` found ready and is none of its sockets: the sleep that it was to end has ended."""
        if fd == self._signal_read:
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 4096)

    def _wake_side(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake anyhow. Closed: nobody is left to wake
            os.write(self._wake_write, b"w")

    def look_every(self, seconds: float) -> None:
        """Have the side thread look up at least so often from now on, even if it was just about to sleep for good."""
        self.look_s = seconds
        if self.asleep:
            self.wake()

    def lead(self, getter: Getter, deadline: float | None, interruptible: bool = True) -> None:
        """Wait until nothing is missing to `getter`, or the deadline (monotonic seconds) passed.

        Args:
            interruptible: a Ctrl-C ends the wait. (A worker that waits for work has none to end.)
        """
        while getter.missing > 0 and not self._closed:
            if deadline is not None and now() >= deadline:
                return
            if self._embedder == threading.get_ident():
                self._turn_until(getter, deadline, None)
            elif not self._led and self._leader.acquire(timeout=LEAD_WAIT_S):
                try:
                    self._lead(getter, deadline, _Interrupts(self) if interruptible else None)
                finally:
                    self._release()
            else:
                self._follow(getter, deadline)

    def embed(self, wake: Callable[[], object]) -> int:
        """Let the calling thread's event loop read from now on. It calls `turn_now` when the descriptor is readable.

        Args:
            wake: has the loop call `turn_now` soon; called from any thread.

        Returns:
            The descriptor to watch; -1 where there is none: then the side thread watches, and calls `wake`.
        """
        self._leader.acquire()
        self._led = True
        self._embedder, self._embedder_wake = threading.get_ident(), wake
        descriptor = self.inner.fileno()
        if descriptor >= 0:
            self._shut_gate()
        else:
            self._open_gate()
            if self.asleep:
                self._wake_side()
        return descriptor

    @property
    def embedded(self) -> bool:
        return self._embedder is not None

    def turn_now(self) -> None:
        """One turn without waiting, in the thread that called `embed`."""
        self._turn(0)
        self._turned.set()

    def poll_once(self) -> None:
        """Handle what has arrived, without waiting, unless another thread is at it."""
        if self._leader.acquire(blocking=False):
            try:
                self._turn(0)
            finally:
                self._release()

    def glance(self, next_s: float = 0.0) -> None:
        """The same between two pieces of user code, by who will come back soon: the side thread stays out of it.

        Args:
            next_s: until the next time, about; the side thread looks for twice as long whether it comes.
        """
        if self._leader.acquire(blocking=False):
            self.will_glance(next_s)
            try:
                if self._gate_open:
                    self._shut_gate()
                self._turn(0)
            finally:
                self._release()

    def will_glance(self, next_s: float) -> None:
        """In about so many seconds: until then nobody else need look."""
        self._glanced = max(GLANCED_POLL_S, 2 * next_s)

    def _release(self) -> None:
        self._leader.release()
        if self.asleep:  # perhaps with the gate shut. Looked at after the release: see `_last_look`
            self.wake()

    def _lead(self, getter: Getter, deadline: float | None, interrupts: _Interrupts | None) -> None:
        self._led = True
        self._leads += 1
        if self._gate_open:
            self._shut_gate()
        try:
            self._turn_until(getter, deadline, interrupts)
        finally:
            self._led = False
            if interrupts is not None:
                interrupts.restore()

    def _shut_gate(self) -> None:
        self._gate_open = False
        self.outer.close_gate()

    def _open_gate(self) -> None:
        if not self._gate_open and not self._closed:
            self._gate_open = True
            self.outer.open_gate()

    def _last_look(self) -> None:
        """Before the side thread sleeps: a turn for what was done since its last one by who thought that it was awake.
        From now on it is woken for that. Who leads now finds `asleep` set when that is over, and wakes it."""
        if self._leader.acquire(blocking=False):
            try:
                self._open_gate()
                self._barren = True  # what is there for the sockets will end the sleep
                self._turn(0)
            finally:
                self._barren = False
                self._leader.release()

    def _turn_until(self, getter: Getter, deadline: float | None, interrupts: _Interrupts | None) -> None:
        getter.reader, getter.stir = threading.get_ident(), self._stir
        while getter.missing > 0 and not self._closed:
            timeout = None
            if deadline is not None or self.next_wake is not None:
                moment = now()
                if deadline is not None:
                    if moment >= deadline:
                        return
                    timeout = deadline - moment
                if self.next_wake is not None:
                    alarm = max(0.0, self.next_wake - moment)
                    timeout = alarm if timeout is None or alarm < timeout else timeout
            lull, beyond = self.lull
            if lull > 0:
                self.lull = 0.0, 0
                if self._no_rests > 0:
                    self._no_rests -= 1
                elif getter.missing > beyond and not self._followers and (timeout is None or timeout > lull):
                    self._rest_s = lull
            self._turn(timeout)
            if interrupts is not None:
                interrupts.check()

    def _follow(self, getter: Getter, deadline: float | None) -> None:
        gate = threading.Lock()
        gate.acquire()
        getter.gate = gate
        # The leader may leave at any time, and the side thread then serves us; look up now and then all the same.
        limit = 0.1 if deadline is None else max(0.0, min(0.1, deadline - now()))
        self._followers.add(gate)
        if getter.missing > 0:
            gate.acquire(timeout=limit)
        self._followers.discard(gate)
        getter.gate = None

    def _side(self) -> None:
        quiet = leads = 0
        pause = QUIET_POLL_S
        while not self._closed:
            timeout: float | None = pause
            if quiet >= QUIET_TURNS:
                self.asleep = True
                self._last_look()
                timeout, self.again_s = self.again_s or self.look_s, 0.0
                # Who leads sees to the alarm as well, and wakes us when that ends.
                if self.next_wake is not None and (not self._led or self.embedded):
                    alarm = max(0.0, self.next_wake - now())
                    timeout = alarm if timeout is None else min(alarm, timeout)
            was_open = self._gate_open
            ready = self.outer.poll(timeout)
            heard = False
            for fd, _ in ready:
                if fd != self._wake_read:
                    heard = True
                else:
                    quiet = 0
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
            self.asleep = False
            if self._closed:
                return
            embedder_wake = self._embedder_wake
            if embedder_wake is not None and ready and self.inner.fileno() < 0:
                self._turned.clear()
                embedder_wake()
                self._turned.wait(EMBEDDED_TURN_S)  # or what is ready would be found again at once
            elif leads != self._leads:  # somebody reads every now and then: no need to get into their way
                pause = LED_POLL_S if self._leads - leads >= pause / OFTEN_S else QUIET_POLL_S
                leads = self._leads
                quiet = 0
                continue
            elif self._glanced:
                pause, self._glanced = self._glanced, 0.0
                quiet = 0
                continue
            elif self._leader.acquire(blocking=False):
                try:
                    self._barren = was_open and self._gate_open and not heard
                    busy = self._turn(0)
                    self._open_gate()
                finally:
                    self._barren = False
                    self._leader.release()
                quiet = 0 if busy or self.again_s else quiet + 1
                pause, self.again_s = self.again_s or QUIET_POLL_S, 0.0
                continue
            else:
                quiet += 1
            pause = QUIET_POLL_S

    def abandon(self) -> None:
        """In a forked child, which has no side thread: close what would keep the parent's sockets from ending."""
        self._closed = True
        self.inner.close()
        self.outer.close()

    def close(self) -> None:
        """End the side thread and wait for it; close the descriptors."""
        if self._closed:
            return
        self._closed = True
        self._embedder_wake = None
        self.wake()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        if self._embedder != threading.get_ident():
            self.wake()
            self.inner.register(self._wake_read, readiness.READ)  # where another thread, which leads, may sleep
            self._leader.acquire()  # for good: nobody leads any more
        self.inner.close()
        self.outer.close()
        ends = self._wake_read, self._wake_write, self._signal_read, self._signal_write
        self._wake_write = self._signal_write = -1  # whoever writes on gets EBADF, not another's descriptor
        for end in ends:
            os.close(end)


class _Interrupts:
    """Ctrl-C while this thread leads: noted at once, raised between two turns, never in the middle of one.

    Only the main thread gets signals; elsewhere this does nothing. The user's own handler is called, not replaced.
    A handler that returns does not end the poll that it interrupted, so the pump's own pipe does.
    """

    __slots__ = ("_previous", "_pump", "_seen")

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._seen: tuple[int, FrameType | None] | None = None
        self._previous: list[tuple[int, Any]] = []
        if threading.get_ident() == pump._main_thread:
            for number in pump.interrupts:
                previous = _signal.getsignal(number)
                if callable(previous):
                    self._previous.append((number, previous))
                    _signal.signal(number, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._seen = (signum, frame)
        with contextlib.suppress(OSError):
            os.write(self._pump._signal_write, b"s")

    def check(self) -> None:
        if self._seen is not None:
            seen, self._seen = self._seen, None
            with contextlib.suppress(OSError):
                os.read(self._pump._signal_read, 4096)
            dict(self._previous)[seen[0]](*seen)

    def restore(self) -> None:
        for number, previous in self._previous:
            _signal.signal(number, previous)
        self.check()
