"""A small stand-in for the owner's model: it wants leases, actors and objects, and keeps count of what came of each."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from sparkray_core.ids import (
    HEAD,
    ActorId,
    FunctionId,
    LeaseId,
    NodeId,
    ObjectId,
    ProcessId,
    node_of,
    object_id,
    owner_of,
    raylet_of,
    task_id,
)
from sparkray_core.messages import (
    STORED,
    ActorChanged,
    AllocateObject,
    CopyMade,
    CreateActor,
    DropBorrowers,
    EndActor,
    EndSession,
    FreeObjects,
    LeaseGranted,
    LeaseLost,
    LeaseRefused,
    Message,
    NodeGone,
    ObjectAllocated,
    ObjectGone,
    ObjectPinned,
    ObjectReady,
    ObjectRefused,
    PinObject,
    ProcessGone,
    PushTasks,
    ReclaimLeases,
    RegisterProcess,
    RequestLeases,
    Resources,
    ReturnLeases,
    SealObjects,
    TaskResults,
    UnpinObjects,
)
from sparkray_core.model.effects import Send, WakeAt
from sparkray_core.testing.sim_processes import ProcessEffect, Work, pattern

_FUNCTION = FunctionId(b"f" * 16)


@dataclass(slots=True)
class Job:
    """Something that the owner wants. It is over when `outcome` is set."""

    count: int = -1
    outcome: str = ""


@dataclass(slots=True)
class TaskJob(Job):
    resources: Resources = field(default_factory=dict)
    work: Work = field(default_factory=lambda: Work(0.1))
    linger_s: float = 0.0  # the idle lease is kept so long, unless it is asked back
    read_s: float = 0.0  # a stored result is read so long
    retries: int = 3
    prefer: list[NodeId] = field(default_factory=list)


@dataclass(slots=True)
class ActorJob(Job):
    resources: Resources = field(default_factory=dict)
    placement: Resources = field(default_factory=dict)
    constructor: Work = field(default_factory=lambda: Work(0.05))
    life_s: float = 0.5
    gently: bool = False
    kill_and_restart: bool = False  # once, after the first life
    max_restarts: int = 0


@dataclass(slots=True)
class PutJob(Job):
    size: int = 1000
    read_s: float = 0.1
    readers: list[ProcessId] = field(default_factory=list)  # other owners that are told of it


@dataclass(slots=True)
class Held:
    """An object of ours in the store."""

    job: Job
    nodes: dict[NodeId, None]
    borrowers: dict[ProcessId, None]


@dataclass(slots=True)
class HeldLease:
    job: TaskJob
    worker: ProcessId
    idle: bool = False
    reclaimed: bool = False


class SimOwner:
    """A driver with a list of wishes, each at its time."""

    def __init__(self, me: ProcessId, segment: bytearray, wishes: list[tuple[float, list[Job]]]) -> None:
        self._id = me
        self.raylet = raylet_of(node_of(me))
        self.segment = segment
        self.wishes = wishes
        self.jobs: list[Job] = [job for _, jobs in wishes for job in jobs]
        self.tasks: dict[int, Job] = {}  # by the count in the ids of their objects or actors
        self.requests: dict[LeaseId, TaskJob] = {}
        self.leases: dict[LeaseId, HeldLease] = {}
        self.objects: dict[ObjectId, Held] = {}
        self.reading: dict[ObjectId, float] = {}  # for how long, once it is pinned
        self.complaints: list[str] = []  # what may only happen when something died
        self.gone: set[bytes] = set()  # processes and nodes
        self.ended = ""
        self._counts = self._lease_counts = self._ties = 0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._out: list[ProcessEffect] = []
        self._now = 0.0

    @property
    def id(self) -> ProcessId:
        return self._id

    def unfinished(self) -> list[Job]:
        return [job for job in self.jobs if not job.outcome]

    # ------------------------------------------------------------------ as a process
    def start(self, now: float) -> list[ProcessEffect]:
        self._now = now
        self._send(self.raylet, RegisterProcess("driver", 1))
        for at, jobs in self.wishes:
            self._at(at, lambda jobs=jobs: self._want(jobs))  # type: ignore[misc]
        return self._flush()

    def tick(self, now: float) -> list[ProcessEffect]:
        self._now = now
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        return self._flush()

    def handle(self, sender: ProcessId, message: Message, now: float) -> list[ProcessEffect]:
        self._now = now
        match message:
            case LeaseGranted(lease, worker):
                self._granted(sender, lease, worker)
            case LeaseRefused(lease, why):
                refused = self.requests.pop(lease, None)
                if refused is not None:
                    refused.outcome = f"refused: {why}"
            case LeaseLost(lease, why):
                self._lost(lease, why)
            case ReclaimLeases(leases):
                for lease in leases:
                    if lease in self.leases:
                        self.leases[lease].reclaimed = True
                        self._give_back_if_idle(lease)
            case TaskResults(results, _):
                for count, values, _ in results:
                    self._result(sender, count, values[0])
            case ActorChanged():
                self._actor_changed(message)
            case ObjectAllocated(some, offset):
                self._put(some, offset)
            case ObjectRefused(some, why):
                self._job(some).outcome = f"refused: {why}"
            case ObjectPinned(some, offset, size):
                self._pinned(some, offset, size)
            case ObjectGone(some, why):
                self._read_done(some, f"gone: {why}")
            case ObjectReady(some, value):
                self.reading[some] = 0.05
                assert isinstance(value, tuple)
                self._send(self.raylet, PinObject(some, [*value[2]]))
            case DropBorrowers(pairs):
                for some, borrower in pairs:
                    self._borrower_left(some, borrower)
            case CopyMade(some, node):
                if some in self.objects:
                    self.objects[some].nodes[node] = None
                else:
                    self._send(raylet_of(node), FreeObjects([some]))
            case ProcessGone(process, _):
                self.gone.add(process)
                for some in list(self.objects):
                    self._borrower_left(some, process)
            case NodeGone(node, why):
                self._node_gone(node, why)
            case EndSession(why):
                self.ended = why
                for job in self.unfinished():
                    job.outcome = f"ended: {why}"
            case _:
                pass
        return self._flush()

    # ------------------------------------------------------------------ wishes
    def _want(self, jobs: list[Job]) -> None:
        if self.ended:
            return
        for job in jobs:
            self._counts += 1
            job.count = self._counts
            self.tasks[job.count] = job
            if isinstance(job, PutJob):
                self._send(self.raylet, AllocateObject(self._object(job), job.size))
            elif isinstance(job, ActorJob):
                self._create(job)
        tasks = [job for job in jobs if isinstance(job, TaskJob)]
        if tasks:
            self._request(tasks)

    def _request(self, jobs: list[TaskJob]) -> None:
        leases = []
        for job in jobs:
            self._lease_counts += 1
            lease = LeaseId(task_id(self._id, self._lease_counts))
            self.requests[lease] = job
            leases.append(lease)
        self._send(self.raylet, RequestLeases(leases, jobs[0].resources, jobs[0].prefer))

    def _object(self, job: Job) -> ObjectId:
        return object_id(task_id(self._id, job.count))

    def _job(self, some: ObjectId) -> Job:
        return self.tasks[int.from_bytes(some[16:24], "big")]

    # ------------------------------------------------------------------ leases
    def _granted(self, raylet: ProcessId, lease: LeaseId, worker: ProcessId) -> None:
        job = self.requests.pop(lease, None)
        known = self.leases.get(lease)
        if job is None and known is not None and known.worker == worker:
            return
        if job is None:
            self._send(raylet, ReturnLeases([lease]))
            return
        self.leases[lease] = HeldLease(job, worker)
        self._send(worker, PushTasks([], [(job.count, _FUNCTION, 1, job.work.pack(), None)]))

    def _result(self, worker: ProcessId, count: int, value: bytes | tuple[object, ...]) -> None:
        for lease, held in list(self.leases.items()):
            if held.worker == worker and held.job.count == count:
                held.idle = True
                self._at(self._now + held.job.linger_s, lambda lease=lease: self._give_back(lease))  # type: ignore[misc]
                self._give_back_if_idle(lease)
                break
        else:
            return  # its lease was lost: the task runs again elsewhere
        job = self.tasks[count]
        if not isinstance(value, tuple):
            job.outcome = "done"
        elif value[0] != STORED:
            job.outcome = f"failed: {value[2]}"
        else:
            assert isinstance(job, TaskJob)
            some = self._object(job)
            nodes = [NodeId(node) for node in value[2]]  # type: ignore[attr-defined]
            self.objects[some] = Held(job, dict.fromkeys(nodes), {self._id: None})
            self.reading[some] = job.read_s
            self._send(self.raylet, PinObject(some, nodes))

    def _give_back_if_idle(self, lease: LeaseId) -> None:
        held = self.leases[lease]
        if held.idle and held.reclaimed:
            self._give_back(lease)

    def _give_back(self, lease: LeaseId) -> None:
        held = self.leases.pop(lease, None)
        if held is not None:
            self._send(raylet_of(node_of(held.worker)), ReturnLeases([lease]))

    def _lost(self, lease: LeaseId, why: str) -> None:
        held = self.leases.pop(lease, None)
        if held is None or held.idle:
            return
        # It may have stored its result and died before it said so.
        self._send(raylet_of(node_of(held.worker)), FreeObjects([self._object(held.job)]))
        if held.job.retries == 0:
            held.job.outcome = f"lost: {why}"
        else:
            held.job.retries -= 1
            self._request([held.job])

    def _node_gone(self, node: NodeId, why: str) -> None:
        self.gone.add(node)
        for lease in [lease for lease, held in self.leases.items() if node_of(held.worker) == node]:
            self._lost(lease, why)
        again: dict[str, list[LeaseId]] = {}
        for lease, job in self.requests.items():
            again.setdefault(repr((job.resources, job.prefer)), []).append(lease)
        for leases in again.values():
            job = self.requests[leases[0]]
            self._send(self.raylet, RequestLeases(leases, job.resources, job.prefer))
        for some, held in list(self.objects.items()):
            held.nodes.pop(node, None)
            for borrower in [borrower for borrower in held.borrowers if node_of(borrower) == node]:
                self._borrower_left(some, borrower)

    # ------------------------------------------------------------------ actors
    def _create(self, job: ActorJob) -> None:
        actor = ActorId(task_id(self._id, job.count))
        payload = job.constructor.pack()
        create = CreateActor(
            actor, "Sim", _FUNCTION, b"", payload, None, job.resources, job.placement, job.max_restarts
        )
        self._send(HEAD, create)

    def _actor_changed(self, message: ActorChanged) -> None:
        job = self.tasks[int.from_bytes(message.actor[16:24], "big")]
        assert isinstance(job, ActorJob)
        if message.state == "dead":
            job.outcome = job.outcome or f"dead: {message.why}"
        elif message.state == "alive":
            again = job.kill_and_restart
            job.kill_and_restart = False
            end = EndActor(message.actor, "it lived long enough", restart=again, gently=job.gently and not again)
            self._at(self._now + job.life_s, lambda: self._send(HEAD, end))

    # ------------------------------------------------------------------ objects
    def _put(self, some: ObjectId, offset: int) -> None:
        job = self._job(some)
        assert isinstance(job, PutJob)
        self.segment[offset : offset + job.size] = pattern(some, job.size)
        self._send(self.raylet, SealObjects([some]))
        node = node_of(self._id)
        readers = [reader for reader in job.readers if not self.gone & {reader, node_of(reader)}]
        self.objects[some] = Held(job, {node: None}, dict.fromkeys([self._id, *readers]))
        for reader in readers:
            self._send(reader, ObjectReady(some, (STORED, job.size, (node,))))
        self.reading[some] = job.read_s
        self._send(self.raylet, PinObject(some, [node]))

    def _pinned(self, some: ObjectId, offset: int, size: int) -> None:
        end = self._now + self.reading.pop(some)

        def done() -> None:
            if bytes(self.segment[offset : offset + size]) != pattern(some, size):
                raise AssertionError(f"object {some.hex()} changed under its reader {self._id.hex()}")
            self._send(self.raylet, UnpinObjects([some]))
            self._read_done(some, "done")

        self._at(end, done)

    def _read_done(self, some: ObjectId, outcome: str) -> None:
        self.reading.pop(some, None)
        if outcome != "done":
            self.complaints.append(outcome)
        if owner_of(some) != self._id:
            self._send(owner_of(some), DropBorrowers([(some, self._id)]))
            return
        job = self._job(some)
        job.outcome = job.outcome or outcome
        self._borrower_left(some, self._id)

    def _borrower_left(self, some: ObjectId, borrower: ProcessId) -> None:
        held = self.objects.get(some)
        if held is None:
            return
        held.borrowers.pop(borrower, None)
        if not held.borrowers:
            del self.objects[some]
            for node in held.nodes:
                self._send(raylet_of(node), FreeObjects([some]))

    # ------------------------------------------------------------------ time
    def _send(self, to: ProcessId, message: Message) -> None:
        self._out.append(Send(to, message))

    def _at(self, at: float, do: Callable[[], None]) -> None:
        self._ties += 1
        heapq.heappush(self._timers, (at, self._ties, do))
        self._out.append(WakeAt(at))

    def _flush(self) -> list[ProcessEffect]:
        effects = self._out[:]
        self._out.clear()
        return effects
