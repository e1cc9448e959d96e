"""An own value in the store of which nobody knows yet: what its owner's shell hears of it."""

from __future__ import annotations

from sparkray_core.ids import FunctionId, LeaseId, NodeId, ProcessId, raylet_of, task_id
from sparkray_core.messages import STORED, LeaseGranted, PushTasks
from sparkray_core.model.effects import Send
from sparkray_core.model.entries import Entry
from sparkray_core.model.owner import Function, Owner, Task

NODE = NodeId(b"node-one")
ME = ProcessId(NODE + b"driver..")
WORKER = ProcessId(NODE + b"worker-1")


def an_owner_of(entry: Entry) -> tuple[Owner, list[tuple[Entry, bool]]]:
    """It, and what its shell hears: the entry, and whether its id was known to anybody by then."""
    owner, heard = Owner(ME), list[tuple[Entry, bool]]()
    entry.value = (STORED, 1000, (NODE,))
    owner.refs.unsealed = entry
    owner.refs.on_unsealed = lambda told: heard.append((told, told._id is not None))
    return owner, heard


def test_the_block_of_an_unsealed_value_that_nobody_holds_is_its_shells() -> None:
    entry = Entry(ME, 5)
    owner, heard = an_owner_of(entry)

    effects = owner.drop([entry])

    assert (effects, heard) == ([], [(entry, False)])
    assert entry._id is None  # so the next value may have this number


def test_the_shell_seals_a_value_before_a_worker_is_told_of_it() -> None:
    entry = Entry(ME, 5)
    owner, heard = an_owner_of(entry)

    def seal(told: Entry) -> None:
        heard.append((told, told._id is not None))
        owner.refs.unsealed = None

    owner.refs.on_unsealed = seal
    shape = owner.leasing.shape({"CPU": 1000}, retriable=True)
    function = Function(FunctionId(b"f" * 16), "f", b"pickle of f")
    owner.submit([Task(6, function, b"args", [(0, entry)], None, [Entry(ME, 6)], 3, shape)], 0.0)
    assert heard == []

    effects = owner.handle(raylet_of(NODE), LeaseGranted(LeaseId(task_id(ME, 1)), WORKER), 0.0)

    assert heard == [(entry, False)]
    (push,) = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, PushTasks)]
    assert [ref[2] for ref in push.tasks[0][4] or ()] == [entry.id]
