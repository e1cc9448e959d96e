"""What the lists of `sparkray.util.state` are made of, under the module's name in Ray."""

from sparkray.util.state.query import DEFAULT_LIMIT
from sparkray.util.state.query import DEFAULT_TIMEOUT_S as DEFAULT_RPC_TIMEOUT
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

__all__ = [
    "DEFAULT_LIMIT",
    "DEFAULT_RPC_TIMEOUT",
    "ActorState",
    "ClusterEventState",
    "JobState",
    "NodeState",
    "ObjectState",
    "PlacementGroupState",
    "RuntimeEnvState",
    "TaskState",
    "WorkerState",
]
