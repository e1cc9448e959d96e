"""Which invariants are looked at after a step: those that it can have broken.

A node keeps two books that hardly touch each other: of its work (claims, workers, bundles) and of its objects. What is
about the one is no reason to look at all of the other, unless a count of the other has moved all the same. A process
that only heard of a death and wishes for nothing did not know the dead, unless a count of its own has moved. Each beat
of a node and each other step of a process looks at everything. So do heads, schedulers and shards at each step, and
all models at the end (`Simulation.check_all`).

That these messages reach no further than it says here is looked at, too: tests/simulation/test_sim_checks.py.
"""

from __future__ import annotations

from typing import Any

from sparkray_core import messages as m
from sparkray_core.model import events
from sparkray_core.model.invariants import check_objects, check_strays, check_transfers, check_work
from sparkray_core.model.node import Node
from sparkray_core.model.owner import Owner

# They do not touch work.
OF_OBJECTS: frozenset[type] = frozenset(
    {
        m.AllocateObject,
        m.SealObjects,
        m.PinObject,
        m.UnpinObjects,
        m.FreeObjects,
        m.PullObject,
        m.PullDone,
        m.PullFrom,
        m.ObjectThere,
        m.ObjectChunk,
        m.NotHere,
        m.AskObjects,
        m.AddBorrowers,
        m.DropBorrowers,
        m.CopyMade,
        m.ObjectMissing,
        events.PeerMapped,
        events.ChunkCopied,
        events.Spilled,
        events.SpillFailed,
        events.Restored,
        events.RestoreFailed,
    }
)
# They do not touch what is stored.
_OF_WORK: frozenset[type] = frozenset(
    {m.RequestLeases, m.ReturnLeases, m.RetireWorkers, m.WorkerBlocked, m.WorkerUnblocked, m.PlaceLeases}
)
# They are about bytes on their way: what is stored is not touched before all have come.
_OF_TRANSFERS: frozenset[type] = frozenset({m.PullObject, m.ObjectChunk, m.ObjectThere, m.PullFrom, events.ChunkCopied})
NOT_STORED = _OF_WORK | _OF_TRANSFERS | {m.AskObjects, m.AddBorrowers, m.CopyMade}

Counts = tuple[Any, ...]


class NodeChecks:
    """Of one node."""

    def __init__(self) -> None:
        self._work: Counts = ()  # when they were looked at last
        self._objects: Counts = ()

    def after(self, node: Node, event: events.Event) -> None:
        """
        Raises:
            AssertionError: as `invariants.check`.
        """
        kind = type(event.message) if type(event) is events.Received else type(event)
        check_strays(node)
        work, objects = work_counts(node), object_counts(node)
        if kind not in OF_OBJECTS or work != self._work:
            check_work(node)
            self._work = work
        if kind not in NOT_STORED or objects != self._objects:
            check_objects(node)
            self._objects = objects
        elif kind in _OF_TRANSFERS:
            check_transfers(node)


def work_counts(node: Node) -> Counts:
    claims, workers, crowd = node.claims, node.workers, node.claims.crowd
    return (
        claims.changes,
        len(claims.all),
        len(claims.waiting),
        len(claims.reserved),
        len(claims.savings.waiting),
        crowd.leased,
        len(crowd.waiting),
        len(crowd.asked),
        len(workers.all),
        len(workers.idle),
        workers.starting,
        len(node.bundles.all),
        len(node.bundles.leaving),
        node.ended,
    )


def object_counts(node: Node) -> Counts:
    store, spills = node.store, node.store.spills
    return (
        len(store.stored),
        len(store.unsealed),
        store.allocator.used,
        len(store.readers),
        len(store.evictable),
        len(spills.dirty),
        len(spills.clean),
        len(spills.files),
        len(spills.writing),
        {process: held.copy() for process, held in store.pins.items()},
        len(node.serves.transfers),
        len(node.processes),
        node.ended,
    )


def owner_counts(owner: Owner) -> Counts:
    refs, leasing = owner.refs, owner.leasing
    entries = [(e.value is None, e.registered, len(e.borrowers or ())) for e in refs.exported.values()]
    return (
        entries,
        len(refs.exported),
        len(refs.stored),
        len(refs.recount.lenders),
        len(owner.book.tasks),
        len(owner.lineage.records),
        owner.lineage.bytes,
        len(leasing.leases),
        len(leasing.by_worker),
        len(leasing.requests),
        refs.legacy.busy,
        owner.ended,
    )
