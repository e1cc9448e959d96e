"""What must be true of a node, the head and an owner between any two events. The simulator asks after every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import islice

from sparkray_core.ids import NodeId, node_of
from sparkray_core.messages import FAILED, Resources
from sparkray_core.model import where
from sparkray_core.model.actors import ActorState
from sparkray_core.model.entries import NOT_GIVEN, Entry, is_stored
from sparkray_core.model.groups import GroupState
from sparkray_core.model.head import Head
from sparkray_core.model.node import Node
from sparkray_core.model.node_claims import Claim, ClaimState
from sparkray_core.model.node_gpus import GPU, Gpus
from sparkray_core.model.node_spills import Where
from sparkray_core.model.node_workers import WorkerState
from sparkray_core.model.owner import Owner
from sparkray_core.model.records import Records
from sparkray_core.model.references import ACTOR_INDEX
from sparkray_core.model.resources import UNIT, is_cpu, minus, plus
from sparkray_core.model.scheduler import Scheduler
from sparkray_core.model.shard import Shard

# To look up a member in its class takes as long as a few comparisons, and these are asked of each record at each step.
_MEMORY, _WRITING, _BOTH, _DISK = Where.MEMORY, Where.WRITING, Where.BOTH, Where.DISK
_WAITING, _RESERVED, _RUNNING = ClaimState.WAITING, ClaimState.RESERVED, ClaimState.RUNNING
_BUSY, _IDLE, _STARTING, _PREPARING = WorkerState.BUSY, WorkerState.IDLE, WorkerState.STARTING, WorkerState.PREPARING
_LEAVING = WorkerState.LEAVING


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
    claims, workers, counts = node.claims, node.workers.all, node.claims.crowd.counts
    queued = {key for queue in claims.waiting.values() for key in queue}
    taken, reserved, saving = dict[str, int](), claims.reserved, claims.savings.waiting
    leases: list[Claim] = []
    for key, claim in claims.all.items():
        assert claim.key == key
        for name, amount in claim.taken.items():
            taken[name] = taken.get(name, 0) + amount
        state = claim.state
        if state is _WAITING:
            assert key in claims.waiting.get(claim.queue, ()), f"{claim} and its queue disagree"
            assert (key in saving) == (claim.lease is None), f"{claim} and who saves disagree"
            if claim.taken:
                assert claim.lease is None, f"{claim} waits, and holds something"
                assert min(claims.lacks(claim).values(), default=0) >= 0, f"{claim} has saved too much"
        else:
            assert key not in saving, f"{claim} and who saves disagree"
            assert key not in queued, f"{claim} and its queue disagree"
            if counts(claim):
                leases.append(claim)
        assert (key in reserved) == (state is _RESERVED), f"{claim} and the reserved disagree"
        process = claim.worker
        assert (process is not None) == (state is _RUNNING), f"{claim} and its worker disagree"
        if process is not None:
            worker = workers.get(process)
            assert worker is not None, f"{claim} runs on a worker that is not there"
            assert worker.claim == key, f"{claim} runs on a worker that serves {worker.claim!r}"
    shared = plus(taken, node.bundles.held())
    assert plus(claims.available, shared) == minus(claims.totals, {}), f"{claims.available} and {shared} are not all"
    for name, amount in claims.available.items():
        assert amount >= 0 or (is_cpu(name) and claims.oversubscribed), f"{amount} of {name} is available"
    assert all(claims.waiting.values()), "an empty queue is kept"
    if queued and node.ended is None and not (claims.held_back or claims.crowd.is_full):
        for queue in claims.waiting.values():
            for claim in queue.values():
                assert not claims.fits_now(claims.lacks(claim), claim.where), f"{claim} waits, though it fits"
                if claim.lease is not None:
                    break  # those behind it need the same, and nobody saves
    check_gpus(node)
    check_crowd(node, leases)


def check_crowd(node: Node, leases: Collection[Claim]) -> None:
    """
    Args:
        leases: those that are counted, and have a worker or are to get one.
    """
    crowd = node.claims.crowd
    assert crowd.leased == len(leases), f"{crowd.leased} leases are counted, and there are {len(leases)}"
    waiting = {claim.worker: claim for claim in leases if claim.waits}
    assert crowd.waiting == waiting, "who waits and who is thought to wait differ"
    assert crowd.helpers.keys() <= crowd.waiting.keys(), "one that does not wait could help itself"
    if crowd.asked or crowd.nesting:
        for worker, claim in {**crowd.asked, **crowd.nesting}.items():
            assert claim.worker == worker, f"{claim} is of another worker"
            assert node.claims.all.get(claim.key) is claim, f"{claim} is over, and kept"
        assert not crowd.asked.keys() & crowd.waiting.keys(), "one that was asked to help itself waits"


def check_gpus(node: Node) -> None:
    claims, workers = node.claims, node.workers.all
    left = Gpus(claims.totals.get(GPU, 0))
    pools = {group: Gpus(0) for group in claims.group_gpus}
    for bundle in node.bundles.all.values():
        if bundle.gpus:
            left.take(bundle.gpus)
            if bundle.committed:
                pool = pools[bundle.group]
                pool.free += [0] * (len(left.free) - len(pool.free))
                pool.give(bundle.gpus)
    for claim in claims.all.values():
        gpus, group = claim.gpus, where.group_of(claim.where) if claim.where else None
        if gpus or claim.where or GPU in claim.taken:
            name = GPU if group is None else f"{GPU}_group_{group.hex()}"
            assert sum(gpus.values()) == claim.taken.get(name, 0), f"{claim} and its GPUs disagree"
        if gpus:
            assert sum(share < UNIT for share in gpus.values()) <= 1, f"{claim} has pieces of several GPUs"
            (left if group is None else pools.get(group, left)).take(gpus)
        worker = workers.get(claim.worker) if claim.worker is not None else None
        if worker is not None and (gpus or worker.gpus):
            assert worker.gpus == sorted(gpus), f"{worker} was told of other GPUs than its claim's"
    for group, pool in pools.items():
        assert pool.free == claims.group_gpus[group].free, f"the GPUs of group {group.hex()} do not add up"
        assert all(free >= 0 for free in pool.free), "a group's GPU is promised twice"
    assert left.free == claims.gpus.free, f"{left.free} is left of the GPUs, not {claims.gpus.free}"
    assert not left.free or min(left.free) >= 0, "a GPU is promised twice"


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
    if node.ended is not None or not bundles.leaving:
        return
    held_up = set()
    for claim in claims.all.values():
        some = where.group_of(claim.where)
        if some is not None and some in bundles.leaving:
            held_up.add(some)
            ending = claim.worker is not None and node.workers.all[claim.worker].state is WorkerState.LEAVING
            assert ending, f"{claim} goes on in a group that was removed"
    assert held_up == bundles.leaving.keys(), "nothing holds it up"


def check_workers(node: Node) -> None:
    workers, claims = node.workers, node.claims.all
    starting, idle, preparing = 0, 0, dict[str, int]()
    for worker in workers.all.values():
        state = worker.state
        if state is _BUSY:
            claim = claims.get(worker.claim) if worker.claim is not None else None
            assert claim is not None, f"{worker} is busy with nothing"
            assert claim.worker == worker.id, f"{worker} serves a claim of another worker"
            assert claim.env == worker.env, f"{worker} serves a claim of another environment"
        elif state is _IDLE:
            idle += 1
            assert worker.id in workers.idle, f"{worker} is idle, and nobody knows"
        elif state is _STARTING:
            starting += 1
        elif state is _PREPARING:
            preparing[worker.env] = preparing.get(worker.env, 0) + 1
        assert worker.registered or state is _STARTING or state is _LEAVING
    assert workers.starting == starting, f"{starting} workers start, and {workers.starting} are thought to"
    assert workers.preparing == preparing, "what is being set up is counted wrongly"
    assert len(workers.idle) == idle, "a worker is thought to idle that does not"
    if node.ended is not None:
        return
    if len(workers.idle) > workers.keep:
        for worker in islice(workers.idle.values(), len(workers.idle) - workers.keep):
            assert workers.trimmed_at - worker.since < node.limits.idle_s, "a worker that is not kept idles for long"
    if node.claims.reserved:
        asked = Counter(claim.env for claim in node.claims.reserved.values())
        assert not any(workers.idle_with(env) for env in asked), "a claim waits for a worker while one idles"
        lacking = sum(max(0, count - workers.preparing.get(env, 0)) for env, count in asked.items())
        assert workers.starting >= min(lacking, workers.at_once), "a claim waits for a worker that nobody starts"


def check_store(node: Node) -> None:
    store = node.store
    counted: dict[bytes, int] = {}
    for process, held in store.pins.items():
        known = process in node.processes or node_of(process) != node.info.node
        assert known or node.ended is not None, f"{process.hex()} is not here, and has pins"
        for some, count in held.items():
            assert count > 0
            counted[some] = counted.get(some, 0) + count
    check_stored(node, counted)
    assert not counted, "an object was freed while it was pinned"
    check_readers(node)
    for (some, process), transfer in node.serves.transfers.items():
        times = store.pins.get(process, {}).get(some, 0)
        assert times == int(transfer.pinned), f"{process.hex()} pulls {some.hex()}, which it pins {times} times"
    for (_, writer), block in store.unsealed.items():
        mine = block.writer == writer and (writer in node.processes or block.object in node.pulls.pulls)
        assert mine or node.ended is not None, f"{block} is written by nobody"


def check_stored(node: Node, counted: dict[bytes, int]) -> None:
    """
    Args:
        counted: the pins of each object; what is here is taken out of it.
    """
    store, spills = node.store, node.store.spills
    evictable, dirty, clean = store.evictable, spills.dirty, spills.clean
    offsets = [block.offset for block in store.unsealed.values()]
    can_go = may_be_written = may_leave = leaving_bytes = filed = 0
    for some, stored in store.stored.items():
        pins, place = stored.pins, stored.where
        if place is not _DISK:
            offsets.append(stored.offset)
        assert pins == (counted.pop(some, 0) if counted else 0), f"pins of {some.hex()} do not add up"
        if stored.doomed:
            busy = pins or place is Where.RESTORING or some in store.readers
            assert busy, f"{some.hex()} is unwanted and unread, and still there"
        if pins:
            pass
        elif stored.copy:
            can_go += 1
            assert some in evictable, f"{some.hex()} and eviction disagree"
        elif place is _MEMORY:
            may_be_written += 1
            assert dirty.get(some) is stored, f"{some.hex()} may be written out, and nobody knows"
        elif place is _BOTH:
            may_leave += 1
            leaving_bytes += stored.size
            assert clean.get(some) is stored, f"{some.hex()} may leave memory, and nobody knows"
        file = stored.file
        assert (file is None) == (place is _MEMORY), f"{some.hex()} is {place.value}, and its file"
        if file is not None:
            filed += 1
            assert file.members.get(some) is stored, f"file {file.number} does not know that it has {some.hex()}"
            assert file.written != (place is _WRITING), f"{stored} and file {file.number} disagree"
            assert not stored.copy, f"{some.hex()} can be had elsewhere, and is on disk"
    assert len(evictable) == can_go, "what may be evicted is no copy, is pinned, or gone"
    assert len(dirty) == may_be_written, "what may be written out is read, or gone"
    assert len(clean) == may_leave, "what may leave memory is read, or gone"
    assert spills.clean_bytes == leaving_bytes, "the bytes of what may leave memory are counted wrongly"
    assert len(set(offsets)) == len(offsets), "two objects lie at one offset"
    used = sum(map(store.allocator.size_of, offsets))
    assert used == store.allocator.used, f"{used} bytes are known of, {store.allocator.used} are allocated"
    check_files(node, filed)


def check_files(node: Node, filed: int) -> None:
    """What was spilled, or is to be.

    Args:
        filed: objects that know of a file.
    """
    spills = node.store.spills
    members = 0
    for number, file in spills.files.items():
        members += len(file.members)
        assert file.number == number
        assert file.written != (number in spills.writing), f"file {number} is written, and not"
        assert file.members or not file.written, f"nothing in file {number} is wanted any more"
    assert members == filed, f"{members} objects are in files, and {filed} think that they are"
    if spills.writing:
        assert spills.writing.items() <= spills.files.items(), "a file is written that is not there"


def check_readers(node: Node) -> None:
    """Who waits for an object does not wait in vain."""
    store, pulls = node.store, node.pulls
    assert all(store.readers.values()), "an empty list of readers is kept"
    for some in store.readers:
        found = store.stored.get(some)
        wished = any(wanted.restores and wanted.object == some for wanted in store.room)
        restores = found is not None and (found.where is Where.RESTORING or wished)
        coming = restores or some in pulls.pulls or store.is_written(some)
        assert coming or node.ended is not None, f"readers of {some.hex()} wait for nothing"
        assert found is None or restores, f"readers of {some.hex()} wait, though it is here"
    asked = sum(sum(pull.asked.values()) for pull in pulls.pulls.values())
    assert pulls.under_way == asked, f"{asked} bytes are under way, and {pulls.under_way} are thought to be"
    for some in pulls.hungry:
        assert pulls.under_way or node.ended is not None, f"{some.hex()} waits for its turn, and nobody has his"


# ---------------------------------------------------------------------------------- head
def check_nodes(head: Head) -> None:
    for node, record in head.nodes.all.items():
        assert record.info.node == node
        assert not record.on_the_way or max(one.number for one in record.on_the_way) <= record.placed
        kept, record.sums = record.sums, None
        right = kept is None or record.info.alive is False or kept == record.free()
        assert right, f"{record.info} is thought to have {kept} free"
        if not record.info.alive:
            assert not record.unsettled, f"{record.info} is dead, and something may still begin there"
    head.choosing.rankings.check()
    for lease, node in head.leases.placed_at.items():
        record = head.nodes.all[node]
        assert record.info.alive, f"lease {lease.hex()} is thought to wait on a dead node"
        placed_there = any(placement.lease == lease for placement in record.unsettled.values())
        assert placed_there, f"lease {lease.hex()} is thought to wait on {record.info}, and was not sent there"


def check_scheduler(scheduler: Scheduler) -> None:
    for record in scheduler.nodes.all.values():
        kept, record.sums = record.sums, None
        right = kept is None or record.info.alive is False or kept == record.free()
        assert right, f"{record.info} is thought to have {kept} free"
    scheduler.choosing.rankings.check()
    for lease, placed in scheduler.placed.items():
        record = scheduler.nodes.all[placed.node]
        assert record.info.alive, f"lease {lease.hex()} is thought to wait on a dead node"
        placed_there = any(placement.lease == lease for placement in record.unsettled.values())
        assert placed_there, f"lease {lease.hex()} is thought to wait on {record.info}, and was not sent there"


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
    offered: dict[NodeId, Resources] = {}
    for group in groups.all.values():
        for index, node in group.places.items():
            more = where.offered(group.id, [(index, group.bundles[index])])
            offered[node] = plus(offered.get(node, {}), more)
    for node, record in head.nodes.all.items():
        if record.info.alive and (node in offered or record.totals != record.info.resources):
            totals = plus(record.info.resources, offered.get(node, {}))
            assert record.totals == totals, f"{record.info} has other bundles than it is thought"


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
    leasing, tasks = owner.leasing, owner.book.tasks
    known = asked = 0
    for shape in leasing.shapes.values():
        starving = under_way = False
        for queue in shape.queues.values():
            leases, waiting = queue.leases, len(queue.tasks)
            leases.check()
            coming = bool(queue.requests)
            for some in queue.requests:
                asked += 1
                assert leasing.requests.get(some) is queue, "requests and their queues disagree"
            under_way = under_way or coming or len(leases) > 0
            for lease in leases:
                known += 1
                assert leasing.leases.get(lease.id) is lease, "a queue keeps a lease that is gone"
                assert lease.queue is queue, f"{lease.id.hex()} and its queue disagree"
                assert leasing.by_worker.get(lease.worker) is lease, f"{lease.id.hex()} and its worker disagree"
                for count, task in lease.inflight.items():
                    assert tasks.get(count) is task, f"task {count} is in flight, and answered"
                    assert task.shape is shape, f"task {count} is on a worker of another shape"
                starving = starving or (lease.open and not lease.inflight)
                if not lease.idle:
                    coming = True
                else:
                    assert not lease.reclaimed, "an idle lease was asked back"
                    fed = waiting and lease.open
                    assert not fed, f"{waiting} tasks are queued, and a worker of their own idles"
            assert coming or not waiting, f"{waiting} tasks are queued, and nothing will bring them a worker"
        assert shape.hungry or under_way, "a shape is not hungry, and nothing will come that takes new tasks along"
        assert shape.hungry or not starving, "a worker idles, and its shape is not hungry"
    assert len(leasing.leases) == known, "a lease is in no queue"
    assert len(leasing.by_worker) == known, "a worker is kept whose lease is gone"
    assert len(leasing.requests) == asked, "requests and their queues disagree"


def check_tasks(owner: Owner) -> None:
    """Each unanswered task is in one place."""
    tasks = owner.book.tasks
    if not (tasks or owner.leasing.leases or owner.calls.actors or owner.leasing.shapes):
        return
    places: list[tuple[int, str]] = []
    for shape in owner.leasing.shapes.values():
        for queue in shape.queues.values():
            if queue.tasks:
                places += [(task.count, "queued") for task in queue.tasks]
    for lease in owner.leasing.leases.values():
        places += [(count, "on a worker") for count in lease.inflight]
    assert all(count in tasks for count, _ in places), "a task is answered, and still queued or on a worker"
    actors = {task.actor: None for task in tasks.values() if task.actor is not None}
    for actor in (actors | dict.fromkeys(owner.calls.actors.values())) if owner.calls.actors else actors:
        # Of those that wait, some may have failed meanwhile.
        places += [(task.count, "waits for its actor") for task in actor.queue if task.count in tasks]
        places += [(count, "waits for its arguments") for count in actor.waiting]
        places += [(count, "at its actor") for count in actor.inflight]
        assert actor.state in ("alive", "moving") or not actor.inflight, f"calls are at an actor that is {actor.state}"
    # If the session ended, some are not there any more.
    places += [(count, "here") for count in owner.leasing.own if count in tasks]
    places += [(count, "waits for arguments") for count, task in tasks.items() if task.missing and task.actor is None]
    found = dict(places)
    if len(places) != len(tasks) or found.keys() != tasks.keys():
        for count in {**tasks, **found}:
            here = [place for other, place in places if other == count]
            assert len(here) == 1, f"task {count} is in {len(here)} places: {here}"
        raise AssertionError(f"tasks {found.keys() - tasks.keys()} are answered, and still somewhere")


def check_entries(owner: Owner, held: Iterable[Entry]) -> None:
    """What is pinned is pinned by somebody; what nobody holds is not kept."""
    refs, me, records = owner.refs, owner.me, owner.lineage.records
    exported, stored = refs.exported, refs.stored
    pinned: list[Entry] = refs.legacy.held()
    seen: dict[Entry, None] = dict.fromkeys(held)
    for task in owner.book.tasks.values():
        if task.refs:
            pinned += [entry for _, entry in task.refs]
        if task.nested:
            pinned += task.nested
        if task.actor is not None:
            pinned.append(task.actor.entry)
        for entry in task.returns:
            seen[entry] = None
    for record in records.values():
        pinned += record.pinned
    for some, entry in exported.items():
        seen[entry] = None
        assert entry.id == some
        kept = entry.held or entry.pins or entry.borrowers or (entry.value is None and entry.owner == me)
        assert kept, f"{entry} of {entry.owner.hex()} is kept, and nobody holds it"
    assert refs.recount.lenders.keys() <= exported.keys(), "lenders of what nobody holds are remembered"
    for some, entry in stored.items():
        seen[entry] = None
        assert entry.id == some
        assert entry.owner == me
        assert entry.value is not None
        assert is_stored(entry.value)
    seen.update(dict.fromkeys(pinned))
    holding = [entry for entry in seen if entry.contained]
    while holding:
        inside = [inner for entry in holding for inner in entry.contained or ()]
        pinned += inside
        news = [entry for entry in dict.fromkeys(inside) if entry not in seen]
        seen.update(dict.fromkeys(news))
        holding = [entry for entry in news if entry.contained]
    pins: dict[Entry, int] = {}
    for entry in pinned:
        pins[entry] = pins.get(entry, 0) + 1
    for entry in seen:
        borrowers, value, mine = entry.borrowers, entry.value, entry.owner == me
        assert entry.pins == pins.get(entry, 0), f"{entry} has {entry.pins} pins, not {pins.get(entry, 0)}"
        if borrowers:
            assert mine, f"{entry} is not ours, and we count its borrowers"
            assert 0 not in borrowers.values(), f"{entry} has a borrower that is counted zero times"
            assert me not in borrowers, f"{entry} is borrowed by its owner"
        if entry.registered == NOT_GIVEN:
            continue  # put here, and nobody else knows of it
        if not mine:
            assert exported.get(entry.id) is entry, f"{entry} is borrowed, and cannot be found"
        elif type(value) is tuple:
            if entry.index != ACTOR_INDEX and stored.get(entry.id) is not entry:
                assert not is_stored(value), f"{entry} is stored, and not listed"
            if value[:2] == (FAILED, "ObjectLostError") and entry.count in records:
                assert owner.lineage.why_not(records[entry.count]), f"{entry} is lost, and could be made again"


def check_lineage(owner: Owner) -> None:
    lineage, tasks, stored = owner.lineage, owner.book.tasks, owner.refs.stored
    assert not lineage.again, "a task is to run again, and nobody submits it"
    known = 0
    if lineage.records:
        makers: dict[int, int] = {}
        for record in lineage.records.values():
            for maker in record.makers:
                makers[maker] = makers.get(maker, 0) + 1
        for count, record in lineage.records.items():
            known += record.bytes
            alive, task = record.alive, record.task
            assert alive or record.dependents > 0, f"how task {count} is made is known, and nobody needs that"
            assert record.closed or count in tasks, f"task {count} has ended, and its record does not know"
            assert record.dependents == makers.get(count, 0), f"{record.dependents} arguments come from task {count}"
            if alive and task is not None and task.stream is None and count not in tasks:
                held = {e.index for e in task.returns if e.value is None or e.id in stored}
                assert alive <= held, f"of task {count} {alive} are thought to be held, and {held} can be"
        for entry in stored.values():
            made = lineage.records.get(entry.count)
            assert made is None or entry.index in made.alive, f"{entry} is stored, and its record does not know"
    assert lineage.bytes == known, f"the records of tasks have {known} bytes, not {lineage.bytes}"
    assert known <= lineage.most_bytes
