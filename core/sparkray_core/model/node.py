"""The raylet's model: what one node decides. Facts and messages in, effects out.

node_workers   the worker processes
node_claims    leases and actors: who holds what of the node's resources
node_savings   what actors, placement groups and tasks of several CPUs save up while others run
node_bundles   what is set aside for placement groups
node_objects   the store's books
node_pulls     objects of other nodes that are read here
node_serves    objects of this node that others pull
here           the door, who is alive, what is told to the head
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from math import ceil
from typing import Any

from sparkray_core.frozen import replaced
from sparkray_core.ids import (
    HEAD,
    HEAD_NODE,
    GroupId,
    LeaseId,
    NodeId,
    ObjectId,
    ProcessId,
    node_of,
    owner_of,
    raylet_of,
)
from sparkray_core.messages import (
    FAILED,
    ActorFailed,
    ActorLost,
    ActorUnplaced,
    AddBorrowers,
    AdoptObject,
    AllocateObject,
    Answer,
    Ask,
    AskObjects,
    BorrowedCounts,
    BundlesReserved,
    CheckBorrowed,
    CommitBundles,
    CopyMade,
    DropBorrowers,
    EndSession,
    ExitWorker,
    FreeObjects,
    FreeTransfer,
    InheritObjects,
    LeaseGranted,
    LeaseLost,
    LeaseRefused,
    LeaveRecords,
    Message,
    NodeBeat,
    NodeDraining,
    NodeGone,
    NodeTable,
    NotHere,
    ObjectChunk,
    ObjectGone,
    ObjectMissing,
    ObjectMoved,
    ObjectPinned,
    ObjectTaken,
    ObjectThere,
    OrderTaken,
    PinObject,
    PlaceLeases,
    ProcessGone,
    PullDone,
    PullFrom,
    PullObject,
    Registered,
    RegisterProcess,
    ReleaseBundles,
    ReplicateObject,
    RequestLeases,
    ReserveBundles,
    Resources,
    RetireWorkers,
    ReturnLeases,
    SchedulerGone,
    SchedulerTable,
    SealObjects,
    ShardTable,
    StartActor,
    StopActor,
    TakeObject,
    UnpinObjects,
    WorkerBlocked,
    WorkerSetUp,
    WorkerUnblocked,
)
from sparkray_core.model import where as places
from sparkray_core.model.alarm import Alarm
from sparkray_core.model.bounded import Recent
from sparkray_core.model.effects import ConnectPeer, Effect, ForgetPeer, Send, SendFrom, Stop
from sparkray_core.model.entries import place
from sparkray_core.model.events import (
    ChunkCopied,
    ClockTicked,
    ConnectionLost,
    Event,
    LaneBroke,
    MemoryRead,
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
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node_answers import Former, describe
from sparkray_core.model.node_bundles import Bundles
from sparkray_core.model.node_claims import (
    Claim,
    Claims,
    ClaimState,
    QueueKey,
    actor_claim,
    actor_key,
    lease_claim,
    lease_key,
)
from sparkray_core.model.node_draining import Drain
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.node_kept import Kept
from sparkray_core.model.node_memory import Memory
from sparkray_core.model.node_objects import Allocates, Store
from sparkray_core.model.node_pulls import Pulls
from sparkray_core.model.node_replicas import Replicas
from sparkray_core.model.node_serves import Serves
from sparkray_core.model.node_workers import Workers, WorkerState
from sparkray_core.model.records import keeper_of
from sparkray_core.model.resources import CPU, UNIT, fits, plus, show

_KINDS = 64  # of requests that are remembered


class Node:
    """`start` once, then `handle` for whatever happens, in one thread."""

    def __init__(self, info: NodeInfo, session: str, store: Allocates, limits: NodeLimits | None = None) -> None:
        self.info = info
        self.session = session
        self.limits = limits or NodeLimits()
        self.me = raylet_of(info.node)
        self.ended: str | None = None  # why the session is over for this node
        self.processes: dict[ProcessId, str] = {}  # registered and connected: role
        self.table: dict[NodeId, NodeInfo] = {}  # the head's last word on who is alive
        self.peers: set[NodeId] = set()  # alive, and not this one
        self._elsewhere: dict[tuple[tuple[str, int], ...], bool] = {}  # what was found of requests: see `_others_could`
        self.schedulers: list[NodeId] = []  # beside the head
        self.shards = 0  # processes beside the head that keep what owners record
        self.gone: Recent[ProcessId, str] = Recent(self.limits.remembered)
        self.heirs: dict[ProcessId, ProcessId] = {}  # of owners that died
        # Workers of this node that died, until the head says what becomes of what they owned; and who was to hear.
        self.unburied: dict[ProcessId, dict[ProcessId, None]] = {}
        self.out: list[Effect] = []
        self.cpus = info.resources.get(CPU, 0) // UNIT
        self.workers = Workers(info.node, self.cpus, self.limits, self.out)
        self.claims = Claims(info.resources, self.workers, self.out, self.limits.waiting(self.cpus), self.limits.save_s)
        self.bundles = Bundles(self.claims)
        self.memory = Memory(str(info), self.claims, self.workers, self.limits)
        self.store = Store(self.me, store, self.limits, self.out)
        self.pulls = Pulls(self.me, self.store, self.limits, self.out)
        self.serves = Serves(self.store, self.pulls, self.limits, self.out)
        self.kept = Kept(self.me, self.limits.remembered, self.out)
        self.kept.recorded.keeper = lambda: self.keeper_of(self.me)
        self.kept.refs.is_here = lambda process: process in self.processes
        self.store.name_of = self._name_of
        self.store.gone_owner = self._is_unowned
        self.pulls.owner_now = self.owner_now
        self.pulls.is_known = self.serves.is_alive = lambda node: node in self.peers
        self.pulls.is_dead = lambda node: node in self.table and not self.table[node].alive
        self.pulls.neighbour = self._neighbour
        self.replicas = Replicas(info, self.out)
        self.replicas.is_here = lambda some: some in self.store.stored
        self.replicas.is_owned = lambda some: some in self.kept.refs.exported
        self.replicas.nodes = self._keepers
        self.drain = Drain(self)
        self.former = Former()
        self.strays = 0  # messages that are not for a raylet; a bug of somebody's
        self._alarm = Alarm()
        self._beat_at = 0.0
        self._promised = 0.0  # the head was told that a beat would come by then
        self._offer_at = 0.0
        self._told_of = -1  # claims.changes at the last beat
        self._told_at = 0.0

    def start(self, now: float) -> list[Effect]:
        self.out.append(Send(HEAD, self.info.join()))
        self.workers.start_up_to(self.limits.prestarted(self.cpus), now)
        self._beat_at, self._offer_at = now + self.limits.beat_s, now + self.limits.reoffer_s
        self.out += self._alarm.ask(self._beat_at)
        return self._flush()

    def handle(self, event: Event, now: float) -> list[Effect]:
        if self.ended is not None:
            return []
        match event:
            case Received(sender, message):
                self._receive(sender, message, now)
            case ClockTicked():
                self._alarm.rang(now)
            case ConnectionLost(process):
                self._connection_lost(process, now)
            case WorkerExited(worker, why, no_memory):
                self._worker_exited(worker, why, no_memory, now)
            case PeerLost(node, why):
                self._peer_lost(node, why)
            case Undelivered(sender, to):
                self._undelivered(sender, to)
            case Spilled(file):
                self.store.spills.written(file)
            case SpillFailed(file, why, full):
                self.store.spills.failed(file, why, full, now)
            case Restored(some):
                self.store.restored(some, now)
            case RestoreFailed(some, why):
                self.store.not_restored(some, why, now)
            case PeerMapped():
                self.pulls.peer_mapped(event, now)
            case ChunkCopied():
                self.pulls.copied(event, now)
            case LaneBroke(node):
                self.pulls.lane_broke(node, now)
            case MemoryRead():
                self.memory.read(event, now)
            case PeersHeard():
                self.strays += 1  # the head's
        if self.ended is None:
            self.kept.settle(now)
            self._flush_kept(now)
            self.store.settle(now)
            fetched = self.replicas.settle()
            for some, there in fetched:
                self.drain.take(self.me, some, there, now)
            if fetched or self.drain.taking:
                self._flush_kept(now)
            self.bundles.settle()
            self.claims.settle(now)
            self._beat(now)
            if self.drain.why:
                self.out += self._alarm.ask(self.drain.settle(now))
        return self._flush()

    def _flush_kept(self, now: float) -> None:
        """What nobody holds any more of the objects that this raylet owns. What is for ourselves is done at once."""
        self.kept.refs.flush(self.out)
        mine = [effect for effect in self.out if isinstance(effect, Send) and effect.to == self.me]
        if mine:
            self.out[:] = [effect for effect in self.out if not (isinstance(effect, Send) and effect.to == self.me)]
            for effect in mine:
                self._receive(self.me, effect.message, now)
            self._flush_kept(now)

    def _flush(self) -> list[Effect]:
        effects = self.out[:]
        self.out.clear()
        return effects

    def _receive(self, sender: ProcessId, message: Message, now: float) -> None:
        if isinstance(message, RequestLeases) and message.placed:
            self._placed(sender, message, now)
            return
        here = node_of(sender) == self.info.node and sender != self.me
        if here and sender not in self.processes and not isinstance(message, RegisterProcess):
            return  # what a process sent before it died and that was read after
        match message:
            case AllocateObject(some, size):
                self.store.allocate(some, sender, size, now)
            case SealObjects(objects):
                for some in objects:
                    self.store.seal(some, sender, now)
                    self.serves.written(some, now)
            case PinObject(some, nodes):
                self.pulls.read(sender, some, tuple(nodes), now)
            case UnpinObjects(objects):
                for some in objects:
                    self.store.unpin(some, sender, now)
            case FreeObjects(objects):
                for some in objects:
                    self.store.free(some, now)
                    self.replicas.forget(some)
            case FreeTransfer(prefix, keep):
                self.store.end_transfer(prefix, keep, now)
            case PullObject():
                self.serves.serve(sender, message, now)
            case PullDone(some):
                self.serves.end(some, sender, now)
            case PullFrom():
                self.pulls.pull_from(sender, message, now)
            case ObjectThere():
                self.pulls.there(sender, message, now)
            case ObjectChunk():
                self.pulls.chunk(sender, message, now)
            case NotHere(some):
                self.pulls.not_here(sender, some, now)
            case AdoptObject() | AskObjects() | AddBorrowers() | DropBorrowers() | CopyMade() | ObjectMissing():
                self.kept.receive(sender, message)
            case ObjectMoved() | CheckBorrowed() | BorrowedCounts():
                self.kept.receive(sender, message)
            case ObjectPinned(some) | ObjectGone(some) if sender == self.me:
                self.drain.arrived(some, isinstance(message, ObjectPinned), now)
            case ReplicateObject(some, copies):
                if some in self.store.stored:
                    self.replicas.want(some, copies)
                    self.kept.record(some)
            case InheritObjects() if sender == HEAD:
                for some, value in self.kept.inherit(message).items():
                    stored = self.store.stored.get(some)
                    stays = stored is not None and not stored.copy
                    self.replicas.inherit(some, place(value)[1], stays)
            case TakeObject(some):
                self.drain.take(sender, some, (node_of(sender),), now)
            case ObjectTaken():
                self.drain.taken(sender, message, now)
                self.replicas.taken(node_of(sender), message)
            case NodeDraining() if sender == HEAD:
                self.drain.begin(message, now)
            case RequestLeases():
                self._requested(sender, message, now)
            case ReturnLeases(leases):
                self._returned(sender, leases, now)
            case RetireWorkers(leases):
                self._returned(sender, leases, now, retire=True)
            case WorkerBlocked(wait, helps):
                if (claim := self.claims.of_process(sender)) is not None:
                    self.claims.blocked(claim, wait, helps)
            case WorkerUnblocked():
                if (claim := self.claims.of_process(sender)) is not None:
                    self.claims.unblocked(claim)
            case OrderTaken():
                if (worker := self.workers.all.get(sender)) is not None and worker.orders:
                    self.claims.order_taken(worker)
            case WorkerSetUp(why):
                self._set_up(sender, why, now)
            case RegisterProcess(role, pid):
                self._register(sender, role, pid, now)
            case StartActor():
                self._start_actor(message, now)
            case StopActor():
                self._stop_actor(message, now)
            case ReserveBundles(group, attempt):
                self.claims.placed += 1
                if not message.waits or self.drain.why or not self.bundles.gather(message, now):
                    done = not self.drain.why and self.bundles.reserve(message)
                    self.out.append(Send(HEAD, BundlesReserved(group, attempt, done)))
            case CommitBundles(group, bundles):
                self.claims.placed += 1
                self.bundles.commit(group, bundles)
            case ReleaseBundles(group, bundles, why):
                self._release(group, bundles, why, now)
            case PlaceLeases():
                self._placed_by(node_of(sender), message, now)
            case SchedulerTable(schedulers):
                if sender == HEAD:
                    self._learn_schedulers(schedulers)
            case ShardTable(count, shards):
                if sender == HEAD and 0 <= count < 1 << 16:
                    self.shards = count
                    self.out.extend(ConnectPeer(shard, address) for shard, address in shards)
            case NodeTable(nodes):
                self._learn(nodes, now)
            case NodeGone(node, why, planned):
                self._bury(node, why, now, planned)
            case ProcessGone(process, why, heir):
                self._forget_owner(process, why, now, heir)
                self._bury_owner(message, now)
                self._tell_processes(replaced(message, kept=[]))
            case EndSession(why):
                if sender == HEAD:
                    self._end(why)
                else:
                    self.out.append(SendFrom(HEAD, sender, message))
            case Ask(request, what):
                self.out.append(Send(sender, Answer(request, self._answer(sender, what, now))))
            case LeaveRecords(records):
                self.former.leave(sender, records)
            case _:
                self.strays += 1

    # ------------------------------------------------------------------ processes
    def _register(self, process: ProcessId, role: str, pid: int, now: float) -> None:
        if role == "worker":
            worker = self.workers.all.get(process)
            if worker is None:
                self.out.append(Send(process, ExitWorker("this raylet did not start it, or gave it up")))
                return
            self.workers.registered(worker, pid, now)
        self.processes[process] = role
        self.out.append(Send(process, Registered(self.session, self.info.folder, self.info.store_bytes)))
        if role != "guest":
            for owner, heir in self.heirs.items():
                self.out.append(Send(process, ProcessGone(owner, self.gone.get(owner) or "it ended", heir)))

    def _connection_lost(self, process: ProcessId, now: float) -> None:
        worker = self.workers.all.get(process)
        if worker is None:
            if process in self.processes:
                self._process_ended(process, "it closed its connection to the raylet", now)
            return
        claim = self.claims.of_worker(worker)
        if worker.state is WorkerState.LEAVING or (claim is not None and claim.meant):
            self.workers.leaves(worker, now)
        else:
            self.workers.kill(worker, "its connection to the raylet closed", now)

    def _undelivered(self, sender: ProcessId, to: ProcessId) -> None:
        """A process younger than the death of another never heard of it, and may wait for its answer."""
        if to in self.unburied or self.processes.get(to) == "worker":
            self.unburied.setdefault(to, {})[sender] = None
        elif sender != raylet_of(node_of(sender)):
            known = self.table.get(node_of(to))
            why = self.gone.get(to) or (known.why if known is not None else "") or "it is not there any more"
            self.out.append(Send(sender, ProcessGone(to, why, self.heirs.get(to))))

    def _worker_exited(self, process: ProcessId, why: str, no_memory: bool, now: float) -> None:
        worker = self.workers.all.get(process)
        if worker is None:
            return
        why = f"{why}: {worker.killed}" if worker.killed else why
        claim = self.claims.of_worker(worker)
        self.workers.exited(worker)
        if claim is not None:
            self.claims.drop(claim)
            self._lost(claim, why, "OutOfMemoryError" if worker.for_memory or no_memory else "")
        elif worker.env and not worker.set_up:
            self._refuse_env(worker.env, f"the worker that set it up ended: {why}")
        if process in self.processes:
            self._process_ended(process, why, now)
        if self.workers.failures >= self.limits.start_failures:
            self._no_workers(why)

    def _set_up(self, process: ProcessId, why: str, now: float) -> None:
        worker = self.workers.all.get(process)
        if worker is None or worker.state is not WorkerState.PREPARING:
            return
        worker.set_up = True
        if why:
            self.workers.kill(worker, "its environment cannot be set up", now)
            self._refuse_env(worker.env, why)
        else:
            self.workers.move(worker, WorkerState.IDLE, now)

    def _refuse_env(self, env: str, why: str) -> None:
        """Whoever waits for a worker of this environment hears why there is none; who asks later has it tried again."""
        sentence = f"the runtime_env cannot be set up on {self.info}: {why}"
        for claim in self.claims.unstarted_in(env):
            self.claims.drop(claim)
            if claim.lease is not None:
                self.out.append(Send(claim.owner, LeaseRefused(claim.lease, sentence, "RuntimeEnvSetupError")))
            elif claim.actor is not None:
                error = (FAILED, "RuntimeEnvSetupError", sentence)
                self.out.append(Send(HEAD, ActorFailed(claim.actor.actor, claim.actor.incarnation, error)))

    def _lost(self, claim: Claim, why: str, kind: str = "") -> None:
        """
        Args:
            kind: the class of the error, if it is not to be the usual one.
        """
        if claim.actor is not None:
            self.out.append(Send(HEAD, ActorLost(claim.actor.actor, claim.actor.incarnation, why, claim.meant, kind)))
        elif claim.lease is not None and not self._is_gone(claim.owner):
            self.out.append(Send(claim.owner, LeaseLost(claim.lease, why, kind or "WorkerCrashedError")))

    def _no_workers(self, why: str) -> None:
        """Forking more would go on for ever: whoever waits for a worker hears why there is none."""
        self.workers.failures = 0
        sentence = (
            f"{self.limits.start_failures} workers in a row ended on {self.info} before they registered, the last one "
            f"with: {why}. Their logs are in {self.info.folder}"
        )
        for claim in list(self.claims.reserved.values()):
            self.claims.drop(claim)
            if claim.lease is not None:
                self.out.append(Send(claim.owner, LeaseRefused(claim.lease, sentence)))
            else:
                self._lost(claim, sentence)

    def _process_ended(self, process: ProcessId, why: str, now: float) -> None:
        role = self.processes.pop(process)
        for some in self.store.drop_process(process, now):
            self.pulls.look_elsewhere(some, now)
        self.serves.writer_gone(now)
        if role != "guest":  # which owns nothing and borrows nothing
            if role == "worker":
                self.unburied.setdefault(process, {})
            else:
                self._free_objects_of(process, (), now)
            self._forget_owner(process, why, now)
            self.out.append(Send(HEAD, ProcessGone(process, why)))
            if (keeper := self.keeper_of(process)) != HEAD:
                self.out.append(Send(keeper, ProcessGone(process, why)))

    def keeper_of(self, owner: ProcessId) -> ProcessId:
        """Where what this process sends to `RECORDS` belongs."""
        return keeper_of(owner, self.shards)

    def _forget_owner(self, process: ProcessId, why: str, now: float, heir: ProcessId | None = None) -> None:
        if process in self.gone:
            return
        self.gone.remember(process, why)
        self._drop_claims(self.claims.of_owners(lambda owner: owner == process), f"its owner is gone: {why}", now)
        self.kept.process_gone(process, why, heir)
        self.store.free_all(lambda some: self.kept.is_left_over(some, process), now)

    def _bury_owner(self, message: ProcessGone, now: float) -> None:
        """The head has decided what becomes of what it owned."""
        process, heir = message.process, message.heir
        inherited = [former for former, later in self.heirs.items() if later == process]
        for former in inherited:
            if heir is None:
                del self.heirs[former]  # what it had inherited goes, too
                self._free_objects_of(former, (), now)
            else:
                self.heirs[former] = heir
        if heir is not None:
            self.heirs[process] = heir
            self.kept.refs.process_gone(process, message.why, self.out, heir)
        self._free_objects_of(process, message.kept, now)
        if heir is not None:  # which may not have heard of all copies, be it as its predecessor's heir
            owners = {process, *inherited}
            for some, stored in self.store.stored.items():
                if owner_of(some) in owners and not stored.doomed:
                    self.out.append(Send(heir, CopyMade(some, self.info.node, self.info.node)))
        for sender in self.unburied.pop(process, ()):
            self._undelivered(sender, process)

    def _free_objects_of(self, owner: ProcessId, kept: Collection[ObjectId], now: float) -> None:
        stay = frozenset(kept)
        self.store.free_all(lambda some: owner_of(some) == owner and some not in stay, now)

    def owner_now(self, some: ObjectId) -> ProcessId:
        owner = owner_of(some)
        return self.heirs.get(owner, owner)

    def _is_unowned(self, some: ObjectId, writer: ProcessId) -> bool:
        """Nobody will ever free it. What a dead owner had begun and its heir has not asked for counts as that."""
        owner = owner_of(some)
        if not self._is_gone(owner):
            return False
        heir = self.heirs.get(owner)
        if heir is None or self._is_gone(heir):
            return True
        claim = self.claims.of_process(writer)
        return writer != self.me and (claim is None or claim.owner == owner)

    def _drop_claims(self, claims: list[Claim], why: str, now: float) -> None:
        """Nobody wants these any more. Who runs keeps its resources until its worker has ended."""
        for claim in claims:
            if claim.worker is None:
                self.claims.drop(claim)
            else:
                self.workers.kill(self.workers.all[claim.worker], why, now)

    def _name_of(self, process: ProcessId) -> str:
        if process == self.me:
            return "a worker"  # which put it: see `node_kept`
        if process in self.processes:
            return f"{self.processes[process]} {process[8:].hex()}"
        return f"a process of node {node_of(process).hex()}"

    def _is_gone(self, process: ProcessId) -> bool:
        if process in self.gone:
            return True
        known = self.table.get(node_of(process))
        return known is not None and not known.alive

    def _tell_processes(self, message: Message) -> None:
        self.out.extend(Send(process, message) for process in self.processes)

    # ------------------------------------------------------------------ leases
    def _placed_by(self, scheduler: NodeId, message: PlaceLeases, now: float) -> None:
        """Not the head chose this node, but that scheduler."""
        if scheduler not in self.claims.placed_by:
            self.claims.placed_by[scheduler] = 0
        request = RequestLeases(
            message.leases,
            message.resources,
            message.prefer,
            True,
            message.env,
            message.retriable,
            message.priority,
            message.name,
            message.where,
            message.lying,
        )
        self._placed(message.owner, request, now, scheduler)

    def _placed(self, owner: ProcessId, message: RequestLeases, now: float, by: NodeId = HEAD_NODE) -> None:
        """This node was chosen: grant, or queue."""
        here = node_of(owner) == self.info.node
        if self.drain.why and places.group_of(message.where) is None:
            for _ in message.leases:
                self.claims.count_placed(by)
            self.out.append(SendFrom(HEAD, owner, message))  # it was placed before the head knew
            return
        for lease in message.leases:
            number = self.claims.count_placed(by)
            if self._known(owner, lease) or self._is_gone(owner) or (here and owner not in self.processes):
                continue
            claim = lease_claim(owner, lease, message)
            group = places.group_of(message.where)
            if group is not None and group in self.bundles.leaving:
                self.out.append(Send(owner, _group_removed(lease, self.bundles.leaving[group])))
            elif self.claims.could_ever(claim.needs):
                claim.placement, claim.placed_by = number, by
                self.claims.add(claim, now)
            else:
                why = f"{self.info} has {show(self.claims.totals)} in all, and this asks for {show(claim.needs)}"
                self.out.append(Send(owner, LeaseRefused(lease, why)))

    def _requested(self, owner: ProcessId, message: RequestLeases, now: float) -> None:
        """A process of this node asks: grant, queue, or pass on to the head."""
        if message.where:
            self._requested_at(owner, message, now)
            return
        onward: list[LeaseId] = []
        elsewhere = bool(message.prefer) and message.prefer[0] in self.peers  # most of its arguments
        alone = not self._others_could(message.resources)
        for lease in message.leases:
            if self._known(owner, lease):
                continue
            now_or_here = (
                not self.drain.why
                and self.claims.could_ever(message.resources)
                and (
                    alone
                    or (not elsewhere and self.claims.fits_now(message.resources))
                    or (not elsewhere and self.claims.waiting_count() < self.limits.queue_limit)
                )
            )
            if now_or_here:
                self.claims.add(lease_claim(owner, lease, message), now)
            else:
                onward.append(lease)
        if onward:
            self.out.append(SendFrom(self._scheduler_of(owner), owner, replaced(message, leases=onward)))

    def _scheduler_of(self, owner: ProcessId) -> ProcessId:
        """Who places its leases: always the same one, as long as it is there. The head, if there is no other."""
        some = self.schedulers
        return raylet_of(some[int.from_bytes(owner[-4:], "big") % len(some)]) if some else HEAD

    def _requested_at(self, owner: ProcessId, message: RequestLeases, now: float) -> None:
        """As above, of what may not run anywhere. The head knows all nodes and groups; but for what is known here to
        belong here it is not asked."""
        onward: list[LeaseId] = []
        where = message.where
        needs = places.needs(message.resources, where)
        for lease in message.leases:
            if self._known(owner, lease):
                continue
            if where[0] == places.GROUP and self.claims.could_ever(needs) and where[1] not in self.bundles.leaving:
                here = where[2] != places.ANY_BUNDLE or self.claims.fits_now(needs, where)
            else:
                here = (
                    not self.drain.why
                    and where[0] == places.NODE
                    and where[1] == self.info.node
                    and self.claims.fits_now(needs)
                )
            if here:
                self.claims.add(lease_claim(owner, lease, message), now)
            else:
                onward.append(lease)
        if onward:
            placer = HEAD if where[0] == places.GROUP else self._scheduler_of(owner)
            self.out.append(SendFrom(placer, owner, replaced(message, leases=onward)))

    def _known(self, owner: ProcessId, lease: LeaseId) -> bool:
        """Asked before. The same answer is given again."""
        claim = self.claims.all.get(lease_key(lease))
        if claim is not None and claim.granted and claim.worker is not None:
            self.out.append(Send(owner, LeaseGranted(lease, claim.worker)))
        return claim is not None

    def _others_could(self, resources: Resources) -> bool:
        """All nodes are gone through for the first request of a kind only, until other nodes are known."""
        key = tuple(sorted(resources.items()))
        found = self._elsewhere.get(key)
        if found is None:
            table = self.table
            found = any(fits(resources, table[node].resources) and not table[node].draining for node in self.peers)
            if len(self._elsewhere) >= _KINDS:
                self._elsewhere.clear()
            self._elsewhere[key] = found
        return found

    def _returned(self, owner: ProcessId, leases: list[LeaseId], now: float, retire: bool = False) -> None:
        """One that was not granted yet is cancelled, without an answer: who returns it does not wait for it."""
        elsewhere: list[LeaseId] = []
        for lease in leases:
            claim = self.claims.all.get(lease_key(lease))
            if claim is not None:
                self.claims.give_back(claim, now, retire)
            else:
                elsewhere.append(lease)
        if elsewhere and node_of(owner) == self.info.node:  # this goes the way of its request
            self.out.append(SendFrom(self._scheduler_of(owner), owner, ReturnLeases(elsewhere)))

    def _offer_again(self, now: float) -> None:
        """What waits here for long may find room elsewhere: the head decides again."""
        overdue = self.claims.overdue(now, self.limits.reoffer_s)
        self.send_on([claim for claim in overdue if self._others_could(claim.asked)])

    def send_on(self, claims: list[Claim]) -> None:
        """To the head, which is to place them anew."""
        again: dict[QueueKey, list[Claim]] = {}
        for claim in claims:
            self.claims.drop(claim)
            if claim.actor is not None:
                self.out.append(Send(HEAD, ActorUnplaced(claim.actor.actor, claim.actor.incarnation)))
            else:
                again.setdefault(claim.queue, []).append(claim)
        for claims in again.values():
            leases = [claim.lease for claim in claims if claim.lease is not None]
            first = claims[0]
            request = RequestLeases(
                leases,
                first.asked,
                first.prefer,
                True,
                first.env,
                first.retriable,
                first.priority,
                first.name,
                first.where,
                first.lying,
            )
            self.out.append(SendFrom(HEAD, first.owner, request))

    # ------------------------------------------------------------------ placement groups
    def _release(self, group: GroupId, indexes: list[int], why: str, now: float) -> None:
        """What waits for these bundles hears that they are gone; what runs there is ended, and then they are free."""
        for claim in self.bundles.release(group, indexes, why):
            if claim.worker is not None:
                self.workers.kill(self.workers.all[claim.worker], why, now)
                continue
            self.claims.drop(claim)
            if claim.lease is not None:
                self.out.append(Send(claim.owner, _group_removed(claim.lease, why)))

    # ------------------------------------------------------------------ actors
    def _start_actor(self, message: StartActor, now: float) -> None:
        self.claims.placed += 1
        if self.drain.why and places.group_of(message.where) is None:
            self.out.append(Send(HEAD, ActorUnplaced(message.actor, message.incarnation)))
            return
        known = self.claims.all.get(actor_key(message.actor))
        if known is not None:
            return  # a life at a time; the head starts the next one when it heard of the last one's end
        claim = actor_claim(message)
        claim.placement = self.claims.placed
        self.claims.add(claim, now)

    def _stop_actor(self, message: StopActor, now: float) -> None:
        claim = self.claims.all.get(actor_key(message.actor))
        if claim is None or claim.actor is None or claim.actor.incarnation != message.incarnation:
            return
        claim.meant = True
        if claim.worker is None:
            self.claims.drop(claim)
            self._lost(claim, message.why)
        elif message.gently:
            self.out.append(Send(claim.worker, message))
        else:
            self.workers.kill(self.workers.all[claim.worker], message.why, now)

    # ------------------------------------------------------------------ other nodes
    def _learn(self, nodes: list[dict[str, Any]], now: float) -> None:
        for info in map(NodeInfo.from_dict, nodes):
            if not info.alive:
                self._bury(info.node, info.why, now)
            elif info.node not in self.table:
                self.table[info.node] = info
                self._elsewhere.clear()
                if info.node != self.info.node:
                    self.peers.add(info.node)
                    self.replicas.news = True
                    self.out.append(ConnectPeer(info.node, info.address))
                    self.pulls.node_known(info.node, now)
            elif info.draining:
                self.table[info.node] = info
                self._elsewhere.clear()

    def _bury(self, node: NodeId, why: str, now: float, planned: bool = False) -> None:
        if node == self.info.node:
            self._end(f"the master gave this node up: {why}")
            return
        known = self.table.get(node)
        if known is None or not known.alive:
            return
        self.table[node] = replace(known, alive=False, why=why)
        self.peers.discard(node)
        self._elsewhere.clear()
        self.out.append(ForgetPeer(node))
        self._drop_claims(self.claims.of_owners(lambda owner: node_of(owner) == node), f"{known} is gone: {why}", now)
        self.pulls.node_gone(node, now)
        self.serves.node_gone(node, now)
        self.drain.node_gone(node)
        self.replicas.node_gone(node)
        self.kept.refs.node_gone(node, why, self.out)
        self._heirs_gone(node, now)
        self.store.free_all(lambda some: node_of(owner_of(some)) == node and owner_of(some) not in self.heirs, now)
        self._tell_processes(NodeGone(node, why, planned))

    def _keepers(self) -> list[NodeInfo]:
        """Nodes that may be asked to keep a copy."""
        table = self.table
        return [table[node] for node in self.peers if not (table[node].visits or table[node].draining)]

    def _heirs_gone(self, node: NodeId, now: float) -> None:
        for owner, heir in list(self.heirs.items()):
            if node_of(heir) == node:
                del self.heirs[owner]
                self._free_objects_of(owner, (), now)

    def _learn_schedulers(self, schedulers: list[tuple[NodeId, str]]) -> None:
        there = dict(schedulers)
        for gone in [one for one in self.schedulers if one not in there]:
            self._scheduler_gone(gone)
        for one, address in there.items():
            if one not in self.schedulers:
                self.schedulers.append(one)
                self.out.append(ConnectPeer(one, address))
        self.schedulers.sort()  # as all raylets have them

    def _scheduler_gone(self, scheduler: NodeId) -> None:
        """What was on its way to it, or from it, may be lost. What it had placed stays."""
        self.schedulers.remove(scheduler)
        self.claims.placed_by.pop(scheduler, None)
        self.out.append(ForgetPeer(scheduler))
        owners = (process for process, role in self.processes.items() if role != "guest")
        self.out.extend(Send(process, SchedulerGone()) for process in owners)

    def _neighbour(self, node: NodeId) -> NodeInfo | None:
        known = self.table.get(node)
        return known if known is not None and known.alive and known.host == self.info.host else None

    def _peer_lost(self, node: NodeId, why: str) -> None:
        if node == HEAD_NODE:
            self._end(f"the master is gone: {why}")
        elif node in self.schedulers:
            self._scheduler_gone(node)
            self.out.append(Send(HEAD, NodeGone(node, why)))
        elif node in self.peers:
            # Not for this node to decide: the head hears both sides, and buries one of them.
            self.out.append(Send(HEAD, NodeGone(node, why)))

    def leave(self, why: str) -> None:
        """The session goes on without this node."""
        self._end(why)

    def _end(self, why: str) -> None:
        self._tell_processes(EndSession(why))
        self.out.append(Stop(why))
        self.ended = why

    # ------------------------------------------------------------------ time, and what others are told
    def _beat(self, now: float) -> None:
        if now >= self._beat_at:
            pause = self.limits.beat_after(len(self.peers) + 1)
            turn = pause / ceil(pause / self.limits.reoffer_s)  # for what is looked at here besides
            self._beat_at = now + turn
            self.workers.kill_stuck(now)
            self.claims.settle(now)  # others are started in their place
            self.serves.forget_stale(now)
            self.pulls.give_up_unknown(now)
            self.store.punch(now)
            if now >= self._offer_at:
                self._offer_at = now + self.limits.reoffer_s
                self._offer_again(now)
            if self._beat_at > self._promised + turn / 100:
                self._tell_head(now)
        elif self.claims.changes != self._told_of:
            early = self._told_at + self.limits.beat_gap_s
            if now >= early:
                self._tell_head(now)
            else:
                self.out += self._alarm.ask(early)
        self.out += self._alarm.ask(self._beat_at)
        room_until = self.store.next_wake(now)
        if room_until is not None:
            self.out += self._alarm.ask(room_until)
        if self.claims.crowd.look_at is not None:
            self.out += self._alarm.ask(self.claims.crowd.look_at)
        for at in self.kept.wakes():
            self.out += self._alarm.ask(at)

    def _tell_head(self, now: float) -> None:
        claims = self.claims
        self._told_of, self._told_at = claims.changes, now
        pause = self.limits.beat_after(len(self.peers) + 1)
        self._promised = now + pause
        bound = plus(claims.bound(), self.bundles.held()) if self.bundles.all else claims.bound()
        beat = NodeBeat(
            claims.available,
            claims.waiting_count(),
            claims.mean_s,
            claims.placed,
            claims.settled(),
            bound,
            claims.others(),
            self.pulls.bytes_s,
            pause - self.limits.beat_s,
        )
        self.out.append(Send(HEAD, beat))

    def _answer(self, sender: ProcessId, what: str, now: float) -> Any:
        if what == "nodes":
            return [info.as_dict() for info in self.table.values()]
        if what == "status":
            return self._status()
        return describe(self, sender, what, now)

    def _status(self) -> dict[str, Any]:
        workers, claims = self.workers.all.values(), self.claims.all.values()
        return {
            "node": self.info.node,
            "resources": dict(self.info.resources),
            "available": dict(self.claims.available),
            "queued": self.claims.waiting_count(),
            "leases": sum(claim.lease is not None and claim.state is ClaimState.RUNNING for claim in claims),
            "actors": sum(claim.actor is not None and claim.state is ClaimState.RUNNING for claim in claims),
            "workers": {state.value: sum(worker.state is state for worker in workers) for state in WorkerState},
            "processes": len(self.processes),
            "draining": self.drain.holds_up() if self.drain.why else None,
            "store_bytes": self.store.allocator.capacity,
            "store_used": self.store.allocator.used,
            "objects": len(self.store.stored),
            "kept": len(self.kept.refs.exported),
            "spilled": self.store.spills.status(),
            "pulled": self.pulls.status(),
            "pins": sum(stored.pins for stored in self.store.stored.values()),
        }


def _group_removed(lease: LeaseId, why: str) -> LeaseRefused:
    return LeaseRefused(lease, why, "TaskPlacementGroupRemoved")
