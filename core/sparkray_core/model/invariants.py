"""What must be true of a node and of the head between any two events. The simulator asks after every step."""

from __future__ import annotations

from sparkray_core.ids import node_of
from sparkray_core.messages import Resources
from sparkray_core.model.actors import ActorState
from sparkray_core.model.head import Head
from sparkray_core.model.node import Node
from sparkray_core.model.node_claims import ClaimState
from sparkray_core.model.node_workers import WorkerState
from sparkray_core.model.resources import CPU, fits, minus, plus


def check(model: Node | Head) -> None:
    """
    Raises:
        AssertionError: a belief about the model does not hold; the sentence says which.
    """
    if model.strays:
        raise AssertionError(f"{model.strays} messages reached a model that has no use for them")
    if isinstance(model, Head):
        check_nodes(model)
        check_actors(model)
    else:
        check_claims(model)
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
        assert not (waits and claim.taken), f"{claim} waits, and holds something"
        if node.ended is None:
            assert not (waits and fits(claim.needs, claims.available)), f"{claim} waits, though it fits"
        if claim.worker is not None:
            worker = node.workers.all.get(claim.worker)
            assert worker is not None, f"{claim} runs on a worker that is not there"
            assert worker.claim == key, f"{claim} runs on a worker that serves {worker.claim!r}"
    assert plus(claims.available, taken) == minus(claims.totals, {}), f"{claims.available} and {taken} are not all"
    for name, amount in claims.available.items():
        assert amount >= 0 or (name == CPU and claims.oversubscribed), f"{amount} of {name} is available"
    assert all(claims.waiting.values()), "an empty queue is kept"


def check_workers(node: Node) -> None:
    workers = node.workers
    states = [worker.state for worker in workers.all.values()]
    assert workers.starting == states.count(WorkerState.STARTING)
    assert set(workers.idle) == {w.id for w in workers.all.values() if w.state is WorkerState.IDLE}
    for worker in workers.all.values():
        if worker.state is WorkerState.BUSY:
            claim = node.claims.of_worker(worker)
            assert claim is not None, f"{worker} is busy with nothing"
            assert claim.worker == worker.id, f"{worker} serves a claim of another worker"
        assert worker.registered or worker.state in (WorkerState.STARTING, WorkerState.LEAVING)
    if node.ended is None:
        assert len(workers.idle) <= workers.keep, "more workers idle than are kept"
        assert not (node.claims.reserved and workers.idle), "a claim waits for a worker while one idles"
        assert workers.starting >= len(node.claims.reserved), "a claim waits for a worker that nobody starts"


def check_store(node: Node) -> None:
    store = node.store
    offsets = [block.offset for block in store.unsealed.values()] + [some.offset for some in store.stored.values()]
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
        assert stored.pins or not stored.doomed, f"{some.hex()} is unwanted and unread, and still there"
        assert (some in store.evictable) == (stored.copy and not stored.pins), f"{some.hex()} and eviction disagree"
    assert not counted, "an object was freed while it was pinned"
    assert all(store.readers.values()), "an empty list of readers is kept"
    for some in store.readers:
        assert some in node.pulls.pulls or store.is_written(some), f"readers of {some.hex()} wait for nothing"
        assert some not in store.stored, f"readers of {some.hex()} wait, though it is here"
    for (_, writer), block in store.unsealed.items():
        mine = block.writer == writer and (writer in node.processes or block.object in node.pulls.pulls)
        assert mine or node.ended is not None, f"{block} is written by nobody"


# ---------------------------------------------------------------------------------- head
def check_nodes(head: Head) -> None:
    for node, record in head.nodes.all.items():
        assert record.info.node == node
        assert all(placement.number <= record.placed for placement in record.on_the_way)
        if not record.info.alive:
            assert not record.unsettled, f"{record.info} is dead, and something may still begin there"
    for lease, node in head.placed_at.items():
        record = head.nodes.all[node]
        assert record.info.alive, f"lease {lease.hex()} is thought to wait on a dead node"
        assert any(placement.lease == lease for placement in record.unsettled.values())


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
    for watcher, watched in actors.watched.items():
        assert watched, "an empty list of watched actors is kept"
        assert all(watcher in actors.all[some].watchers for some in watched)
    for actor in actors.dead.values():
        assert actor.state is ActorState.DEAD
