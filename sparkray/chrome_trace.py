"""`timeline()`: what ran where and when, for chrome://tracing or https://ui.perfetto.dev."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sparkray.session import core
from sparkray_core.ids import HEAD, NodeId, ProcessId, node_of, task_id
from sparkray_core.run.core import Core
from sparkray_core.run.survey import ask_processes, left_behind

_CATEGORIES = {"task": "task", "call": "actor", "creation": "actor_creation"}
_LANES = 1_000_000  # far above process ids: what ran at the same time in one process is shown in lanes of its own
_OWN_LANES = 500  # and its waits below those

Event = dict[str, Any]


def timeline(filename: str | None = None) -> list[Event] | None:
    """What tasks, calls and waits took, as Chrome trace events.

    One row for each process, several where it runs calls at once; "get" and "put" are waits for values and copies into
    the store. A process remembers its last 10,000 tasks and as many waits; a killed worker takes its own along.
    Processes of one machine share a clock; those of others are as near as the machines' clocks are.

    Args:
        filename: write them there as JSON, instead of returning them.

    Returns:
        The events, `ts` and `dur` in microseconds; None with a file name.
    """
    events = _events(core())
    if filename is None:
        return events
    with open(filename, "w") as file:
        json.dump(events, file)
    return None


def _events(here: Core) -> list[Event]:
    survey = ask_processes(here, "timeline")
    survey.warn("the timeline")
    nodes = {facts["node"]: (number, facts) for number, facts in enumerate(here.ask(HEAD, "nodes"), 1)}
    events: list[Event] = []
    for node, (number, facts) in nodes.items():
        events.append(_name("process_name", number, 0, f"node {facts['host']} {node.hex()}"))
    former = left_behind(here, survey.answers)
    for process, facts in [*survey.answers.items(), *former.items()]:
        number = nodes.get(node_of(process), (0, None))[0]
        events += _of_process(process, facts, number)
    return sorted(events, key=lambda event: event.get("ts", 0.0))


def _name(kind: str, pid: int, tid: int, name: str) -> Event:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}


def _of_process(process: ProcessId, facts: dict[str, Any], number: int) -> Iterable[Event]:
    label = f"actor {facts['actor_name']}" if facts["actor_name"] else facts["role"]
    label = f"{label} (pid {facts['pid']})"
    tid = facts["pid"]
    errors = {(owner, count): text or system for owner, count, system, text in facts["errors"]}
    running = [
        (owner, count, function, begin, facts["clock"]) for owner, count, function, begin in facts.get("active", ())
    ]
    ran = sorted([*facts["ran"], *running], key=lambda row: row[3])
    ends: list[float] = []  # of the last task in each lane
    yield _name("thread_name", number, tid, label)
    for row in ran:
        owner, count, function, begin, end = row
        lane = next((lane for lane, until in enumerate(ends) if until <= begin), len(ends))
        if lane == len(ends):
            ends.append(end)
            if lane:
                yield _name("thread_name", number, tid + lane * _LANES, f"{label}, at once")
        ends[lane] = end
        name, kind = facts["names"].get(function, (function.hex(), "task"))
        args = {
            "task_id": task_id(owner, count).hex(),
            "worker_id": process.hex(),
            "node_id": NodeId(process[:8]).hex(),
            "state": "RUNNING" if row in running else "FINISHED",
        }
        if kind != "task" and facts["actor"] is not None:
            args["actor_id"] = facts["actor"].hex()
        event = _span(_CATEGORIES[kind], name, number, tid + lane * _LANES, begin, end, facts["wall"], args)
        if (owner, count) in errors:
            args["state"], args["error"] = "FAILED", errors[owner, count]
            event["cname"] = "terrible"
        yield event
    yield from _waits(process, facts, number, tid, label, len(ends) > 1)


def _waits(
    process: ProcessId, facts: dict[str, Any], number: int, tid: int, label: str, is_crowded: bool
) -> Iterable[Event]:
    """Inside the task that waits, unless it cannot be said which one of several does."""
    ends: list[float] = []
    for kind, begin, end, note in sorted(facts.get("spans", ()), key=lambda span: span[1]):
        lane = next((lane for lane, until in enumerate(ends) if until <= begin), len(ends))
        row = tid if not is_crowded and lane == 0 else tid + (_OWN_LANES + lane) * _LANES
        if lane == len(ends):
            ends.append(end)
            if row != tid:
                yield _name("thread_name", number, row, f"{label}, waits")
        ends[lane] = end
        args = {"worker_id": process.hex(), "node_id": node_of(process).hex()}
        if note:
            args["note"] = note
        yield _span(kind, kind, number, row, begin, end, facts["wall"], args)


def _span(
    category: str, name: str, pid: int, tid: int, begin: float, end: float, wall: float, args: dict[str, str]
) -> Event:
    return {
        "cat": category,
        "name": name,
        "ph": "X",
        "pid": pid,
        "tid": tid,
        "ts": (begin + wall) * 1e6,
        "dur": max(0.0, (end - begin) * 1e6),
        "args": args,
    }
