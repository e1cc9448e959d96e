"""The log files of the nodes, wherever they are: names and contents come by way of the raylets."""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Iterator
from typing import Any

from sparkray.util.state.query import DEFAULT_TIMEOUT_S, connected
from sparkray_core.ids import HEAD, NodeId, raylet_of
from sparkray_core.run.core import Core
from sparkray_core.run.survey import ask_nodes, inspect

_CHUNK_BYTES = 1 << 20
_FOLLOW_S = 0.2  # between two looks at a log that is followed
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
) -> dict[str, list[str]]:
    """The names of a node's log files, by whose they are.

    Args:
        node_id: hex; this process's node, if neither is given.
        glob_filter: of names, as of files: "worker*".
    """
    here = connected(address)
    names = inspect(here, raylet_of(_node(here, node_id, node_ip)), "logs", None, timeout) or []
    found: dict[str, list[str]] = {}
    for name in names:
        if glob_filter is None or fnmatch.fnmatch(name, glob_filter):
            found.setdefault(_whose(name), []).append(name)
    return found


def _whose(name: str) -> str:
    if name.startswith("worker"):
        return "worker_out" if name.endswith(".out") else "worker_err"
    return {"head": "gcs_server"}.get(name.partition(".")[0], name.partition(".")[0])


def get_log(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    filename: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    pid: int | None = None,
    follow: bool = False,
    tail: int = -1,
    timeout: float = DEFAULT_TIMEOUT_S,
    suffix: str = "out",
    encoding: str | None = "utf-8",
    errors: str | None = "strict",
    submission_id: str | None = None,
    attempt_number: int = 0,
    _interval: float | None = None,
    filter_ansi_code: bool = False,
) -> Iterator[Any]:
    """What a process has written, piece by piece.

    Args:
        filename: one of those that `list_logs` names; or say whose log by `actor_id`, `task_id` or `pid`.
        follow: go on as it grows, until the generator is closed.
        tail: begin so many lines before the end; -1 gives all of it.
        suffix: "out" for what a worker printed, "err" for its stderr.
        encoding: None gives bytes.

    Raises:
        ValueError: nothing says whose log, or there is no such log.
    """
    here = connected(address)
    node = _node(here, node_id, node_ip)
    if filename is None:
        node, filename = _find(here, node, actor_id, task_id, pid, suffix, timeout)
    if _read(here, node, filename, 0, 0, timeout) is None:
        raise ValueError(f"node {node.hex()} has no log {filename!r}; list_logs() names those that it has")
    interval_s = _interval or _FOLLOW_S
    return _pieces(here, node, filename, tail, follow, interval_s, timeout, encoding, errors, filter_ansi_code)


def _pieces(
    here: Core,
    node: NodeId,
    name: str,
    tail: int,
    follow: bool,
    interval_s: float,
    timeout: float,
    encoding: str | None,
    errors: str | None,
    without_ansi: bool,
) -> Iterator[Any]:
    position = 0 if tail < 0 else _start_of(here, node, name, tail, timeout)
    while True:
        found = _read(here, node, name, position, _CHUNK_BYTES, timeout)
        if found is None:
            return
        data = found[1]
        if data and encoding is not None and position + len(data) < found[0]:
            data = data[: data.rfind(b"\n") + 1] or data  # no character is cut in two
        position += len(data)
        if data:
            if encoding is None:
                yield data
            else:
                text = data.decode(encoding, errors or "strict")
                yield _ANSI.sub("", text) if without_ansi else text
        elif not follow:
            return
        else:
            time.sleep(interval_s)


def _start_of(here: Core, node: NodeId, name: str, lines: int, timeout: float) -> int:
    """Where the last so many lines begin."""
    size, _ = _read(here, node, name, 0, 0, timeout) or (0, b"")
    want = _CHUNK_BYTES
    while True:
        first = max(0, size - want)
        found = _read(here, node, name, first, size - first, timeout)
        if found is None:
            return 0
        data = found[1]
        ends = [position for position, byte in enumerate(data[:-1]) if byte == 10]
        if lines == 0:
            return size
        if len(ends) >= lines:
            return first + ends[-lines] + 1
        if first == 0 or want >= 4 << 20:
            return first
        want *= 2


def _read(here: Core, node: NodeId, name: str, first: int, most: int, timeout: float) -> Any:
    return inspect(here, raylet_of(node), "log", (name, first, most), timeout)


def _node(here: Core, node_id: str | None, node_ip: str | None) -> NodeId:
    if node_id is not None:
        return NodeId(bytes.fromhex(node_id))
    if node_ip is not None:
        for facts in here.ask(HEAD, "nodes"):
            if facts["host"] == node_ip and facts["alive"]:
                return NodeId(facts["node"])
        raise ValueError(f"no live node has the address {node_ip}")
    return here.node


def _find(
    here: Core, node: NodeId, actor: str | None, task: str | None, pid: int | None, suffix: str, timeout: float
) -> tuple[NodeId, str]:
    """Whose log it is, and where."""
    from sparkray.util import state

    if suffix not in ("out", "err"):
        raise ValueError(f"suffix is 'out' or 'err', not {suffix!r}")
    worker: str | None = None
    if actor is not None:
        known = state.get_actor(actor, timeout=timeout)
        worker = None if known is None else known.worker_id
    elif task is not None:
        found = state.get_task(task, timeout=timeout)
        last = found[-1] if isinstance(found, list) else found
        worker = None if last is None else last.worker_id
    elif pid is not None:
        listed = ask_nodes(here, "workers", timeout).answers.get(raylet_of(node), {"alive": []})
        worker = next((facts["worker"].hex() for facts in listed["alive"] if facts["pid"] == pid), None)
    else:
        raise ValueError("say whose log: filename, actor_id, task_id or pid")
    if worker is None:
        raise ValueError("no worker is known that this is the log of")
    return NodeId(bytes.fromhex(worker[:16])), f"worker-{worker[16:]}." + ("out" if suffix == "out" else "log")
