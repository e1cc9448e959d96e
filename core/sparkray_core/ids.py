"""Identities. Each carries its owner, so that no directory has to be asked whom to ask.

NodeId     8  random                          one per executor (or per `ray.init()`)
ProcessId 16  NodeId + 8 random               a driver, a worker; all zeros for the node's raylet
TaskId    24  ProcessId of the owner + count  the owner is the process that called `.remote()`
ObjectId  28  TaskId + index                  the index-th return of that task; a put is a task with one return
ActorId   24  the TaskId of its creation
LeaseId   24  like a TaskId, from the same counter
GroupId   24  likewise; the owner is the process that created the placement group
"""

from __future__ import annotations

import os
from typing import NewType

NodeId = NewType("NodeId", bytes)
ProcessId = NewType("ProcessId", bytes)
TaskId = NewType("TaskId", bytes)
ObjectId = NewType("ObjectId", bytes)
ActorId = NewType("ActorId", bytes)
LeaseId = NewType("LeaseId", bytes)
GroupId = NewType("GroupId", bytes)
FunctionId = NewType("FunctionId", bytes)  # 16 bytes: digest of the pickled function and its display name

OBJECT_ID_BYTES = 28
GROUP_ID_BYTES = 24
HEAD_NODE = NodeId(b"\0gcs\0\0\0\0")
SCHEDULERS = b"\0sch"  # their ids begin with it
SHARDS = b"\0gsh"  # likewise; the number follows
_RAYLET = bytes(8)  # behind its node
HEAD = ProcessId(HEAD_NODE + bytes(8))
# To whom owners send records of objects that may outlive them. Which of the GCS's processes that is their raylet knows.
RECORDS = ProcessId(HEAD_NODE + b"records\0")


def new_node_id() -> NodeId:
    return NodeId(os.urandom(8))


def new_scheduler_id() -> NodeId:
    """Of a scheduler beside the head, which has links as nodes have, and none of their other parts."""
    return NodeId(SCHEDULERS + os.urandom(4))


def shard_node(number: int) -> NodeId:
    """Of a shard of the GCS, beside the head; the same in each of its lives."""
    return NodeId(SHARDS + number.to_bytes(4, "big"))


def new_process_id(node: NodeId) -> ProcessId:
    return ProcessId(node + os.urandom(8))


# These are asked for with each message, and to call `ProcessId` takes longer than what is called it.
def raylet_of(node: NodeId) -> ProcessId:
    """The process that speaks for the node."""
    return node + _RAYLET  # type: ignore[return-value]


def node_of(process: ProcessId) -> NodeId:
    return process[:8]  # type: ignore[return-value]


def owner_of(some_id: bytes) -> ProcessId:
    """Who made this task, object, actor or lease, and so who answers for it."""
    return some_id[:16]  # type: ignore[return-value]


def task_id(owner: ProcessId, count: int) -> TaskId:
    return TaskId(owner + count.to_bytes(8, "big"))


def count_of(some_id: bytes) -> int:
    """The owner's counter inside a task, object, actor or lease id."""
    return int.from_bytes(some_id[16:24], "big")


def object_id(task: bytes, index: int = 0) -> ObjectId:
    return ObjectId(task + index.to_bytes(4, "big"))


def index_of(some_object: ObjectId) -> int:
    return int.from_bytes(some_object[24:28], "big")
