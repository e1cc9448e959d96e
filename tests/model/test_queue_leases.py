"""Which leases of a queue get the next tasks, and that this does not look at all of them."""

from __future__ import annotations

from random import Random

import pytest

from sparkray_core.ids import LeaseId, ProcessId
from sparkray_core.model.tasks import Lease, Queue, Shape
from tests.model.test_owner import NODE, ONE_CPU, Bench


def leases_of(count: int) -> tuple[Queue, list[Lease]]:
    queue = Queue(Shape(ONE_CPU, True), None)
    made = [Lease(LeaseId(b"%24d" % n), ProcessId(NODE + b"%8d" % n), queue, 1.0) for n in range(count)]
    for lease in made:
        queue.leases.add(lease)
    return queue, made


def load(lease: Lease, tasks: int) -> None:
    task = Bench().task()
    lease.inflight = dict.fromkeys(range(tasks), task)
    lease.queue.leases.note(lease)


@pytest.mark.parametrize("seed", range(4))
def test_the_first_to_come_of_those_without_a_task_are_found_after_any_changes(seed: int) -> None:
    dice = Random(seed)
    queue, made = leases_of(20)
    sibling = Queue(queue.shape, NODE)
    for _ in range(400):
        lease = dice.choice(made)
        if dice.random() < 0.2:
            lease.inflight = {}
            lease.queue.leases.remove(lease)
            lease.queue = dice.choice((queue, sibling))
            lease.queue.leases.add(lease)
        elif dice.random() < 0.1:
            lease.reclaimed = not lease.reclaimed
            lease.queue.leases.note(lease)
        else:
            load(lease, dice.choice((0, 0, 1, 2)))
        queue.leases.check()
        depth, tasks = dice.choice((1, 2, 4)), dice.randint(1, 6)
        room = [lease for lease in queue.leases if lease.open and lease.load * 2 <= max(depth, 1)]
        room = [lease for lease in room if lease.load < depth]
        room.sort(key=lambda lease: (lease.load, lease.place))
        if sum(not lease.load for lease in room) > tasks:
            room = room[:tasks]
        assert queue.leases.with_room(depth, tasks) == room
    assert len(queue.leases._free) <= 2 * len(made) + 64


def test_a_task_for_one_of_a_thousand_idle_workers_does_not_look_at_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, made = leases_of(1000)
    for lease in made:
        load(lease, 1)
        load(lease, 0)
    looked_at = 0
    place = Lease.__dict__["place"]

    def counted(lease: Lease) -> int:
        nonlocal looked_at
        looked_at += 1
        return place.__get__(lease)  # type: ignore[no-any-return]

    monkeypatch.setattr(Lease, "place", property(counted, place.__set__))
    for number in range(100):
        (lease,) = queue.leases.with_room(1, 1)
        assert lease is made[number]
        load(lease, 1)
    assert looked_at < 1000
