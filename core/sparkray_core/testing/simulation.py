"""A whole session in one thread, clock in hand: head, raylets, workers, drivers, and a network that does its worst.

The models are the real ones, and so are the links between nodes and the encoding of messages. Inside a node frames
come in the order in which they were sent; between nodes `network` decides, and `model.link` mends it. After each event
the invariants that it can have broken are checked (`sim_checks`). All dice are thrown here, from one seed: the same
seed gives the same trace.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from sparkray_core.ids import (
    HEAD,
    HEAD_NODE,
    RECORDS,
    SCHEDULERS,
    SHARDS,
    NodeId,
    ObjectId,
    ProcessId,
    node_of,
    raylet_of,
)
from sparkray_core.messages import (
    DrainNode,
    EndSession,
    Message,
    NameResults,
    NodeGone,
    NotHere,
    ObjectChunk,
    ProcessGone,
    PushCalls,
    PushTasks,
    SetGroup,
)
from sparkray_core.model.effects import (
    ConnectPeer,
    CopyChunk,
    DropSpilled,
    Effect,
    ForgetChunks,
    ForgetPeer,
    KillWorker,
    LookForSigns,
    MakeAgain,
    MapPeer,
    PunchHole,
    RestoreObject,
    Send,
    SendChunk,
    SendFrom,
    SendSpilled,
    SpillObjects,
    StartWorker,
    Stop,
    WakeAt,
    WriteChunk,
)
from sparkray_core.model.events import (
    ChunkCopied,
    ClockTicked,
    ConnectionLost,
    Event,
    PeerLost,
    PeerMapped,
    PeersHeard,
    Received,
    Restored,
    RestoreFailed,
    Spilled,
    SpillFailed,
    Undelivered,
    WorkerExited,
)
from sparkray_core.model.head import Head
from sparkray_core.model.invariants import check
from sparkray_core.model.limits import HeadLimits, NodeLimits
from sparkray_core.model.link import Deliver, Link, LinkEffect, PeerSilent, Transmit
from sparkray_core.model.node import Node
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.scheduler import Scheduler
from sparkray_core.model.shard import Shard
from sparkray_core.store.allocator import Allocator
from sparkray_core.testing.network import Conditions, Network
from sparkray_core.testing.sim_checks import NodeChecks
from sparkray_core.testing.sim_core import HANDOVER_S, Leave, Ledger, Memory, ProcessEffect, SimProcess
from sparkray_core.testing.sim_head import History, contents
from sparkray_core.testing.sim_worker import SimWorker
from sparkray_core.wire import codec

LINK_SILENCE_S = 4.0  # a little over the head's patience, so that both ways to notice a death are taken
LINK_BEAT_S = 0.5
PUSHED = (PushTasks, PushCalls, SetGroup, NameResults)  # as in `run.local_process`
LOCAL_DELAY_S = (0.00002, 0.0002)  # of a frame on a Unix socket
_LEAST_S, _SPREAD_S = LOCAL_DELAY_S[0], LOCAL_DELAY_S[1] - LOCAL_DELAY_S[0]
FORK_S = (0.001, 0.02)
SCHEDULER_AGAIN_S = 0.1  # from a scheduler's end to the start of the one that its keeper forks in its place
BREAK_S = (0.0005, 0.02)  # from the end of a node's processes to the head's noticing that its connection broke
DISK_S = (0.0005, 0.05)  # of one file written, or one object read
_NEVER = float("inf")
LEFTOVER = 0xDD  # what a punched hole reads as


class Host:
    """Where one model lives: head, scheduler or shard, or a node with its processes and its segment."""

    def __init__(self, node: NodeId, model: Head | Node | Scheduler | Shard) -> None:
        self.node = node
        self.me = HEAD if node == HEAD_NODE else raylet_of(node)
        self.model = model
        self.links: dict[NodeId, Link] = {}
        self.link_wakes: dict[NodeId, float] = {}
        self.forgotten: set[NodeId] = set()
        self.processes: dict[ProcessId, SimProcess] = {}
        self.channels: dict[tuple[ProcessId, ProcessId], float] = {}  # when the last frame between these arrives
        self.segment = Memory(model.info.store_bytes if isinstance(model, Node) else 0)
        self.disk_busy = 0.0  # until then
        self.disk = self.segment.disk
        self.copies: dict[ObjectId, object] = {}  # out of other hosts' segments, not forgotten
        self.copies_busy = 0.0
        self.stopped = ""  # why, once it is
        self.mute = False  # what it sends does not leave it any more
        self.history: History | None = None  # the head's, and a shard's
        self.checks = NodeChecks() if isinstance(model, Node) else None
        self.held: dict[NodeId, list[bytes]] = {}  # for nodes whose address is not known yet

    @property
    def name(self) -> str:
        if self.node.startswith(SHARDS):
            return f"shard {self.node[-1]}"
        return "head" if self.node == HEAD_NODE else self.node.decode().strip(".")


class Simulation:
    def __init__(
        self,
        seed: int,
        conditions: Conditions | None = None,
        node_limits: NodeLimits | None = None,
        head_limits: HeadLimits | None = None,
        bad_starts: float = 0.0,
        bad_disks: float = 0.0,
        mortal_head: bool = True,
    ) -> None:
        """
        Args:
            bad_starts: share of workers that end before they register.
            bad_disks: share of files that cannot be written, and (a tenth of it) of reads that fail.
            mortal_head: it may be killed for a while (`kill_for`), so its history is kept.
        """
        self.dice = Random(seed)
        self.network = Network(self.dice, conditions or Conditions())
        self.node_limits = node_limits or NodeLimits()
        self.bad_starts = bad_starts
        self.bad_disks = bad_disks
        self.now = 0.0
        self.steps = 0
        self.hosts: dict[NodeId, Host] = {}
        self.ledger = Ledger()
        # The lines of the story go there; with a digest of all of them. None: nobody reads it, and it is not written.
        self.trace: list[str] | deque[str] | None = None
        self._digest = hashlib.blake2b(digest_size=16)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._ties = 0
        self._lasting_links: dict[tuple[NodeId, NodeId], bytes] = {}  # incarnations
        self._schedulers = 0  # so far
        self.shared_hosts = False  # owners speak straight to workers of nodes on their host
        self._direct: dict[ProcessId, set[ProcessId]] = {}  # who has a connection to whom on another node
        self._parted: dict[ProcessId, set[NodeId]] = {}  # the dead nodes that a process has heard of
        self.head = Head("simulated", head_limits)
        host = Host(HEAD_NODE, self.head)
        self._add(host)
        if mortal_head:
            make, links = partial(Head, "simulated", head_limits), partial(self._new_lasting_link, HEAD_NODE)
            host.history = History(HEAD, make, links)
            host.history.note("began", self.now)
        self._perform(host, self.head.start(self.now))

    # ------------------------------------------------------------------ setting up, and faults
    def add_node(self, info: NodeInfo) -> Host:
        host = Host(info.node, node := Node(info, "simulated", Allocator(info.store_bytes), self.node_limits))
        node.kept.refs.legacy.handover_s = HANDOVER_S
        self._add(host)
        self._link(host, HEAD_NODE)
        self._perform(host, node.start(self.now))
        return host

    def add_scheduler(self) -> Host:
        self._schedulers += 1
        node = NodeId(SCHEDULERS + b"%04d" % self._schedulers)
        host = Host(node, model := Scheduler(node, "memory://", self.head.limits))
        self._add(host)
        self._link(host, HEAD_NODE)
        self._perform(host, model.start(self.now))
        return host

    def add_shard(self, number: int) -> Host:
        """One of those that the head's limits speak of."""

        def make() -> Shard:
            return Shard(number, "memory://", self.head.limits)

        model = make()
        host = Host(model.node, model)
        host.history = History(host.me, make, partial(self._new_lasting_link, host.node))
        self._add(host)
        self._link(host, HEAD_NODE)
        host.history.note("began", self.now)
        self._perform(host, model.start(self.now))
        return host

    def add_process(self, process: SimProcess) -> None:
        host = self.hosts[node_of(process.id)]
        host.processes[process.id] = process
        self._process_effects(host, process, process.start(self.now))

    def kill_process(self, host: Host, process: ProcessId, why: str = "killed by SIGKILL") -> None:
        """What it sent arrives; then its end is seen, by the raylet's socket and by the zygote, in either order."""
        gone = host.processes.pop(process, None)
        if gone is None:
            return
        drained = self._channel_time(host, process, host.me)
        self.at(drained + self.dice.uniform(0, 0.001), lambda: self._event(host, ConnectionLost(process)))
        if gone.role == "worker":
            self.at(drained + self.dice.uniform(0, 0.001), lambda: self._event(host, WorkerExited(process, why)))

    def kill_host(self, host: Host, why: str = "power cut", noticed: bool = False) -> None:
        """
        Args:
            noticed: its system goes on, and closes its connections, which the head sees.
        """
        host.stopped = host.stopped or why
        host.processes.clear()
        self.note(host, f"stopped: {why}")
        if isinstance(host.model, Scheduler):
            self.at(self.now + SCHEDULER_AGAIN_S, self._scheduler_again)
        if noticed:
            head, at = self.hosts[HEAD_NODE], self.now + self.dice.uniform(*BREAK_S)
            self.at(at, lambda: self._event(head, PeerLost(host.node, "its connection broke")))

    def _scheduler_again(self) -> None:
        if self.head.ended is None and self.hosts[HEAD_NODE].stopped in ("", "killed"):
            self.add_scheduler()

    def kill_for(self, host: Host, seconds: float) -> None:
        """The head, or a shard: what it did last does not leave it any more; so long after its end another goes on."""
        if host.stopped or host.mute:
            return
        self.note(host, "fault: it is killed")
        host.mute = True
        self.at(self.now + self.dice.uniform(0, 0.01), lambda: self._gone_for_now(host))
        self.at(self.now + 0.01 + seconds, lambda: self._again(host))

    def _gone_for_now(self, host: Host) -> None:
        host.stopped = host.stopped or "killed"

    def _again(self, host: Host) -> None:
        host.mute = False
        if host.stopped != "killed":
            return
        assert host.history is not None
        state = host.history.again()
        assert contents(state.model) == contents(host.model), "another made something else of the same facts"
        assert list(state.links) == list(host.links)
        for node, link in state.links.items():
            assert link.numbers == host.links[node].numbers, f"the link to {node!r} counts otherwise"
        host.stopped = ""
        host.model = state.model
        if isinstance(state.model, Head):
            self.head = state.model
        host.links, host.forgotten, host.link_wakes = state.links, state.forgotten, {}
        self.note(host, "goes on")
        host.history.note("resumed", self.now)
        self._perform(host, state.model.resume(self.now))
        for node, link in list(host.links.items()):
            self._link_effects(host, node, link.resumed(self.now))

    def drain(self, host: Host, deadline_s: float | None) -> None:
        """As `sparkray drain` does."""
        self.note(host, f"is to be drained, by {deadline_s}")
        order = DrainNode(0, host.node, "it is wanted elsewhere", deadline_s)
        self._event(self.hosts[HEAD_NODE], Received(host.me, order))

    def cut(self, one: Host, other: Host, seconds: float) -> None:
        self.note(one, f"cut from {other.name} for {seconds:.3f} s")
        self.network.cut(one.node, other.node, self.now + seconds)

    # ------------------------------------------------------------------ running
    def at(self, when: float, do: Callable[[], None]) -> None:
        self._ties += 1
        heapq.heappush(self._agenda, (when, self._ties, do))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Whether `done` held before the clock came there."""
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, do = heapq.heappop(self._agenda)
            do()
            self.steps += 1
            if self.steps % 64 == 0 and done():
                return True
        self.now = until
        return done()

    def check_all(self) -> None:
        """As after each step, but whatever that was."""
        for host in self.hosts.values():
            if not host.stopped:
                check(host.model)
                for process in host.processes.values():
                    process.check()

    def live_nodes(self) -> list[Host]:
        return [host for host in self.hosts.values() if not host.stopped and isinstance(host.model, Node)]

    def live_schedulers(self) -> list[Host]:
        return [host for host in self.hosts.values() if not host.stopped and isinstance(host.model, Scheduler)]

    def live_shards(self) -> list[Host]:
        """Those included that are killed, and of which another goes on."""
        return [one for one in self.hosts.values() if isinstance(one.model, Shard) and one.stopped in ("", "killed")]

    def note(self, host: Host, line: str) -> None:
        if self.trace is not None:
            text = f"{self.now:.6f} {host.name} {line}"
            self._digest.update(text.encode() + b"\n")
            self.trace.append(text)

    def digest(self) -> str:
        """Of everything that happened, since `trace` was set."""
        return self._digest.hexdigest()

    def _add(self, host: Host) -> None:
        self.hosts[host.node] = host

    # ------------------------------------------------------------------ a model's events and effects
    def _event(self, host: Host, event: Event) -> None:
        if host.stopped:
            return
        if host.history is not None:
            host.history.note("happened", self.now, event)
        effects = host.model.handle(event, self.now)
        if self.trace is not None:
            self.note(host, f"< {event}")
            for effect in effects:
                self.note(host, f"    > {effect}")
        if host.checks is not None and isinstance(host.model, Node):
            host.checks.after(host.model, event)
        else:
            check(host.model)
        self._perform(host, effects)
        if host.history is not None:
            host.history.take_snapshot(host.model, host.links, host.forgotten)

    def _perform(self, host: Host, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(to, message):
                    self._route(host, to, host.me, message)
                case SendFrom(to, sender, message):
                    self._route(host, to, sender, message)
                case WakeAt(at):
                    self.at(max(at, self.now), lambda: self._event(host, ClockTicked()))
                case StartWorker(worker):
                    self.at(self.now + self.dice.uniform(*FORK_S), lambda worker=worker: self._forked(host, worker))  # type: ignore[misc]
                case KillWorker(worker):
                    self._kill_soon(host, worker)
                case SendChunk(to, some, offset, first, length, size):
                    data = bytes(host.segment[offset + first : offset + first + length])
                    self._route(host, to, host.me, ObjectChunk(some, first, size, data))
                case WriteChunk(offset, data):
                    host.segment[offset : offset + len(data)] = data
                case MapPeer(node):
                    mapped = self.dice.random() < 0.8
                    self.at(self.now + self.dice.uniform(*DISK_S), partial(self._event, host, PeerMapped(node, mapped)))
                case CopyChunk():
                    self._copy(host, effect)
                case ForgetChunks(some):
                    host.copies.pop(some, None)
                case PunchHole(offset, size):
                    host.segment[offset : offset + size] = bytes([LEFTOVER]) * size
                case SpillObjects() | RestoreObject() | SendSpilled() | DropSpilled():
                    self._disk(host, effect)
                case ConnectPeer(node):
                    self._link(host, node)
                case ForgetPeer(node):
                    host.links.pop(node, None)
                    host.forgotten.add(node)
                case LookForSigns(nodes):
                    self.at(self.now, lambda nodes=nodes: self._look_for_signs(host, nodes))  # type: ignore[misc]
                case Stop(why):
                    self.kill_host(host, why)
                case MakeAgain():
                    raise TypeError(f"only owners wish for {effect}")

    def _look_for_signs(self, head: Host, nodes: Sequence[NodeId]) -> None:
        links = [(node, head.links.get(node)) for node in nodes]
        self._event(head, PeersHeard({node: self.now - link.heard_at for node, link in links if link is not None}))

    def _copy(self, host: Host, effect: CopyChunk) -> None:
        """One after the other, as the raylet's thread does it; bytes are read when it comes to that."""
        host.copies_busy = max(host.copies_busy, self.now) + self.dice.uniform(*DISK_S)
        wish = host.copies.setdefault(effect.object, object())

        def copied() -> None:
            if host.copies.get(effect.object) is not wish:
                return
            begin, into = effect.offset + effect.first, effect.into + effect.first
            data = self.hosts[effect.source].segment[begin : begin + effect.length]
            host.segment[into : into + effect.length] = data
            self._event(host, ChunkCopied(effect.object, effect.first, effect.length))

        self.at(host.copies_busy, copied)

    def _disk(self, host: Host, effect: SpillObjects | RestoreObject | SendSpilled | DropSpilled) -> None:
        """One file after the other, as the raylet's thread does it; bytes are read when it comes to that."""
        at = max(host.disk_busy, self.now) + self.dice.uniform(*DISK_S)
        host.disk_busy = at
        self.at(at, lambda: self._at_disk(host, effect))

    def _at_disk(self, host: Host, effect: SpillObjects | RestoreObject | SendSpilled | DropSpilled) -> None:
        fails = self.dice.random() < self.bad_disks
        match effect:
            case SpillObjects(file, size, pieces):
                data = bytearray(size)
                for offset, first, length in pieces:
                    data[first : first + length] = host.segment[offset : offset + length]
                if fails:
                    self._event(host, SpillFailed(file, "no space left", True))
                else:
                    host.disk[file] = bytes(data)
                    self._event(host, Spilled(file))
            case RestoreObject(some, file, first, offset, size):
                if fails and self.dice.random() < 0.1:
                    self._event(host, RestoreFailed(some, "input/output error"))
                else:
                    host.segment[offset : offset + size] = host.disk[file][first : first + size]
                    self._event(host, Restored(some))
            case SendSpilled(to, some, file, where, first, length, size):
                if fails and self.dice.random() < 0.1:
                    self._route(host, to, host.me, NotHere(some))
                else:
                    data = bytearray(host.disk[file][where + first : where + first + length])
                    self._route(host, to, host.me, ObjectChunk(some, first, size, bytes(data)))
            case DropSpilled(file):
                del host.disk[file]

    def _forked(self, host: Host, worker: ProcessId) -> None:
        if host.stopped:
            return
        if self.dice.random() < self.bad_starts:
            self._event(host, WorkerExited(worker, "exit code 1"))
        else:
            self.add_process(SimWorker(worker, host.segment, self.ledger))

    def _kill_soon(self, host: Host, worker: ProcessId) -> None:
        if worker in host.processes:
            self.at(self.now + 0.001, lambda: self.kill_process(host, worker))

    # ------------------------------------------------------------------ frames
    def _route(self, host: Host, to: ProcessId, sender: ProcessId, message: Message) -> None:
        """From the raylet or the head on: to a process of this node, or over a link."""
        if host.stopped and not isinstance(message, EndSession):  # its last words still leave it
            return
        body = codec.encode(message)
        if to == RECORDS:
            assert isinstance(host.model, Node)
            to = host.model.keeper_of(sender)
        if node_of(to) == host.node:
            self._hand_over(host, host.me, to, sender, body)
        elif node_of(to) in host.links:
            link = host.links[node_of(to)]
            self._link_effects(host, node_of(to), link.send([to + sender + body], self.now))
        elif node_of(to) not in host.forgotten and host.node != HEAD_NODE:
            host.held.setdefault(node_of(to), []).append(to + sender + body)
        else:
            self.note(host, f"no way to {to.hex()} for {type(message).__name__}")
            if node_of(to) in host.forgotten and host.node != HEAD_NODE:
                self._event(host, Undelivered(sender, to))

    def _hand_over(self, host: Host, source: ProcessId, to: ProcessId, sender: ProcessId, body: bytes) -> None:
        """Over a socket inside the node, in order."""
        self.at(self._channel_time(host, source, to), lambda: self._arrived(host, to, sender, body))

    def _channel_time(self, host: Host, source: ProcessId, to: ProcessId) -> float:
        channel = source, to
        at = self.now + (_LEAST_S + _SPREAD_S * self.dice.random())  # as `Random.uniform` has it
        before = host.channels.get(channel, 0.0)
        if before > at:
            at = before
        host.channels[channel] = at
        return at

    def _arrived(self, host: Host, to: ProcessId, sender: ProcessId, body: bytes) -> None:
        message = codec.decode(body)
        if to == host.me:
            self._event(host, Received(sender, message))
        elif to in host.processes:
            process = host.processes[to]
            if isinstance(message, NodeGone):
                self._part(to, message.node)
            if self.trace is not None:
                self.note(host, f"{process.id[8:].hex()} < {message}")
            before = process.counts() if type(message) is ProcessGone else None
            effects = process.handle(sender, message, self.now)
            untouched = before is not None and not effects and before == process.counts()
            self._process_effects(host, process, effects, untouched)
        elif host.node != HEAD_NODE:
            self._event(host, Undelivered(sender, to))

    def _process_effects(
        self, host: Host, process: SimProcess, effects: Sequence[ProcessEffect], untouched: bool = False
    ) -> None:
        """
        Args:
            untouched: it heard of a death, and had nothing to do with the dead (see `sim_checks`).
        """
        me = process.id
        if self.trace is not None:
            for effect in effects:
                if not isinstance(effect, WakeAt):
                    self.note(host, f"    {me[8:].hex()} > {effect}")
        if not untouched:
            process.check()
        for effect in effects:
            if isinstance(effect, WakeAt):
                self.at(max(effect.at, self.now), lambda: self._process_tick(host, process))
            elif isinstance(effect, Leave):
                self.kill_process(host, me, effect.why)
            elif node_of(effect.to) == host.node:
                self._hand_over(host, me, effect.to, me, codec.encode(effect.message))
            elif self._is_direct(host, me, effect.to, effect.message):
                self._say(host, me, effect.to, codec.encode(effect.message))
            else:
                self._relay(host, me, effect.to, effect.message)

    # ------------------------------------------------------------------ beside the raylets, as `run.near`
    def _is_direct(self, host: Host, me: ProcessId, to: ProcessId, message: Message) -> bool:
        """Connected from the first work on that is pushed, until one of the two dies or hears that a node did."""
        if to in self._direct.get(me, ()):
            return True
        other = self.hosts.get(node_of(to))
        if not (self.shared_hosts and type(message) in PUSHED and other is not None and to in other.processes):
            return False
        assert isinstance(host.model, Node)
        assert isinstance(other.model, Node)
        if host.model.info.host != other.model.info.host or other.node in self._parted.get(me, ()):
            return False
        self._direct.setdefault(me, set()).add(to)
        self._direct.setdefault(to, set()).add(me)
        return True

    def _say(self, host: Host, me: ProcessId, to: ProcessId, body: bytes) -> None:
        """What a process wrote before its end arrives; what is written to one that has ended does not."""
        other = self.hosts[node_of(to)]

        def arrive() -> None:
            if to in other.processes and host.node not in self._parted.get(to, ()):
                self._arrived(other, to, me, body)

        self.at(self._channel_time(host, me, to), arrive)

    def _part(self, process: ProcessId, node: NodeId) -> None:
        """It has heard that the node is dead."""
        self._parted.setdefault(process, set()).add(node)
        for other in [one for one in self._direct.get(process, ()) if node_of(one) == node]:
            self._direct[process].discard(other)
            self._direct[other].discard(process)

    def _relay(self, host: Host, me: ProcessId, to: ProcessId, message: Message) -> None:
        """By way of the own raylet, in order with what is for the raylet itself."""
        self.at(self._channel_time(host, me, host.me), lambda: self._route(host, to, me, message))

    def _process_tick(self, host: Host, process: SimProcess) -> None:
        if host.processes.get(process.id) is process:
            self._process_effects(host, process, process.tick(self.now))

    # ------------------------------------------------------------------ links and packets
    def _link(self, host: Host, peer: NodeId) -> Link:
        if peer not in host.links:
            if host.history is not None:
                host.history.note("linked", self.now, peer)
            if isinstance(host.model, Head | Shard):
                host.links[peer] = self._new_lasting_link(host.node, peer, self.now)
            else:
                host.links[peer] = _new_link(self.dice.randbytes(8), self.now)
            self._wake_link(host, peer)
            for payload in host.held.pop(peer, ()):
                self._link_effects(host, peer, host.links[peer].send([payload], self.now))
        return host.links[peer]

    def _new_lasting_link(self, host: NodeId, peer: NodeId, now: float) -> Link:
        """The same in each life."""
        if (host, peer) not in self._lasting_links:
            self._lasting_links[host, peer] = self.dice.randbytes(8)
        return _new_link(self._lasting_links[host, peer], now)

    def _link_effects(self, host: Host, peer: NodeId, effects: Sequence[LinkEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Transmit):
                if host.mute:
                    continue
                for at in self.network.arrivals(host.node, peer, self.now):
                    self.at(at, lambda packet=effect.packet: self._packet(peer, host.node, packet))  # type: ignore[misc]
            elif isinstance(effect, Deliver):
                if host.history is not None:
                    link = host.links[peer]
                    host.history.note("received", self.now, peer, len(effect.payloads), link.acknowledged)
                for payload in effect.payloads:
                    self._payload(host, payload)
            elif isinstance(effect, PeerSilent):
                self._event(host, PeerLost(peer, f"silent for {effect.seconds:.1f} s"))
        self._wake_link(host, peer)

    def _wake_link(self, host: Host, peer: NodeId) -> None:
        link = host.links.get(peer)
        wake = link.next_wake() if link is not None else None
        if wake is not None and wake < host.link_wakes.get(peer, _NEVER):
            host.link_wakes[peer] = wake
            self.at(max(wake, self.now), lambda: self._tick_link(host, peer))

    def _tick_link(self, host: Host, peer: NodeId) -> None:
        if self.now < host.link_wakes.get(peer, _NEVER):
            return  # it was woken earlier, and has asked anew since
        del host.link_wakes[peer]
        link = host.links.get(peer)
        if link is not None and not host.stopped:
            self._link_effects(host, peer, link.tick(self.now))

    def _packet(self, target: NodeId, source: NodeId, packet: bytes) -> None:
        host = self.hosts[target]
        if not host.stopped and source not in host.forgotten:
            link = self._link(host, source)
            epoch = link.epoch
            effects = link.received(packet, self.now)
            if host.history is not None and link.epoch != epoch:
                host.history.note("accepted", self.now, source, *link.accepted)
            self._link_effects(host, source, effects)

    def _payload(self, host: Host, payload: bytes) -> None:
        to, sender, body = codec.unwrap(payload)
        if to == host.me:
            self._event(host, Received(sender, codec.decode(body)))
        elif not host.stopped:
            self._hand_over(host, host.me, to, sender, body)


def _new_link(incarnation: bytes, now: float) -> Link:
    return Link(incarnation, now, silence_s=LINK_SILENCE_S, heartbeat_s=LINK_BEAT_S)
