"""What a driver or worker answers to `Inspect`: facts as primitives, put together when somebody asks.

The core's lock is held, and user code may be running: whatever is done here takes milliseconds.

    process    who this is, and how much it has done
    tasks      those that ended, run or wait; detail: how many of each at most (None: all that are remembered)
    timeline   tasks that ended, and waits
    objects    every object that this process refers to
    running    what runs now
    explain    where the task stands that makes an object of ours; detail: the object
    metrics    what the user's code has counted here
    stack      where its threads are
"""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sparkray_core.ids import count_of
from sparkray_core.model.entries import Entry
from sparkray_core.model.owner_answers import in_hand, object_row, pending, whereabouts
from sparkray_core.run import current_task, records
from sparkray_core.run.pump import now
from sparkray_core.run.records import CREATION, clock, wall

if TYPE_CHECKING:
    from sparkray_core.run.core import Core

MOST_OBJECTS = 100_000  # of one process, in one answer


def answer(core: Core, what: str, detail: Any) -> Any:
    """The answer to `Inspect`; None to a question that is not known."""
    asked = QUESTIONS.get(what)
    return None if asked is None else asked(core, detail)


def process(core: Core, detail: Any = None) -> dict[str, Any]:
    """Who this is."""
    start = current_task.actor
    return {
        "pid": os.getpid(),
        "role": core.role,
        "job": core.job,
        "actor": None if start is None else start.actor,
        "actor_name": "" if start is None else start.name,
        "started": core.records.began + wall(),  # seconds since 1970
        "finished": core.records.finished,
        "pending": len(core.owner.book.tasks),
        "leases": len(core.owner.leasing.leases),
        "requests": len(core.owner.leasing.requests),
        "rss": _rss(),
        "command": " ".join(sys.argv) if core.role == "driver" else "",
    }


def tasks(core: Core, most: int | None) -> dict[str, Any]:
    """What this process knows of tasks: as their owner, and as the worker that ran them."""
    kept = core.records
    ran = kept.recent(len(kept.ran) if most is None else most)
    active = _active(core)
    return {
        **process(core),
        "wall": wall(),
        "clock": clock(),
        "ran": ran,
        "names": _names(core, [*(row[2] for row in ran), *(row[2] for row in active)]),
        "errors": kept.errors(ran),
        "active": active,
        "waiting": [tuple(row) for row in pending(core.owner, most)],
        "waiting_in_all": len(core.owner.book.tasks),
        "failed": list(core.owner.book.failed),
        "handed_in": list(core.handed_in),
    }


def _active(core: Core) -> list[Any]:
    """What runs now: (caller, number, function, since)."""
    active = [(*key, *value) for key, value in list(core.records.active.items())]
    return active if core.runs is None else active + core.runs()


def running(core: Core, detail: Any = None) -> dict[str, Any]:
    active = _active(core)
    return {**process(core), "clock": clock(), "active": active, "names": _names(core, [row[2] for row in active])}


def timeline(core: Core, detail: Any = None) -> dict[str, Any]:
    kept = core.records
    ran = kept.recent(len(kept.ran))
    active = _active(core)
    return {
        **process(core),
        "wall": wall(),
        "clock": clock(),
        "ran": ran,
        "active": active,
        "names": _names(core, [*(row[2] for row in ran), *(row[2] for row in active)]),
        "errors": kept.errors(ran),
        "spans": list(kept.spans),
    }


def objects(core: Core, detail: Any = None) -> dict[str, Any]:
    """Entries are in no table until their id was seen outside, so the garbage collector is asked for them."""
    owner = core.owner
    entries = {id(entry): entry for entry in owner.refs.exported.values()}
    for something in gc.get_objects():
        if type(something) is Entry:
            entries[id(something)] = something
    rows = []
    for entry in entries.values():
        if entry.held or entry.pins or entry.borrowers:
            rows.append(object_row(owner, entry))
            if len(rows) >= MOST_OBJECTS:
                break
    return {**process(core), "objects": rows}


def metrics(core: Core, detail: Any = None) -> dict[str, Any]:
    queued, pushed = in_hand(core.owner)
    listed = [] if records.user_metrics is None else records.user_metrics()
    return {**process(core), "queued": queued, "pushed": pushed, "metrics": listed}


def explain(core: Core, some_object: Any) -> dict[str, Any]:
    """Where the task stands that makes an object; asked of the object's owner."""
    found = whereabouts(core.owner, core.owner.refs.exported.get(some_object) or count_of(some_object))
    for first, at in reversed(core.handed_in):
        if "number" in found and first <= found["number"]:
            found["waits_s"] = now() - at
            break
    return found


def stack(core: Core, detail: Any = None) -> dict[str, Any]:
    from sparkray_core.run import stacks

    return {**process(core), "stack": stacks.text()}


def farewell(core: Core, most: int) -> dict[str, Any]:
    """What a worker that ends leaves with its raylet."""
    kept = core.records
    ran = kept.recent(most)
    return {
        **process(core),
        "wall": wall(),
        "ran": ran,
        "names": _names(core, [row[2] for row in ran]),
        "errors": kept.errors(ran),
        "failed": list(core.owner.book.failed),
        "counters": {} if records.user_counters is None else records.user_counters(),
    }


def _names(core: Core, functions: list[bytes]) -> dict[bytes, tuple[str, str]]:
    """Of each function's id: the name of the task, and of its kind: "task", "call" or "creation"."""
    found: dict[bytes, tuple[str, str]] = {}
    start = current_task.actor
    for function in set(functions):
        name = core.name_of(function) if core.name_of is not None else ""
        if name or start is None:
            found[function] = name or function.hex(), "task"  # what this process ran before it became an actor, too
        elif function == CREATION:
            found[function] = f"{start.name}.__init__", "creation"
        else:
            found[function] = f"{start.name}.{function.decode(errors='replace').partition(chr(0))[0]}", "call"
    return found


def _rss() -> int:
    """Bytes that this process has in memory; its peak where the present value cannot be read."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


QUESTIONS: Mapping[str, Callable[[Core, Any], Any]] = {
    "process": process,
    "tasks": tasks,
    "running": running,
    "explain": explain,
    "timeline": timeline,
    "objects": objects,
    "metrics": metrics,
    "stack": stack,
}
