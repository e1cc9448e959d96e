"""Memory runs out: who has to go, before the system chooses for us (it would end the raylet, or all of the container).

The newest worker whose work can be repeated goes first: it has done least, and older ones get room to end. Until there
is room again for as much as it had, leases are granted one at a time: begun at once, it would meet the same end.
"""

from __future__ import annotations

from collections.abc import Mapping

from sparkray_core.ids import ProcessId
from sparkray_core.model.events import MemoryRead
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node_claims import Claim, Claims
from sparkray_core.model.node_workers import Worker, Workers, WorkerState

WORTH_SHARE = 0.01  # of the limit: who uses less is not worth ending
LISTED = 10  # workers in the report


class Memory:
    def __init__(self, node: str, claims: Claims, workers: Workers, limits: NodeLimits) -> None:
        """
        Args:
            node: how reports call it.
        """
        self.node = node
        self.claims = claims
        self.workers = workers
        self.limits = limits
        self._room = 0  # bytes that the last one that was ended had

    def read(self, event: MemoryRead, now: float) -> None:
        allowed = self.limits.memory_threshold * event.limit
        self.claims.short_of_memory = 0 < allowed < event.used + self._room
        if not self.claims.short_of_memory:
            self._room = 0
        if not 0 < allowed < event.used:
            return
        if any(worker.for_memory for worker in self.workers.all.values()):
            return  # its memory is on its way back
        if self._retire_idle(event, now):
            return
        victim = self._newest_worth_ending(event)
        if victim is not None:
            victim.for_memory = True
            self._room = event.workers.get(victim.id, 0)
            self.workers.kill(victim, self._report(victim, event), now)

    def _retire_idle(self, event: MemoryRead, now: float) -> bool:
        """What imports and caches have left in workers that nobody uses. They go when nobody needs their objects."""
        worth = WORTH_SHARE * event.limit
        large = [worker for worker in self.workers.idle.values() if event.workers.get(worker.id, 0) >= worth]
        for worker in large:
            self.workers.retire(worker, "memory is short", now)
        return bool(large)

    def _newest_worth_ending(self, event: MemoryRead) -> Worker | None:
        busy = [worker for worker in self.workers.all.values() if worker.state is WorkerState.BUSY]
        used = {worker.id: event.workers.get(worker.id, 0) for worker in busy}
        if sum(used.values()) < WORTH_SHARE * event.limit:
            return None  # others use it: ending ours would not help
        least = min(WORTH_SHARE * event.limit, sum(used.values()) / len(used))
        claims = [claim for worker in busy if used[worker.id] >= least and (claim := self.claims.of_worker(worker))]
        chosen = max(claims, key=lambda claim: (claim.retriable, claim.since, claim.arrival), default=None)
        return None if chosen is None or chosen.worker is None else self.workers.all[chosen.worker]

    def _report(self, victim: Worker, event: MemoryRead) -> str:
        threshold = self.limits.memory_threshold
        largest = sorted(event.workers, key=lambda worker: -event.workers[worker])[:LISTED]
        lines = "".join(f"\n    {self._line(worker, event.workers)}" for worker in largest)
        return (
            f"{_size(event.used)} of {_size(event.limit)} of memory were in use on {self.node}, and above "
            f"{threshold:.0%} (setting memory_threshold) the newest worker that can be spared is ended. It was pid "
            f"{victim.pid}, which used {_size(event.workers.get(victim.id, 0))}. The largest there:{lines}\nLet fewer "
            f"such tasks run at once (num_cpus, or memory), or let each use less."
        )

    def _line(self, process: ProcessId, used: Mapping[ProcessId, int]) -> str:
        worker = self.workers.all.get(process)
        claim = self.claims.of_worker(worker) if worker is not None else None
        pid = worker.pid if worker is not None else 0
        return f"{_size(used[process]):>10}  pid {pid:<8} {_what(claim)}"


def _what(claim: Claim | None) -> str:
    if claim is None:
        return "idle"
    if claim.actor is not None:
        return f"actor {claim.actor.name}"
    return f"leased for {claim.name}()" if claim.name else "leased"


def _size(amount: int) -> str:
    return f"{amount / (1 << 30):.2f} GiB" if amount >= 1 << 30 else f"{amount / (1 << 20):.1f} MiB"
