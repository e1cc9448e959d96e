"""One question to many processes at once, with a limit of time for each; and to the raylets who there is."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sparkray_core.ids import HEAD, NodeId, ProcessId, raylet_of
from sparkray_core.messages import Ask, Inspect
from sparkray_core.run.core import Core
from sparkray_core.run.pump import now

log = logging.getLogger(__name__)

PROCESS_LIMIT_S = 5.0  # a process that has not answered by then is named in a warning; one answers in milliseconds


@dataclass(slots=True)
class Survey:
    """The answers, by process; and who did not answer in time."""

    answers: dict[ProcessId, Any] = field(default_factory=dict)
    silent: list[ProcessId] = field(default_factory=list)

    def warn(self, subject: str) -> None:
        if self.silent:
            named = ", ".join(process.hex() for process in self.silent[:5])
            more = f" and {len(self.silent) - 5} more" if len(self.silent) > 5 else ""
            log.warning(
                "%s may be missing something: %s%s did not answer in time (busy in native code that does not let "
                "other threads run, or on its way out)",
                subject,
                named,
                more,
            )


def ask_processes(core: Core, what: str, detail: Any = None, limit_s: float | None = None) -> Survey:
    """Ask every driver and worker of the session."""
    deadline = now() + (PROCESS_LIMIT_S if limit_s is None else min(limit_s, PROCESS_LIMIT_S))
    nodes = ask_nodes(core, "processes", limit_s)
    processes = [
        process for listed in nodes.answers.values() for process, role in listed or () if role in ("driver", "worker")
    ]
    found = _ask(core, processes, lambda number: Inspect(number, what, detail), deadline)
    found.silent += nodes.silent
    return found


def ask_nodes(core: Core, what: str, limit_s: float | None = None) -> Survey:
    """Ask every raylet's model."""
    deadline = now() + (PROCESS_LIMIT_S if limit_s is None else min(limit_s, PROCESS_LIMIT_S))
    raylets = [raylet_of(node) for node in alive(core)]
    return _ask(core, raylets, lambda number: Ask(number, what), deadline)


def left_behind(core: Core, answers: dict[ProcessId, Any], limit_s: float | None = None) -> dict[ProcessId, Any]:
    """What workers that ended left with their raylets.

    Args:
        answers: to what was asked of all processes before. One that has ended since is taken out of them: what it left
            has all that it told, and each of its tasks is to be counted once.
    """
    found: dict[ProcessId, Any] = {}
    for listed in ask_nodes(core, "former", limit_s).answers.values():
        for process, facts in listed:
            told = answers.pop(process, None)
            found[process] = facts if told is None else _joined(told, facts)
    return found


def _joined(told: dict[str, Any], left: dict[str, Any]) -> dict[str, Any]:
    """What it left, and of what it told before the older records, of which less is left."""
    both = {name: left[name] for name in left}
    for name in ("ran", "errors", "failed"):
        both[name] = list(dict.fromkeys(map(tuple, [*told.get(name, ()), *left[name]])))
    return {**both, "names": {**told["names"], **left["names"]}}


def inspect(core: Core, process: ProcessId, what: str, detail: Any = None, limit_s: float | None = None) -> Any:
    """Ask one driver, worker or raylet; None if it does not answer in time, or is not there any more."""
    deadline = now() + (PROCESS_LIMIT_S if limit_s is None else limit_s)
    return _ask(core, [process], lambda number: Inspect(number, what, detail), deadline).answers.get(process)


def alive(core: Core) -> list[NodeId]:
    """The nodes of the session, as the head sees them."""
    return [facts["node"] for facts in core.ask(HEAD, "nodes") if facts["alive"]]


def _ask(core: Core, processes: Iterable[ProcessId], message: Any, deadline: float) -> Survey:
    found = Survey()
    asked = [(process, core.begin_request(process, message)) for process in dict.fromkeys(processes)]
    for process, request in asked:
        done, answer = core.end_request(request, deadline)
        if not done:
            found.silent.append(process)
        elif answer is not None:
            found.answers[process] = answer.value
    return found
