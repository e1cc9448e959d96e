"""How every child of the keeper begins, and how it tells the keeper that it is ready."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
from typing import Any, NamedTuple

from sparkray_core.run import processes
from sparkray_core.run.config import NodeConfig, ProcessTie
from sparkray_core.run.processes import Identity
from sparkray_core.run.pulse import Pulse


class Parent(NamedTuple):
    """What ties a child to its keeper."""

    pid: int
    lifeline: int  # a pipe that the keeper holds open
    pulse: Pulse  # by which the keeper sees that the child's loop turns


_LAST_WORD = "ended"  # a file in the node's folder
_TITLES = {"head": "gcs"}  # where users of Ray know a process by another name


def begin(name: str, config: NodeConfig, keeper: int, title: str = "") -> None:
    """Take the name, send output to the log of that name, and be ended when `keeper`, our parent, dies.

    The caller has set its handler for SIGTERM before, if it wants one: the signal may come during this call.
    """
    processes.set_title(title or _TITLES.get(name, name), f"sparkray-{name}")
    processes.redirect_output(config.new_log(name))
    logging.basicConfig(level=config.settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the driver
    processes.die_with_parent(signal.SIGTERM, keeper)


def leave_word(config: NodeConfig, why: str) -> None:
    """The keeper's, before it ends its children for a reason that they do not know."""
    with contextlib.suppress(OSError), open(os.path.join(config.folder, _LAST_WORD), "w") as file:
        file.write(why)


def word_left(folder: str) -> str:
    """By the keeper, in its node's folder; empty: none."""
    try:
        with open(os.path.join(folder, _LAST_WORD)) as file:
            return file.read()
    except OSError:
        return ""


def why_ended(config: NodeConfig) -> str:
    """What a child that its keeper ends can say of the reason."""
    if word := word_left(config.folder):
        return word
    tie = config.tie
    if isinstance(tie, ProcessTie) and not processes.is_alive(Identity(tie.pid, tie.start)):
        return f"process {tie.pid}, for which this node was started, has ended"
    return "its node was ended"


def tell_keeper(tell: int, facts: dict[str, Any]) -> None:
    """Write the one line that the keeper waits for, and close the pipe."""
    try:
        os.write(tell, json.dumps(facts).encode() + b"\n")
    except BrokenPipeError:
        pass  # it does not wait any more: the lifeline will say so
    finally:
        os.close(tell)
