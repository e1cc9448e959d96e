"""Actors, nodes, workers, jobs and events, put together from what head, raylets and processes say."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from sparkray.environments import as_runtime_env
from sparkray.util.state.schema import (
    ActorState,
    ClusterEventState,
    JobState,
    NodeState,
    PlacementGroupState,
    RuntimeEnvState,
    WorkerState,
)
from sparkray_core.ids import HEAD, ProcessId, node_of
from sparkray_core.messages import DescribeGroups
from sparkray_core.model.where import plain
from sparkray_core.run.core import Core
from sparkray_core.run.survey import ask_nodes, ask_processes

_ACTOR_STATES = {"pending": "PENDING_CREATION", "alive": "ALIVE", "restarting": "RESTARTING", "dead": "DEAD"}


def whole(resources: dict[str, int]) -> dict[str, float]:
    """In units, as users ask for them; the wire has thousandths."""
    return {name: amount / 1000 for name, amount in resources.items()}


def actors(core: Core, timeout: float) -> list[ActorState]:
    pids: dict[bytes, int] = {}
    for workers in ask_nodes(core, "workers", timeout).answers.values():
        pids.update({facts["worker"]: facts["pid"] for facts in workers["alive"]})
    found = []
    job_of = job_of_owner(core, timeout)
    for facts in core.ask(HEAD, "actors"):
        worker = facts["worker"]
        state = _ACTOR_STATES[facts["state"]]
        found.append(
            ActorState(
                actor_id=facts["actor"].hex(),
                class_name=facts["name"],
                state=state,
                job_id=job_of(facts["owner"]),
                name=facts["public_name"],
                node_id=None if facts["node"] is None else facts["node"].hex(),
                pid=pids.get(worker) if worker is not None else None,
                ray_namespace=facts["namespace"] or core.namespace,
                required_resources=whole(facts["resources"]),
                death_cause=None
                if state != "DEAD"
                else {"error_message": facts["why"], "actor_init_failed": facts["init_failed"]},
                is_detached=facts["detached"],
                placement_group_id=None if facts["group"] is None else facts["group"].hex(),
                num_restarts=facts["incarnation"],
                worker_id=None if worker is None else worker.hex(),
                owner_id=facts["owner"].hex(),
                story=facts["story"],
                saved_bytes=facts["saved_bytes"],
            )
        )
    return found


def placement_groups(core: Core) -> list[PlacementGroupState]:
    return [
        PlacementGroupState(
            placement_group_id=facts["group"].hex(),
            name=facts["name"],
            creator_job_id=facts["job"],
            state=facts["state"],
            bundles=[
                {
                    "bundle_id": {"placement_group_id": facts["group"].hex(), "bundle_index": index},
                    "unit_resources": whole(bundle),
                    "node_id": facts["places"].get(index, b"").hex(),
                }
                for index, bundle in enumerate(facts["bundles"])
            ],
            is_detached=facts["detached"],
            stats={"scheduling_attempt": facts["attempts"], "why": facts["why"], "story": facts["story"]},
        )
        for facts in core.request(HEAD, lambda number: DescribeGroups(number, []))
    ]


def nodes(core: Core, timeout: float) -> list[NodeState]:
    free = {node: whole(plain(available)) for node, _, available in core.ask(HEAD, "loads")}
    return [
        NodeState(
            node_id=facts["node"].hex(),
            node_ip=facts["host"],
            is_head_node=position == 0,  # the head takes its own node in before any other
            state="ALIVE" if facts["alive"] else "DEAD",
            state_message=facts["why"] or None,
            node_name=facts["host"],
            resources_total=whole(facts["resources"]),
            labels=facts["labels"],
            resources_available=free.get(facts["node"]),
        )
        for position, facts in enumerate(core.ask(HEAD, "nodes"))
    ]


def runtime_envs(core: Core, timeout: float) -> list[RuntimeEnvState]:
    """A row for each environment of each node; `ref_cnt` is of workers."""
    counts: Counter[tuple[bytes, str]] = Counter()
    for raylet, listed in ask_nodes(core, "workers", timeout).answers.items():
        counts.update((node_of(raylet), facts["env"]) for facts in listed["alive"] if facts["env"])
    rows = [(node, as_runtime_env(env), count) for (node, env), count in counts.items()]
    return [RuntimeEnvState(dict(env), True, None, node.hex(), count) for node, env, count in rows if env]


def workers(core: Core, timeout: float) -> list[WorkerState]:
    """Those that live, drivers too; and those that are remembered to have ended."""
    survey = ask_processes(core, "process", None, timeout)
    hosts = {facts["node"]: facts["host"] for facts in core.ask(HEAD, "nodes")}
    moment = time.time()
    found = []
    seen: set[bytes] = set()
    for listed in ask_nodes(core, "workers", timeout).answers.values():
        for facts in listed["alive"]:
            worker = facts["worker"]
            seen.add(worker)
            told: dict[str, Any] = survey.answers.get(worker, {})
            state = _worker(worker, "WORKER", facts["pid"], told, hosts)
            state.state = facts["state"]
            state.actor_id = None if facts["actor"] is None else facts["actor"].hex()
            state.exit_detail = facts["killed"] or None
            found.append(state)
        for worker, why in listed["dead"]:
            seen.add(worker)
            state = _worker(worker, "WORKER" if _is_counted(worker) else "DRIVER", 0, {}, hosts)
            state.is_alive, state.exit_detail = False, why
            state.exit_type = "SYSTEM_ERROR" if "signal" in why else "INTENDED_SYSTEM_EXIT"
            state.end_time_ms = None
            found.append(state)
    for process, told in survey.answers.items():
        if process not in seen and told["role"] == "driver":
            state = _worker(process, "DRIVER", told["pid"], told, hosts)
            state.state = "busy"
            found.append(state)
    for state in found:
        if state.start_time_ms is not None and state.start_time_ms > moment * 1000:
            state.start_time_ms = int(moment * 1000)
    return found


def _is_counted(process: bytes) -> bool:
    """Workers are numbered by their raylet; drivers draw their ids."""
    return process[8:12] == bytes(4)


def _worker(process: Any, kind: str, pid: int, told: dict[str, Any], hosts: dict[Any, str]) -> WorkerState:
    started = told.get("started")
    return WorkerState(
        worker_id=process.hex(),
        is_alive=True,
        worker_type=kind,
        exit_type=None,
        node_id=node_of(process).hex(),
        ip=hosts.get(node_of(process), ""),
        pid=pid,
        start_time_ms=None if started is None else int(started * 1000),
        tasks_finished=told.get("finished"),
        memory_bytes=told.get("rss"),
    )


def jobs(core: Core, timeout: float) -> list[JobState]:
    """The drivers that are or were in the session, the oldest first."""
    return [
        JobState(
            job_id=job["job"],
            type="DRIVER",
            status="RUNNING" if job["ended"] is None else "SUCCEEDED",  # as Ray has it: how it ended nobody knows
            message=job["ended"],
            entrypoint=job["command"],
            start_time=int(job["started"] * 1000),
            metadata={"namespace": job["namespace"]},
            runtime_env={},
            driver_info={
                "id": job["driver"].hex(),
                "pid": str(job["pid"]),
                "node_id": node_of(job["driver"]).hex(),
                "host": job["host"],
            },
            driver_node_id=node_of(job["driver"]).hex(),
        )
        for job in core.ask(HEAD, "jobs")
    ]


def job_of_owner(core: Core, timeout: float) -> Callable[[ProcessId], str]:
    """Of which job a process's actors are."""
    known = {job["driver"]: job["job"] for job in core.ask(HEAD, "jobs")}
    if len(known) < 2:
        return lambda owner: core.job
    survey = ask_processes(core, "process", None, timeout)
    known.update({process: told["job"] for process, told in survey.answers.items()})
    return lambda owner: known.get(owner, "")


def events(core: Core, timeout: float) -> list[ClusterEventState]:
    moment = time.time()
    return [
        ClusterEventState(
            severity=severity,
            time=datetime.fromtimestamp(moment - age, timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f"),
            source_type=source,
            message=sentence,
            event_id=f"{position:08x}",
        )
        for position, (age, severity, source, sentence) in enumerate(core.ask(HEAD, "events"))
    ]
