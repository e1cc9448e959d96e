"""What a step is thought to leave as it was, and is not looked at again behind it, is as it was."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from sparkray_core.ids import HEAD, ProcessId
from sparkray_core.messages import InheritObjects, Message, ProcessGone
from sparkray_core.model.effects import Effect
from sparkray_core.model.events import Event, Received
from sparkray_core.model.node import Node
from sparkray_core.model.owner import Owner
from sparkray_core.testing import sim_checks
from sparkray_core.testing.builders import an_object, process_id
from sparkray_core.testing.sim_core import ProcessEffect, SimCore
from sparkray_core.testing.sim_driver import SimDriver
from sparkray_core.testing.storm import Storm, run_storm
from sparkray_core.testing.weather import CALM, COPIES, ROUGH, Weather

CLAIM = ("state", "worker", "taken", "gpus", "waits", "needs", "holds", "env", "where", "bundle", "lease")
WORKER = ("state", "claim", "env", "registered", "gpus")
BUNDLE = ("resources", "gpus", "committed", "leaving")
CROWD = ("leased", "waiting", "helpers", "asked", "nesting")
STORED = ("pins", "where", "offset", "copy", "doomed", "size")
ENTRY = ("held", "pins", "borrowers", "value", "contained", "registered", "owner")
LEASE = ("inflight", "blocked", "reclaimed", "left")
RECORD = ("alive", "dependents", "closed", "makers", "pinned", "bytes")


def told(some: Any, names: tuple[str, ...] = ()) -> str:
    """By these attributes; what is in containers, in their order."""
    if names:
        return " ".join(f"{name}={told(getattr(some, name))}" for name in names)
    if isinstance(some, dict):
        return f"{{{', '.join(f'{told(key)}: {told(value)}' for key, value in some.items())}}}"
    return repr(some)


def all_told(some: dict[Any, Any], names: tuple[str, ...]) -> list[str]:
    return [f"{key!r}: {told(one, names)}" for key, one in some.items()]


def work(node: Node) -> list[Any]:
    claims, workers, bundles = node.claims, node.workers, node.bundles
    return [
        all_told(claims.all, CLAIM),
        {queue: list(some) for queue, some in claims.waiting.items()},
        [list(some) for some in (claims.reserved, claims.savings.waiting, workers.idle, bundles.leaving)],
        [dict(some) for some in (claims.available, claims.totals, claims.aside, workers.preparing)],
        [list(claims.gpus.free), {group: list(gpus.free) for group, gpus in claims.group_gpus.items()}],
        [sorted(claims.crowd.waiting), list(claims.crowd.helpers), list(claims.crowd.asked), claims.crowd.leased],
        all_told(workers.all, WORKER),
        workers.starting,
        all_told(bundles.all, BUNDLE),
    ]


def objects(node: Node) -> list[Any]:
    store, spills = node.store, node.store.spills
    return [
        all_told(store.stored, STORED),
        [one.file and one.file.number for one in store.stored.values()],
        {number: (file.written, list(file.members)) for number, file in spills.files.items()},
        [sorted(some) for some in (store.evictable, spills.dirty, spills.clean, spills.writing)],
        [spills.clean_bytes, store.allocator.used],
        {process: dict(held) for process, held in store.pins.items()},
        [(block.object, block.writer, block.offset) for block in store.unsealed.values()],
    ]


def of_owner(owner: Owner) -> list[Any]:
    return [
        all_told(owner.refs.exported, ENTRY),
        list(owner.refs.stored),
        [(task.count, task.missing) for task in owner.book.tasks.values()],
        all_told(owner.leasing.leases, LEASE),
        list(owner.leasing.requests),
        all_told(owner.lineage.records, RECORD),
    ]


@pytest.mark.parametrize(("seed", "weather"), [(3, COPIES), (1, ROUGH)], ids=["copies", "rough"])
def test_a_step_leaves_alone_what_is_not_looked_at_behind_it(
    seed: int, weather: Weather, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_alone = {"work": 0, "objects": 0, "owner": 0}
    node_handle, core_handle = Node.handle, SimCore.handle

    def of_node(self: Node, event: Event, now: float) -> list[Effect]:
        kind = type(event.message) if isinstance(event, Received) else type(event)
        parts = [("work", sim_checks.OF_OBJECTS, work, sim_checks.work_counts)]
        parts += [("objects", sim_checks.NOT_STORED, objects, sim_checks.object_counts)]
        looks = [(name, tell, count, tell(self), count(self)) for name, kinds, tell, count in parts if kind in kinds]
        effects = node_handle(self, event, now)
        for name, tell, count, before, counted in looks:
            if count(self) == counted:
                assert tell(self) == before, f"{event} reaches further than {name} is looked at behind it"
                left_alone[name] += 1
        return effects

    def of_process(self: SimCore, sender: ProcessId, message: Message, now: float) -> list[ProcessEffect]:
        if not isinstance(message, ProcessGone):
            return core_handle(self, sender, message, now)
        before, counted = of_owner(self.owner), self.counts()
        effects = core_handle(self, sender, message, now)
        if not effects and self.counts() == counted:
            assert of_owner(self.owner) == before, f"{message} is somebody's business, and nobody looks at it"
            left_alone["owner"] += 1
        return effects

    monkeypatch.setattr(Node, "handle", of_node)
    monkeypatch.setattr(SimCore, "handle", of_process)
    run_storm(seed, weather)
    assert min(left_alone.values()) > 20, left_alone


def test_an_heir_is_not_taken_to_have_freed_what_it_has_not_heard_of() -> None:
    """What it inherits comes on one link, and to those that hold it the word of whose it is now comes on others."""
    storm = Storm(0, CALM)
    storm.sim.run(1.0)
    home = storm.sim.hosts[storm.nodes[0]]
    names = [process_id(home.node, name) for name in ("holder", "heir")]
    holder, heir = [
        SimDriver(name, home.segment, storm.sim.ledger, storm.oracle, Random(1), actors=False) for name in names
    ]
    for driver in (holder, heir):
        driver.busy = 1
        storm.drivers.append(driver)
        storm.sim.add_process(driver)
    dead = process_id(home.node, "dead")
    held = holder.ref_of(an_object(dead, 1))
    holder.handle(HEAD, ProcessGone(dead, "killed", heir.id), storm.sim.now)
    assert held.entry.owner == heir.id

    storm._look_at_what_is_held()

    heir.handle(HEAD, InheritObjects(dead, "killed", [], [], []), storm.sim.now)
    with pytest.raises(AssertionError, match="which was freed"):
        storm._look_at_what_is_held()
