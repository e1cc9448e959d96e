"""What there is in the session now, and lately: Ray's `ray.util.state`.

    list_tasks(filters=[("state", "=", "FAILED")]), get_actor(id), summarize_objects(), get_log(actor_id=...), ...

Nothing is gathered while nobody asks: a list is put together from the answers of all processes. One that does not
answer within 5 s is named in a warning, not waited for. What ended is remembered in rings (the last 10,000 tasks of
each worker), so old tasks drop out, and so do those of a worker that was killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparkray.util.state import objects as _objects
from sparkray.util.state import tasks as _tasks
from sparkray.util.state import things as _things
from sparkray.util.state.exception import RayStateApiException
from sparkray.util.state.logs import get_log, list_logs
from sparkray.util.state.query import (
    DEFAULT_LIMIT,
    DEFAULT_TIMEOUT_S,
    Filter,
    connected,
    reach,
    select,
)
from sparkray.util.state.schema import (
    ActorState,
    ClusterEventState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    RuntimeEnvState,
    TaskState,
    WorkerState,
)
from sparkray_core.run.object_ref import ObjectRef

__all__ = [
    "ActorState",
    "ClusterEventState",
    "JobState",
    "NodeState",
    "ObjectState",
    "PlacementGroupState",
    "RayStateApiException",
    "RuntimeEnvState",
    "TaskState",
    "WorkerState",
    "get_actor",
    "get_job",
    "get_log",
    "get_node",
    "get_objects",
    "get_placement_group",
    "get_task",
    "get_worker",
    "list_actors",
    "list_cluster_events",
    "list_jobs",
    "list_logs",
    "list_nodes",
    "list_objects",
    "list_placement_groups",
    "list_runtime_envs",
    "list_tasks",
    "list_workers",
    "summarize_actors",
    "summarize_objects",
    "summarize_tasks",
]

Filters = Sequence[Filter]


def list_tasks(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[TaskState]:
    """Tasks and calls of actors: those that wait or run, and the last ones that ended.

    Args:
        address: accepted for Ray's sake: "auto", or the address of the session that this process has joined.
        filters: (column, "=" or "!=", value) each; all must hold.
        limit: rows at most, up to 10,000.
        timeout: seconds.
        detail: accepted; all that is known is told anyway.
        raise_on_missing_output: accepted; what is missing is told in a warning.

    Raises:
        ValueError: a column that there is not, another predicate, a limit out of range.
    """
    here = reach(address, limit, filters, TaskState)
    found, _ = _tasks.gather(here, None if filters else limit, timeout)
    return select(found, filters, limit)


def list_actors(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[ActorState]:
    """Actors, the last 10,000 dead ones too. Arguments as of `list_tasks`."""
    return select(_things.actors(reach(address, limit, filters, ActorState), timeout), filters, limit)


def list_objects(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[ObjectState]:
    """Objects, once for each process that holds them; so the rows say why an object is still there."""
    return select(_objects.gather(reach(address, limit, filters, ObjectState), timeout), filters, limit)


def list_nodes(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[NodeState]:
    """Nodes, dead ones too. Arguments as of `list_tasks`."""
    return select(_things.nodes(reach(address, limit, filters, NodeState), timeout), filters, limit)


def list_workers(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[WorkerState]:
    """Worker processes and drivers; those that ended too, with how. Arguments as of `list_tasks`."""
    return select(_things.workers(reach(address, limit, filters, WorkerState), timeout), filters, limit)


def list_jobs(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[JobState]:
    """The drivers of the session. Arguments as of `list_tasks`."""
    return select(_things.jobs(reach(address, limit, filters, JobState), timeout), filters, limit)


def list_placement_groups(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[PlacementGroupState]:
    """Those that there are, and that lately were. Arguments as of `list_tasks`."""
    return select(_things.placement_groups(reach(address, limit, filters, PlacementGroupState)), filters, limit)


def list_runtime_envs(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[RuntimeEnvState]:
    """Those that workers have, or take on now; one that could not be set up is told by what wanted it."""
    return select(_things.runtime_envs(reach(address, limit, filters, RuntimeEnvState), timeout), filters, limit)


def list_cluster_events(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_TIMEOUT_S,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[dict[str, Any]]:
    """What happened to nodes and actors, oldest first, as dicts (Ray's way). The last 1,000 are remembered."""
    here = reach(address, limit, filters, ClusterEventState)
    return [event.asdict() for event in select(_things.events(here, timeout), filters, limit)]


def get_task(
    id: str | ObjectRef[Any], address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, _explain: bool = False
) -> TaskState | list[TaskState] | None:
    """The task of that id, or that makes the value of a reference; a list if there were several attempts."""
    wanted = id if isinstance(id, str) else id.task_id().hex()
    found = [task for task in _tasks.gather(connected(address), None, timeout)[0] if task.task_id == wanted]
    return found if len(found) > 1 else found[0] if found else None


def get_actor(
    id: str, address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, _explain: bool = False
) -> ActorState | None:
    return next((one for one in _things.actors(connected(address), timeout) if one.actor_id == id), None)


def get_objects(
    id: str, address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, _explain: bool = False
) -> list[ObjectState]:
    """A row for each holder."""
    return [one for one in _objects.gather(connected(address), timeout) if one.object_id == id]


def get_node(
    id: str, address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, _explain: bool = False
) -> NodeState | None:
    return next((one for one in _things.nodes(connected(address), timeout) if one.node_id == id), None)


def get_worker(
    id: str, address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, _explain: bool = False
) -> WorkerState | None:
    return next((one for one in _things.workers(connected(address), timeout) if one.worker_id == id), None)


def get_job(
    id: str, address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, _explain: bool = False
) -> JobState | None:
    return next((one for one in _things.jobs(connected(address), timeout) if one.job_id == id), None)


def get_placement_group(
    id: str, address: str | None = None, timeout: float = DEFAULT_TIMEOUT_S, _explain: bool = False
) -> PlacementGroupState | None:
    return next((one for one in _things.placement_groups(connected(address)) if one.placement_group_id == id), None)


def summarize_tasks(
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many tasks of each name are in which state, of those that are remembered; under "cluster"."""
    return {"cluster": _tasks.by_name(_tasks.gather(connected(address), None, timeout)[0])}


def summarize_actors(
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many actors of each class are in which state; under "cluster"."""
    summary: dict[str, dict[str, Any]] = {}
    found = _things.actors(connected(address), timeout)
    for actor in found:
        row = summary.setdefault(actor.class_name, {"class_name": actor.class_name, "state_counts": {}})
        row["state_counts"][actor.state] = row["state_counts"].get(actor.state, 0) + 1
    return {"cluster": {"summary": summary, "total_actors": len(found), "summary_by": "class"}}


def summarize_objects(
    address: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """How many objects are held in which way, and their sizes; under "cluster"."""
    return {"cluster": _objects.summary(_objects.gather(connected(address), timeout))}
