"""The head's model: who is in the session, which node gets what, which actors live.

head_nodes   nodes, what is free there, who does not reach whom
head_leases  leases that are to be placed, and those that fit nowhere yet
head_schedulers  other processes that place leases, if there are any
head_shards  other processes that keep the records of objects, if there are any
head_estates  who is the heir of a dead owner, and who hears of it
choosing     which node gets a lease or an actor
groups       placement groups
actors       their lives
here         the door, and the session's end
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from sparkray_core.ids import ActorId, NodeId, ProcessId, node_of, owner_of, raylet_of
from sparkray_core.messages import (
    ActorChanged,
    ActorFailed,
    ActorLost,
    ActorReady,
    ActorUnplaced,
    Answer,
    Ask,
    BundlesReserved,
    CheckBorrowed,
    CreateActor,
    CreateGroup,
    DescribeGroups,
    DrainNode,
    EndActor,
    EndSession,
    EstateClosed,
    ExplainNode,
    FindActor,
    ForgetRecords,
    JoinNode,
    JoinScheduler,
    JoinShard,
    Message,
    NameActor,
    NodeBeat,
    NodeClosed,
    NodeGone,
    NodeSaid,
    ProcessGone,
    RecordObjects,
    RegisterJob,
    RemoveGroup,
    RequestLeases,
    ReturnLeases,
    SaveActor,
    WatchActor,
    WatchGroup,
)
from sparkray_core.model import where as places
from sparkray_core.model.actors import Actor, Actors
from sparkray_core.model.alarm import Alarm
from sparkray_core.model.bounded import Recent
from sparkray_core.model.choosing import Choosing, Held, Refusal
from sparkray_core.model.draining import Draining
from sparkray_core.model.effects import ConnectPeer, Effect, ForgetPeer, LookForSigns, Send, Stop
from sparkray_core.model.events import ClockTicked, Event, PeerLost, PeersHeard, Received
from sparkray_core.model.groups import Group, Groups
from sparkray_core.model.head_estates import Estates
from sparkray_core.model.head_leases import HeadLeases
from sparkray_core.model.head_nodes import NodeRecord, Nodes
from sparkray_core.model.head_schedulers import Schedulers
from sparkray_core.model.head_shards import Shards
from sparkray_core.model.jobs import Jobs
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.records import Records

EVENTS = 1_000  # of joins, deaths and the like that are remembered


class Head:
    """`start` once, then `handle` for whatever happens, in one thread.

    It can be pickled between two events, and the same events bring two heads to the same state: so that what it
    knows outlives its process (`run/journal.py`). No dice, no lambdas, nothing that hangs on the order of a set.
    """

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
        self.actors.on_dead = self._actor_dead
        self.groups = Groups(self.nodes, self.limits, self.out)
        self.groups.on_removed = self._group_removed
        self.groups.on_event = partial(self._note, "PLACEMENT_GROUP")
        self.groups.before_placing = self._send_owed_table
        self.choosing = Choosing(self.nodes, self.groups, self.limits)
        self.leases = HeadLeases(self.nodes, self.choosing, self.limits, self.out)
        self.leases.before_placing = self.groups.before_placing
        self.leases.on_event = partial(self._note, "SCHEDULER")
        self.actors.on_event = partial(self._note, "ACTOR")
        self.draining = Draining(self)
        self.schedulers = Schedulers(self.nodes, self.limits, self.out)
        self.events: deque[tuple[float, str, str, str]] = deque(maxlen=EVENTS)  # when, severity, whose, what
        self._now = 0.0
        self.jobs = Jobs(self.limits.remembered)
        self.records = Records(self.limits.record_bytes, self.limits.record_objects, self.limits.handover_s, self.out)
        self.shards = Shards(self.limits, self.out)  # who has the records, if there are any
        self.gone: Recent[ProcessId, str] = Recent(self.limits.remembered)
        self.estates = Estates(self)
        self.ended: str | None = None  # why the session ends, once it does
        self.stopped = False
        self.strays = 0  # messages that are not for a head; a bug of somebody's
        self._stop_at = 0.0
        self._alarm = Alarm()
        self._check_at = 0.0
        self._newcomer: NodeId | None = None  # it was told of all nodes with this event
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
                else:
                    self._scheduler_lost(node, why)
            case PeersHeard(ago):
                self._hear_signs(ago, now)
            case _:
                self.strays += 1  # facts of a raylet
        self._settle(now)
        return self._flush()

    def resume(self, now: float) -> list[Effect]:
        """Another process goes on with this head (pickled, or brought here by the same events). Nobody rings for what
        was asked of the process before."""
        self._now = now
        self._alarm = Alarm()
        self._settle(now)
        return self._flush()

    def _note(self, source: str, severity: str, sentence: str) -> None:
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
        if record is None:
            self._receive_from_scheduler(sender, message, now)
            return
        if not record.info.alive or self.ended is not None:
            return  # a node that was given up may still report
        record.heard = now
        match message:
            case NodeBeat():
                self._beat(record, message)
                if self.schedulers.all:
                    self.schedulers.note(record.info.node, message, now)
            case RequestLeases():
                if sender not in self.gone:
                    self.leases.requested(sender, message, now)
            case ReturnLeases(leases):
                self.leases.taken_back(sender, leases)
            case CreateActor():
                self._create(sender, message, now)
            case ActorReady():
                self.actors.ready(sender, message)
                self.draining.news = True
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
            case CreateGroup():
                self._create_group(sender, message, now)
            case RemoveGroup(group):
                self.groups.remove(group, "remove_placement_group() was called")
            case WatchGroup(group):
                if sender not in self.gone:
                    owner = owner_of(group)
                    lives = owner not in self.gone and self.nodes.is_alive(node_of(owner))
                    self.groups.watch(group, sender, lives)
            case BundlesReserved():
                self.groups.reserved(node_of(sender), message, now)
            case DescribeGroups(request, groups, key):
                self.out.append(Send(sender, Answer(request, self.groups.describe(groups, key, now))))
            case EndActor():
                self.actors.end(message, now)
            case ProcessGone(process, why):
                self._forget(process, why)
                if not self.shards.count:  # else the shard that has its records hears of it, too, and says what it had
                    self.estates.pass_on(self.records.close(process, why), now)
                self._tell_schedulers(message)
            case RecordObjects():
                self.records.record(sender, message)
                if sender in self.gone:  # it was read only after its sender's death
                    self.estates.pass_on(self.records.close(sender, self.gone.get(sender) or ""), now)
            case ForgetRecords():
                self.records.forget(sender, message)
            case CheckBorrowed():
                self.estates.check_borrowed(sender, message)
            case NodeGone(node, why):
                if node == node_of(sender):  # it takes its leave
                    self._bury(node, why, now)
                elif node in self.schedulers.all:
                    self._scheduler_lost(node, f"{record.info} could not reach it any more")
                elif self.nodes.is_alive(node):
                    self.nodes.complain(node_of(sender), node, now + self.limits.complaint_s)
            case NodeSaid(node):
                if node == node_of(sender):
                    self.out.extend(Send(driver, message) for driver in self.jobs.running)
            case ExplainNode(node, why):
                if sender in self.jobs.running and self.nodes.explain(node, why):
                    self._owe_table(now)
            case DrainNode(request):
                refused = self.draining.drain(message)
                if request:
                    self.out.append(Send(sender, Answer(request, refused)))
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
            self._joined = self.groups.news = self.draining.news = True
            self._note("NODE", "INFO", f"{info} joined")
        record = self.nodes.all[info.node]
        if self.ended is not None:
            self.out.append(Send(raylet, EndSession(self.ended)))
        elif record.info.alive:
            record.heard = now
            self.out.extend(Send(raylet, told) for told in self.records.obituaries())
            if self.shards.count:
                self.out.append(Send(raylet, self.shards.table()))
            self.out.append(Send(raylet, self.nodes.table()))
            self._newcomer = info.node
        else:
            self.out.append(Send(raylet, NodeGone(info.node, record.info.why)))

    def _beat(self, record: NodeRecord, message: NodeBeat) -> None:
        self.groups.news = True
        if message.pull_bytes_s != record.pull_bytes_s:
            self.nodes.pulled(record, message.pull_bytes_s)
        for placement in record.beat(message):
            if placement.actor is not None:
                self.actors.has_worker(placement.actor, record.info.node, placement.number)
            elif placement.lease is not None:
                self.leases.settled(placement.lease, record.info.node)

    def _bury(self, node: NodeId, why: str, now: float) -> None:
        """At once; with shards, as soon as they have said what its owners had recorded."""
        if self.ended is None and node != self.lives_for and self.shards.close(node, why, now):
            self.nodes.drop_complaints(node)
        else:
            self._bury_now(node, why, now)

    def _bury_now(self, node: NodeId, why: str, now: float) -> None:
        record = self.nodes.bury(node, why)
        planned = bool(record.info.draining)
        self._note("NODE", "INFO" if planned else "WARNING", f"{record.info} is gone: {why}")
        self.out.append(Send(raylet_of(node), NodeGone(node, why)))  # in case it lives after all: then it ends
        self.out.append(ForgetPeer(node))
        for placement in record.unsettled.values():
            if placement.lease is not None:
                self.leases.settled(placement.lease, node)  # its owner asks anew when it hears of the node's end
        record.unsettled.clear()
        self.jobs.node_gone(node, why)
        self.leases.forget(node=node)
        for left in self.shards.bury(node):
            self.estates.pass_on(left, now)
        for owner in self.records.owners_on(node):
            self.estates.pass_on(self.records.close(owner, f"its node is gone: {why}"), now)
        self.tell_nodes(NodeGone(node, why, planned))
        self._tell_schedulers(NodeGone(node, why, planned))
        self.shards.tell(NodeGone(node, why, planned))
        self.groups.node_gone(node, why)
        self.actors.node_gone(node, why, now, planned)
        self._no_job(f"its driver's node is gone: {why}")
        self._owe_table(now)
        if node == self.lives_for:
            self._end(f"the driver's node is gone: {why}", now)

    # ------------------------------------------------------------------ schedulers beside this one
    def _receive_from_scheduler(self, sender: ProcessId, message: Message, now: float) -> None:
        scheduler = node_of(sender)
        match message:
            case JoinScheduler(address, decisions) if self.ended is None:
                if self.schedulers.heard(scheduler, address, decisions, now):
                    # It must not know of a node that others have not been told of: it brings them together.
                    self._send_owed_table()
                    self.out.append(Send(sender, self.nodes.table()))
                    self.schedulers.tell_all_loads(scheduler)
                    self.tell_nodes(self.schedulers.table())
                    self._note("SCHEDULER", "INFO", f"scheduler {scheduler.hex()} joined")
            case JoinShard(address) if self.ended is None:
                if self.shards.joined(scheduler, address):
                    self._send_owed_table()
                    self.out.append(Send(sender, self.nodes.table()))
                    self.tell_nodes(self.shards.table())
            case EstateClosed() if scheduler in self.shards.all:
                self._left(message, now)
            case NodeClosed(node) if scheduler in self.shards.all:
                if (closed := self.shards.closed(scheduler, node)) is not None:
                    self._bury_now(node, closed, now)
            case NodeGone(node) if scheduler in self.schedulers.all and self.nodes.is_alive(node):
                self._scheduler_lost(scheduler, f"it could not reach {self.nodes.all[node].info} any more")
            case _:
                pass  # of a node or scheduler that was given up

    def _scheduler_lost(self, scheduler: NodeId, why: str) -> None:
        """The raylets' owners ask again. If it lives after all it ends, and its keeper starts another."""
        if scheduler in self.schedulers.all:
            self.out.append(Send(raylet_of(scheduler), NodeGone(scheduler, why)))
            self.schedulers.drop(scheduler)
            self.tell_nodes(self.schedulers.table())
            self._note("SCHEDULER", "WARNING", f"scheduler {scheduler.hex()} is gone: {why}")

    def _tell_schedulers(self, message: Message) -> None:
        self.out.extend(Send(process, message) for process in self.schedulers.processes())

    def note_draining(self, sentence: str) -> None:
        self._note("NODE", "INFO", sentence)
        self._owe_table(self._now)
        self.groups.news = True

    def _judge(self, now: float) -> None:
        """Two live nodes that do not reach each other cannot both stay: each takes the other's processes for dead."""
        self.nodes.judged_at = None
        while (worst := self.nodes.worst_connected()) is not None:
            node, missed_by = worst
            others = "another node" if missed_by == 1 else f"{missed_by} other nodes"
            self._bury(node, f"{others} could not reach it any more", now)

    def _owe_table(self, now: float) -> None:
        if self._table_due is None:
            self._table_due = max(now, self._table_at + self.limits.table_after(len(self.nodes.all)))

    def _send_table(self, now: float) -> None:
        self._table_due, self._table_at = None, now
        news = self.nodes.news()
        self.tell_nodes(news, but=self._newcomer)
        self.shards.tell(news)
        if self.schedulers.all:
            self._tell_schedulers(news)
            self.tell_nodes(self.schedulers.table())

    def tell_nodes(self, message: Message, but: NodeId | None = None) -> None:
        nodes = (record.info.node for record in self.nodes.alive())
        self.out.extend(Send(raylet_of(node), message) for node in nodes if node != but)

    def _forget(self, process: ProcessId, why: str) -> None:
        self.gone.remember(process, why)
        self.jobs.process_gone(process, why)
        self.leases.forget(process=process)
        self.actors.forget_process(process, why)
        self.groups.forget_process(process)
        self._no_job(f"its driver is gone: {why}")

    def _left(self, left: EstateClosed, now: float) -> None:
        """A shard says what an owner had recorded that died: its raylet has told it so, or the owner's node is dead."""
        node = node_of(left.owner)
        if self.shards.left(node, left):
            return
        if left.owner not in self.gone and self.nodes.is_alive(node):  # what its raylet says comes by another way
            self._forget(left.owner, left.why)
            self._tell_schedulers(ProcessGone(left.owner, left.why))
        self.estates.pass_on(left, now)

    def _send_owed_table(self) -> None:
        """Who is brought together by a placement must have heard of each other first."""
        if self._table_due is not None:
            self._send_table(self._now)

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

    def _choose_for_actor(self, actor: Actor, now: float) -> tuple[NodeId, int] | Held | Refusal | None:
        wanted, where = actor.wanted(), actor.where
        residents = None if actor.holds_something else self.actors.residents()
        chosen = self.choosing.choose(wanted, 1, None, where, residents)
        if isinstance(chosen, Held | Refusal):
            return chosen
        if not chosen:
            return None
        self._send_owed_table()
        return chosen[0], self.nodes.all[chosen[0]].place(places.needs(wanted, where), actor=actor.id)

    # ------------------------------------------------------------------ placement groups
    def _create_group(self, owner: ProcessId, message: CreateGroup, now: float) -> None:
        if owner not in self.gone:
            self.groups.create(message, owner, now)
            group = self.groups.all.get(message.group)
            if group is not None and not group.detached and self._is_over(group):
                self.groups.remove(group.id, "its job is over")

    def _group_removed(self, group: Group) -> None:
        self.actors.group_removed(group.id, f"placement group {group.id.hex()} was removed: {group.why}")

    def _no_job(self, why: str) -> None:
        """A driver ended: groups go with their job, but for those that an actor created that lives on."""
        if self.groups.all:
            self.groups.unwanted(self._is_over, why)

    def _actor_dead(self, actor: ActorId) -> None:
        if any(group.creator == actor for group in self.groups.all.values()):
            self._no_job("its job is over, and the actor that created it is dead")

    def _is_over(self, group: Group) -> bool:
        owner = owner_of(group.id)
        if group.job:
            over = group.job not in (job.id for job in self.jobs.running.values())
        else:
            over = owner in self.gone or not self.nodes.is_alive(node_of(owner))
        return over and (group.creator is None or group.creator not in self.actors.all)

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
        for node, why in self.shards.overdue(now):
            self._bury_now(node, why, now)
        if self._table_due is not None and now >= self._table_due:
            self._send_table(now)
        self.groups.settle(now)
        self.draining.settle(now)
        self.records.settle(now)
        self.schedulers.settle(now)
        self.leases.try_hopeless(now, self._joined or self.groups.changed)
        self.actors.settle(now, self._joined or self.groups.changed)
        self._joined = self.groups.changed = False
        self._newcomer = None
        wakes = [self._check_at, self._table_due, self.nodes.judged_at, self.actors.next_wake(now)]
        wakes.append(self.groups.retry_at)
        wakes.append(self.draining.next_wake())
        wakes.append(self.leases.next_wake())
        wakes.append(self.records.next_wake())
        wakes.append(self.schedulers.next_wake())
        wakes.append(self.shards.next_wake())
        self.out += self._alarm.ask(min(wake for wake in wakes if wake is not None))

    def _check(self, now: float) -> None:
        late = now - self._check_at
        if late > self.limits.check_s:
            self.nodes.excuse(late)
            self.schedulers.excuse(late)
        self._check_at = now + self.limits.check_s
        silent = self.nodes.silent(now - self.limits.node_timeout_s)
        if silent:
            self.out.append(LookForSigns([record.info.node for record in silent]))
        for scheduler in self.schedulers.silent(now - self.limits.node_timeout_s):
            self._scheduler_lost(scheduler, f"it was silent for {self.limits.node_timeout_s:g} s")
        if now >= self._driver_due and self.lives_for not in self.nodes.all:
            self._end(f"the driver's node did not join within {self.limits.driver_s:g} s", now)

    def _hear_signs(self, ago: Mapping[NodeId, float], now: float) -> None:
        """A network that loses packets may lose a node's words for long; that it sends any at all is a sign of life."""
        for node, seconds in ago.items():
            self.nodes.sign(node, now - seconds)
        for record in self.nodes.silent(now - self.limits.node_timeout_s):
            if record.info.node in ago:
                seconds = self.limits.node_timeout_s + record.longer_s
                self._bury(record.info.node, f"it was silent for {seconds:g} s", now)

    def _end(self, why: str, now: float) -> None:
        self.ended, self._stop_at = why, now + self.limits.drain_s
        self.tell_nodes(EndSession(why))
        self._tell_schedulers(EndSession(why))
        self.shards.tell(EndSession(why))

    def _answer(self, what: str) -> Any:
        if what == "nodes":
            return [record.info.as_dict() for record in self.nodes.all.values()]
        if what == "schedulers":
            return [(node, record.decisions) for node, record in self.schedulers.all.items()]
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
            return [(lease, waiting.until - self._now) for lease, waiting in self.leases.hopeless.items()]
        if what == "loads":
            alive = list(self.nodes.alive())
            return [(record.info.node, dict(record.info.resources), dict(record.reported)) for record in alive]
        if what == "named actors":
            return self.actors.names.keys()
        return None
