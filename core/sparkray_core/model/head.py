"""The head's model: who is in the session, which node gets what, which actors live.

head_nodes   nodes, what is free there, who does not reach whom
placement    which of them gets a lease or an actor
actors       their lives
here         the door, requests that fit nowhere yet, the session's end
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparkray_core.frozen import replaced
from sparkray_core.ids import LeaseId, NodeId, ProcessId, node_of, owner_of, raylet_of
from sparkray_core.messages import (
    ActorChanged,
    ActorFailed,
    ActorLost,
    ActorReady,
    ActorUnplaced,
    Answer,
    Ask,
    CreateActor,
    EndActor,
    EndSession,
    FindActor,
    JoinNode,
    LeaseRefused,
    Message,
    NameActor,
    NodeBeat,
    NodeGone,
    ProcessGone,
    RegisterJob,
    RequestLeases,
    Resources,
    ReturnLeases,
    SaveActor,
    WatchActor,
)
from sparkray_core.model.actors import Actor, Actors
from sparkray_core.model.alarm import Alarm
from sparkray_core.model.bounded import Recent
from sparkray_core.model.effects import ConnectPeer, Effect, ForgetPeer, Send, SendFrom, Stop
from sparkray_core.model.events import ClockTicked, Event, PeerLost, Received
from sparkray_core.model.head_nodes import NodeRecord, Nodes
from sparkray_core.model.jobs import Jobs
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.placement import choose_nodes
from sparkray_core.model.resources import show

EVENTS = 1_000  # of joins, deaths and the like that are remembered


@dataclass(frozen=True, slots=True)
class Hopeless:
    """A lease that no node could ever grant. It waits for one that could."""

    owner: ProcessId
    asked: RequestLeases
    until: float


class Head:
    """`start` once, then `handle` for whatever happens, in one thread."""

    def __init__(self, session: str, limits: HeadLimits | None = None, lives_for: NodeId | None = None) -> None:
        """
        Args:
            lives_for: the driver's node. The session ends when it leaves, or when it has not joined in time.
        """
        self.session = session
        self.limits = limits or HeadLimits()
        self.lives_for = lives_for
        self._driver_due = float("inf")  # when the driver's node must have joined
        self.out: list[Effect] = []
        self.nodes = Nodes()
        self.actors = Actors(self.limits, self.out)
        self.actors.choose = self._choose_for_actor
        self.actors.on_event = lambda severity, sentence: self._note(severity, "ACTOR", sentence)
        self.events: deque[tuple[float, str, str, str]] = deque(maxlen=EVENTS)  # when, severity, whose, what
        self._now = 0.0
        self.jobs = Jobs(self.limits.remembered)
        self.hopeless: dict[LeaseId, Hopeless] = {}
        self.placed_at: dict[LeaseId, NodeId] = {}  # leases that may be waiting there still
        self.gone: Recent[ProcessId, str] = Recent(self.limits.remembered)
        self.ended: str | None = None  # why the session ends, once it does
        self.stopped = False
        self.strays = 0  # messages that are not for a head; a bug of somebody's
        self._stop_at = 0.0
        self._alarm = Alarm()
        self._check_at = 0.0
        self._joined = False  # a node did, with this event: what fitted nowhere is looked at again
        self._table_due: float | None = None  # a NodeTable is owed to all from this time on
        self._table_at = float("-inf")  # when the last one went out

    def start(self, now: float) -> list[Effect]:
        self._check_at = now + self.limits.check_s
        if self.lives_for is not None:
            self._driver_due = now + self.limits.driver_s
        self.out += self._alarm.ask(self._check_at)
        return self._flush()

    def handle(self, event: Event, now: float) -> list[Effect]:
        if self.stopped:
            return []
        self._now = now
        match event:
            case Received(sender, message):
                self._receive(sender, message, now)
            case ClockTicked():
                self._alarm.rang(now)
            case PeerLost(node, why):
                if self.nodes.is_alive(node):
                    self._bury(node, why, now)
            case _:
                self.strays += 1  # facts of a raylet
        self._settle(now)
        return self._flush()

    def _note(self, severity: str, source: str, sentence: str) -> None:
        """For `list_cluster_events`."""
        self.events.append((self._now, severity, source, sentence))

    def _flush(self) -> list[Effect]:
        effects = self.out[:]
        self.out.clear()
        return effects

    def _receive(self, sender: ProcessId, message: Message, now: float) -> None:
        if isinstance(message, JoinNode):
            self._join(message, now)
            return
        record = self.nodes.all.get(node_of(sender))
        if record is None or not record.info.alive or self.ended is not None:
            return  # a node that was given up may still report
        record.heard = now
        match message:
            case NodeBeat():
                self._beat(record, message)
            case RequestLeases():
                self._requested(sender, message, now)
            case ReturnLeases(leases):
                self._taken_back(sender, leases)
            case CreateActor():
                self._create(sender, message, now)
            case ActorReady():
                self.actors.ready(sender, message)
            case SaveActor():
                self.actors.save(sender, message)
            case ActorFailed():
                self.actors.failed(message)
            case ActorLost():
                self.actors.lost(node_of(sender), message, now)
            case ActorUnplaced():
                self.actors.returned(node_of(sender), message, now)
            case NameActor(request, key, actor, facts):
                self.out.append(Send(sender, Answer(request, self.actors.names.claim(key, actor, facts))))
            case FindActor(request, key):
                self.out.append(Send(sender, Answer(request, self.actors.names.find(key))))
            case WatchActor():
                self._watch(sender, message)
            case EndActor():
                self.actors.end(message, now)
            case ProcessGone(process, why):
                self._forget(process, why)
                self._tell_nodes(message)
            case NodeGone(node, why):
                if node == node_of(sender):  # it takes its leave
                    self._bury(node, why, now)
                elif self.nodes.is_alive(node):
                    self.nodes.complain(node_of(sender), node, now + self.limits.complaint_s)
            case EndSession(why):
                self._end(why, now)
            case RegisterJob(request, facts):
                if sender not in self.gone:
                    self.out.append(Send(sender, Answer(request, self.jobs.register(sender, facts).id)))
            case Ask(request, what):
                self.out.append(Send(sender, Answer(request, self._answer(what))))
            case _:
                self.strays += 1

    # ------------------------------------------------------------------ nodes
    def _join(self, message: JoinNode, now: float) -> None:
        info = NodeInfo.joining(message)
        raylet = raylet_of(info.node)
        if self.nodes.join(info, now):
            self.out.append(ConnectPeer(info.node, info.address))
            self._owe_table(now)
            self._joined = True
            self._note("INFO", "NODE", f"{info} joined")
        record = self.nodes.all[info.node]
        if self.ended is not None:
            self.out.append(Send(raylet, EndSession(self.ended)))
        elif record.info.alive:
            record.heard = now
            if self._table_due is None or self._table_due > now:  # else it gets it with all the others
                self.out.append(Send(raylet, self.nodes.table()))
        else:
            self.out.append(Send(raylet, NodeGone(info.node, record.info.why)))

    def _beat(self, record: NodeRecord, message: NodeBeat) -> None:
        for placement in record.beat(message):
            if placement.actor is not None:
                self.actors.has_worker(placement.actor, record.info.node, placement.number)
            elif placement.lease is not None and self.placed_at.get(placement.lease) == record.info.node:
                del self.placed_at[placement.lease]

    def _bury(self, node: NodeId, why: str, now: float) -> None:
        record = self.nodes.bury(node, why)
        self._note("WARNING", "NODE", f"{record.info} is gone: {why}")
        self.out.append(Send(raylet_of(node), NodeGone(node, why)))  # in case it lives after all: then it ends
        self.out.append(ForgetPeer(node))
        for placement in record.unsettled.values():
            if placement.lease is not None and self.placed_at.get(placement.lease) == node:
                del self.placed_at[placement.lease]  # its owner asks anew when it hears of the node's end
        record.unsettled.clear()
        self.jobs.node_gone(node, why)
        self._drop_hopeless_of(node=node)
        self._tell_nodes(NodeGone(node, why))
        self.actors.node_gone(node, why, now)
        self._owe_table(now)
        if node == self.lives_for:
            self._end(f"the driver's node is gone: {why}", now)

    def _judge(self, now: float) -> None:
        """Two live nodes that do not reach each other cannot both stay: each takes the other's processes for dead."""
        self.nodes.judged_at = None
        while (worst := self.nodes.worst_connected()) is not None:
            node, missed_by = worst
            others = "another node" if missed_by == 1 else f"{missed_by} other nodes"
            self._bury(node, f"{others} could not reach it any more", now)

    def _owe_table(self, now: float) -> None:
        if self._table_due is None:
            self._table_due = max(now, self._table_at + self.limits.table_gap_s)

    def _send_table(self, now: float) -> None:
        self._table_due, self._table_at = None, now
        self._tell_nodes(self.nodes.table())

    def _tell_nodes(self, message: Message) -> None:
        self.out.extend(Send(raylet_of(record.info.node), message) for record in self.nodes.alive())

    def _forget(self, process: ProcessId, why: str) -> None:
        self.gone.remember(process, why)
        self.jobs.process_gone(process, why)
        self._drop_hopeless_of(process=process)
        self.actors.forget_process(process, why)

    def _drop_hopeless_of(self, process: ProcessId | None = None, node: NodeId | None = None) -> None:
        self.hopeless = {
            lease: waiting
            for lease, waiting in self.hopeless.items()
            if waiting.owner != process and node_of(waiting.owner) != node
        }

    # ------------------------------------------------------------------ leases
    def _requested(self, owner: ProcessId, message: RequestLeases, now: float) -> None:
        """From the owner's raylet, or (placed) from one that had it queued for long."""
        if owner in self.gone:
            return
        leases: list[LeaseId] = []
        for lease in message.leases:
            if message.placed:
                self.placed_at.pop(lease, None)
            elif lease in self.placed_at or lease in self.hopeless:
                continue  # asked again, as owners do when a node dies; the first asking still stands
            leases.append(lease)
        if leases and not self._place(owner, leases, message, now):
            until = now + self.limits.infeasible_grace_s
            for lease in leases:
                self.hopeless[lease] = Hopeless(owner, message, until)
            self._note("WARNING", "SCHEDULER", f"no node can ever grant {show(message.resources)}")

    def _taken_back(self, owner: ProcessId, leases: list[LeaseId]) -> None:
        """The owner needs them no more; they may still wait where they were placed."""
        shares: dict[NodeId, list[LeaseId]] = {}
        for lease in leases:
            self.hopeless.pop(lease, None)
            node = self.placed_at.pop(lease, None)
            if node is not None:
                shares.setdefault(node, []).append(lease)
        for node, share in shares.items():
            self.out.append(SendFrom(raylet_of(node), owner, ReturnLeases(share)))

    def _place(self, owner: ProcessId, leases: list[LeaseId], asked: RequestLeases, now: float) -> bool:
        """Whether there was a node for them; what is free right now does not matter for that."""
        chosen = self._choose(asked.resources, len(leases), asked.prefer)
        if not chosen:
            return False
        self._send_owed_table(now)
        shares: dict[NodeId, list[LeaseId]] = {}
        for lease, node in zip(leases, chosen, strict=True):
            shares.setdefault(node, []).append(lease)
        for node, share in shares.items():
            for lease in share:
                self.nodes.all[node].place(asked.resources, lease=lease)
                self.placed_at[lease] = node
            self.out.append(SendFrom(raylet_of(node), owner, replaced(asked, leases=share, placed=True)))
        return True

    def _send_owed_table(self, now: float) -> None:
        """Who is brought together by a placement must have heard of each other first."""
        if self._table_due is not None:
            self._send_table(now)

    def _choose(
        self, wanted: Resources, count: int, prefer: list[NodeId], residents: Mapping[NodeId, int] | None = None
    ) -> list[NodeId]:
        here = residents or {}
        loads = (record.load(here.get(record.info.node, 0)) for record in self.nodes.hosts())
        return choose_nodes(loads, wanted, count, prefer, self.limits)

    def _try_hopeless(self, now: float) -> None:
        for lease, waiting in list(self.hopeless.items()):
            if self._joined and self._place(waiting.owner, [lease], waiting.asked, now):
                del self.hopeless[lease]
            elif now >= waiting.until:
                del self.hopeless[lease]
                self.out.append(Send(waiting.owner, LeaseRefused(lease, self._why_hopeless(waiting.asked.resources))))

    def _why_hopeless(self, wanted: Resources) -> str:
        offers = sorted({show(record.info.resources) for record in self.nodes.alive()})
        listed = "; ".join(offers[:5]) + (f"; and {len(offers) - 5} more" if len(offers) > 5 else "")
        return (
            f"no node of the session can ever grant {show(wanted)}, and none that could joined within "
            f"{self.limits.infeasible_grace_s:g} s. Nodes have: {listed or 'there is no node'}. Ask for less, or add a "
            f"node that has it"
        )

    # ------------------------------------------------------------------ actors
    def _create(self, owner: ProcessId, message: CreateActor, now: float) -> None:
        if owner not in self.gone:
            self.actors.create(message, now)

    def _watch(self, watcher: ProcessId, message: WatchActor) -> None:
        if watcher in self.gone:
            return
        known = message.actor in self.actors.all or message.actor in self.actors.dead
        owner = owner_of(message.actor)
        if not known and (owner in self.gone or not self.nodes.is_alive(node_of(owner))):
            why = "the process that created it is gone"
            self.out.append(Send(watcher, ActorChanged(message.actor, "dead", 0, None, why, None)))
        else:
            self.actors.watch(message.actor, watcher)

    def _choose_for_actor(self, actor: Actor, now: float) -> tuple[NodeId, int] | None:
        wanted = actor.wanted()
        residents = None if actor.holds_something else self.actors.residents()
        chosen = self._choose(wanted, 1, [], residents)
        if not chosen:
            return None
        self._send_owed_table(now)
        return chosen[0], self.nodes.all[chosen[0]].place(wanted, actor=actor.id)

    # ------------------------------------------------------------------ time and the end
    def _settle(self, now: float) -> None:
        if self.ended is not None:
            if now >= self._stop_at or not any(self.nodes.alive()):
                self.stopped = True
                self.out.append(Stop(self.ended))
            else:
                self.out += self._alarm.ask(self._stop_at)
            return
        if now >= self._check_at:
            self._check(now)
        if self.nodes.judged_at is not None and now >= self.nodes.judged_at:
            self._judge(now)
        if self._table_due is not None and now >= self._table_due:
            self._send_table(now)
        self._try_hopeless(now)
        self.actors.settle(now, self._joined)
        self._joined = False
        wakes = [self._check_at, self._table_due, self.nodes.judged_at, self.actors.next_wake(now)]
        wakes.append(min((waiting.until for waiting in self.hopeless.values()), default=None))
        self.out += self._alarm.ask(min(wake for wake in wakes if wake is not None))

    def _check(self, now: float) -> None:
        late = now - self._check_at
        if late > self.limits.check_s:
            self.nodes.excuse(late)
        self._check_at = now + self.limits.check_s
        for record in self.nodes.silent(now - self.limits.node_timeout_s):
            self._bury(record.info.node, f"it was silent for {self.limits.node_timeout_s:g} s", now)
        if now >= self._driver_due and self.lives_for not in self.nodes.all:
            self._end(f"the driver's node did not join within {self.limits.driver_s:g} s", now)

    def _end(self, why: str, now: float) -> None:
        self.ended, self._stop_at = why, now + self.limits.drain_s
        self._tell_nodes(EndSession(why))

    def _answer(self, what: str) -> Any:
        if what == "nodes":
            return [record.info.as_dict() for record in self.nodes.all.values()]
        if what == "jobs":
            return self.jobs.as_dicts()
        if what == "actors":
            actors = [*self.actors.all.values(), *self.actors.dead.values()]
            return [actor.as_dict() for actor in actors]
        if what == "available":
            return self.nodes.available()
        if what == "events":
            return [(self._now - at, *rest) for at, *rest in self.events]
        if what == "hopeless":
            return [(lease, waiting.until - self._now) for lease, waiting in self.hopeless.items()]
        if what == "loads":
            alive = list(self.nodes.alive())
            return [(record.info.node, dict(record.info.resources), dict(record.reported)) for record in alive]
        if what == "named actors":
            return self.actors.names.keys()
        return None
