"""What was there before a stop and is gone after it, node by node."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass

from sparkray.sizing import show_bytes
from sparkray_core.run.folders import KEEPER_FILE
from sparkray_core.run.processes import LINUX, Identity, children_of, identify, is_alive

POLL_S = 0.01
GENTLE_END_S = 10.0  # from SIGTERM to SIGKILL: nodes on other hosts are told in that time
END_S = 5.0


@dataclass(frozen=True, slots=True)
class NodeEnd:
    """What a stop found of one node. Nodes on other hosts are told to end too, but nobody looks there: None."""

    node: bytes
    host: str
    ended: int | None  # processes that were there and are gone
    left: tuple[int, ...]  # pids that live on
    folder_removed: bool | None
    freed_bytes: int | None = None  # of memory that those who ended held, the store included; None: not known here
    lost: str = ""  # it was gone before the stop: why, as far as is known


@dataclass(frozen=True, slots=True)
class StopReport:
    """What `RayContext.stop()` returns."""

    nodes: tuple[NodeEnd, ...] = ()
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Nothing is left, as far as can be seen from the driver's host."""
        return all(not node.left and node.folder_removed is not False for node in self.nodes)

    def __str__(self) -> str:
        lines = [f"{len(self.nodes)} nodes stopped in {self.seconds:.2f} s"]
        for node in self.nodes:
            if node.ended is None:
                seen = "told to end; not looked at, it is on another host"
            else:
                folder = "removed" if node.folder_removed else "LEFT"
                left = f", LEFT: {', '.join(map(str, node.left))}" if node.left else ""
                memory = f", {show_bytes(node.freed_bytes)} of memory freed" if node.freed_bytes else ""
                seen = f"{node.ended} processes ended{memory}{left}; folder {folder}"
            lost = f"lost before: {node.lost}; " if node.lost else ""
            lines.append(f"  node {node.node.hex()} on {node.host}: {lost}{seen}")
        return "\n".join(lines)


class NodeWatch:
    """A node on this host, looked at before it is told to end."""

    def __init__(self, node: bytes, host: str, keeper: Identity, folder: str) -> None:
        self.node = node
        self.folder = folder
        self._host = host
        self._keeper = keeper
        self._processes = tree(keeper)
        self._memory = {process.pid: _memory(process.pid) for process in self._processes}

    def is_gone(self) -> bool:
        return not any(map(is_alive, self._processes)) and not os.path.exists(self.folder)

    def end_keeper(self, how: signal.Signals) -> None:
        """By its identity, so that nobody who has its pid by now is hit."""
        if is_alive(self._keeper):
            # Not permitted: over Spark Connect, it may be another user's. The report tells that it is left.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._keeper.pid, how)

    def kill_all(self) -> None:
        """Each of its processes by itself: the keeper, whose duty that is, is gone or hangs."""
        for process in self._processes:
            if is_alive(process):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, signal.SIGKILL)

    def report(self) -> NodeEnd:
        left = tuple(process.pid for process in self._processes if is_alive(process))
        known = [size for pid, size in self._memory.items() if size is not None and pid not in left]
        return NodeEnd(
            node=self.node,
            host=self._host,
            ended=len(self._processes) - len(left),
            left=left,
            folder_removed=not os.path.exists(self.folder),
            freed_bytes=sum(known) if known else None,
        )

    @staticmethod
    def elsewhere(node: bytes, host: str) -> NodeEnd:
        """Of a node that cannot be looked at from here."""
        return NodeEnd(node, host, None, (), None)


def nodes_in(session_folder: str) -> list[NodeWatch]:
    """The nodes of a session on this host, found by their folders."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(session_folder):
            folder = os.path.join(session_folder, name)
            # Gone by now, or its keeper has only just made it.
            with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, KEEPER_FILE)) as file:
                keeper = json.load(file)
                found.append(
                    NodeWatch(bytes.fromhex(name), "this host", Identity(keeper["pid"], keeper["start"]), folder)
                )
    return found


def end_all(watches: list[NodeWatch], force: bool = False) -> StopReport:
    """End these nodes, the stubborn ones by force.

    Args:
        force: kill at once instead of telling them first.
    """
    began = time.monotonic()
    for how, limit in ((signal.SIGTERM, GENTLE_END_S), (signal.SIGKILL, END_S)):
        if force and how is signal.SIGTERM:
            continue
        for watch in watches:
            watch.end_keeper(how)
        if wait_gone(watches, limit):
            break
    else:
        for watch in watches:
            watch.kill_all()
        wait_gone(watches, END_S)
    return StopReport(tuple(watch.report() for watch in watches), time.monotonic() - began)


def wait_gone(watches: list[NodeWatch], limit: float) -> bool:
    """Whether all are gone, after `limit` seconds at most."""
    deadline = time.monotonic() + limit
    while not all(watch.is_gone() for watch in watches):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _memory(pid: int) -> int | None:
    """Its share of the memory that it uses: what several processes map, as they do the store, counts once in all."""
    if not LINUX:
        return None
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as lines:
            return next((int(line.split()[1]) << 10 for line in lines if line.startswith(b"Pss:")), None)
    except OSError:  # it has ended, or an old kernel
        return None


def tree(root: Identity) -> list[Identity]:
    """The process and all that descend from it; none when it is gone."""
    if not is_alive(root):
        return []
    found, todo = [root], [root.pid]
    while todo:
        for pid in children_of(todo.pop()):
            identity = identify(pid)
            if identity is not None:
                found.append(identity)
                todo.append(pid)
    return found
