"""`sparkray status`, `list`, `get`, `summary`, `memory` and `kill-actor`."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from enum import Enum
from typing import Annotated, Any

import typer

from sparkray.cli.failures import FAILED, WRONG_USE, fail, in_one_sentence
from sparkray.cli.options import Address, Json, KeyFile
from sparkray.cli.tables import show_json, show_table, size
from sparkray.joining import bare
from sparkray.visit import visiting
from sparkray_core.ids import HEAD, ActorId, node_of
from sparkray_core.messages import EndActor
from sparkray_core.run.config import default_base_folder
from sparkray_core.run.core import Core
from sparkray_core.run.published import published_nodes
from sparkray_core.run.settings_sources import resolve
from sparkray_core.run.survey import ask_nodes

KILL_LIMIT_S = 10.0
_LOOK_S = 0.05


def add_to(app: typer.Typer) -> None:
    app.command()(status)
    app.command("list")(list_things)
    app.command("get")(get_thing)
    app.command()(summary)
    app.command()(memory)
    app.command("kill-actor")(kill_actor)


# ------------------------------------------------------------------------------------------ status
def status(address: Address = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Nodes, what of their resources is used, what waits for more, and the sessions on this host."""
    with in_one_sentence(), visiting(address, key_file) as core:
        facts = _status(core)
    if as_json:
        show_json(facts)
        return
    jobs = [job for job in facts["jobs"] if job["ended"] is None]
    typer.echo(f"Session {facts['session']}: {len(facts['nodes'])} nodes, {len(jobs)} drivers")
    show_table(
        "Nodes",
        ["node", "host", "used / total", "store used / total", "workers", "leases", "actors", "waiting"],
        [
            [
                node["node"],
                node["host"] + _remark(node),
                [_share(name, _used(node, name), amount) for name, amount in node["total"].items()],
                f"{size(node['store_used'])} / {size(node['store_bytes'])}",
                node["workers"],
                node["leases"],
                node["actors"],
                node["waiting"],
            ]
            for node in facts["nodes"]
        ],
    )
    if facts["demands"]:
        show_table("Waiting for", ["resources", "how many"], [[one["needs"], one["count"]] for one in facts["demands"]])
    if facts["hopeless"]:
        typer.echo(f"{facts['hopeless']} requests that no node could ever grant")
    if facts["dead"]:
        show_table("Nodes that are gone", ["node", "host", "why"], facts["dead"])
    if jobs:
        columns = ["job", "pid", "host", "namespace", "command"]
        show_table("Drivers", columns, [[job[name] for name in columns] for job in jobs])
    show_table(
        "Sessions on this host",
        ["session", "head", "node", "started by"],
        [[one[name] for name in ("session", "head", "node", "by")] for one in facts["sessions_here"]],
    )


def _remark(node: dict[str, Any]) -> str:
    if node["draining"]:
        return f" (draining: {node['draining']})"
    return " (visits)" if node["visits"] else ""


def _share(name: str, used: float, total: float) -> str:
    return f"{name} {size(int(used))}/{size(int(total))}" if name == "memory" else f"{name} {used:g}/{total:g}"


def _used(node: dict[str, Any], name: str) -> float:
    return float(node["total"][name] - node["available"].get(name, 0))


def _status(core: Core) -> dict[str, Any]:
    nodes = core.ask(HEAD, "nodes")
    told = {node_of(raylet): facts for raylet, facts in ask_nodes(core, "status").answers.items()}
    claims = {node_of(raylet): facts for raylet, facts in ask_nodes(core, "claims").answers.items()}
    demands: Counter[tuple[tuple[str, float], ...]] = Counter()
    for facts in claims.values():
        for claim in facts["claims"]:
            if claim["state"] == "waiting":
                demands[tuple(sorted(_whole(claim["needs"]).items()))] += 1
    return {
        "session": core.session,
        "nodes": [_node(facts, told[facts["node"]]) for facts in nodes if facts["alive"] and facts["node"] in told],
        "dead": [[facts["node"].hex(), facts["host"], facts["why"]] for facts in nodes if not facts["alive"]],
        "demands": [{"needs": dict(needs), "count": count} for needs, count in demands.most_common()],
        "hopeless": len(core.ask(HEAD, "hopeless")),
        "jobs": core.ask(HEAD, "jobs"),
        "sessions_here": [
            {"session": one.session, "head": bare(one.head_address), "node": one.node.hex(), "by": one.by}
            for one in published_nodes(default_base_folder(resolve().base_folder))
        ],
    }


