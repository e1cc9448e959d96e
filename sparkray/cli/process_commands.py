"""`sparkray logs`, `stack` and `timeline`: what single processes wrote, do and did."""

from __future__ import annotations

import fnmatch
import json
import os
import sys
from typing import Annotated, Any

import typer

from sparkray.cli.failures import FAILED, WRONG_USE, fail, in_one_sentence
from sparkray.cli.options import Address, Json, KeyFile
from sparkray.cli.tables import show_json, show_table
from sparkray.visit import visiting
from sparkray_core.ids import HEAD, node_of
from sparkray_core.run import stacks
from sparkray_core.run.core import Core
from sparkray_core.run.survey import ask_nodes, ask_processes

SIGNAL_LIMIT_S = 3.0


def add_to(app: typer.Typer) -> None:
    app.command()(logs)
    app.command()(stack)
    app.command()(timeline)


# ------------------------------------------------------------------------------------------ logs
def logs(
    name: Annotated[str | None, typer.Argument(help="Of a log, or a pattern like 'raylet*'. None: list them.")] = None,
    node_id: Annotated[str | None, typer.Option(help="Only of this node.")] = None,
    actor_id: Annotated[str | None, typer.Option(help="The log of this actor.")] = None,
    task_id: Annotated[str | None, typer.Option(help="The log of the worker that ran this task.")] = None,
    pid: Annotated[int | None, typer.Option(help="The log of the worker with this pid.")] = None,
    err: Annotated[bool, typer.Option("--err", help="Of a worker its stderr, not what it printed.")] = False,
    tail: Annotated[int, typer.Option(help="Begin so many lines before the end; -1 shows all.")] = 1000,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows, until Ctrl-C.")] = False,
    address: Address = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """List the logs of the session's nodes, or show one."""
    with in_one_sentence(), visiting(address, key_file) as core:
        from sparkray.util import state

        if actor_id or task_id or pid:
            pieces = state.get_log(
                node_id=node_id,
                actor_id=actor_id,
                task_id=task_id,
                pid=pid,
                tail=tail,
                follow=follow,
                suffix="err" if err else "out",
                errors="replace",
            )
            _print(pieces)
            return
        found = _logs(core, node_id, name)
        if name is None:
            if as_json:
                show_json([{"node_id": node, "name": log} for node, log in found])
            else:
                show_table("Logs", ["node", "name"], found)
            return
        if not found:
            raise fail(f"no node has a log {name!r}; `sparkray logs` lists what there is", FAILED)
        if follow and len(found) > 1:
            raise fail(f"{len(found)} logs are called so; --follow takes one", WRONG_USE)
        for node, log in found:
            if len(found) > 1:
                typer.echo(f"--- {log} of node {node}")
            _print(state.get_log(node_id=node, filename=log, tail=tail, follow=follow, errors="replace"))


def _logs(core: Core, node_id: str | None, pattern: str | None) -> list[tuple[str, str]]:
    from sparkray.util import state

    nodes = [facts["node"].hex() for facts in core.ask(HEAD, "nodes") if facts["alive"]]
    if node_id is not None and node_id not in nodes:
        raise fail(f"there is no living node {node_id}; `sparkray list nodes` shows what there is", FAILED)
    return [
        (node, log)
        for node in nodes
        if node_id in (None, node)
        for names in state.list_logs(node_id=node).values()
        for log in names
        if not log.endswith(".stack")  # `sparkray stack` shows these
        if pattern is None or log == pattern or fnmatch.fnmatch(log, pattern)
    ]


def _print(pieces: Any) -> None:
    try:
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return


# ------------------------------------------------------------------------------------------ stacks
def stack(
    pid: Annotated[int | None, typer.Option(help="Only of this process.")] = None,
    address: Address = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Where each thread of every driver and worker is, also of those that are busy."""
    with in_one_sentence(), visiting(address, key_file) as core:
        survey = ask_processes(core, "stack")
        found = [
            {"pid": told["pid"], "role": told["role"], "actor": told["actor_name"], "stack": told["stack"]}
            for told in survey.answers.values()
        ]
        silent = set(survey.silent)
        mute = []
        if silent:
            folders = {facts["node"]: facts["folder"] for facts in core.ask(HEAD, "nodes")}
            for raylet, workers in ask_nodes(core, "workers").answers.items():
                for worker in workers["alive"]:
                    if worker["worker"] in silent:
                        text = _by_signal(folders[node_of(raylet)], worker["worker"], worker["pid"])
                        if text is None:
                            mute.append(worker["pid"])
                        else:
                            found.append({"pid": worker["pid"], "role": "worker", "actor": "", "stack": text})
    found = [one for one in found if pid in (None, one["pid"])]
    if pid is not None and not found:
        raise fail(f"process {pid} is no driver or worker of the session, or does not answer", FAILED)
    if as_json:
        show_json(found)
    else:
        for one in found:
            typer.echo(f"=== {one['role']} {one['actor']}".rstrip() + f" (pid {one['pid']})\n{one['stack']}")
    if mute and pid is None:
        raise fail(f"did not answer: {', '.join(map(str, mute))}", FAILED)


def _by_signal(folder: str, worker: bytes, pid: int) -> str | None:
    """Only on this host, where the node's folder is."""
    return stacks.by_signal(pid, os.path.join(folder, "logs", f"worker-{worker[8:].hex()}.log"), SIGNAL_LIMIT_S)


# ------------------------------------------------------------------------------------------ timeline
def timeline(
    output: Annotated[
        str | None, typer.Argument(help="The file to write; timeline-SESSION.json, or .png, if not given.")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="A picture, one row for each process; needs matplotlib.")] = False,
    address: Address = None,
    key_file: KeyFile = None,
) -> None:
    """Write what ran when, as a trace for chrome://tracing or ui.perfetto.dev, or as a picture."""
    with in_one_sentence(), visiting(address, key_file) as core:
        from sparkray.chrome_trace import timeline as trace

        events = trace() or []
        path = output or f"timeline-{core.session}.{'png' if png else 'json'}"
    if png:
        from sparkray.gantt import draw_gantt

        try:
            drawn = draw_gantt(events, path, f"session {core.session}")
        except (ImportError, ValueError, OSError) as error:
            raise fail(str(error), FAILED) from None
        typer.echo(f"{drawn} tasks and calls are in {path}")
        return
    with in_one_sentence(), open(path, "w") as file:
        json.dump(events, file)
    typer.echo(f"{len(events)} events are in {path}; open it in chrome://tracing or https://ui.perfetto.dev")
