"""What the state API returns: one dataclass for each kind of thing, with Ray's names of fields.

Fields that sparkray adds stand at the end of each class, under "beyond Ray". Times are milliseconds since 1970, sizes
bytes, ids hex strings; None is what is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class State:
    """What all have in common: they can also be read like a dict."""

    def asdict(self) -> dict[str, Any]:
        return asdict(self)

    def __getitem__(self, name: str) -> Any:
        if name not in self.__dataclass_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key) if key in self.__dataclass_fields__ else default

    def keys(self) -> Iterator[str]:
        return iter(self.columns())

    @classmethod
    def columns(cls) -> list[str]:
        """The names of all fields; each can be filtered by."""
        return [one.name for one in fields(cls)]

    @classmethod
    def list_columns(cls, detail: bool = True) -> set[str]:
        return set(cls.columns())


@dataclass
class TaskState(State):
    """A task, a call of an actor, or an actor's construction."""

    task_id: str
    attempt_number: int
    name: str
    state: str  # see TASK_STATES
    job_id: str
    actor_id: str | None
    type: str  # NORMAL_TASK, ACTOR_TASK or ACTOR_CREATION_TASK
    func_or_class_name: str
    parent_task_id: str | None
    node_id: str | None
    worker_id: str | None
    worker_pid: int | None
    error_type: str | None
    language: str | None = "PYTHON"
    required_resources: dict[str, float] | None = None
    runtime_env_info: dict[str, Any] | None = None
    placement_group_id: str | None = None
    events: list[dict[str, Any]] | None = None
    profiling_data: dict[str, Any] | None = None
    creation_time_ms: int | None = None  # when it was handed in; of tasks that wait for it, or run
    start_time_ms: int | None = None
    end_time_ms: int | None = None
    task_log_info: dict[str, Any] | None = None
    error_message: str | None = None
    is_debugger_paused: bool | None = None
    call_site: str | None = None
    label_selector: dict[str, str] | None = None
    owner_id: str | None = None  # beyond Ray: the process that submitted it


TASK_STATES = (
    "PENDING_ARGS_AVAIL",  # an argument is not there yet
    "PENDING_NODE_ASSIGNMENT",  # waits for a worker; a call: for its actor, or for the calls before it
    "SUBMITTED_TO_WORKER",  # a worker has it, behind others
    "RUNNING",
    "FINISHED",
    "FAILED",
)


@dataclass
class ActorState(State):
    actor_id: str
    class_name: str
    state: str  # DEPENDENCIES_UNREADY, PENDING_CREATION, ALIVE, RESTARTING or DEAD
    job_id: str
    name: str
    node_id: str | None
    pid: int | None
    ray_namespace: str
    serialized_runtime_env: str | None = None
    required_resources: dict[str, float] | None = None
    death_cause: dict[str, Any] | None = None
    is_detached: bool | None = None
    placement_group_id: str | None = None
    repr_name: str | None = None
    num_restarts: int = 0
    call_site: str | None = None
    label_selector: dict[str, str] | None = None
    worker_id: str | None = None  # beyond Ray
    owner_id: str | None = None  # beyond Ray: the process that created it
    story: list[str] = field(default_factory=list)  # beyond Ray: what happened to it, oldest first
    saved_bytes: int | None = None  # beyond Ray: of the state that its `__ray_save__` gave last


@dataclass
class ObjectState(State):
    """One object in the eyes of one process that holds it; an object is listed once for each holder."""

    object_id: str
    object_size: int  # bytes; -1: not known to this holder
    task_status: str  # of the task that makes it: PENDING, FINISHED, FAILED; WAITING: only its owner knows
    attempt_number: int
    reference_type: str  # see REFERENCE_TYPES
    call_site: str
    type: str  # DRIVER, WORKER or RAYLET: who holds it
    pid: int
    ip: str
    node_id: str | None = None  # beyond Ray: of the holder
    worker_id: str | None = None  # beyond Ray: the holder
    owner_id: str | None = None  # beyond Ray: the process that made it
    stored_on: list[str] = field(default_factory=list)  # beyond Ray: nodes that have it in their store
    borrowers: list[str] = field(default_factory=list)  # beyond Ray: the owner's word on who else holds it
    holder: str = ""  # beyond Ray: "driver", or the actor's class, or "worker"


REFERENCE_TYPES = (
    "LOCAL_REFERENCE",  # an ObjectRef of that process
    "USED_BY_PENDING_TASK",  # an argument of a task under way
    "CAPTURED_IN_OBJECT",  # only inside another object
    "BORROWED",  # its owner has let go of it, but others hold it
    "ACTOR_HANDLE",
    "PINNED_IN_MEMORY",  # in a store, and being read there by this process
    "STORED",  # in a store; who holds it is told by the other rows
)


@dataclass
class NodeState(State):
    node_id: str
    node_ip: str
    is_head_node: bool
    state: str  # ALIVE or DEAD
    state_message: str | None
    node_name: str
    resources_total: dict[str, float]
    labels: dict[str, str]
    start_time_ms: int | None = None
    end_time_ms: int | None = None
    resources_available: dict[str, float] | None = None  # beyond Ray


@dataclass
class WorkerState(State):
    worker_id: str
    is_alive: bool
    worker_type: str  # WORKER or DRIVER
    exit_type: str | None
    node_id: str
    ip: str
    pid: int
    exit_detail: str | None = None
    worker_launch_time_ms: int | None = None
    worker_launched_time_ms: int | None = None
    start_time_ms: int | None = None
    end_time_ms: int | None = None
    debugger_port: int | None = None
    num_paused_threads: int | None = None
    state: str | None = None  # beyond Ray: starting, idle, busy, leaving
    actor_id: str | None = None  # beyond Ray
    tasks_finished: int | None = None  # beyond Ray
    memory_bytes: int | None = None  # beyond Ray: resident


@dataclass
class JobState(State):
    """A driver."""

    job_id: str
    type: str
    status: str
    entrypoint: str
    submission_id: str | None = None
    message: str | None = None
    error_type: str | None = None
    start_time: int | None = None
    end_time: int | None = None
    metadata: dict[str, str] | None = None
    runtime_env: dict[str, Any] | None = None
    driver_info: dict[str, Any] | None = None
    driver_agent_http_address: str | None = None
    driver_node_id: str | None = None
    driver_exit_code: int | None = None


@dataclass
class PlacementGroupState(State):
    placement_group_id: str
    name: str
    creator_job_id: str
    state: str
    bundles: list[dict[str, Any]] | None = None
    is_detached: bool | None = None
    stats: dict[str, Any] | None = None


@dataclass
class RuntimeEnvState(State):
    runtime_env: dict[str, Any]
    success: bool
    creation_time_ms: float | None
    node_id: str
    ref_cnt: int | None = None
    error: str | None = None


@dataclass
class ClusterEventState(State):
    severity: str  # INFO, WARNING or ERROR
    time: str  # of the day, UTC
    source_type: str  # NODE, ACTOR, SCHEDULER or PLACEMENT_GROUP
    message: str
    event_id: str
    custom_fields: dict[str, Any] = field(default_factory=dict)