def _node(facts: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    return {
        "node": facts["node"].hex(),
        "host": facts["host"],
        "visits": facts["visits"],
        "draining": facts["draining"],
        "waits_for": told["draining"],
        "labels": facts["labels"],
        "total": _whole(facts["resources"]),
        "available": _whole(told["available"]),
        "waiting": told["queued"],
        "leases": told["leases"],
        "actors": told["actors"],
        "workers": sum(told["workers"].values()),
        "store_used": told["store_used"],
        "store_bytes": told["store_bytes"],
        "objects": told["objects"],
    }


def _whole(resources: dict[str, int]) -> dict[str, float]:
    return {name: amount / 1000 for name, amount in resources.items()}


# ------------------------------------------------------------------------------------------ lists
class Kind(str, Enum):
    nodes = "nodes"
    actors = "actors"
    tasks = "tasks"
    objects = "objects"
    workers = "workers"
    jobs = "jobs"
    placement_groups = "placement-groups"
    runtime_envs = "runtime-envs"
    cluster_events = "cluster-events"


class Single(str, Enum):
    nodes = "nodes"
    actors = "actors"
    tasks = "tasks"
    objects = "objects"
    workers = "workers"
    jobs = "jobs"
    placement_groups = "placement-groups"


_COLUMNS = {
    Kind.nodes: ("node_id", "node_ip", "is_head_node", "state", "resources_total", "resources_available", "labels"),
    Kind.actors: ("actor_id", "class_name", "state", "name", "ray_namespace", "job_id", "node_id", "pid"),
    Kind.tasks: ("task_id", "name", "state", "type", "job_id", "node_id", "worker_pid", "error_type"),
    Kind.objects: ("object_id", "object_size", "reference_type", "type", "pid", "ip", "task_status"),
    Kind.workers: ("worker_id", "is_alive", "worker_type", "pid", "node_id", "state", "actor_id", "exit_detail"),
    Kind.jobs: ("job_id", "status", "entrypoint", "driver_info", "message"),
    Kind.placement_groups: ("placement_group_id", "name", "state", "bundles", "creator_job_id"),
    Kind.runtime_envs: ("runtime_env", "success", "error", "node_id", "ref_cnt"),
    Kind.cluster_events: ("time", "severity", "source_type", "message"),
}


def list_things(
    kind: Kind,
    filters: Annotated[
        list[str] | None, typer.Option("--filter", "-f", help="column=value or column!=value; all must hold.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Rows at most, up to 10,000.")] = 100,
    detail: Annotated[bool, typer.Option("--detail", help="All columns.")] = False,
    address: Address = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """What there is: nodes, actors, tasks, objects, workers, jobs, placement groups, runtime_envs or events."""
    with in_one_sentence():
        wanted = [_filter(one) for one in filters or ()]
        with visiting(address, key_file):
            from sparkray.util import state

            found = getattr(state, f"list_{kind.name}")(filters=wanted, limit=limit)
            rows = [row if isinstance(row, dict) else asdict(row) for row in found]
    if as_json:
        show_json(rows)
        return
    columns = _COLUMNS[kind]
    if detail and rows:
        columns = tuple(rows[0])
    show_table(f"{len(rows)} {kind.value}", columns, [[row[column] for column in columns] for row in rows])


def get_thing(
    kind: Single,
    id: Annotated[str, typer.Argument(help="As `sparkray list` shows it.")],
    address: Address = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """All that is known of one node, actor, task, object, worker, job or placement group."""
    with in_one_sentence(), visiting(address, key_file):
        from sparkray.util import state

        ask = state.get_objects if kind is Single.objects else getattr(state, f"get_{kind.name[:-1]}")
        found = ask(id)
    rows = [asdict(row) for row in (found if isinstance(found, list) else [found]) if row is not None]
    if not rows:
        raise fail(f"nothing is known of {id}; `sparkray list {kind.value}` shows what there is", FAILED)
    if as_json:
        show_json(rows)
        return
    for row in rows:
        show_table(id, ["", ""], [[name, value] for name, value in row.items() if value is not None])


def _filter(text: str) -> tuple[str, str, str]:
    for predicate in ("!=", "="):
        column, found, value = text.partition(predicate)
        if found:
            return column.strip(), predicate, value.strip()
    raise fail(f"--filter {text!r} is neither column=value nor column!=value", WRONG_USE)


class Summed(str, Enum):
    tasks = "tasks"
    actors = "actors"
    objects = "objects"


def summary(kind: Summed, address: Address = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """How many tasks, actors or objects there are of each sort."""
    with in_one_sentence(), visiting(address, key_file):
        from sparkray.util import state

        found = getattr(state, f"summarize_{kind.value}")()
    if as_json:
        show_json(found)
        return
    told = found["cluster"]
    totals = {name: value for name, value in told.items() if name != "summary" and not isinstance(value, (dict, list))}
    for name, value in totals.items():
        typer.echo(f"{name}: {value}")
    rows: dict[str, dict[str, Any]] = told["summary"]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [[key, *(row.get(column) for column in columns)] for key, row in rows.items()]
    show_table(kind.value, ["", *columns], cells)


def memory(
    limit: Annotated[int, typer.Option(help="Rows at most, the largest first.")] = 100,
    address: Address = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Who holds which object, and what the stores are full of."""
    with in_one_sentence(), visiting(address, key_file) as core:
        from sparkray.util import state

        rows = [asdict(row) for row in state.list_objects(limit=10_000)]
        stores = {node_of(raylet).hex(): facts for raylet, facts in ask_nodes(core, "objects").answers.items()}
    rows.sort(key=lambda row: -row["object_size"])
    left_out = max(0, len(rows) - limit)
    rows = rows[:limit]
    usage = [
        {"node": node, "used": facts["used"], "capacity": facts["capacity"], "objects": len(facts["stored"])}
        for node, facts in stores.items()
    ]
    if as_json:
        show_json({"stores": usage, "objects": rows})
        return
    show_table(
        "Stores",
        ["node", "used", "capacity", "objects"],
        [[one["node"], size(one["used"]), size(one["capacity"]), one["objects"]] for one in usage],
    )
    show_table(
        "Objects, by holder",
        ["object", "size", "held as", "holder", "pid", "host", "task"],
        [
            [
                row["object_id"],
                size(row["object_size"]),
                row["reference_type"],
                row["holder"] or row["type"],
                row["pid"],
                row["ip"],
                row["task_status"],
            ]
            for row in rows
        ],
    )
    if left_out:
        typer.echo(f"and {left_out} more; --limit shows them")


# ------------------------------------------------------------------------------------------ actors
def kill_actor(
    name: Annotated[str | None, typer.Option(help="The name that it was created under.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Of the name; any, if not given.")] = None,
    actor_id: Annotated[str | None, typer.Option("--id", help="Its id, as `sparkray list actors` shows it.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Let it use one of its max_restarts.")] = False,
    address: Address = None,
    key_file: KeyFile = None,
) -> None:
    """Kill an actor, by its name or id."""
    if (name is None) == (actor_id is None):
        raise fail("say which actor: --name (and --namespace), or --id", WRONG_USE)
    with in_one_sentence(), visiting(address, key_file) as core:
        from sparkray.util import state

        living = [one for one in state.list_actors(limit=10_000) if one.state != "DEAD"]
        found = [
            one
            for one in living
            if (one.actor_id == actor_id)
            or (name is not None and one.name == name and namespace in (None, one.ray_namespace))
        ]
        if not found:
            raise fail("there is no such living actor; `sparkray list actors` shows what there is", FAILED)
        if len(found) > 1:
            spaces = ", ".join(repr(one.ray_namespace) for one in found)
            raise fail(f"several actors have that name, in the namespaces {spaces}: add --namespace", WRONG_USE)
        before = found[0]
        core.send(
            HEAD,
            EndActor(ActorId(bytes.fromhex(before.actor_id)), "killed by `sparkray kill-actor`", restart, gently=False),
        )
        deadline = time.monotonic() + KILL_LIMIT_S
        while True:
            now = state.get_actor(before.actor_id)
            if now is None or now.state == "DEAD" or (restart and now.num_restarts > before.num_restarts):
                break
            if time.monotonic() > deadline:
                raise fail(f"actor {before.actor_id} was told to end, and has not within {KILL_LIMIT_S:g} s", FAILED)
            time.sleep(_LOOK_S)
    typer.echo(f"actor {before.actor_id} ({before.class_name}) was killed")
