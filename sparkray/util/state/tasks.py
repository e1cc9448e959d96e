"""Tasks, put together from what their owners and the workers that ran them remember."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

from sparkray.util.state.schema import TaskState
from sparkray_core.ids import ProcessId, node_of, task_id
from sparkray_core.run.core import Core
from sparkray_core.run.survey import ask_processes, left_behind

_ERROR_TYPES = {
    "WorkerCrashedError": "WORKER_DIED",
    "ActorDiedError": "ACTOR_DIED",
    "ActorUnavailableError": "ACTOR_UNAVAILABLE",
    "ActorUnschedulableError": "ACTOR_UNSCHEDULABLE_ERROR",
    "TaskUnschedulableError": "TASK_UNSCHEDULABLE_ERROR",
    "TaskCancelledError": "TASK_CANCELLED",
    "ObjectLostError": "OBJECT_LOST",
    "ObjectReconstructionFailedError": "OBJECT_UNRECONSTRUCTABLE",
    "OwnerDiedError": "OWNER_DIED",
    "NodeDiedError": "NODE_DIED",
    "OutOfMemoryError": "OUT_OF_MEMORY",
    "OutOfDiskError": "OUT_OF_DISK_ERROR",
    "RuntimeEnvSetupError": "RUNTIME_ENV_SETUP_FAILED",
    "RaySystemError": "LOCAL_RAYLET_DIED",
    "TaskPlacementGroupRemoved": "TASK_PLACEMENT_GROUP_REMOVED",
    "ActorPlacementGroupRemoved": "ACTOR_PLACEMENT_GROUP_REMOVED",
}
_TYPES = {"task": "NORMAL_TASK", "call": "ACTOR_TASK", "creation": "ACTOR_CREATION_TASK"}


def gather(core: Core, limit: int | None, timeout: float) -> tuple[list[TaskState], int]:
    """The tasks; and how many more wait that are not listed.

    Args:
        limit: of the newest that one process tells of; None: all that it remembers.
    """
    survey = ask_processes(core, "tasks", limit, timeout)
    survey.warn("the list of tasks")
    found: dict[tuple[bytes, int, int], TaskState] = {}
    left_out = 0
    created = {owner: _Creation(facts) for owner, facts in survey.answers.items()}
    for worker, facts in left_behind(core, survey.answers, timeout).items():
        _ran(found, worker, facts, created)
        _failed(found, worker, facts, created)
    for owner, facts in survey.answers.items():
        _waiting(found, owner, facts, created)
        _failed(found, owner, facts, created)
        left_out += facts["waiting_in_all"] - len(facts["waiting"])
    for worker, facts in survey.answers.items():
        _active(found, worker, facts, created)
    for worker, facts in survey.answers.items():
        _ran(found, worker, facts, created)
    # What is under way first, in the order of submission; then what ended, the last one first.
    return sorted(found.values(), key=lambda task: (task.end_time_ms is not None, -(task.end_time_ms or 0))), left_out


class _Creation:
    """When an owner's tasks were handed in."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.wall = facts["wall"]
        pairs = sorted(facts["handed_in"])
        self.counts = [count for count, _ in pairs]
        self.times = [at for _, at in pairs]

    def of(self, count: int) -> int | None:
        position = bisect_right(self.counts, count) - 1
        return None if position < 0 else int((self.times[position] + self.wall) * 1000)


_Found = dict["tuple[bytes, int, int]", TaskState]
_Created = dict[ProcessId, _Creation]


def _state(owner: ProcessId, count: int, name: str, kind: str, state: str, job: str, created: _Created) -> TaskState:
    created_at = created[owner].of(count) if owner in created else None
    return TaskState(
        task_id=task_id(owner, count).hex(),
        attempt_number=0,
        name=name,
        state=state,
        job_id=job,
        actor_id=None,
        type=_TYPES[kind],
        func_or_class_name=name,
        parent_task_id=None,
        node_id=None,
        worker_id=None,
        worker_pid=None,
        error_type=None,
        creation_time_ms=created_at,
        owner_id=owner.hex(),
    )


def _at(state: TaskState, worker: ProcessId, facts: dict[str, Any]) -> None:
    state.node_id, state.worker_id, state.worker_pid = node_of(worker).hex(), worker.hex(), facts["pid"]
    if state.type != "NORMAL_TASK" and facts["actor"] is not None:
        state.actor_id = facts["actor"].hex()


