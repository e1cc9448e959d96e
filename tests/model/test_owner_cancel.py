"""Cancelling a task that another process has made: who borrows its result asks the owner."""

from __future__ import annotations

from sparkray_core.ids import FunctionId, LeaseId, NodeId, ProcessId, object_id, raylet_of, task_id
from sparkray_core.messages import FAILED, CancelMaker, CancelTask, LeaseGranted
from sparkray_core.model.effects import Send
from sparkray_core.model.entries import Entry
from sparkray_core.model.owner import Function, Owner, Task

NODE = NodeId(b"node-one")
ME, OTHER, WORKER = (ProcessId(NODE + name) for name in (b"driver..", b"worker-1", b"worker-2"))
F = Function(FunctionId(b"f" * 16), "f", b"pickle of f")


def test_who_borrows_asks_the_owner_unless_the_value_is_there_or_was_put() -> None:
    owner = Owner(ME)
    pending, ended, put = (
        owner.refs.find(object_id(task_id(whose, count)))
        for count, whose in ((1, OTHER), (2, OTHER), (3, raylet_of(NODE)))
    )
    ended.value = b"value"

    assert owner.cancel_elsewhere(pending, force=True, recursive=False) == [
        Send(OTHER, CancelMaker(pending.id, force=True, recursive=False))
    ]
    assert owner.cancel_elsewhere(ended, force=False, recursive=True) == []
    assert owner.cancel_elsewhere(put, force=False, recursive=True) == []


def test_an_owner_that_is_asked_cancels_what_runs_and_drops_what_waits() -> None:
    owner = Owner(ME)
    shape = owner.leasing.shape({"CPU": 1000}, True)
    runs = Task(1, F, b"", None, None, [Entry(ME, 1)], 3, shape)
    waits = Task(2, F, b"", [(0, Entry(ME, 9))], None, [Entry(ME, 2)], 3, shape)
    owner.submit([runs, waits], 0.0)
    owner.handle(raylet_of(NODE), LeaseGranted(LeaseId(task_id(ME, 1)), WORKER), 0.0)

    effects = owner.handle(OTHER, CancelMaker(object_id(task_id(ME, 1)), force=True, recursive=False), 0.0)
    assert effects == [Send(WORKER, CancelTask(1, force=True, recursive=False))]
    assert owner.handle(OTHER, CancelMaker(object_id(task_id(ME, 2)), force=False, recursive=True), 0.0) == []
    assert isinstance(waits.returns[0].value, tuple)
    assert waits.returns[0].value[:2] == (FAILED, "TaskCancelledError")


def test_one_that_is_answered_stays_as_it_is() -> None:
    owner = Owner(ME)

    assert owner.handle(OTHER, CancelMaker(object_id(task_id(ME, 7)), force=False, recursive=True), 0.0) == []
