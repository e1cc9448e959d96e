"""What an owner that may die first tells the GCS."""

from __future__ import annotations

from sparkray_core.ids import HEAD, RECORDS, ProcessId, object_id, task_id
from sparkray_core.messages import RecordedObject, RecordedTask, RecordObjects
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.owner import Owner
from sparkray_core.testing.builders import process_id
from tests.model.test_owner import ME, NODE, RAYLET, Bench, F

DRIVER = process_id(NODE, "drv")


def a_worker() -> Bench:
    bench = Bench()
    bench.owner = Owner(ME, keeper=RAYLET)
    return bench


def test_what_is_lent_is_told_with_all_that_makes_it_in_one_message() -> None:
    """Its node may die at any time; then whoever has heard of it needs its task's arguments, too."""
    bench = a_worker()
    first = bench.task()
    second = bench.task(refs=[first.returns[0]])
    third = bench.task(nested=[second.returns[0]])
    bench.submit(first, second, third)
    ids = [object_id(task_id(ME, number)) for number in (1, 2, 3)]
    effects: list[Effect] = []

    bench.owner.refs.export(third.returns[0])
    bench.owner.refs.lend([ids[2]], DRIVER, effects)

    tasks: list[RecordedTask] = [
        (3, F.id, b"args", [], [ids[1]], 1, 3, {"CPU": 1000}, "", 0, 0, ()),
        (2, F.id, b"args", [(0, ids[0])], [], 1, 3, {"CPU": 1000}, "", 0, 0, ()),
        (1, F.id, b"args", [], [], 1, 3, {"CPU": 1000}, "", 0, 0, ()),
    ]
    objects: list[RecordedObject] = [(some, None, "") for some in reversed(ids)]
    assert effects == [Send(RECORDS, RecordObjects(ProcessId(b""), [(F.id, F.name, F.blob)], tasks, objects))]
    assert [bench.owner.refs.find(some).borrowers for some in ids] == [{HEAD: 1}, {HEAD: 1}, {DRIVER: 1}]
