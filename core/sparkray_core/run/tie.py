"""What a node lives for: when it is gone, the keeper ends the node."""

from __future__ import annotations

import os
from collections.abc import Collection

from sparkray_core.run import config, processes
from sparkray_core.run.processes import Identity


class Tie:
    """Descriptors to poll, and whether the tie is gone. Where the system has no pidfd, ask now and then."""

    def __init__(self, tie: config.Tie) -> None:
        """
        Raises:
            ProcessLookupError: it is gone already.
        """
        self._stdin: int | None = None
        self._process: Identity | None = None
        if isinstance(tie, config.StdinTie):
            self._stdin = os.dup(0)  # 0 itself becomes /dev/null once the node is up
            # Whatever our launcher forked holds the other end of our stdin too, and may outlive it.
            self._process = processes.identify(os.getppid())
        elif isinstance(tie, config.ProcessTie):
            self._process = Identity(tie.pid, tie.start)
        self._pidfd = None if self._process is None else processes.watch(self._process)
        self.descriptors = [descriptor for descriptor in (self._stdin, self._pidfd) if descriptor is not None]
        self.needs_asking = self._process is not None and self._pidfd is None

    def why_gone(self, readable: Collection[int] = ()) -> str | None:
        """None while it holds. `readable`: which of the descriptors the poll named."""
        if self._stdin is not None and self._stdin in readable and not os.read(self._stdin, 4096):
            return "stdin was closed by the process that started this node"
        process = self._process
        if process is not None and (self._pidfd in readable or self.needs_asking) and not processes.is_alive(process):
            return f"process {process.pid}, for which this node was started, has ended"
        return None
