"""A session on virtual time, for numbers: the real head, raylets and owners, and what each of their steps costs.

`simulation.py` asks whether the models are right, whatever happens; this asks how fast they are when nothing goes
wrong. So there are no faults, no dice but those of the tasks' durations, no links (nothing gets lost that they would
have to mend), no bytes unless asked for, and no invariants after each step; but every process is busy for as long as
`Costs` says, and what comes meanwhile waits. Each model's own time on this machine's clock is measured beside it.

A process takes what comes in the order in which it comes. So a step is computed when its message arrives, for the
moment at which the process will be free: one event per message, and none for the waiting. Two hops have none of their
own: from a process to its raylet, and from a raylet to a worker, if the frame is of another node. What they cause is
computed some 50 us early, as it would be if nothing else came meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

from sparkray_core.ids import HEAD, HEAD_NODE, LeaseId, NodeId, ProcessId, node_of, raylet_of
from sparkray_core.messages import (
    JoinScheduler,
    LeaseGranted,
    Loads,
    Message,
    NodeBeat,
    NodeTable,
    PushTasks,
    RegisterProcess,
    RequestLeases,
    ReturnLeases,
    TaskResults,
)
from sparkray_core.model.effects import Effect, Send, SendFrom, StartWorker, WakeAt
from sparkray_core.model.events import ClockTicked, Event, Received
from sparkray_core.model.head import Head
from sparkray_core.model.limits import HeadLimits, NodeLimits
from sparkray_core.model.node import Node
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.resources import from_floats
from sparkray_core.model.scheduler import Scheduler
from sparkray_core.store.allocator import Allocator
from sparkray_core.testing.agenda import Agenda
from sparkray_core.testing.costs import Costs
from sparkray_core.testing.histogram import Histogram
from sparkray_core.testing.measured import Measured
from sparkray_core.testing.timed_processes import TimedDriver, TimedWorker
from sparkray_core.wire import codec

STORE_BYTES = 1 << 30
STALL_S = 120.0  # of virtual time without a result, beyond the longest task: then something is lost
_LOOK_EVERY = 1 << 14  # events between two looks at that
_FOREVER = float("inf")
_ARRIVES_S = 0.05  # what is under way has been heard by then
PACED = NodeBeat, Loads, JoinScheduler  # messages that come with the clock, not for tasks
COMPONENTS = ("owner", "raylet", "head")  # that schedule; what they do for tasks
SCHEDULERS = "scheduler"  # beside the head, if there are any
RAYLET_BEATS, HEAD_BEATS = "beats of raylets", "beats at the head"  # and what else comes with the clock
LOADS = "loads at schedulers"  # what the head passes on to them of these beats
OFFERS = "leases offered again"  # by the clock, too: what waits at a node for some seconds is placed anew


class Host:
    """The head, a scheduler beside it, or a node. A node's model is made when the first message comes for it: until
    then it only beats."""

    __slots__ = ("busy_s", "free_at", "info", "line_free_at", "me", "model", "node", "wake")

    def __init__(self, node: NodeId, info: NodeInfo | None = None) -> None:
        self.node = node
        self.info = info
        self.me = HEAD if node == HEAD_NODE else raylet_of(node)
        self.model: Head | Scheduler | Node | None = None
        self.free_at = 0.0  # the process that speaks for it
        self.line_free_at = 0.0  # what leaves the node
        self.busy_s = 0.0
        self.wake = _FOREVER


class TimedSession:
    """Nodes with their CPUs, and drivers whose tasks they run. `run` once."""

    driver_type: type[TimedDriver] = TimedDriver

    def __init__(
        self,
        nodes: int,
        cpus_per_node: int,
        costs: Costs | None = None,
        *,
        with_bytes: bool = False,
        head_limits: HeadLimits | None = None,
        node_limits: NodeLimits | None = None,
        drivers_apart: bool = False,
        schedulers: int = 0,
        measure: Callable[[], Measured] = Measured,
    ) -> None:
        """
        Args:
            with_bytes: every message is encoded and decoded, and its bytes are counted; about twice as slow.
            drivers_apart: there is one node more, the first, without CPUs: there Spark's drivers live.
            schedulers: so many place leases beside the head.
            measure: by what the models' steps are measured, made for each kind of them.
        """
        if nodes < 1 or cpus_per_node < 1:
            raise ValueError(f"{nodes} nodes of {cpus_per_node} CPUs: both must be at least 1")
        self.costs = costs or Costs()
        self.cpus = nodes * cpus_per_node
        self.with_bytes = with_bytes
        self.node_limits = node_limits or NodeLimits()
        nodes += drivers_apart
        self._beat_s = self.node_limits.beat_after(nodes)
        self.now = 0.0
        self.events = 0
        self.sent: dict[type[Message], int] = {}
        self.sent_bytes = 0
        kinds = (*COMPONENTS, "worker", SCHEDULERS, RAYLET_BEATS, HEAD_BEATS, LOADS, OFFERS)
        self.measured = {name: measure() for name in kinds}
        self.placed = self.offered = self.granted = 0  # leases: by the head, by it once more, by raylets
        self._offered: set[LeaseId] = set()  # again
        self.delays = Histogram()  # from a task's submission to its start
        self.started = 0  # tasks
        self.drivers: list[TimedDriver] = []
        self.unfinished = 0  # drivers
        self.processes: dict[ProcessId, TimedDriver | TimedWorker] = {}
        self._agenda = Agenda()
        self.at: Callable[..., None] = self._agenda.at
        self._head = Host(HEAD_NODE)
        self._head.model = head = Head("timed", head_limits)
        self._hosts: dict[NodeId, Host] = {HEAD_NODE: self._head}
        self._table: dict[NodeId, NodeInfo] = {}
        self._schedulers = [NodeId(b"\0sch" + number.to_bytes(4, "big")) for number in range(schedulers)]
        for number in range(1, nodes + 1):
            node = NodeId(number.to_bytes(8, "big"))
            resources = from_floats({"CPU": 0 if drivers_apart and number == 1 else cpus_per_node})
            info = NodeInfo(node, f"tcp://n{number}:1", f"n{number}", 1, resources, {}, STORE_BYTES, f"/n{number}")
            self._table[node] = info
            self._hosts[node] = host = Host(node, info)
            head.handle(Received(host.me, info.join()), 0.0)  # its answers are of the start, which is not timed
            self.at(self._beat_s * number / nodes, self._beat_of_idle, host)
        head.handle(ClockTicked(), 0.05)
        for node in self._schedulers:
            self._add_scheduler(head, node)
        self._performed(self._head, head.start(0.0), 0.0)

    def _add_scheduler(self, head: Head, node: NodeId) -> None:
        """It was up long before, and has been told of all nodes, and they of it."""
        self._hosts[node] = host = Host(node)
        host.model = scheduler = Scheduler(node, f"tcp://s{node.hex()}:1")
        effects = scheduler.start(0.05)
        for effect in head.handle(Received(host.me, JoinScheduler(scheduler.address, 0)), 0.05):
            if isinstance(effect, Send) and isinstance(effect.message, NodeTable | Loads) and effect.to == host.me:
                scheduler.handle(Received(HEAD, effect.message), 0.05)
        self._performed(host, [effect for effect in effects if isinstance(effect, WakeAt)], 0.05)

    # ------------------------------------------------------------------ setting up, and running
    def add_driver(self, seconds: Sequence[float], node: int = 0, window: int | None = None) -> TimedDriver:
        """One that submits a task of each of these durations, then waits for all.

        Args:
            node: on which it lives, from 0.
            window: so many of its tasks may be unanswered at a time; None: all.
        """
        host = self._hosts[NodeId((node + 1).to_bytes(8, "big"))]
        me = ProcessId(host.node + (0xFF << 56 | len(self.drivers)).to_bytes(8, "big"))
        driver = self.driver_type(self, me, seconds, window)
        self._model(host, 0.0)
        self._handle(host, Received(me, RegisterProcess("driver", 1)), 0.0, 0.0)
        self.processes[me] = driver
        self.drivers.append(driver)
        self.unfinished += 1
        self.at(0.0, driver.submit)
        return driver

    def run(self) -> None:
        """Until every driver has all its answers.

        Raises:
            RuntimeError: nothing goes on any more, or a task did not run exactly once: a bug.
        """
        pop = self._agenda.pop
        longest = max((max(driver.seconds) for driver in self.drivers if len(driver.seconds)), default=0.0)
        answered, last = 0, 0.0
        while self.unfinished:
            for _ in range(_LOOK_EVERY):
                self.now, _, do, args = pop()
                do(self.now, *args)
                self.events += 1
                if not self.unfinished:
                    break
            so_far = sum(driver.answered for driver in self.drivers)
            if so_far > answered:
                answered, last = so_far, self.now
            elif self.now > last + longest + STALL_S:
                raise RuntimeError(f"after {answered} answers nothing came for {self.now - last:.0f} virtual seconds")
        wanted = sum(len(driver.seconds) for driver in self.drivers)
        if self.started != wanted:
            raise RuntimeError(f"{wanted} tasks were submitted, and {self.started} ran")

    def steps(self) -> Iterator[None]:
        """In place of `run`, an event at a time, and then on until drivers have given all their leases back."""
        end = _FOREVER
        while self.now < end:
            self.now, _, do, args = self._agenda.pop()
            do(self.now, *args)
            self.events += 1
            if end == _FOREVER and not self.unfinished and not any(driver.has_leases for driver in self.drivers):
                end = self.now + _ARRIVES_S
            yield

    # ------------------------------------------------------------------ raylets and the head
    def _model(self, host: Host, now: float) -> Head | Scheduler | Node:
        if host.model is not None:
            return host.model
        assert host.info is not None
        host.model = node = Node(host.info, "timed", Allocator(STORE_BYTES), self.node_limits)
        # All nodes share one book of who is alive: nobody joins or dies.
        node.table = self._table
        node.peers = set() if len(self._table) == 1 else self._table.keys()  # type: ignore[assignment]
        node.schedulers = self._schedulers
        effects = node.start(now)
        for effect in effects:  # it was up long before, and so were these
            if isinstance(effect, StartWorker):
                node.handle(Received(effect.worker, RegisterProcess("worker", 1)), now)
        self._performed(host, [effect for effect in effects if isinstance(effect, WakeAt)], now)
        return node

    def _beat_of_idle(self, now: float, host: Host) -> None:
        if host.model is None:
            assert host.info is not None
            self._transmit(
                host,
                host.me,
                HEAD,
                NodeBeat(host.info.resources, 0, 0.0, longer_s=self._beat_s - self.node_limits.beat_s),
                now,
            )
            self.at(now + self._beat_s, self._beat_of_idle, host)

    def _receive(self, now: float, host: Host, sender: ProcessId, message: Any) -> None:
        if self.with_bytes:
            message = self.decoded(message, self._who(host))
        costs = self.costs
        leases = len(message.leases) if isinstance(message, RequestLeases | ReturnLeases) else 0
        if host.info is None:  # a scheduler is the head's equal
            cost = costs.head_message_s + leases * costs.head_lease_s
            if isinstance(message, RequestLeases):
                self.placed += leases * (not message.placed)
                self.offered += leases * message.placed
        else:
            cost = costs.raylet_message_s + leases * costs.raylet_lease_s
        self._handle(host, Received(sender, message), now, cost)

    def _tick(self, now: float, host: Host) -> None:
        if host.wake == now:
            host.wake = _FOREVER
            self._handle(host, ClockTicked(), now, 0.0)

    def _handle(self, host: Host, event: Event, now: float, cost: float) -> None:
        model = self._model(host, now)
        start = max(now, host.free_at)
        effects = self._measured_of(host, event).step(model.handle, event, start)
        host.free_at = start + cost
        host.busy_s += cost
        self._performed(host, effects, host.free_at)

    def _measured_of(self, host: Host, event: Event) -> Measured:
        """What the clock brings, whether there are tasks or not, is apart."""
        at_head = host is self._head
        message = event.message if isinstance(event, Received) else None
        if message is None or isinstance(message, NodeBeat | JoinScheduler | Loads):
            return self.measured[HEAD_BEATS if at_head else LOADS if host.info is None else RAYLET_BEATS]
        if isinstance(message, RequestLeases) and message.placed:
            if at_head:
                self._offered.update(message.leases)
            if message.leases[0] in self._offered:
                return self.measured[OFFERS]
        return self.measured[self._who(host)]

    def _who(self, host: Host) -> str:
        return "head" if host is self._head else SCHEDULERS if host.info is None else "raylet"

    def _performed(self, host: Host, effects: Sequence[Effect], now: float) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.granted += isinstance(effect.message, LeaseGranted)
                self.send(host.me, effect.to, effect.message, now)
            elif isinstance(effect, SendFrom):
                self.send(effect.sender, effect.to, effect.message, now, host)
            elif isinstance(effect, WakeAt):
                if effect.at < host.wake:
                    host.wake = max(effect.at, now)
                    self.at(host.wake, self._tick, host)
            elif isinstance(effect, StartWorker):
                raise RuntimeError(f"{host.info} starts a worker beyond those that it had: the simulator has no forks")

    # ------------------------------------------------------------------ frames
    def send(
        self, sender: ProcessId, to: ProcessId, message: Message, now: float, relayed_by: Host | None = None
    ) -> None:
        """It leaves its sender (or the raylet or head that passes it on in its name) now."""
        kind = type(message)
        self.sent[kind] = self.sent.get(kind, 0) + 1
        host = relayed_by or self._hosts[node_of(sender)]
        frame: Any = message
        if self.with_bytes:
            process = self.processes[sender] if not relayed_by and sender != host.me else None
            frame = self.encoded(message, self._who(host) if process is None else process.role)
        if node_of(to) == host.node:
            self._hand_over(host, sender, to, frame, now)
        elif relayed_by is not None or sender == host.me:
            self._transmit(host, sender, to, frame, now)
        else:  # by way of its raylet
            self._transmit(host, sender, to, frame, self._passed_on(host, now + self.costs.local_s))

    def _passed_on(self, host: Host, now: float) -> float:
        host.free_at = max(now, host.free_at) + self.costs.raylet_relay_s
        host.busy_s += self.costs.raylet_relay_s
        return host.free_at

    def _transmit(self, host: Host, sender: ProcessId, to: ProcessId, frame: Any, now: float) -> None:
        gone = max(now, host.line_free_at) + self._size(frame) / self.costs.network_bytes_per_s
        host.line_free_at = gone
        self.at(gone + self.costs.network_s, self._landed, self._hosts[node_of(to)], sender, to, frame)

    def _landed(self, now: float, host: Host, sender: ProcessId, to: ProcessId, frame: Any) -> None:
        if to == host.me:
            self._receive(now, host, sender, frame)
            return
        process = self.processes.get(to)
        if isinstance(process, TimedWorker):
            process.receive(self._passed_on(host, now) + self.costs.local_s, sender, frame)
        else:
            self._hand_over(host, sender, to, frame, self._passed_on(host, now))

    def _hand_over(self, host: Host, sender: ProcessId, to: ProcessId, frame: Any, now: float) -> None:
        """Over a socket inside the node."""
        if to == host.me:
            self.at(now + self.costs.local_s, self._receive, host, sender, frame)
            return
        process = self.processes.get(to)
        if process is None:
            process = self.processes[to] = TimedWorker(self, to)
        self.at(now + self.costs.local_s, process.receive, sender, frame)

    def _size(self, frame: Any) -> int:
        if isinstance(frame, bytes):
            return len(frame)
        costs = self.costs
        if isinstance(frame, PushTasks):
            return costs.frame_bytes + costs.task_bytes * len(frame.tasks)
        if isinstance(frame, TaskResults):
            return costs.frame_bytes + costs.result_bytes * len(frame.results)
        return costs.frame_bytes

    def encoded(self, message: Message, who: str) -> bytes:
        began = perf_counter()
        body = codec.encode(message)
        self.measured[who].add(perf_counter() - began)
        self.sent_bytes += len(body) + codec.ENVELOPE_BYTES
        return body

    def decoded(self, body: bytes, who: str) -> Message:
        began = perf_counter()
        message = codec.decode(body)
        self.measured[who].add(perf_counter() - began)
        return message

    # ------------------------------------------------------------------ looked at afterwards
    @property
    def head_busy_s(self) -> float:
        return self._head.busy_s

    @property
    def workers(self) -> list[TimedWorker]:
        return [process for process in self.processes.values() if isinstance(process, TimedWorker)]

    @property
    def placers(self) -> list[Host]:
        """The head, and the schedulers beside it."""
        return [self._head, *(self._hosts[node] for node in self._schedulers)]

    def model_of(self, node: NodeId, now: float) -> Head | Scheduler | Node:
        """As it is, or made just now."""
        return self._model(self._hosts[node], now)

    @property
    def raylets(self) -> list[Host]:
        return [host for host in self._hosts.values() if host.info is not None]
