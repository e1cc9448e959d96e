"""What a node's resources are claimed for: leases and lives of actors, from the asking to the giving back.

    WAITING ---> RESERVED ---> RUNNING ---> (given back, or its worker ended: the record is dropped, from any state)

    WAITING    not enough is free. What is for long (actors, bundles), or was overtaken for long, saves up what comes
               free: see `node_savings`
    RESERVED   its resources are taken; it waits for an idle worker of its environment, one is being made if need be
    RUNNING    it has a worker. The owner of a lease hears of it as soon as the worker knows its threads and GPUs

Never less than zero is available of anything, but for workers that unblocked: the CPU that one lent while it waited is
taken back at once, though others may be using it by then. So available[CPU] may go as far below zero as claims were
reserved on lent CPU, and nothing is granted on CPU before it is above zero again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from sparkray_core.ids import HEAD_NODE, ActorId, GroupId, LeaseId, NodeId, ProcessId
from sparkray_core.messages import LeaseGranted, ReclaimLeases, RequestLeases, Resources, RunNested, StartActor, Where
from sparkray_core.model import where as places
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.moves import IllegalMove
from sparkray_core.model.node_crowd import Crowd
from sparkray_core.model.node_gpus import GPU, Gpus, Shares
from sparkray_core.model.node_savings import Savings
from sparkray_core.model.node_workers import Worker, Workers, WorkerState
from sparkray_core.model.resources import CPU, UNIT, fits, is_cpu, larger, minus, plus, short_of


class ClaimState(Enum):
    WAITING = "waiting"
    RESERVED = "reserved"
    RUNNING = "running"


MOVES: Mapping[ClaimState, frozenset[ClaimState]] = {
    ClaimState.WAITING: frozenset({ClaimState.RESERVED}),
    ClaimState.RESERVED: frozenset({ClaimState.RUNNING}),
    ClaimState.RUNNING: frozenset(),
}

# Urgency (the lowest goes first), owner (an actor's: none), what must be free, the worker's environment, where.
QueueKey = tuple[int, ProcessId, tuple[tuple[str, int], ...], str, Where]
_NOBODY = ProcessId(b"")
_NONE = Gpus(0)


@dataclass(slots=True)
class Claim:
    owner: ProcessId  # of the lease; nobody for an actor, whose worker is never asked back
    needs: Resources  # must be free when it is reserved
    holds: Resources  # it keeps while it runs
    asked: Resources  # what it needs, as its owner says it: in a placement group `needs` has other names
    assigned: Resources  # what it holds, likewise
    where: Where = ()
    lease: LeaseId | None = None
    actor: StartActor | None = None
    bundle: tuple[GroupId, int] | None = None  # of a placement group: once it has all, it is no claim any more
    prefer: list[NodeId] = field(default_factory=list)
    lying: Sequence[int] = ()  # as in `RequestLeases`
    priority: int = 0  # of those that wait, and fit, the highest goes first
    placement: int = 0  # it is the so-manieth placement on this node of who placed it; 0: a process of this node asked
    placed_by: NodeId = HEAD_NODE  # or another scheduler
    state: ClaimState = ClaimState.WAITING
    since: float = 0.0  # when it came into its state
    arrival: int = 0
    worker: ProcessId | None = None
    granted: bool = False  # the owner of the lease was told of it
    taken: Resources = field(default_factory=dict)  # out of the node's available ones now
    gpus: Shares = field(default_factory=dict)  # which ones are behind what it took of them
    lent: Resources = field(default_factory=dict)  # CPU that its blocked worker lent to others
    waits: bool = False  # its worker's task waits for others
    reclaimed: bool = False  # the owner was asked to give it back
    wanted: float = 0.0  # when that was
    meant: bool = False  # the actor was told to end
    saves_until: float = 0.0  # what it took while it waits is given back then; 0: it takes nothing
    saves_s: float = 0.0  # so long it may next time
    rests_until: float = 0.0  # it takes nothing before
    env: str = ""  # of the worker that it needs
    name: str = ""  # of a function that the lease is for
    retriable: bool = True  # what runs there is run again, or restarted, should the worker be killed

    @property
    def key(self) -> bytes:
        """Leases and actors are numbered by two counters of their owner, so the ids alone could meet."""
        if self.bundle is not None:
            return b"bundle " + self.bundle[0] + self.bundle[1].to_bytes(8, "big")
        return b"lease " + self.lease if self.lease is not None else actor_key(self.actor.actor if self.actor else b"")

    @property
    def queue(self) -> QueueKey:
        return -self.priority, self.owner, tuple(sorted(self.needs.items())), self.env, self.where


def lease_key(lease: LeaseId) -> bytes:
    return b"lease " + lease


def actor_key(actor: ActorId | bytes) -> bytes:
    return b"actor " + actor


def lease_claim(owner: ProcessId, lease: LeaseId, asked: RequestLeases) -> Claim:
    needs = places.needs(asked.resources, asked.where)
    return Claim(
        owner,
        needs,
        needs,
        asked.resources,
        asked.resources,
        asked.where,
        lease=lease,
        prefer=asked.prefer,
        lying=asked.lying,
        env=asked.env,
        name=asked.name,
        retriable=asked.retriable,
        priority=asked.priority,
    )


def actor_claim(message: StartActor) -> Claim:
    asked = larger(message.placement, message.resources)
    needs = places.needs(asked, message.where)
    holds = places.needs(message.resources, message.where) if message.resources else {}
    return Claim(
        _NOBODY,
        needs,
        holds,
        asked,
        message.resources,
        message.where,
        actor=message,
        env=message.env,
        retriable=message.retriable,
    )


def bundle_claim(group: GroupId, index: int, resources: Resources) -> Claim:
    return Claim(_NOBODY, resources, resources, resources, resources, bundle=(group, index))


class Claims:
    """All claims on this node. Who asks and what is told to whom about refusals is `node.py`'s business."""

    def __init__(
        self, totals: Resources, workers: Workers, out: list[Effect], most_waiting: int, save_s: float
    ) -> None:
        self.totals = totals
        self.available = dict(totals)
        self.gpus = Gpus(totals.get(GPU, 0))
        self.group_gpus: dict[GroupId, Gpus] = {}  # those that placement groups have here, under the same numbers
        self.workers = workers
        self.out = out
        self.crowd = Crowd(most_waiting, totals.get(CPU, 0) // UNIT)
        self.all: dict[bytes, Claim] = {}
        self.actors: dict[bytes, Claim] = {}  # those of actors
        self.savings = Savings(self, save_s)
        self.aside: Resources = {}  # for placement groups
        self.on_saved: Callable[[Claim], None] = lambda claim: None  # a bundle has all; set by node_bundles.py
        self.shares: dict[ProcessId, int] = {}  # of each owner: its leases that hold something
        self.waiting: dict[QueueKey, dict[bytes, Claim]] = {}  # WAITING ones; within a queue all need the same
        self.reserved: dict[bytes, Claim] = {}  # RESERVED ones, first come first served
        # Running mean of how long it takes until a lease comes back that is wanted, seconds; 0: none came back yet. Who
        # keeps one that nobody else wants makes nobody wait.
        self.mean_s = 0.0
        self.placed = 0  # the head's placements here that arrived so far
        self.placed_by: dict[NodeId, int] = {}  # those of schedulers beside it
        self.changes = 0  # grows with whatever a beat would tell
        self.short_of_memory = False  # then leases are granted one at a time, until it is over
        self.oversubscribed = False  # less than zero CPU is available, because a worker unblocked
        self._arrivals = 0
        self._unasked = False  # a claim began to wait or to run since owners were last asked to give back

    # ------------------------------------------------------------------ in and out
    def add(self, claim: Claim, now: float) -> None:
        self._arrivals += 1
        self.changes += 1
        claim.arrival, claim.since = self._arrivals, now
        self.all[claim.key] = claim
        if claim.actor is not None:
            self.actors[claim.key] = claim
        self.savings.add(claim)
        self.waiting.setdefault(claim.queue, {})[claim.key] = claim
        self._unasked = True
        if self.fits_now(claim.needs, claim.where) and not (self.held_back or self._crowds(claim)):
            self._reserve(claim, now)

    def drop(self, claim: Claim) -> None:
        """Forget it and free what it took. Its worker, if it has one, is the caller's to deal with."""
        del self.all[claim.key]
        self.actors.pop(claim.key, None)
        self.changes += 1
        self._leave(claim)
        if claim.state is not ClaimState.WAITING and not claim.lent:
            self._share(claim, -1)
        if claim.lease is not None:
            self.crowd.leased -= self.crowd.counts(claim) and claim.state is not ClaimState.WAITING
            self.crowd.gone(claim)
        self._give(claim.taken)
        self.gpus_of(claim.where)[0].give(claim.gpus)

    def give_back(self, claim: Claim, now: float, retire: bool = False) -> None:
        """The owner returned it: its worker is anybody's again, or (`retire`) nobody's."""
        worker = self.workers.all[claim.worker] if claim.worker is not None else None
        if claim.state is ClaimState.RUNNING and claim.reclaimed:
            took = now - max(claim.since, claim.wanted)
            weight = 1.0 if not self.mean_s else 0.5 if took < self.mean_s else 0.2
            self.mean_s += weight * (took - self.mean_s)
        self.drop(claim)
        if worker is not None and worker.state is WorkerState.BUSY:
            if retire:
                self.workers.retire(worker, "it has run as many calls as max_calls allows", now)
            else:
                self.workers.move(worker, WorkerState.IDLE, now)

    def blocked(self, claim: Claim, wait: int = 0, helps: bool = False) -> None:
        """Its task waits for others: they may use its CPU. (A GPU has its memory full of that task's data.)

        Args:
            wait, helps: as in `WorkerBlocked`.
        """
        claim.waits = True
        self.crowd.waits(claim, wait, helps and not claim.where)  # what it waits for may have to run elsewhere
        if not claim.lent:
            claim.lent = {name: amount for name, amount in claim.taken.items() if is_cpu(name)}
            claim.taken = minus(claim.taken, claim.lent)
            self._give(claim.lent)
            if claim.lent:
                self._share(claim, -1)

    def unblocked(self, claim: Claim) -> None:
        claim.waits = False
        self.crowd.runs(claim)
        if claim.lent:
            claim.taken = plus(claim.taken, claim.lent)
            self._take(claim.lent)
            claim.lent = {}
            self._share(claim, 1)
            self.oversubscribed = any(amount < 0 for amount in self.available.values())
            self._unasked = True  # what others were asked to give back for those who wait, this one has taken

    # ------------------------------------------------------------------ placement groups
    def set_aside(self, bundles: list[Resources]) -> list[Shares] | None:
        """Nobody's from now on. Returns the GPUs of each; None if there is no room for all of them."""
        total: Resources = {}
        for resources in bundles:
            total = plus(total, resources)
        left = self.gpus.copy()
        shares: list[Shares] = []
        for resources in bundles:
            chosen = left.choose(resources.get(GPU, 0))
            if chosen is None or not fits(total, self.available):
                return None
            left.take(chosen)
            shares.append(chosen)
        self.gpus = left
        self._take(total)
        self.aside = plus(self.aside, total)
        return shares

    def offer(self, group: GroupId, named: Resources, gpus: Shares) -> None:
        """A bundle can be used."""
        self.totals = plus(self.totals, named)
        self._give(named)
        if gpus:
            pool = self.group_gpus.setdefault(group, Gpus(0))
            pool.free += [0] * (len(self.gpus.free) - len(pool.free))
            pool.give(gpus)

    def withdraw(self, group: GroupId, named: Resources, gpus: Shares) -> None:
        """A bundle offers nothing any more; nobody uses it."""
        self.totals = minus(self.totals, named)
        self._take(named)
        if gpus:
            self.group_gpus[group].take(gpus)
            if not any(self.group_gpus[group].free):
                del self.group_gpus[group]

    def give_up(self, amounts: Resources, gpus: Shares) -> None:
        """What was set aside is anybody's again."""
        self.aside = minus(self.aside, amounts)
        self._give(amounts)
        self.gpus.give(gpus)

    # ------------------------------------------------------------------ forward
    def settle(self, now: float) -> None:
        """Once after each event: whatever can go forward does."""
        self.crowd.look_at = None
        self._unasked |= self.savings.settle(now)
        self._reserve_fitting(now)
        while self.reserved and self.workers.idle and self._find_worker(now):
            self._reserve_fitting(now)  # an actor that runs holds less than it asked for
        self.workers.start_up_to(self._lacking(), now)
        if self.reserved and self.workers.idle:
            self.workers.make_room(now)
        self.workers.trim(now, self.short_of_memory)
        if self.waiting and self._unasked:
            self._unasked = False
            self._reclaim(now)

    def _find_worker(self, now: float) -> bool:
        """Run the first reserved claim for which a worker idles, or have one prepared for it. Whether that was done."""
        coming = dict(self.workers.preparing)
        for claim in self.reserved.values():
            worker = self.workers.idle_with(claim.env)
            if worker is not None:
                self._run(claim, worker, now)
                return True
            if coming.get(claim.env):
                coming[claim.env] -= 1
            elif claim.env and (fresh := self.workers.fresh()) is not None:
                self.workers.prepare(fresh, claim.env, now)
                return True
        return False

    def _lacking(self) -> int:
        """Workers that have to be forked, those on their way included."""
        if not self.workers.preparing:
            return len(self.reserved)
        asked = Counter(claim.env for claim in self.reserved.values())
        return sum(max(0, count - self.workers.preparing.get(env, 0)) for env, count in asked.items())

    def _reserve_fitting(self, now: float) -> None:
        """By priority, then what has begun to save, then what may, then whose owner has least here, then by arrival.
        Leases that do not fit are overtaken for a while, so that no resource idles for them; what saves takes what
        there is."""
        while self.waiting and not self.held_back:
            heads = [next(iter(queue.values())) for queue in self.waiting.values()]
            fitting = [claim for claim in heads if self._fits(claim) or self.savings.takes(claim, now)]
            if not fitting:
                return
            if not self.crowd.is_full:
                self._reserve(min(fitting, key=lambda claim: self._turn(claim, now)), now)
            elif not any(
                self._begin_in_crowd(claim, now) for claim in sorted(fitting, key=lambda claim: self._turn(claim, now))
            ):
                return

    def _turn(self, claim: Claim, now: float) -> tuple[int, int, int, int]:
        """Whose turn it is of those that wait: the lowest."""
        if claim.taken:
            share = -2
        elif claim.lease is None or (not self._fits(claim) and self.savings.may(claim, now)):
            share = -1
        else:
            share = self.shares.get(claim.owner, 0)
        return self.crowd.turn(claim, share)

    def _share_of(self, owner: ProcessId) -> int:
        """What is for long goes before what any owner wants."""
        return -1 if owner == _NOBODY else self.shares.get(owner, 0)

    def _crowds(self, claim: Claim) -> bool:
        """Whether a process would be started for this lease though there are many whose tasks wait."""
        return self.crowd.counts(claim) and self.crowd.is_full and self.workers.idle_with(claim.env) is None

    def _begin_in_crowd(self, claim: Claim, now: float) -> bool:
        """Reserve for a claim that fits, or have a worker run what it waits for instead. False: later."""
        if self._crowds(claim):
            found = self.crowd.helper(self.available.get(CPU, 0))
            if found is not None and found[0].worker is not None:
                helper, wait = found
                self.unblocked(helper)
                self.crowd.asks(helper)
                self.out.append(Send(found[0].worker, RunNested(wait, helper.holds, helper.priority)))
                return True
            if self.crowd.puts_off(claim, self.of_process(claim.owner), now):
                return False
        self._reserve(claim, now)
        return True

    @property
    def held_back(self) -> bool:
        """Memory is short, and somebody's end may free some: to begin more would only end in more kills."""
        return self.short_of_memory and any(
            claim.lease is not None and claim.state is not ClaimState.WAITING and not claim.waits
            for claim in self.all.values()
        )

    def move(self, claim: Claim, to: ClaimState, now: float) -> None:
        """The one door between states; it keeps the queues in step."""
        if to not in MOVES[claim.state]:
            raise IllegalMove(f"claim {claim.key!r}", claim.state.value, to.value)
        self._leave(claim)
        self.changes += 1
        claim.state, claim.since = to, now
        if to is ClaimState.RESERVED:
            self.reserved[claim.key] = claim

    def _leave(self, claim: Claim) -> None:
        self.savings.waiting.pop(claim.key, None)
        self.reserved.pop(claim.key, None)
        queue = self.waiting.get(claim.queue)
        if queue is not None and queue.pop(claim.key, None) is not None and not queue:
            del self.waiting[claim.queue]

    def lacks(self, claim: Claim) -> Resources:
        """Of one that waits: what it has not saved up."""
        return minus(claim.needs, claim.taken) if claim.taken else claim.needs

    def _fits(self, claim: Claim) -> bool:
        return self.fits_now(self.lacks(claim), claim.where)

    def take(self, claim: Claim, amounts: Resources) -> None:
        """They are there."""
        claim.taken = plus(claim.taken, amounts)
        self._take(amounts)
        self._take_gpus(claim, amounts)

    def untake(self, claim: Claim) -> None:
        self._give(claim.taken)
        self.gpus_of(claim.where)[0].give(claim.gpus)
        claim.taken, claim.gpus = {}, {}

    def _reserve(self, claim: Claim, now: float) -> None:
        """Or save up for it, if not all that it needs is there."""
        lacks = self.lacks(claim)
        if not self.fits_now(lacks, claim.where):
            self.savings.take(claim, now)
            return
        if claim.bundle is not None:
            self.take(claim, lacks)
            self._leave(claim)
            del self.all[claim.key]
            self.aside = plus(self.aside, claim.taken)
            self.on_saved(claim)
            return
        self.move(claim, ClaimState.RESERVED, now)
        self.crowd.leased += self.crowd.counts(claim)
        self._share(claim, 1)
        self.take(claim, lacks)

    def _share(self, claim: Claim, more: int) -> None:
        if claim.lease is None:
            return
        share = self.shares.get(claim.owner, 0) + more
        if share:
            self.shares[claim.owner] = share
        else:
            del self.shares[claim.owner]

    def _run(self, claim: Claim, worker: Worker, now: float) -> None:
        pool, name = self.gpus_of(claim.where)
        if claim.holds.get(name, 0) != claim.needs.get(name, 0):
            pool.give(claim.gpus)
            claim.gpus = {}
            self._take_gpus(claim, claim.holds)
        threads = max(1, claim.assigned.get(CPU, 0) // UNIT)
        self.workers.take(worker, claim.key, threads, sorted(claim.gpus), now)
        self.move(claim, ClaimState.RUNNING, now)
        claim.worker = worker.id
        self._unasked = True
        self._give(minus(claim.taken, claim.holds))
        claim.taken = dict(claim.holds)
        if claim.lease is not None:
            self._grant(claim, worker)
        elif claim.actor is not None:
            self.out.append(Send(worker.id, claim.actor))

    def _grant(self, claim: Claim, worker: Worker) -> None:
        """Now, or once it has confirmed its orders: what the owner pushes might come before them."""
        if claim.lease is not None and not worker.orders and not claim.granted:
            claim.granted = self._unasked = True  # what it has may be wanted by others
            self.out.append(Send(claim.owner, LeaseGranted(claim.lease, worker.id)))
            if claim.reclaimed:  # when its owner had not heard of it
                self.out.append(Send(claim.owner, ReclaimLeases([claim.lease])))

    def order_taken(self, worker: Worker) -> None:
        worker.orders -= 1
        claim = self.of_worker(worker)
        if claim is not None:
            self._grant(claim, worker)

    def _reclaim(self, now: float) -> None:
        """Ask leases back from other owners, and from other queues of the same one, for what the waiting are short of.

        Once per lease, and no more of them than cover what is missing: a lease that comes back early costs its owner
        the work that it had lined up there. What is more urgent keeps its leases; who has most is asked first.
        """
        asked: dict[ProcessId, list[LeaseId]] = {}
        running = [claim for claim in self.all.values() if claim.granted]
        # A task that waits for others holds next to nothing, and of these there can be many: not looked at each time.
        askable = [claim for claim in running if claim.taken and not claim.reclaimed]
        if not askable:
            return
        askable.sort(key=lambda claim: -self._share_of(claim.owner))
        coming: Resources = dict(self.available)
        gpus = self.gpus.copy()
        for claim in running:
            if claim.reclaimed:
                coming = plus(coming, claim.taken)
                gpus.give(_own_gpus(claim))
        queues = sorted(self.waiting.items(), key=lambda queue: (queue[0][0], self._share_of(queue[0][1])))
        room = self.savings.room() if self.savings.waiting else {}
        for key, waiting in [(key, waiting) for key, queue in queues for waiting in queue.values()]:
            rests = now < waiting.rests_until
            if rests or (waiting.lease is None and not self.savings.may_come(waiting, now, room)):
                continue  # leases would come back in vain
            lacks = self.lacks(waiting)
            missing = _missing(lacks, coming, gpus)
            for claim in list(askable) if missing else ():
                if claim.priority > waiting.priority or claim.queue == key:
                    continue
                if any(claim.taken.get(name) for name in missing):
                    claim.reclaimed, claim.wanted = True, now
                    askable.remove(claim)
                    coming = plus(coming, claim.taken)
                    gpus.give(_own_gpus(claim))
                    asked.setdefault(claim.owner, []).append(LeaseId(claim.lease or b""))
                    missing = _missing(lacks, coming, gpus)
                    if not missing:
                        break
            if not askable:
                break
            coming = minus(coming, lacks)
            if GPU in lacks:
                gpus.take(gpus.choose(lacks[GPU]) or {})
        self.out.extend(Send(owner, ReclaimLeases(leases)) for owner, leases in asked.items())

    # ------------------------------------------------------------------ asked by others
    def fits_now(self, needs: Resources, where: Where = ()) -> bool:
        if not fits(needs, self.available):
            return False
        pool, name = self.gpus_of(where)
        return pool.fits(needs.get(name, 0))

    def gpus_of(self, where: Where) -> tuple[Gpus, str]:
        """From which it is given some, and the name under which it asks for them."""
        group = places.group_of(where)
        if group is None:
            return self.gpus, GPU
        return self.group_gpus.get(group, _NONE), f"{GPU}_group_{group.hex()}"

    def could_ever(self, needs: Resources) -> bool:
        return fits(needs, self.totals)

    def bound(self) -> Resources:
        """What tasks do not take turns in, as long as the actors here live and those that wait get their place."""
        total: Resources = {}
        for claim in self.actors.values():
            total = plus(total, claim.holds if claim.state is ClaimState.RUNNING else claim.needs)
        for claim in self.savings.waiting.values():
            if claim.bundle is not None:
                total = plus(total, claim.needs)
        return total

    def waiting_count(self) -> int:
        return sum(len(queue) for queue in self.waiting.values())

    def unstarted_in(self, env: str) -> list[Claim]:
        """What waits for a worker of this environment."""
        return [claim for claim in self._unstarted() if claim.env == env]

    def of_worker(self, worker: Worker) -> Claim | None:
        return self.all.get(worker.claim) if worker.claim is not None else None

    def of_process(self, process: ProcessId) -> Claim | None:
        """What a process of this node does for others, if it is a worker that does."""
        worker = self.workers.all.get(process)
        return None if worker is None else self.of_worker(worker)

    def of_owners(self, which: Callable[[ProcessId], bool]) -> list[Claim]:
        return [claim for claim in self.all.values() if claim.lease is not None and which(claim.owner)]

    def settled(self) -> int:
        """So many of the head's placements, from its first one on, wait no more."""
        waiting = [claim.placement for claim in self._unstarted() if claim.placement and claim.placed_by == HEAD_NODE]
        return min(waiting) - 1 if waiting else self.placed

    def others(self) -> dict[NodeId, tuple[int, int]]:
        """Placed and settled, of each scheduler beside the head."""
        found = {scheduler: (placed, placed) for scheduler, placed in self.placed_by.items()}
        for claim in self._unstarted() if found else ():
            by = claim.placed_by
            if claim.placement and by in found:
                placed, settled = found[by]
                found[by] = placed, min(settled, claim.placement - 1)
        return found

    def count_placed(self, by: NodeId) -> int:
        """One more of whoever places. Returns which one it is."""
        if by == HEAD_NODE:
            self.placed += 1
            return self.placed
        number = self.placed_by[by] = self.placed_by.get(by, 0) + 1
        return number

    def overdue(self, now: float, reoffer_s: float) -> list[Claim]:
        """Of the claims that may go elsewhere and have waited for so long: those that find no room as long as the
        actors and groups here live, and the younger half of the others, whose turn comes."""
        leaves = self.savings.beside_what_lasts()
        before = now - reoffer_s
        moving = [queue for queue in self.waiting.values() if not _stays(next(iter(queue.values())).where)]
        old = [claim for queue in moving for claim in queue.values() if claim.since < before]
        old = [claim for claim in old if not self.savings.hopes(claim, now)]
        old.sort(key=lambda claim: claim.arrival)
        stuck = [claim for claim in old if not fits(claim.needs, leaves)]
        rest = [claim for claim in old if fits(claim.needs, leaves)]
        return stuck + rest[len(rest) // 2 :]

    def _unstarted(self) -> Iterable[Claim]:
        for queue in self.waiting.values():
            yield from queue.values()
        yield from self.reserved.values()

    def _give(self, amounts: Resources) -> None:
        self.changes += 1
        self.available = plus(self.available, amounts)
        if self.oversubscribed:
            self.oversubscribed = any(amount < 0 for amount in self.available.values())

    def _take(self, amounts: Resources) -> None:
        self.changes += 1
        self.available = minus(self.available, amounts)

    def _take_gpus(self, claim: Claim, amounts: Resources) -> None:
        """They fit."""
        pool, name = self.gpus_of(claim.where)
        chosen = pool.choose(amounts.get(name, 0))
        assert chosen is not None, f"{claim} was reserved GPUs that are not there"
        claim.gpus = {**claim.gpus, **chosen}
        pool.take(chosen)


def _missing(lacks: Resources, coming: Resources, gpus: Gpus) -> list[str]:
    """What who lacks this would still wait for with these."""
    missing = short_of(lacks, coming)
    if not gpus.fits(lacks.get(GPU, 0)):
        missing.append(GPU)  # enough of them perhaps, but in pieces
    return missing


def _own_gpus(claim: Claim) -> Shares:
    """That would be anybody's without it."""
    return {} if places.group_of(claim.where) is not None else claim.gpus


def _stays(where: Where) -> bool:
    """Whether it can only run here, or asks for a bundle, of which this node does not know the others."""
    return bool(where) and (where[0] == places.GROUP or (where[0] == places.NODE and not where[2]))
