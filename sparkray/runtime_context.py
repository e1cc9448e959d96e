"""`get_runtime_context()`: what a task, an actor or the driver can know of itself."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from typing import Any

from sparkray.actor_facts import read_facts
from sparkray.actor_handle import ActorHandle, borrow
from sparkray.environments import as_runtime_env
from sparkray.runtime_env import RuntimeEnv
from sparkray.session import core
from sparkray_core.errors import RaySystemError
from sparkray_core.ids import HEAD, count_of, owner_of
from sparkray_core.run import current_task, gpus, object_ref
from sparkray_core.run.core import Core
from sparkray_core.run.public_ids import ActorID, JobID, NodeID, TaskID, WorkerID
from sparkray_core.run.survey import inspect

log = logging.getLogger(__name__)


class RuntimeContext:
    """Ids are hex strings; those of what there is not (a task's, in the driver) are None."""

    def get_job_id(self) -> str:
        return _connected("Job ID").job

    def get_node_id(self) -> str:
        return _connected("Node ID").node.hex()

    def get_worker_id(self) -> str:
        return _connected("Worker ID").me.hex()

    def get_session_name(self) -> str:
        return _connected("Session name").session

    def get_temp_dir(self) -> str:
        """The folder that the folders of sessions lie in."""
        return os.path.dirname(os.path.dirname(_connected("Temp directory").folder))

    def get_task_id(self) -> str | None:
        running = _running("get_task_id")
        return None if running is None else running.task.hex()

    def get_task_name(self) -> str | None:
        """The `name=` that it was submitted with, or its function's; of a call "Class.method"."""
        running = _running("get_task_name")
        return None if running is None else running.name

    def get_task_function_name(self) -> str | None:
        """With its module: "module.function", or "module.Class.method"."""
        running = _running("get_task_function_name")
        if running is None:
            return None
        here = core()
        return running.name if here.function_name is None else here.function_name(running.name)

    def get_actor_id(self) -> str | None:
        return None if current_task.actor is None else current_task.actor.actor.hex()

    def get_actor_name(self) -> str | None:
        """The name that it was created under, "" for an actor without one; None outside of actors."""
        if current_task.actor is None:
            return None
        return str(current_task.actor.setup.get("public_name") or "")

    def get_placement_group_id(self) -> str | None:
        """Of the placement group that this task or actor works in; None in none, and in a driver."""
        group = _connected("Placement group ID").group[0]
        return group.hex() if group else None

    @property
    def current_placement_group_id(self) -> str | None:
        """Deprecated by Ray: `get_placement_group_id`."""
        return self.get_placement_group_id()

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether tasks and actors that are made here, and for which nothing else is said, run in the same group."""
        here = core()
        in_driver = here.role == "driver" and current_task.get() is None
        return in_driver or here.group[1]

    def get_assigned_resources(self) -> dict[str, float]:
        """What this worker holds for its task or actor, in units.

        Raises:
            AssertionError: in a driver.
        """
        here = core()
        assert here.role != "driver", "This method is only available when the process is a worker; this is a driver."
        return {name: amount / 1000 for name, amount in here.ask(here.raylet_id, "assigned").items() if amount}

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Ids of the accelerators that this worker was given, by resource."""
        return {"GPU": [str(one) for one in get_gpu_ids()]}

    def get_resource_ids(self) -> dict[str, list[str]]:
        """Deprecated by Ray: `get_accelerator_ids`."""
        return self.get_accelerator_ids()

    def get_node_labels(self) -> dict[str, str]:
        """The labels of the node that this runs on."""
        here = core()
        return next((dict(facts["labels"]) for facts in here.ask(HEAD, "nodes") if facts["node"] == here.node), {})

    def is_canceled(self) -> bool:
        """Whether the current task was cancelled. A task that cannot be interrupted may ask now and then.

        Raises:
            RuntimeError: in a driver, or in an async actor (where cancelling raises `CancelledError`).
        """
        here = core()
        running = current_task.get()
        if running is None:
            raise RuntimeError("This method is only available when the process is a worker. Current mode: driver")
        if here.is_async:
            raise RuntimeError("This method is not supported in an async actor.")
        return (owner_of(running.task), count_of(running.task)) in here.records.cancelled

    @property
    def current_actor(self) -> ActorHandle[Any]:
        """A handle of this actor. As long as it is kept, the actor lives.

        Raises:
            RuntimeError: outside of actors.
        """
        start = current_task.actor
        if start is None:
            raise RuntimeError("This method is only available in an actor.")
        return borrow(core(), start.actor, read_facts(start.setup["facts"]))

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether this actor has been restarted.

        Raises:
            AssertionError: outside of actors.
        """
        assert current_task.actor is not None, "This method shouldn't be called outside of actors."
        return current_task.actor.incarnation > 0

    @property
    def gcs_address(self) -> str:
        """host:port of the head."""
        here = core()
        return str(inspect(here, here.raylet_id, "head_address") or "").removeprefix("tcp://")

    @property
    def runtime_env(self) -> RuntimeEnv:
        """Of this worker; in the driver, of the job."""
        return as_runtime_env(core().env)

    def get_runtime_env_string(self) -> str:
        """`runtime_env` as JSON."""
        return json.dumps(self.runtime_env)

    @property
    def namespace(self) -> str:
        return core().namespace

    def get_dashboard_url(self) -> str:
        """Empty: there is no dashboard."""
        return ""

    def get(self) -> dict[str, Any]:
        """The ids that there are (not as text, but with a `hex()`), and the namespace, by name."""
        running = current_task.get()
        facts: dict[str, Any] = {
            "job_id": JobID.from_hex(self.get_job_id()),
            "node_id": NodeID.from_hex(self.get_node_id()),
            "worker_id": WorkerID.from_hex(self.get_worker_id()),
            "namespace": self.namespace,
        }
        if running is not None:
            facts["task_id"] = TaskID(running.task)
        if current_task.actor is not None:
            facts["actor_id"] = ActorID(current_task.actor.actor)
        return facts

    @property
    def job_id(self) -> JobID:
        """Deprecated by Ray, as are the next three: `get_job_id`."""
        return self._by_old_name("job_id")  # type: ignore[no-any-return]

    @property
    def node_id(self) -> NodeID:
        return self._by_old_name("node_id")  # type: ignore[no-any-return]

    @property
    def task_id(self) -> TaskID | None:
        return self._by_old_name("task_id")  # type: ignore[no-any-return]

    @property
    def actor_id(self) -> ActorID | None:
        return self._by_old_name("actor_id")  # type: ignore[no-any-return]

    def _by_old_name(self, name: str) -> Any:
        warnings.warn(f"Use get_{name}() instead", DeprecationWarning, stacklevel=3)
        return self.get().get(name)


def get_runtime_context() -> RuntimeContext:
    """What the code that calls this can know of where it runs. A driver without a session gets one."""
    if object_ref.current is None:
        with contextlib.suppress(RaySystemError):  # where that is forbidden, the context's methods say what they lack
            core()
    return RuntimeContext()


def get_gpu_ids() -> list[int] | list[str]:
    """The GPUs that were given to the task or actor that asks: numbers, or what CUDA_VISIBLE_DEVICES called them where
    the node was started with it. A driver is given none."""
    here = core()
    if here.role == "driver":
        log.debug("get_gpu_ids() always returns the empty list in a driver")
        return []
    return gpus.ids()


def _connected(what: str) -> Core:
    """
    Raises:
        RuntimeError: there is no session.
    """
    if object_ref.current is None:
        raise RuntimeError(f"{what} is not available because sparkray has not been initialized.")
    return object_ref.current


def _running(method: str) -> current_task.Running | None:
    running = current_task.get()
    if running is None:
        log.warning("%s() is only of use in a task or actor; this is the %s", method, core().role)
    return running
