"""Draining a node: it takes nothing new, what it has goes elsewhere or finishes, and then it leaves.

Ray's `ray drain-node`; here also for those who call it from Python, and wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sparkray.options import check_amount
from sparkray_core.errors import RaySystemError
from sparkray_core.ids import HEAD, NodeId, raylet_of
from sparkray_core.messages import DrainNode
from sparkray_core.run.core import Core

LOOK_S = 0.05


def drain_node(
    node: str, reason: str = "", deadline_s: float | None = None, *, idle_only: bool = False, wait: bool = True
) -> None:
    """Have a node of this session leave it, without loss.

    It gets no new tasks, actors and bundles; what waits there goes elsewhere; what runs there finishes. Actors that may
    be restarted, and fit elsewhere, finish the calls they have and begin anew there, with the state that they saved;
    their callers wait, and no restart is counted. Objects move to other nodes. The node leaves when all that is done.

    Args:
        node: its id, as `nodes()` has it, or its first characters.
        reason: told in `nodes()`, `sparkray status` and errors.
        deadline_s: it leaves by then, whatever still runs there: tasks run again elsewhere, without a retry being
            counted, and what was lost with it is made again. None: it waits for the end of all that runs there.
        idle_only: only if it has nothing to do now.
        wait: until it has left.

    Raises:
        ValueError: there is no such node, or it cannot be drained; the text says why.
    """
    from sparkray.session import core

    here = core()
    some = begin_draining(here, node, reason, deadline_s, idle_only)
    if wait:
        wait_left(here, some)


def begin_draining(
    core: Core, node: str, reason: str = "", deadline_s: float | None = None, idle_only: bool = False
) -> NodeId:
    """See `drain_node`. Returns which node it is."""
    check_amount("deadline_s", deadline_s)
    found = [facts for facts in core.ask(HEAD, "nodes") if facts["node"].hex().startswith(node.lower())]
    if not node or len(found) != 1:
        told = "no node of this session begins" if not found else f"{len(found)} nodes of this session begin"
        raise ValueError(f"{told} with {node!r}; `sparkray list nodes` shows their ids")
    some = NodeId(found[0]["node"])
    why = reason or "no reason was given"
    refused = core.request(HEAD, lambda number: DrainNode(number, some, why, deadline_s, idle_only))
    if refused:
        raise ValueError(f"it is not drained: {refused}")
    return some


def wait_left(core: Core, node: NodeId, tell: Callable[[dict[str, int]], object] = lambda holds_up: None) -> None:
    """Until the node has left.

    Args:
        tell: called with what it still waits for, and how many of it, whenever that has changed.
    """
    last: dict[str, int] | None = None
    while any(facts["node"] == node and facts["alive"] for facts in core.ask(HEAD, "nodes")):
        try:
            status: dict[str, Any] = core.ask(raylet_of(node), "status")
        except RaySystemError:  # it left just now
            continue
        holds_up = status["draining"]
        if holds_up is not None and holds_up != last:
            tell(holds_up)
            last = holds_up
        time.sleep(LOOK_S)
