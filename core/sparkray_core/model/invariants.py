"""What must be true of a node, the head and an owner between any two events. The simulator asks after every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import chain, islice
from operator import attrgetter

from sparkray_core.ids import LeaseId, NodeId, ObjectId, node_of
from sparkray_core.messages import FAILED, Resources
from sparkray_core.model import where
from sparkray_core.model.actors import ActorState
from sparkray_core.model.entries import NOT_GIVEN, Entry, is_stored
from sparkray_core.model.groups import GroupState
from sparkray_core.model.head import Head
from sparkray_core.model.head_nodes import NodeRecord
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
_ID, _PINNED, _BYTES = attrgetter("_id"), attrgetter("pinned"), attrgetter("bytes")
_GPUS = attrgetter("gpus")


def check(model: Node | Head | Scheduler | Shard) -> None:
    """
    Raises:
        AssertionError: a belief about the model does not hold; the sentence says which.
    """
    check_strays(model)
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
        check_work(model)
        check_objects(model)


def check_strays(model: Node | Head | Scheduler | Shard) -> None:
    if model.strays:
        raise AssertionError(f"{model.strays} messages reached a model that has no use for them")


# ---------------------------------------------------------------------------------- node
def check_work(node: Node) -> None:
    check_claims(node)
    check_bundles(node)
    check_workers(node)


def check_claims(node: Node) -> None:
    claims, workers, counts = node.claims, node.workers.all, node.claims.crowd.counts
    queued = {key for queue in claims.waiting.values() for key in queue} if claims.waiting else set()
    taken, reserved, saving = dict[str, int](), claims.reserved, claims.savings.waiting
    leases: list[Claim] = []
    for key, claim in claims.all.items():
        assert claim.key == key
        for name, amount in claim.taken.items():
            taken[name] = taken.get(name, 0) + amount
        state = claim.state
        if state is _WAITING:
            assert key in claims.waiting.get(claim.queue, ()), f"{claim} and its queue disagree"
            assert key in saving or (claim.lease is not None and not claim.taken), f"{claim} and who saves disagree"
            if claim.taken:
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
            assert claim.granted == (claim.lease is not None and not worker.orders), f"{claim}: its owner was told"
    shared = plus(taken, node.bundles.held()) if node.bundles.all else taken
    for name, amount in claims.totals.items():
        together = claims.available.get(name, 0) + shared.get(name, 0)
        assert together == amount, f"{claims.available} and {shared} are not all"
    if not (claims.totals.keys() >= claims.available.keys() and claims.totals.keys() >= shared.keys()):
        both = plus(claims.available, shared)
        assert both == minus(claims.totals, {}), f"{claims.available} and {shared} are not all"
    for name, amount in claims.available.items():
        assert amount >= 0 or (is_cpu(name) and claims.oversubscribed), f"{amount} of {name} is available"
    assert all(claims.waiting.values()), "an empty queue is kept"
    if queued and node.ended is None and not (claims.held_back or claims.crowd.is_full):
        for queue in claims.waiting.values():
            for claim in queue.values():
                assert not claims.fits_now(claims.lacks(claim), claim.where), f"{claim} waits, though it fits"
                if claim.lease is not None:
                    break  # those behind it need the same, and nobody saves
    if saving:
        assert claims.savings.room() == claims.savings.sum_room(), "the room to save in is that of before"
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
    if crowd.helpers:
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
    told = any(map(_GPUS, workers.values()))
    for claim in claims.all.values():
        gpus = claim.gpus
        if not (gpus or claim.where or told or GPU in claim.taken):
            continue
        group = where.group_of(claim.where) if claim.where else None
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
    if not (bundles.all or bundles.gathering or bundles.leaving):
        assert claims.totals == plus(node.info.resources, {}), "what is on offer is not what was committed"
        assert not claims.aside, f"{claims.aside} is thought to be set aside, and there are no bundles"
        assert not [claim for claim in claims.all.values() if claim.bundle], "bundles and claims disagree"
        return
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
    all_of_them, idle_ones = workers.all.values(), workers.idle
    busy = [worker for worker in all_of_them if worker.state is _BUSY]
    for worker in busy:
        claim = claims.get(worker.claim) if worker.claim is not None else None
        assert claim is not None, f"{worker} is busy with nothing"
        assert claim.worker == worker.id, f"{worker} serves a claim of another worker"
        assert claim.env == worker.env, f"{worker} serves a claim of another environment"
    idle = starting = 0
    preparing: dict[str, int] = {}
    if len(busy) < len(all_of_them):
        for worker in [worker for worker in all_of_them if worker.state is not _BUSY]:
            state = worker.state
            if state is _IDLE:
                idle += 1
                assert worker.id in idle_ones, f"{worker} is idle, and nobody knows"
            elif state is _STARTING:
                starting += 1
            elif state is _PREPARING:
                preparing[worker.env] = preparing.get(worker.env, 0) + 1
    for worker in [worker for worker in all_of_them if not worker.registered]:
        assert worker.state is _STARTING or worker.state is _LEAVING
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


def check_objects(node: Node) -> None:
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
    check_transfers(node)


def check_transfers(node: Node) -> None:
    """Who waits for an object, who sends and who gets it."""
    store = node.store
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
        pins, place, file = stored.pins, stored.where, stored.file
        assert pins == (counted.pop(some, 0) if counted else 0), f"pins of {some.hex()} do not add up"
        if stored.doomed:
            busy = pins or place is Where.RESTORING or some in store.readers
            assert busy, f"{some.hex()} is unwanted and unread, and still there"
        assert (file is None) == (place is _MEMORY), f"{some.hex()} is {place.value}, and its file"
        if file is None:
            offsets.append(stored.offset)
            if pins:
                continue
            if stored.copy:
                can_go += 1
                assert some in evictable, f"{some.hex()} and eviction disagree"
            else:
                may_be_written += 1
                assert dirty.get(some) is stored, f"{some.hex()} may be written out, and nobody knows"
            continue
        filed += 1
        assert file.members.get(some) is stored, f"file {file.number} does not know that it has {some.hex()}"
        assert file.written != (place is _WRITING), f"{stored} and file {file.number} disagree"
        assert not stored.copy, f"{some.hex()} can be had elsewhere, and is on disk"
        if place is not _DISK:
            offsets.append(stored.offset)
            if place is _BOTH and not pins:
                may_leave += 1
                leaving_bytes += stored.size
                assert clean.get(some) is stored, f"{some.hex()} may leave memory, and nobody knows"
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
    files = spills.files.values()
    assert [file.number for file in files] == [*spills.files]
    unwritten = {file.number for file in files if not file.written}
    assert unwritten == spills.writing.keys(), f"each of {unwritten ^ spills.writing.keys()} is written, and not"
    for file in [file for file in files if not file.members]:
        assert not file.written, f"nothing in file {file.number} is wanted any more"
    members = sum([len(file.members) for file in files])
    assert members == filed, f"{members} objects are in files, and {filed} think that they are"
    if spills.writing:
        assert spills.writing.items() <= spills.files.items(), "a file is written that is not there"


def check_readers(node: Node) -> None:
    """Who waits for an object does not wait in vain."""
    store, pulls = node.store, node.pulls
    if store.readers:
        assert all(store.readers.values()), "an empty list of readers is kept"
    for some in store.readers:
        found = store.stored.get(some)
        wished = any(wanted.restores and wanted.object == some for wanted in store.room)
        restores = found is not None and (found.where is Where.RESTORING or wished)
        coming = restores or some in pulls.pulls or store.is_written(some)
        assert coming or node.ended is not None, f"readers of {some.hex()} wait for nothing"
        assert found is None or restores, f"readers of {some.hex()} wait, though it is here"
    asked = sum([sum(pull.asked.values()) for pull in pulls.pulls.values()])
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
    sent = {node: _sent_there(head.nodes.all[node]) for node in {*head.leases.placed_at.values()}}
    for lease, node in head.leases.placed_at.items():
        record = head.nodes.all[node]
        assert record.info.alive, f"lease {lease.hex()} is thought to wait on a dead node"
        assert lease in sent[node], f"lease {lease.hex()} is thought to wait on {record.info}, and was not sent there"


def _sent_there(record: NodeRecord) -> set[LeaseId | None]:
    return {placement.lease for placement in record.unsettled.values()}


def check_scheduler(scheduler: Scheduler) -> None:
    for record in scheduler.nodes.all.values():
        kept, record.sums = record.sums, None
        right = kept is None or record.info.alive is False or kept == record.free()
        assert right, f"{record.info} is thought to have {kept} free"
    scheduler.choosing.rankings.check()
    nodes = {placed.node for placed in scheduler.placed.values()}
    sent = {node: _sent_there(scheduler.nodes.all[node]) for node in nodes}
    for lease, placed in scheduler.placed.items():
        node, record = placed.node, scheduler.nodes.all[placed.node]
        assert record.info.alive, f"lease {lease.hex()} is thought to wait on a dead node"
        assert lease in sent[node], f"lease {lease.hex()} is thought to wait on {record.info}, and was not sent there"


def check_records(records: Records) -> None:
    estates = records.estates.values()
    assert records.count == sum([len(each.objects) for each in estates]), "records are counted otherwise"
    assert records.bytes == sum(map(_BYTES, estates)), "the bytes of records are counted otherwise"
    for owner, estate in records.estates.items():
        assert estate.objects, f"{owner.hex()} is kept, with no object"
        results = set(chain.from_iterable(estate.results.values()))
        assert results == estate.objects.keys(), f"the results of {owner.hex()} are not its objects"


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
            coming = False
            if queue.requests:
                coming = under_way = True
                asked += len(queue.requests)
                for some in queue.requests:
                    assert leasing.requests.get(some) is queue, "requests and their queues disagree"
            if len(leases):
                under_way = True
                known += len(leases)
            for lease in leases:
                assert leasing.leases.get(lease.id) is lease, "a queue keeps a lease that is gone"
                assert lease.queue is queue, f"{lease.id.hex()} and its queue disagree"
                assert leasing.by_worker.get(lease.worker) is lease, f"{lease.id.hex()} and its worker disagree"
                inflight = lease.inflight
                for count, task in inflight.items():
                    assert tasks.get(count) is task, f"task {count} is in flight, and answered"
                    assert task.shape is shape, f"task {count} is on a worker of another shape"
                if inflight or lease.blocked:
                    coming = True
                    starving = starving or (not inflight and lease.open)
                else:
                    starving = starving or lease.open
                    assert not lease.reclaimed, "an idle lease was asked back"
                    fed = waiting and lease.open
                    assert not fed, f"{waiting} tasks are queued, and a worker of their own idles"
            assert coming or not waiting, f"{waiting} tasks are queued, and nothing will bring them a worker"
        if not shape.hungry:
            assert under_way, "a shape is not hungry, and nothing will come that takes new tasks along"
            assert not starving, "a worker idles, and its shape is not hungry"
    assert len(leasing.leases) == known, "a lease is in no queue"
    assert len(leasing.by_worker) == known, "a worker is kept whose lease is gone"
    assert len(leasing.requests) == asked, "requests and their queues disagree"


def check_tasks(owner: Owner) -> None:
    """Each unanswered task is in one place."""
    tasks, leasing, strays = owner.book.tasks, owner.leasing, owner.refs.strays
    under_way = {*tasks, *owner.lineage.deliveries.making}
    assert under_way >= {*strays.places, *strays.early}, "a task has ended, and where its results may lie is kept"
    if not (tasks or leasing.leases or owner.calls.actors or leasing.shapes):
        return
    places: dict[str, list[int]] = {}
    queued = places["queued"] = []
    for shape in leasing.shapes.values():
        for queue in shape.queues.values():
            if queue.tasks:
                queued += [task.count for task in queue.tasks]
    on_workers = places["on a worker"] = []
    for lease in leasing.leases.values():
        on_workers += lease.inflight
    known = tasks.keys()
    assert known >= {*queued, *on_workers}, "a task is answered, and still queued or on a worker"
    actors = {task.actor: None for task in tasks.values() if task.actor is not None}
    if owner.calls.actors:
        actors.update(dict.fromkeys(owner.calls.actors.values()))
    for actor in actors:
        # Of those that wait, some may have failed meanwhile.
        places.setdefault("waits for its actor", []).extend(t.count for t in actor.queue if t.count in tasks)
        places.setdefault("waits for its arguments", []).extend(actor.waiting)
        places.setdefault("at its actor", []).extend(actor.inflight)
        assert actor.state in ("alive", "moving") or not actor.inflight, f"calls are at an actor that is {actor.state}"
    # If the session ended, some are not there any more.
    places["here"] = [count for count in leasing.own if count in tasks]
    places["waits for arguments"] = [count for count, task in tasks.items() if task.missing and task.actor is None]
    found = [count for some in places.values() for count in some]
    if len(found) != len(tasks) or known != set(found):
        for count in {**tasks, **dict.fromkeys(found)}:
            here = [place for place, some in places.items() for other in some if other == count]
            assert len(here) == 1, f"task {count} is in {len(here)} places: {here}"
        raise AssertionError(f"tasks {set(found) - known} are answered, and still somewhere")


def check_entries(owner: Owner, held: Iterable[Entry]) -> None:
    """What is pinned is pinned by somebody; what nobody holds is not kept.

    A driver has hundreds of entries, and this is asked at each step: each belief looks at all of them at once, and only
    at those that are not as they should be one by one.
    """
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
        if task.stream is not None:  # lost items, let go of while they are being made again: they go when they come
            seen.update(dict.fromkeys(task.stream.lacking.values()))
    if records:
        pinned += chain.from_iterable(map(_PINNED, records.values()))
    if exported:
        seen.update(dict.fromkeys(exported.values()))
        assert _are_found(exported)
        for entry in [e for e in exported.values() if not (e.held or e.pins or e.borrowers)]:
            kept = entry.value is None and entry.owner == me
            assert kept, f"{entry} of {entry.owner.hex()} is kept, and nobody holds it"
    if refs.recount.lenders:
        assert refs.recount.lenders.keys() <= exported.keys(), "lenders of what nobody holds are remembered"
    if stored:
        seen.update(dict.fromkeys(stored.values()))
        assert _are_found(stored)
        strange = [e for e in stored.values() if e.owner != me or e.value is None or not is_stored(e.value)]
        assert not strange, f"{strange} are no stored objects of ours"
    if not (seen or pinned):
        return
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
    if {entry: entry.pins for entry in seen if entry.pins} != pins:
        for entry in seen:
            assert entry.pins == pins.get(entry, 0), f"{entry} has {entry.pins} pins, not {pins.get(entry, 0)}"
    for entry in [entry for entry in seen if entry.borrowers]:
        borrowers = entry.borrowers or {}
        assert entry.owner == me, f"{entry} is not ours, and we count its borrowers"
        assert 0 not in borrowers.values(), f"{entry} has a borrower that is counted zero times"
        assert me not in borrowers, f"{entry} is borrowed by its owner"
    # What was put here, and of which nobody else knows, may be in no list.
    for entry in [entry for entry in seen if entry.owner != me]:
        if entry.registered != NOT_GIVEN:
            assert exported.get(entry.id) is entry, f"{entry} is borrowed, and cannot be found"
    listed = set(stored.values())
    for entry in [entry for entry in seen if type(entry.value) is tuple and entry not in listed and entry.owner == me]:
        value = entry.value
        if entry.registered != NOT_GIVEN and type(value) is tuple:
            assert entry.index == ACTOR_INDEX or not is_stored(value), f"{entry} is stored, and not listed"
            if value[:2] == (FAILED, "ObjectLostError") and entry.count in records:
                assert owner.lineage.why_not(records[entry.count]), f"{entry} is lost, and could be made again"


def _are_found(some: dict[ObjectId, Entry]) -> bool:
    """Whether each entry is listed by its own id."""
    return list(map(_ID, some.values())) == list(some) or not [e for known, e in some.items() if e.id != known]


def check_lineage(owner: Owner) -> None:
    lineage, tasks, stored = owner.lineage, owner.book.tasks, owner.refs.stored
    records = lineage.records
    assert not lineage.again, "a task is to run again, and nobody submits it"
    known = 0
    if records:
        known = sum(map(_BYTES, records.values()))
        makers: dict[int, int] = {}
        for record in records.values():
            for maker in record.makers:
                makers[maker] = makers.get(maker, 0) + 1
        for count, record in records.items():
            alive, task, dependents = record.alive, record.task, record.dependents
            assert alive or dependents > 0, f"how task {count} is made is known, and nobody needs that"
            assert record.closed or count in tasks, f"task {count} has ended, and its record does not know"
            assert dependents == makers.get(count, 0), f"{dependents} arguments come from task {count}"
            if alive and task is not None and task.stream is None and count not in tasks:
                held = {e.index for e in task.returns if e.value is None or (e._id or e.id) in stored}
                assert alive <= held, f"of task {count} {alive} are thought to be held, and {held} can be"
        for entry in stored.values():
            made = records.get(entry.count)
            assert made is None or entry.index in made.alive, f"{entry} is stored, and its record does not know"
    assert lineage.bytes == known, f"the records of tasks have {known} bytes, not {lineage.bytes}"
    assert known <= lineage.most_bytes
