"""What a process that was forked from one with a session has of it: nothing.

Its sockets are the parent's too, and so is what comes through them; no thread reads them here. So the child lets go of
them at once (else the raylet would not hear of the parent's end), and whatever it asks of sparkray is refused, until it
starts a session of its own. The shared memory stays readable: arrays that were read before the fork can be used.
"""

from __future__ import annotations

import os
from typing import Any

from sparkray_core.errors import RaySystemError
from sparkray_core.run import object_ref

_kept: list[Any] = []  # of the parent's session: its destructors would speak in the parent's name
_refused = False


def refuse() -> None:
    """
    Raises:
        RaySystemError: this process was forked from one with a session, and has none of its own yet.
    """
    if _refused:
        raise RaySystemError(
            f"process {os.getpid()} was forked from one with a sparkray session, whose connections it cannot use. Call "
            f"sparkray.init() here for a session of its own, or start it without fork: "
            f"multiprocessing.get_context('spawn')"
        )


def has_own_session() -> None:
    global _refused
    _refused = False


def _let_go() -> None:
    global _refused
    core = object_ref.current
    object_ref.dropped.clear()
    object_ref.dropped_streams.clear()
    if core is not None:
        object_ref.current = None
        _kept.append(core)
        _refused = True
        core.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
