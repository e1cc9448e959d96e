"""Nodes that come and go with Spark's executors: the head is the driver's, and an executor's node joins when it can.

Where Spark may add and remove executors (dynamic allocation), or bring one back for one that died (`elastic=True`), no
barrier stage can start all nodes at one time. So plain tasks come to the rendezvous, as many as there are slots. The
first on each executor starts a node; the others keep their slots meanwhile, so that Spark puts the next task elsewhere,
and are let go when every executor has its node.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

from sparkray.executor_main import StartOrder
from sparkray.launch import FAREWELL_S, Missing, StartFailed, StartJob, failure_of
from sparkray.rendezvous import Guest, Left, Rendezvous
from sparkray.sparks import AnySpark
from sparkray.versions import versions, why_doubtful, why_refused
from sparkray_core.errors import RayError

POLL_S = 1.0  # between two looks at Spark's executors
LONGEST_PAUSE_S = 60.0  # between two tries to join an executor that does not let itself be joined
HOLD_S = 5.0  # for which a task without use keeps its slot, once the session is up

log = logging.getLogger(__name__)

Word = tuple[Hashable, dict[str, Any]]


@dataclass
class Roster:
    """Who starts a node, who waits, who is let go. Guests are whatever the caller tells them apart by. No I/O."""

    wanted: int | None  # nodes; None: one on every executor that comes
    head_address: str
    same_machine: bool
    hold: bool = True  # those without use keep their slots for now
    joined: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)  # by executor
    starting: dict[Hashable, tuple[Any, ...]] = field(default_factory=dict)
    held: list[Hashable] = field(default_factory=list)
    up: list[Hashable] = field(default_factory=list)  # their nodes have joined, and their tasks have not heard of it
    failures: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def said(self, guest: Hashable, facts: dict[str, Any]) -> list[Word]:
        """What to say now, and to whom."""
        match facts["kind"]:
            case "here":
                return self._came(guest, facts)
            case "ready":
                self.joined[self.starting.pop(guest)] = facts
                if self.hold:  # its slot, too, or Spark would give it to the next task, and that would be one too many
                    self.up.append(guest)
                    return []
                return [(guest, {"kind": "done"})]
            case "failed":
                self._fail(guest, f"on the executor at {facts['address']}: {facts['why']}")
            case other:
                self._fail(guest, f"a task said {other!r}, which this version of sparkray does not know")
        return []

    def _came(self, guest: Hashable, facts: dict[str, Any]) -> list[Word]:
        ours, address = versions(), facts["address"]
        refused = why_refused(ours, facts["versions"], address)
        if refused is not None:
            self._fail(guest, refused)
            return [(guest, {"kind": "abort"})]
        executor = (facts["host"], *facts["jvm"])
        busy = {*self.joined, *self.starting.values()}
        if executor in busy or (self.wanted is not None and len(busy) >= self.wanted):
            if self.hold:
                self.held.append(guest)
                return []
            return [(guest, {"kind": "enough"})]
        doubt = why_doubtful(ours, facts["versions"], address)
        if doubt is not None:
            self.doubts.append(doubt)
        self.starting[guest] = executor
        on_host = self.wanted if self.same_machine else sum(other[0] == facts["host"] for other in busy) + 1
        return [
            (guest, {"kind": "start", "hosts_head": False, "neighbours": on_host or len(busy) + 1}),
            (guest, {"kind": "head", "address": self.head_address}),
        ]

    def left(self, guest: Hashable) -> None:
        if guest in self.held:
            self.held.remove(guest)
        elif guest in self.up:
            self.up.remove(guest)
            self.failures.append("a Spark task ended too early, and its node with it")
        elif guest in self.starting:
            self._fail(guest, f"the Spark task on the executor of {self.starting[guest][0]} ended too early")

    def let_go(self) -> list[Word]:
        """The tasks that keep their slots, now and later."""
        self.hold = False
        held, self.held = self.held, []
        up, self.up = self.up, []
        return [*((guest, {"kind": "done"}) for guest in up), *((guest, {"kind": "enough"}) for guest in held)]

    def forget_all_but(self, alive: set[str]) -> None:
        """Nodes that died: their executors, or those that Spark starts for them, may have another."""
        self.joined = {executor: facts for executor, facts in self.joined.items() if facts["node"] in alive}

    def _fail(self, guest: Hashable, why: str) -> None:
        self.starting.pop(guest, None)
        self.failures.append(why)


class ElasticNodes:
    """The nodes of one session, from the first to its end."""

    def __init__(
        self,
        spark: AnySpark,
        order: StartOrder,
        rendezvous: Rendezvous,
        head_address: str,
        wanted: int | None,
        alive: Callable[[], set[str]],
        on_join: Callable[[dict[str, Any]], None],
    ) -> None:
        """
        Args:
            rendezvous: closed by `close`.
            wanted: nodes at most; None: as many as there are executors, now and later.
            alive: the ids, in hexadecimal, of the session's nodes that live.
            on_join: called with what a node said when it was ready.
        """
        self.roster = Roster(wanted, head_address, order.same_machine)
        self._spark, self._order, self._rendezvous = spark, order, rendezvous
        self._alive, self._on_join = alive, on_join
        self._group = f"sparkray-{order.session}"
        self._guests: set[Guest] = set()
        self._job: StartJob | None = None
        self._shipped = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def gather(self, quorum: int, tasks: int, deadline: float) -> None:
        """Wait until so many nodes are up; further ones may be on their way then.

        Args:
            tasks: of which some may meet on one executor.
            deadline: on the monotonic clock.

        Raises:
            StartFailed: fewer were up in time, or one could not start. `close` ends those that did.
        """
        self._submit(tasks)
        while len(self.roster.joined) < quorum:
            left = deadline - time.monotonic()
            if left <= 0:
                raise StartFailed(
                    f"{len(self.roster.joined)} of {quorum} nodes were up within {self._order.limit_s:g} s. "
                    f"{self._spark.slots(self._group).holders()}. Try again when Spark has more executors, raise "
                    "start_timeout, or let the session begin with fewer (min_ray_nodes)"
                )
            self._listen(min(left, POLL_S))
            if self.roster.failures:
                raise StartFailed(self.roster.failures[0])
            assert self._job is not None
            if self._job.error is not None:
                self._mend(self._job.error, tasks)
            elif self._job.results is not None:
                self.roster.hold = True
                self._submit(tasks)  # they were on too few executors; by now there may be more
            elif len(self.roster.held) + len(self.roster.up) == tasks:
                self._say(self.roster.let_go())

    def _mend(self, error: BaseException, tasks: int) -> None:
        failure = failure_of(error)
        if not isinstance(failure, Missing) or self._shipped or self._order.same_machine:
            raise failure if not isinstance(failure, Missing) else StartFailed(failure.told())
        self._spark.ship()
        self._shipped = True
        self._order = replace(self._order, sys_path=())
        self._submit(tasks)

    def go_on(self) -> None:
        """Have a thread see to executors that come later, or come back."""
        self._say(self.roster.let_go())
        self._thread = threading.Thread(target=self._watch, daemon=True, name="sparkray-elastic")
        self._thread.start()

    def _watch(self) -> None:
        from py4j.protocol import Py4JError

        hold_until, again_at, pause, nodes = 0.0, 0.0, POLL_S, len(self.roster.joined)
        try:
            while not self._stop.is_set() and not self._spark.stopped:
                self._listen(POLL_S)
                for failure in self.roster.failures:
                    log.warning("an executor's node did not join: %s", failure)
                self.roster.failures.clear()
                if self.roster.hold and (time.monotonic() > hold_until or not self._is_someone_missing()):
                    self._say(self.roster.let_go())
                if len(self.roster.joined) > nodes:
                    pause = POLL_S
                nodes = len(self.roster.joined)
                rests = self._job is None or self._job.ended
                if rests and time.monotonic() > again_at and self._is_someone_missing():
                    again_at, pause = time.monotonic() + pause, min(2 * pause, LONGEST_PAUSE_S)
                    self.roster.hold, hold_until = True, time.monotonic() + HOLD_S
                    self._submit(self._spark.total_slots() or self._spark.executors())
        except (Py4JError, RayError, OSError, AttributeError) as error:  # Spark is ending, and with it what we watch
            log.debug("executors are no longer watched: %s", error)

    def _is_someone_missing(self) -> bool:
        """An executor has no node, and one more is wanted."""
        there = self._spark.executors()
        if there <= len(self.roster.joined):  # else it is plain already
            self.roster.forget_all_but(self._alive())
        nodes = len(self.roster.joined) + len(self.roster.starting)
        return there > nodes and (self.roster.wanted is None or nodes < self.roster.wanted)

    def _submit(self, tasks: int) -> None:
        self._job = StartJob(self._spark, self._group, tasks, self._order, self._rendezvous.wake)

    def _listen(self, limit: float) -> None:
        for event in self._rendezvous.wait(limit):
            if isinstance(event, Left):
                self._guests.discard(event.guest)
                self.roster.left(event.guest)
                continue
            self._guests.add(event.guest)
            self._say(self.roster.said(event.guest, event.facts))
            for doubt in self.roster.doubts:
                log.warning("%s", doubt)
            self.roster.doubts.clear()
            if event.facts["kind"] == "ready":
                self._on_join(event.facts)

    def _say(self, words: list[Word]) -> None:
        for guest, word in words:
            assert isinstance(guest, Guest)
            self._rendezvous.say(guest, word)

    def close(self) -> None:
        """No node joins after this. Those that are starting are ended by their tasks."""
        self._stop.set()
        self._rendezvous.wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(FAREWELL_S)
        for guest in self._guests:
            self._rendezvous.say(guest, {"kind": "abort"})
        deadline = time.monotonic() + FAREWELL_S
        while self._guests and (left := deadline - time.monotonic()) > 0:
            for event in self._rendezvous.wait(left):
                if isinstance(event, Left):
                    self._guests.discard(event.guest)
        if self._job is not None and not self._spark.stopped:
            self._job.cancel()
        self._rendezvous.close()
