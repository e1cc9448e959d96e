"""`get_runtime_context()`: what a task, an actor or the driver can know of itself."""

from __future__ import annotations

import json
from typing import Any

from sparkray.environments import as_runtime_env
from sparkray.runtime_env import RuntimeEnv
from sparkray.session import core
from sparkray_core.run import current_task


class RuntimeContext:
    """Ids are hex strings; those of what there is not (a task's, in the driver) are None."""

    def get_job_id(self) -> str:
        return core().job

    def get_node_id(self) -> str:
        return core().node.hex()

    def get_worker_id(self) -> str:
        return core().me.hex()

    def get_task_id(self) -> str | None:
        running = current_task.get()
        return None if running is None else running.task.hex()

    def get_task_name(self) -> str | None:
        running = current_task.get()
        return None if running is None else running.name

    def get_task_function_name(self) -> str | None:
        return self.get_task_name()

    def get_actor_id(self) -> str | None:
        return None if current_task.actor is None else current_task.actor.actor.hex()

    def get_actor_name(self) -> str | None:
        """The name it was created under; None for an actor without one, "" outside of actors."""
        if current_task.actor is None:
            return None
        return str(current_task.actor.setup.get("public_name") or "")

    def get_assigned_resources(self) -> dict[str, float]:
        """What this actor holds. (Of tasks their owner knows, not their worker.)"""
        if current_task.actor is None:
            return {}
        return {name: amount / 1000 for name, amount in current_task.actor.resources.items()}

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether this actor has been restarted."""
        return current_task.actor is not None and current_task.actor.incarnation > 0

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

    def get(self) -> dict[str, Any]:
        """The ids that there are, by name."""
        facts = {
            "job_id": self.get_job_id(),
            "node_id": self.get_node_id(),
            "worker_id": self.get_worker_id(),
            "task_id": self.get_task_id(),
            "actor_id": self.get_actor_id(),
        }
        return {name: value for name, value in facts.items() if value is not None}


def get_runtime_context() -> RuntimeContext:
    """What the code that calls this can know of where it runs."""
    return RuntimeContext()
