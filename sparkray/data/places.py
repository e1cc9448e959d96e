"""Which node a Spark Python worker belongs to: the one that lives in its own executor."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkray_core.errors import NodeDiedError, RaySystemError
from sparkray_core.ids import NodeId
from sparkray_core.run.guest import SOCKET_NAME, Guest
from sparkray_core.run.processes import Identity, identify

if TYPE_CHECKING:
    from sparkray_core.run.core import Core


@dataclass(frozen=True, slots=True)
class Place:
    """A node that Spark's workers may use, as the closure of a Spark job carries it."""

    node: NodeId
    folder: str
    jvm: Identity | None  # of the executor that it lives in; None: it is on the driver's machine, by `init()`


@dataclass(frozen=True, slots=True)
class Places:
    nodes: tuple[Place, ...]
    token: bytes

    def visit(self) -> Guest:
        """Connect to the node of the executor that this process belongs to, else to another on the same machine.

        Raises:
            RaySystemError: there is none; or (NodeDiedError) it does not answer.
        """
        place = self.here()
        return Guest(place.folder, self.token, place.node)

    def visit_living(self) -> Guest | None:
        """The same, but past nodes that do not answer; None if there is no other."""
        for place in self._candidates():
            with contextlib.suppress(NodeDiedError):
                return Guest(place.folder, self.token, place.node)
        return None

    def here(self) -> Place:
        for place in self._candidates():
            return place
        raise RaySystemError(
            f"the executor of process {os.getpid()} on {socket.gethostname()} has no sparkray node: the session's "
            f"{len(self.nodes)} nodes are elsewhere. A session of RayContext has one in every executor that ran when "
            "it started (dynamic allocation may add executors later); one of init() is on the driver's machine only"
        )

    def _candidates(self) -> Iterator[Place]:
        above = set(_above(os.getpid()))
        own = [place for place in self.nodes if place.jvm is not None and place.jvm in above]
        yield from own
        for place in self.nodes:  # an executor that came later, or the node of `init()`
            if place not in own and os.path.exists(os.path.join(place.folder, SOCKET_NAME)):
                yield place

    def __repr__(self) -> str:  # not the token: it would be in every traceback that shows arguments
        return f"Places({len(self.nodes)} nodes)"


def of_session() -> Places:
    """The nodes of this process's session, which is started if there is none.

    Raises:
        RuntimeError: this process is a worker, not the driver.
    """
    from sparkray import session

    core = session.core()
    if core.role != "driver":
        raise RuntimeError("DataFrames can be moved from and to Spark by the driver only: where the SparkSession is")
    return of(core)


def of(core: Core) -> Places:
    """The same, of the session that this process has."""
    from sparkray import session  # here: Spark's workers have no use for it

    executors: Sequence[Any] = getattr(session.current(), "executors", ())
    if executors:
        # The latest first: where an executor has lost its node and was given another, that is the one.
        nodes = tuple(Place(NodeId(each.node), each.folder, each.jvm) for each in reversed(executors))
    else:
        nodes = (Place(core.node, core.folder, None),)
    return Places(nodes, core.token)


def _above(pid: int) -> Iterator[Identity]:
    """This process's parent, its parent, and so on."""
    import psutil

    for parent in psutil.Process(pid).parents():
        identity = identify(parent.pid)
        if identity is not None:
            yield identity
