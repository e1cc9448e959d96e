"""Objects: what each process holds of them, joined with what lies in the stores."""

from __future__ import annotations

from typing import Any

from sparkray.util.state.schema import ObjectState
from sparkray_core.ids import HEAD, ProcessId, count_of, node_of, owner_of
from sparkray_core.run.core import Core
from sparkray_core.run.survey import ask_nodes, ask_processes


def gather(core: Core, timeout: float) -> list[ObjectState]:
    """One row for each object and holder; and for each that only a store knows of."""
    survey = ask_processes(core, "objects", None, timeout)
    survey.warn("the list of objects")
    hosts = {facts["node"]: facts["host"] for facts in core.ask(HEAD, "nodes")}
    stores = ask_nodes(core, "objects", timeout).answers
    where: dict[bytes, list[str]] = {}
    sizes: dict[bytes, int] = {}
    for raylet, store in stores.items():
        for some, size, *_ in store["stored"]:
            where.setdefault(some, []).append(node_of(raylet).hex())
            sizes[some] = size
    for process, facts in survey.answers.items():  # a store may have given it more room than it needs
        sizes.update((row[0], row[4]) for row in facts["objects"] if owner_of(row[0]) == process and row[4] >= 0)
    found: list[ObjectState] = []
    held: set[bytes] = set()
    for process, facts in survey.answers.items():
        for row in facts["objects"]:
            state = _held(process, facts, row, hosts)
            some = row[0]
            held.add(some)
            state.stored_on = where.get(some, state.stored_on)
            if state.object_size < 0:
                state.object_size = sizes.get(some, -1)
            found.append(state)
    for raylet, store in stores.items():
        for some, _room, _copy, _pins, readers in store["stored"]:
            size = sizes[some]
            for reader in readers:
                told = survey.answers.get(reader)
                found.append(_in_store(some, size, reader, told, hosts, "PINNED_IN_MEMORY", where[some]))
            if not readers and some not in held:
                found.append(_in_store(some, size, raylet, None, hosts, "STORED", where[some]))
    return found


def _held(process: ProcessId, facts: dict[str, Any], row: Any, hosts: dict[Any, str]) -> ObjectState:
    some, _own, is_actor, status, size, nodes, held, pins, borrowers, _inside = row
    if is_actor:
        kind = "ACTOR_HANDLE"
    elif held:
        kind = "LOCAL_REFERENCE"
    elif pins:
        kind = "USED_BY_PENDING_TASK" if facts["pending"] else "CAPTURED_IN_OBJECT"
    else:
        kind = "BORROWED"
    return ObjectState(
        object_id=some.hex(),
        object_size=size,
        task_status=status,
        attempt_number=0,
        reference_type=kind,
        call_site="",
        type=facts["role"].upper(),
        pid=facts["pid"],
        ip=hosts.get(node_of(process), ""),
        node_id=node_of(process).hex(),
        worker_id=process.hex(),
        owner_id=owner_of(some).hex(),
        stored_on=[node.hex() for node in nodes],
        borrowers=[borrower.hex() for borrower, count in borrowers.items() if count > 0],
        holder=facts["actor_name"] or facts["role"],
    )


def _in_store(
    some: bytes, size: int, holder: ProcessId, told: dict[str, Any] | None, hosts: Any, kind: str, nodes: list[str]
) -> ObjectState:
    return ObjectState(
        object_id=some.hex(),
        object_size=size,
        task_status="FINISHED",
        attempt_number=0,
        reference_type=kind,
        call_site="",
        type="RAYLET" if told is None else told["role"].upper(),
        pid=0 if told is None else told["pid"],
        ip=hosts.get(node_of(holder), ""),
        node_id=node_of(holder).hex(),
        worker_id=None if count_of(bytes(8) + holder) == 0 else holder.hex(),
        owner_id=owner_of(some).hex(),
        stored_on=nodes,
        holder="" if told is None else told["actor_name"] or told["role"],
    )


def summary(found: list[ObjectState]) -> dict[str, Any]:
    """Ray sums up by call site, which is not recorded here: by kind of reference instead."""
    rows: dict[str, dict[str, Any]] = {}
    objects: dict[str, int] = {}
    for state in found:
        row = rows.setdefault(
            state.reference_type,
            {
                "total_objects": 0,
                "total_size_mb": 0.0,
                "total_num_workers": set(),
                "total_num_nodes": set(),
                "task_state_counts": {},
                "task_attempt_number_counts": {},
                "ref_type_counts": {},
            },
        )
        row["total_objects"] += 1
        row["total_size_mb"] += max(0, state.object_size) / 2**20
        row["total_num_workers"].add(state.worker_id)
        row["total_num_nodes"].add(state.node_id)
        for key, value in (
            ("task_state_counts", state.task_status),
            ("task_attempt_number_counts", str(state.attempt_number)),
            ("ref_type_counts", state.reference_type),
        ):
            row[key][value] = row[key].get(value, 0) + 1
        objects[state.object_id] = max(objects.get(state.object_id, 0), state.object_size)
    for row in rows.values():
        row["total_num_workers"] = len(row["total_num_workers"])
        row["total_num_nodes"] = len(row["total_num_nodes"])
    return {
        "summary": rows,
        "total_objects": len(objects),
        "total_size_mb": sum(objects.values()) / 2**20,
        "callsite_enabled": False,
        "summary_by": "reference_type",
    }
