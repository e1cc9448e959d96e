"""What must be true of a node, the head and an owner between any two events. The simulator asks after every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sparkray_core.ids import node_of
from sparkray_core.messages import FAILED, Resources
from sparkray_core.model import where
from sparkray_core.model.actors import ActorState
from sparkray_core.model.entries import NOT_GIVEN, Entry, is_stored
from sparkray_core.model.groups import GroupState
from sparkray_core.model.head import Head
from sparkray_core.model.node import Node
from sparkray_core.model.node_claims import ClaimState
from sparkray_core.model.node_gpus import GPU, Gpus
from sparkray_core.model.node_spills import Where
from sparkray_core.model.node_workers import WorkerState
from sparkray_core.model.owner import Owner
from sparkray_core.model.records import Records
from sparkray_core.model.references import ACTOR_INDEX
from sparkray_core.model.resources import UNIT, is_cpu, minus, plus
from sparkray_core.model.scheduler import Scheduler
from sparkray_core.model.shard import Shard


def check(model: Node | Head | Scheduler | Shard) -> None:
    """
    Raises:
        AssertionError: a belief about the model does not hold; the sentence says which.
    """
    if model.strays:
        raise AssertionError(f"{model.strays} messages reached a model that has no use for them")
    if isinstance(model, Scheduler):
        check_scheduler(model)
    elif isinstance(model, Head):
        check_nodes(model)
        check_actors(model)
        check_groups(model)
        check_records(model.records)
    elif isinstance(model, Shard):
        check_records(model.records)
    else:
        check_claims(model)
        check_bundles(model)
        check_workers(model)
        check_store(model)


# ---------------------------------------------------------------------------------- node
def check_claims(node: Node) -> None:
    claims = node.claims
    taken: Resources = {}
    for key, claim in claims.all.items():
        assert claim.key == key
        taken = plus(taken, claim.taken)
        waits = key in claims.waiting.get(claim.queue, {})
        assert waits == (claim.state is ClaimState.WAITING), f"{claim} and its queue disagree"
        assert (key in claims.reserved) == (claim.state is ClaimState.RESERVED), f"{claim} and the reserved disagree"
        assert (claim.worker is not None) == (claim.state is ClaimState.RUNNING), f"{claim} and its worker disagree"
        assert not (waits and claim.lease and claim.taken), f"{claim} waits, and holds something"
        assert (key in claims.savings.waiting) == (waits and claim.lease is None), f"{claim} and who saves disagree"
        assert not waits or min(claims.lacks(claim).values(), default=0) >= 0, f"{claim} has saved too much"
        if node.ended is None and not claims.held_back:
            fitting = waits and claims.fits_now(claims.lacks(claim), claim.where)
            assert not fitting or claims.crowd.is_full, f"{claim} waits, though it fits"
        if claim.worker is not None:
            worker = node.workers.all.get(claim.worker)
            assert worker is not None, f"{claim} runs on a worker that is not there"
            assert worker.claim == key, f"{claim} runs on a worker that serves {worker.claim!r}"
    shared = plus(taken, node.bundles.held())
    assert plus(claims.available, shared) == minus(claims.totals, {}), f"{claims.available} and {shared} are not all"
    for name, amount in claims.available.items():
        assert amount >= 0 or (is_cpu(name) and claims.oversubscribed), f"{amount} of {name} is available"
    assert all(claims.waiting.values()), "an empty queue is kept"
    check_gpus(node)
    check_crowd(node)


def check_crowd(node: Node) -> None:
    crowd, claims = node.claims.crowd, node.claims.all.values()
    leases = [claim for claim in claims if crowd.counts(claim) and claim.state is not ClaimState.WAITING]
    assert crowd.leased == len(leases), f"{crowd.leased} leases are counted, and there are {len(leases)}"
    waiting = {claim.worker: claim for claim in leases if claim.waits}
    assert crowd.waiting == waiting, "who waits and who is thought to wait differ"
    assert crowd.helpers.keys() <= crowd.waiting.keys(), "one that does not wait could help itself"
    for worker, claim in {**crowd.asked, **crowd.nesting}.items():
        assert claim.worker == worker, f"{claim} is of another worker"
        assert node.claims.all.get(claim.key) is claim, f"{claim} is over, and kept"
    assert not crowd.asked.keys() & crowd.waiting.keys(), "one that was asked to help itself waits"


def check_gpus(node: Node) -> None:
    left = Gpus(node.claims.totals.get(GPU, 0))
    pools = {group: Gpus(0) for group in node.claims.group_gpus}
    for bundle in node.bundles.all.values():
        left.take(bundle.gpus)
        if bundle.committed and bundle.gpus:
            pool = pools[bundle.group]
            pool.free += [0] * (len(left.free) - len(pool.free))
            pool.give(bundle.gpus)
    for claim in node.claims.all.values():
        group = where.group_of(claim.where)
        name = GPU if group is None else f"{GPU}_group_{group.hex()}"
        assert sum(claim.gpus.values()) == claim.taken.get(name, 0), f"{claim} and its GPUs disagree"
        assert sum(share < UNIT for share in claim.gpus.values()) <= 1, f"{claim} has pieces of several GPUs"
        (left if group is None else pools.get(group, left)).take(claim.gpus)
        worker = node.workers.all.get(claim.worker) if claim.worker is not None else None
        assert worker is None or worker.gpus == sorted(claim.gpus), f"{worker} was told of other GPUs than its claim's"
    for group, pool in pools.items():
        assert pool.free == node.claims.group_gpus[group].free, f"the GPUs of group {group.hex()} do not add up"
        assert all(free >= 0 for free in pool.free), "a group's GPU is promised twice"
    assert left.free == node.claims.gpus.free, f"{left.free} is left of the GPUs, not {node.claims.gpus.free}"
    assert all(free >= 0 for free in left.free), "a GPU is promised twice"


def check_bundles(node: Node) -> None:
    """What is set aside is not given out, and what is on offer is there; what is given back ends first."""
    claims, bundles = node.claims, node.bundles
    offered: Resources = {}
    for (group, index), bundle in bundles.all.items():
        assert (bundle.group, bundle.index) == (group, index)
        assert bundle.committed or not bundle.leaving, f"{bundle} was never on offer, and is being left"
        assert bool(bundle.leaving) <= (group in bundles.leaving), f"{bundle} and the groups that leave disagree"
        if bundle.committed:
            offered = plus(offered, where.offered(group, [(index, bundle.resources)]))
    assert claims.totals == plus(node.info.resources, offered), "what is on offer is not what was committed"
    assert claims.aside == bundles.held(), f"{claims.aside} is thought to be set aside, not {bundles.held()}"
    gathered = {claim.key: claim for each in bundles.gathering.values() for claim in each.claims.values()}
    assert gathered == {key: claim for key, claim in claims.all.items() if claim.bundle}, "bundles and claims disagree"
    assert all(each.claims for each in bundles.gathering.values()), "what is gathered is not told"
    for claim in claims.all.values():
        some = where.group_of(claim.where)
        if some is None or node.ended is not None:
            continue
        ending = claim.worker is not None and node.workers.all[claim.worker].state is WorkerState.LEAVING
        assert some not in bundles.leaving or ending, f"{claim} goes on in a group that was removed"
    if node.ended is None:
        for group in bundles.leaving:
            assert any(where.group_of(claim.where) == group for claim in claims.all.values()), "nothing holds it up"


def check_workers(node: Node) -> None:
    workers = node.workers
    states = [worker.state for worker in workers.all.values()]
    assert workers.starting == states.count(WorkerState.STARTING)
    preparing = [worker.env for worker in workers.all.values() if worker.state is WorkerState.PREPARING]
    assert workers.preparing == Counter(preparing), "what is being set up is counted wrongly"
    assert set(workers.idle) == {w.id for w in workers.all.values() if w.state is WorkerState.IDLE}
    for worker in workers.all.values():
        if worker.state is WorkerState.BUSY:
            claim = node.claims.of_worker(worker)
            assert claim is not None, f"{worker} is busy with nothing"
            assert claim.worker == worker.id, f"{worker} serves a claim of another worker"
            assert claim.env == worker.env, f"{worker} serves a claim of another environment"
        assert worker.registered or worker.state in (WorkerState.STARTING, WorkerState.LEAVING)
    if node.ended is None:
        spare = list(workers.idle.values())[: max(0, len(workers.idle) - workers.keep)]
        for worker in spare:
            assert workers.trimmed_at - worker.since < node.limits.idle_s, "a worker that is not kept idles for long"
        asked = Counter(claim.env for claim in node.claims.reserved.values())
        assert not any(workers.idle_with(env) for env in asked), "a claim waits for a worker while one idles"
        lacking = sum(max(0, count - workers.preparing.get(env, 0)) for env, count in asked.items())
        assert workers.starting >= min(lacking, workers.at_once), "a claim waits for a worker that nobody starts"


def check_store(node: Node) -> None:
    store = node.store
    offsets = [block.offset for block in store.unsealed.values()]
    offsets += [some.offset for some in store.stored.values() if some.where is not Where.DISK]
    assert len(set(offsets)) == len(offsets), "two objects lie at one offset"
    used = sum(store.allocator.size_of(offset) for offset in offsets)
    assert used == store.allocator.used, f"{used} bytes are known of, {store.allocator.used} are allocated"
    counted: dict[bytes, int] = {}
    for process, held in store.pins.items():
        known = process in node.processes or node_of(process) != node.info.node
        assert known or node.ended is not None, f"{process.hex()} is not here, and has pins"
        for some, count in held.items():
            assert count > 0
            counted[some] = counted.get(some, 0) + count
    for some, stored in store.stored.items():
        assert stored.pins == counted.pop(some, 0), f"pins of {some.hex()} do not add up"
        busy = stored.pins or stored.where is Where.RESTORING or some in store.readers
        assert busy or not stored.doomed, f"{some.hex()} is unwanted and unread, and still there"
        assert (some in store.evictable) == (stored.copy and not stored.pins), f"{some.hex()} and eviction disagree"
    check_spills(node)
    assert not counted, "an object was freed while it was pinned"
    assert all(store.readers.values()), "an empty list of readers is kept"
    for some in store.readers:
        found = store.stored.get(some)
        wished = any(wanted.restores and wanted.object == some for wanted in store.room)
        restores = found is not None and (found.where is Where.RESTORING or wished)
        coming = restores or some in node.pulls.pulls or store.is_written(some)
        assert coming or node.ended is not None, f"readers of {some.hex()} wait for nothing"
        assert found is None or restores, f"readers of {some.hex()} wait, though it is here"
    pulls = node.pulls
    assert pulls.under_way == sum(sum(pull.asked.values()) for pull in pulls.pulls.values())
    for some in pulls.hungry:
        assert pulls.under_way or node.ended is not None, f"{some.hex()} waits for its turn, and nobody has his"
    for (some, process), transfer in node.serves.transfers.items():
        times = store.pins.get(process, {}).get(some, 0)
        assert times == int(transfer.pinned), f"{process.hex()} pulls {some.hex()}, which it pins {times} times"
    for (_, writer), block in store.unsealed.items():
        mine = block.writer == writer and (writer in node.processes or block.object in node.pulls.pulls)
        assert mine or node.ended is not None, f"{block} is written by nobody"


def check_spills(node: Node) -> None:
    stored, spills = node.store.stored, node.store.spills
    idle = {some: one for some, one in stored.items() if not one.pins and not one.copy}
    assert spills.dirty == {some: one for some, one in idle.items() if one.where is Where.MEMORY}
    assert spills.clean == {some: one for some, one in idle.items() if one.where is Where.BOTH}
    assert spills.clean_bytes == sum(one.size for one in spills.clean.values())
    filed = {some: one for some, one in stored.items() if one.file is not None}
    assert filed == {some: one for file in spills.files.values() for some, one in file.members.items()}
    for some, one in stored.items():
        assert (one.file is None) == (one.where is Where.MEMORY), f"{some.hex()} is {one.where.value}, and its file"
        assert not (one.copy and one.file), f"{some.hex()} can be had elsewhere, and is on disk"
    for number, file in spills.files.items():
        assert file.number == number
        assert file.written != (number in spills.writing), f"file {number} is written, and not"
        assert file.members or not file.written, f"nothing in file {number} is wanted any more"
        for one in file.members.values():
            assert file.written != (one.where is Where.WRITING), f"{one} and file {number} disagree"
    assert spills.writing.items() <= spills.files.items()


# ---------------------------------------------------------------------------------- head
def check_nodes(head: Head) -> None:
    for node, record in head.nodes.all.items():
        assert record.info.node == node
        assert all(placement.number <= record.placed for placement in record.on_the_way)
        kept, record.sums = record.sums, None
        assert kept is None or record.info.alive is False or kept == (record.load().available, record.load().queued)
        if not record.info.alive:
            assert not record.unsettled, f"{record.info} is dead, and something may still begin there"
    head.choosing.rankings.check()
    for lease, node in head.leases.placed_at.items():
        record = head.nodes.all[node]
        assert record.info.alive, f"lease {lease.hex()} is thought to wait on a dead node"
        assert any(placement.lease == lease for placement in record.unsettled.values())


def check_scheduler(scheduler: Scheduler) -> None:
    for record in scheduler.nodes.all.values():
        kept, record.sums = record.sums, None
        assert kept is None or record.info.alive is False or kept == record.free()
    scheduler.choosing.rankings.check()
    for lease, placed in scheduler.placed.items():
        record = scheduler.nodes.all[placed.node]
        assert record.info.alive, f"lease {lease.hex()} is thought to wait on a dead node"
        assert any(placement.lease == lease for placement in record.unsettled.values())


def check_records(records: Records) -> None:
    estates = records.estates.values()
    assert records.count == sum(len(estate.objects) for estate in estates), "records are counted otherwise"
    assert records.bytes == sum(estate.bytes for estate in estates), "the bytes of records are counted otherwise"
    for owner, estate in records.estates.items():
        assert estate.objects, f"{owner.hex()} is kept, with no object"
        results = {some for of_task in estate.results.values() for some in of_task}
        assert results == set(estate.objects), f"the results of {owner.hex()} are not its objects"


def check_groups(head: Head) -> None:
    groups = head.groups
    for some, group in groups.all.items():
        assert group.id == some
        assert group.state is not GroupState.REMOVED
        numbers = set(range(len(group.bundles)))
        assert set(group.places) <= numbers
        complete = set(group.places) == numbers
        assert complete == (group.state is GroupState.CREATED), f"{group} and its bundles disagree"
        assert bool(group.places) <= (group.state is not GroupState.PENDING), f"{group} is there in part"
        assert (some in groups.unplaced) == (group.state is not GroupState.CREATED)
        assert not group.key or groups.by_key[group.key] == some
        attempt = group.attempt
        if attempt is not None:
            assert not set(attempt.places) & set(group.places), f"{group} places what it has"
            assert attempt.open, f"all have answered, and nothing comes of it: {group}"
            assert attempt.open <= set(attempt.places.values())
        if head.ended is None:
            nodes = {*group.places.values(), *(attempt.places.values() if attempt is not None else ())}
            assert all(head.nodes.is_alive(node) for node in nodes), f"{group} counts on a dead node"
        if group.strategy == "STRICT_SPREAD":
            assert len(set(group.places.values())) == len(group.places), f"{group} is not spread"
        if group.strategy == "STRICT_PACK":
            assert len(set(group.places.values())) <= 1, f"{group} is not packed"
        assert all(some in groups.watched[watcher] for watcher in group.watchers)
    assert len(groups.by_key) == sum(bool(group.key) for group in groups.all.values())
    for node, record in head.nodes.all.items():
        offered = plus(record.info.resources, {})
        for group in groups.all.values():
            here = [(index, group.bundles[index]) for index, place in group.places.items() if place == node]
            offered = plus(offered, where.offered(group.id, here))
        assert not record.info.alive or record.totals == offered, f"{record.info} has other bundles than it is thought"


def check_actors(head: Head) -> None:
    actors = head.actors
    for some, actor in actors.all.items():
        assert actor.id == some
        assert actor.state is not ActorState.DEAD
        assert (actor.node is None) == (some in actors.unplaced), f"{actor} is neither placed nor to be placed"
        assert (actor.worker is not None) == (actor.state is ActorState.ALIVE), f"{actor} and its worker disagree"
        assert some in actors.owned[actor.owner]
        assert all(some in actors.watched[watcher] for watcher in actor.watchers)
        if head.ended is None:
            assert actor.owner not in head.gone, f"{actor} outlived its owner"
            assert actor.node is None or head.nodes.is_alive(actor.node), f"{actor} is on a dead node"
            assert head.nodes.is_alive(node_of(actor.owner)), f"{actor} outlived its owner's node"
    assert all(some in actors.all for some in actors.states.of), "the state of a dead actor is kept"
    for watcher, watched in actors.watched.items():
        assert watched, "an empty list of watched actors is kept"
        assert all(watcher in actors.all[some].watchers for some in watched)
    for actor in actors.dead.values():
        assert actor.state is ActorState.DEAD


# ---------------------------------------------------------------------------------- owner
def check_owner(owner: Owner, held: Iterable[Entry] = ()) -> None:
    """
    Args:
        held: the entries that references of the process's user code refer to: the owner has no list of them.

    Raises:
        AssertionError: as `check`.
    """
    check_leases(owner)
    check_tasks(owner)
    check_entries(owner, held)
    check_lineage(owner)


def check_leases(owner: Owner) -> None:
    leasing = owner.leasing
    queues = [queue for shape in leasing.shapes.values() for queue in shape.queues.values()]
    for some, lease in leasing.leases.items():
        assert lease.id == some
        assert leasing.by_worker.get(lease.worker) is lease, f"{some.hex()} and its worker disagree"
        assert lease in lease.queue.leases, f"{some.hex()} and its queue disagree"
        for count, task in lease.inflight.items():
            assert owner.book.tasks.get(count) is task, f"task {count} is in flight, and answered"
            assert task.shape is lease.queue.shape, f"task {count} is on a worker of another shape"
    assert len(leasing.by_worker) == len(leasing.leases), "a worker is kept whose lease is gone"
    assert sum(len(queue.leases) for queue in queues) == len(leasing.leases), "a queue keeps a lease that is gone"
    asked = {lease: queue for queue in queues for lease in queue.requests}
    assert asked == leasing.requests, "requests and their queues disagree"
    for queue in queues:
        queue.leases.check()
        if queue.tasks:
            coming = queue.requests or any(not lease.idle for lease in queue.leases)
            assert coming, f"{len(queue.tasks)} tasks are queued, and nothing will bring them a worker"
            idle = [lease for lease in queue.leases if lease.idle and lease.open]
            assert not idle, f"{len(queue.tasks)} tasks are queued, and a worker of their own idles"
        assert not any(lease.reclaimed and lease.idle for lease in queue.leases), "an idle lease was asked back"
    for shape in leasing.shapes.values():
        leases = [lease for queue in shape.queues.values() for lease in queue.leases]
        under_way = leases or any(queue.requests for queue in shape.queues.values())
        assert shape.hungry or under_way, "a shape is not hungry, and nothing will come that takes new tasks along"
        starving = any(lease.open and not lease.inflight for lease in leases)
        assert shape.hungry or not starving, "a worker idles, and its shape is not hungry"


def check_tasks(owner: Owner) -> None:
    """Each unanswered task is in one place."""
    places: dict[int, list[str]] = {count: [] for count in owner.book.tasks}
    for shape in owner.leasing.shapes.values():
        for queue in shape.queues.values():
            for task in queue.tasks:
                places[task.count].append("queued")
    for lease in owner.leasing.leases.values():
        for count in lease.inflight:
            places[count].append("on a worker")
    actors = {task.actor for task in owner.book.tasks.values() if task.actor is not None}
    for actor in {*actors, *owner.calls.actors.values()}:
        for task in actor.queue:
            if task.count in places:  # else it failed while it waited
                places[task.count].append("waits for its actor")
        for count in actor.waiting:
            places[count].append("waits for its arguments")
        for count in actor.inflight:
            places[count].append("at its actor")
        assert actor.state in ("alive", "moving") or not actor.inflight, f"calls are at an actor that is {actor.state}"
    for count in owner.leasing.own:
        if count in places:  # else the session ended
            places[count].append("here")
    for count, task in owner.book.tasks.items():
        if task.missing and task.actor is None:
            places[count].append("waits for arguments")
        assert len(places[count]) == 1, f"task {count} is in {len(places[count])} places: {places[count]}"


def check_entries(owner: Owner, held: Iterable[Entry]) -> None:
    """What is pinned is pinned by somebody; what nobody holds is not kept."""
    refs = owner.refs
    entries: dict[int, Entry] = {}
    pins: dict[int, int] = {}

    def see(entry: Entry) -> None:
        if id(entry) not in entries:
            entries[id(entry)] = entry
            for inner in entry.contained or ():
                pin(inner)

    def pin(entry: Entry) -> None:
        pins[id(entry)] = pins.get(id(entry), 0) + 1
        see(entry)

    for task in owner.book.tasks.values():
        for entry in [*(entry for _, entry in task.refs or ()), *(task.nested or ())]:
            pin(entry)
        for entry in task.returns:
            see(entry)
        if task.actor is not None:
            pin(task.actor.entry)
    for record in owner.lineage.records.values():
        for entry in record.pinned:
            pin(entry)
    for entry in refs.legacy.held():
        pin(entry)
    for entry in [*held, *refs.exported.values(), *refs.stored.values()]:
        see(entry)
    for some, entry in refs.exported.items():
        assert entry.id == some
        kept = entry.held or entry.pins or entry.borrowers or (entry.value is None and entry.owner == owner.me)
        assert kept, f"{entry} of {entry.owner.hex()} is kept, and nobody holds it"
    for some, entry in refs.stored.items():
        assert entry.id == some
        assert entry.owner == owner.me
        assert entry.value is not None
        assert is_stored(entry.value)
    for entry in entries.values():
        assert entry.pins == pins.get(id(entry), 0), f"{entry} has {entry.pins} pins, not {pins.get(id(entry), 0)}"
        assert entry.owner == owner.me or not entry.borrowers, f"{entry} is not ours, and we count its borrowers"
        assert 0 not in (entry.borrowers or {}).values(), f"{entry} has a borrower that is counted zero times"
        assert owner.me not in (entry.borrowers or {}), f"{entry} is borrowed by its owner"
        if entry.registered == NOT_GIVEN:
            continue  # put here, and nobody else knows of it
        if entry.owner != owner.me:
            assert refs.exported.get(entry.id) is entry, f"{entry} is borrowed, and cannot be found"
        elif entry.index != ACTOR_INDEX and entry.value is not None and is_stored(entry.value):
            assert refs.stored.get(entry.id) is entry, f"{entry} is stored, and not listed"
        made = owner.lineage.records.get(entry.count) if entry.owner == owner.me else None
        if made is not None and type(entry.value) is tuple and entry.value[:2] == (FAILED, "ObjectLostError"):
            assert owner.lineage.why_not(made), f"{entry} is lost, and could be made again"


def check_lineage(owner: Owner) -> None:
    lineage = owner.lineage
    makers = Counter(maker for record in lineage.records.values() for maker in record.makers)
    for count, record in lineage.records.items():
        assert record.needed, f"how task {count} is made is known, and nobody needs that"
        assert record.closed or count in owner.book.tasks, f"task {count} has ended, and its record does not know"
        assert record.dependents == makers.get(count, 0), f"{record.dependents} arguments come from task {count}"
        task = record.task
        if task is not None and task.stream is None and count not in owner.book.tasks:
            held = {e.index for e in task.returns if e.value is None or e.id in owner.refs.stored}
            assert record.alive <= held, f"of task {count} {record.alive} are thought to be held, and {held} can be"
    assert lineage.bytes == sum(record.bytes for record in lineage.records.values())
    assert lineage.bytes <= lineage.most_bytes
    for entry in owner.refs.stored.values():
        known = lineage.records.get(entry.count)
        assert known is None or entry.index in known.alive, f"{entry} is stored, and its record does not know"
    assert not lineage.again, "a task is to run again, and nobody submits it"