def _ran(found: _Found, worker: ProcessId, facts: dict[str, Any], created: _Created) -> None:
    errors = {(owner, count): (system, text) for owner, count, system, text in facts["errors"]}
    for owner, count, function, begin, end in facts["ran"]:
        name, kind = facts["names"].get(function, (function.hex(), "task"))
        error = errors.get((owner, count))
        state = _state(owner, count, name, kind, "FINISHED" if error is None else "FAILED", facts["job"], created)
        _at(state, worker, facts)
        state.start_time_ms = int((begin + facts["wall"]) * 1000)
        state.end_time_ms = int((end + facts["wall"]) * 1000)
        if error is not None:
            system, text = error
            state.error_type = _ERROR_TYPES.get(system, system) if system else "TASK_EXECUTION_EXCEPTION"
            state.error_message = text or system
        _add(found, (owner, count), state)


def _add(found: _Found, key: tuple[bytes, int], state: TaskState) -> None:
    """An end is an attempt of its own; it takes the place of whatever was thought to be under way."""
    attempt = 0
    while (*key, attempt) in found and found[(*key, attempt)].end_time_ms is not None:
        attempt += 1
    state.attempt_number = attempt
    found[(*key, attempt)] = state


def _waiting(found: _Found, owner: ProcessId, facts: dict[str, Any], created: _Created) -> None:
    states = {"missing": "PENDING_ARGS_AVAIL", "queued": "PENDING_NODE_ASSIGNMENT", "pushed": "SUBMITTED_TO_WORKER"}
    for count, name, actor, where, worker, ahead, _, resources in facts["waiting"]:
        shown = "RUNNING" if where == "pushed" and not ahead and actor is None else states[where]
        state = _state(owner, count, name, "task" if actor is None else "call", shown, facts["job"], created)
        if worker is not None:
            state.worker_id, state.node_id = worker.hex(), node_of(worker).hex()
        state.actor_id = None if actor is None else actor.hex()
        state.required_resources = {resource: amount / 1000 for resource, amount in resources.items()}
        found[owner, count, 0] = state


def _active(found: _Found, worker: ProcessId, facts: dict[str, Any], created: _Created) -> None:
    for owner, count, function, begin in facts["active"]:
        name, kind = facts["names"].get(function, (function.hex(), "task"))
        known = found.get((owner, count, 0))
        if known is None or known.end_time_ms is not None:
            known = _state(owner, count, name, kind, "RUNNING", facts["job"], created)
            _add(found, (owner, count), known)
        known.state = "RUNNING"
        known.start_time_ms = int((begin + facts["wall"]) * 1000)
        _at(known, worker, facts)


def _failed(found: _Found, owner: ProcessId, facts: dict[str, Any], created: _Created) -> None:
    """What no worker answered: the owner settled it."""
    for count, name, actor, error, sentence, at in facts["failed"]:
        state = _state(owner, count, name, "task" if actor is None else "call", "FAILED", facts["job"], created)
        state.actor_id = None if actor is None else actor.hex()
        state.error_type = _ERROR_TYPES.get(error, error) if error else "TASK_EXECUTION_EXCEPTION"
        state.error_message = sentence
        state.end_time_ms = int((at + facts["wall"]) * 1000)
        _add(found, (owner, count), state)


def by_name(tasks: Iterable[TaskState]) -> dict[str, Any]:
    """Counts of states by name, as Ray's summary has them."""
    summary: dict[str, dict[str, Any]] = {}
    totals = {"NORMAL_TASK": 0, "ACTOR_TASK": 0, "ACTOR_CREATION_TASK": 0}
    for task in tasks:
        row = summary.setdefault(
            task.func_or_class_name,
            {"func_or_class_name": task.func_or_class_name, "type": task.type, "state_counts": {}},
        )
        row["state_counts"][task.state] = row["state_counts"].get(task.state, 0) + 1
        totals[task.type] += 1
    return {
        "summary": summary,
        "total_tasks": totals["NORMAL_TASK"],
        "total_actor_tasks": totals["ACTOR_TASK"],
        "total_actor_scheduled": totals["ACTOR_CREATION_TASK"],
        "summary_by": "func_name",
    }
