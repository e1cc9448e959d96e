"""The worker processes of one node, from fork to end. Who may use one is decided in `node_claims`.

STARTING ---> IDLE <---> BUSY
    |          ^|          |
    |          |v          |
    |      PREPARING       |
    |           |          |
    +-----------+----------+---> LEAVING ---> (exited: the record is dropped, from any state)

A worker has one environment for life. One that was never used can still take on another than none: PREPARING.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from sparkray_core.ids import NodeId, ProcessId
from sparkray_core.messages import ExitWorker, SetGpus, SetThreads, SetUpWorker
from sparkray_core.model.effects import Effect, KillWorker, Send, StartWorker
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.moves import IllegalMove


class WorkerState(Enum):
    STARTING = "starting"  # forked, has not registered
    IDLE = "idle"  # anybody's
    PREPARING = "preparing"  # sets up its environment; nobody's
    BUSY = "busy"  # leased, or an actor's
    LEAVING = "leaving"  # told to end, or killed; nobody's any more


MOVES: Mapping[WorkerState, frozenset[WorkerState]] = {
    WorkerState.STARTING: frozenset({WorkerState.IDLE, WorkerState.LEAVING}),
    WorkerState.IDLE: frozenset({WorkerState.BUSY, WorkerState.PREPARING, WorkerState.LEAVING}),
    WorkerState.PREPARING: frozenset({WorkerState.IDLE, WorkerState.LEAVING}),
    WorkerState.BUSY: frozenset({WorkerState.IDLE, WorkerState.LEAVING}),
    WorkerState.LEAVING: frozenset(),
}


@dataclass(slots=True)
class Worker:
    id: ProcessId
    since: float  # when it came into its state
    state: WorkerState = WorkerState.STARTING
    pid: int = 0
    registered: bool = False
    claim: bytes | None = None  # key of the claim that it serves, while BUSY and until it ended from there
    killed: str = ""  # why it was killed, once it was
    for_memory: bool = False  # and it was to save memory
    retires: bool = False  # it ends as soon as nobody refers to objects that it owns, however long that is
    env: str = ""  # its environment; empty: none
    set_up: bool = False  # taking it on has ended, well or not
    used: bool = False  # it has run something, and cannot take on another environment any more
    threads: int = 1  # so many its libraries may use, as it was told
    gpus: list[int] = field(default_factory=list)  # numbers of those that it may use, as it was told
    orders: int = 0  # of these two kinds, that it has not confirmed


class Workers:
    """Starts, keeps and ends workers. Ids are counted, so the model needs no dice; none is ever used twice."""

    def __init__(self, node: NodeId, cpus: int, limits: NodeLimits, out: list[Effect]) -> None:
        self.node = node
        self.keep = limits.kept(cpus)  # idle ones, for longer than a while
        self.trimmed_at = 0.0
        self.at_once = max(limits.at_once(cpus), limits.prestarted(cpus))  # starting ones at most
        self.limits = limits
        self.out = out
        self.all: dict[ProcessId, Worker] = {}
        self.idle: dict[ProcessId, Worker] = {}  # the last one got idle last: it goes first, its caches are warm
        self.starting = 0
        self.preparing: dict[str, int] = {}  # so many take on this environment
        self.failures = 0  # workers in a row that ended before they registered
        self._count = 0

    def move(self, worker: Worker, to: WorkerState, now: float) -> None:
        """The one door between states; it keeps `idle` and `starting` in step."""
        if to not in MOVES[worker.state]:
            raise IllegalMove(f"worker {worker.id.hex()}", worker.state.value, to.value)
        self._leave(worker)
        worker.state, worker.since = to, now
        if to is WorkerState.IDLE:
            self.idle[worker.id] = worker
            worker.claim = None
        elif to is WorkerState.PREPARING:
            self.preparing[worker.env] = self.preparing.get(worker.env, 0) + 1

    def start_up_to(self, wanted: int, now: float) -> None:
        """Fork until so many are on their way; not all at once, if these are very many."""
        wanted = min(wanted, self.at_once)
        while self.starting < wanted:
            self._count += 1
            worker = Worker(ProcessId(self.node + self._count.to_bytes(8, "big")), now)
            self.all[worker.id] = worker
            self.starting += 1
            self.out.append(StartWorker(worker.id))

    def registered(self, worker: Worker, pid: int, now: float) -> None:
        worker.pid, worker.registered = pid, True
        self.failures = 0
        if worker.state is WorkerState.STARTING:
            self.move(worker, WorkerState.IDLE, now)

    def idle_with(self, env: str) -> Worker | None:
        """Of the idle workers with this environment the one that got idle last."""
        for process in reversed(self.idle):
            worker = self.idle[process]
            if worker.env == env:
                return worker
        return None

    def fresh(self) -> Worker | None:
        """An idle worker that may take on any environment."""
        return next((worker for worker in self.idle.values() if not (worker.used or worker.env)), None)

    def take(self, worker: Worker, claim: bytes, threads: int, gpus: list[int], now: float) -> None:
        """An idle worker is busy with this claim from now on.

        Args:
            threads: that its libraries may use.
            gpus: numbers of those that it may use.
        """
        self.move(worker, WorkerState.BUSY, now)
        worker.claim, worker.used = claim, True
        if worker.threads != threads:
            worker.threads = threads
            worker.orders += 1
            self.out.append(Send(worker.id, SetThreads(threads)))
        if worker.gpus != gpus:
            worker.gpus = gpus
            worker.orders += 1
            self.out.append(Send(worker.id, SetGpus(gpus)))

    def prepare(self, worker: Worker, env: str, now: float) -> None:
        """Have a fresh worker take on an environment."""
        worker.env = env
        self.move(worker, WorkerState.PREPARING, now)
        self.out.append(Send(worker.id, SetUpWorker(env)))

    def make_room(self, now: float) -> None:
        """Workers are on their way although some idle, in environments that nobody asks for: these go first."""
        coming = self.starting + sum(self.preparing.values())
        while self.idle and len(self.idle) + coming > self.keep:
            self.retire(next(iter(self.idle.values())), "it is not needed", now)

    def trim(self, now: float, at_once: bool = False) -> None:
        """Those that idled longest go, while there are more than are kept: after a while, or (`at_once`) now."""
        self.trimmed_at = now
        while len(self.idle) > self.keep:
            longest = next(iter(self.idle.values()))
            if now - longest.since < self.limits.idle_s and not at_once:
                return
            self.retire(longest, "it is not needed", now)

    def retire(self, worker: Worker, why: str, now: float) -> None:
        """It runs nothing any more, and ends as soon as nobody refers to objects that it owns."""
        worker.retires = True
        self.leaves(worker, now)
        self.out.append(Send(worker.id, ExitWorker(why)))

    def kill(self, worker: Worker, why: str, now: float) -> None:
        """Once: the answer is `WorkerExited`, whatever else goes on until then."""
        self.leaves(worker, now)
        if not worker.killed:
            worker.killed = why
            self.out.append(KillWorker(worker.id, why))

    def leaves(self, worker: Worker, now: float) -> None:
        """It ends by itself, and is given time for that."""
        if worker.state is not WorkerState.LEAVING:
            self.move(worker, WorkerState.LEAVING, now)

    def exited(self, worker: Worker) -> None:
        if not worker.registered and not worker.killed:
            self.failures += 1
        self._leave(worker)
        del self.all[worker.id]

    def kill_stuck(self, now: float) -> None:
        for worker in list(self.all.values()):
            age = now - worker.since
            if worker.state is WorkerState.STARTING and age > self.limits.register_s:
                self.kill(worker, f"it did not register within {self.limits.register_s:g} s", now)
                self.failures += 1
            elif worker.state is WorkerState.PREPARING and age > self.limits.setup_s:
                self.kill(worker, f"its environment was not set up within {self.limits.setup_s:g} s", now)
            elif worker.state is WorkerState.LEAVING and age > self.limits.leave_s and not worker.retires:
                self.kill(worker, f"it was told to end {self.limits.leave_s:g} s ago", now)

    def _leave(self, worker: Worker) -> None:
        if worker.state is WorkerState.STARTING:
            self.starting -= 1
        elif worker.state is WorkerState.PREPARING:
            self.preparing[worker.env] -= 1
            if not self.preparing[worker.env]:
                del self.preparing[worker.env]
        self.idle.pop(worker.id, None)
