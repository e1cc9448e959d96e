"""The raylet's end of its conversation with the zygote."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from sparkray_core.ids import ProcessId
from sparkray_core.run import processes
from sparkray_core.run.zygote import EXITED, FORK, KILL, NOT_FORKED, REPORT, REQUEST


class ZygoteGone(Exception):
    """The zygote ended, and the workers with it."""


@dataclass(frozen=True, slots=True)
class Exited:
    worker: ProcessId
    why: str  # "exit code 1", "killed by SIGKILL", "not forked: Cannot allocate memory"


class ZygoteClient:
    """Asks for workers and reads what became of them. Never blocks: both would wait for the other to read."""

    def __init__(self, sock: socket.socket) -> None:
        self.workers: set[ProcessId] = set()  # asked for; who handles the report of an end takes it out
        sock.setblocking(False)
        self._sock = sock
        self._received = b""
        self._unsent = b""

    def fileno(self) -> int:
        return self._sock.fileno()

    def fork(self, worker: ProcessId) -> None:
        self.workers.add(worker)
        self._ask(FORK, worker)

    def kill(self, worker: ProcessId) -> None:
        """SIGKILL, unless it has ended."""
        self._ask(KILL, worker)

    def receive(self) -> list[Exited]:
        """What the zygote reported; to be called when the socket is readable.

        Raises:
            ZygoteGone
        """
        try:
            arrived = self._sock.recv(1 << 16)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            arrived = b""
        if not arrived:
            raise ZygoteGone
        self._received += arrived
        whole = len(self._received) - len(self._received) % REPORT.size
        reports, self._received = self._received[:whole], self._received[whole:]
        exits = []
        for kind, worker, number in REPORT.iter_unpack(reports):
            if kind == EXITED:
                exits.append(Exited(ProcessId(worker), processes.exit_in_words(number)))
            elif kind == NOT_FORKED:
                exits.append(Exited(ProcessId(worker), f"not forked: {os.strerror(number)}"))
        return exits

    def close(self) -> None:
        """Which ends the zygote and all workers."""
        self._sock.close()

    @property
    def wants_write(self) -> bool:
        """Whether `flush` should be called when the socket is writable."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Send on what the zygote was too busy to take."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):  # `receive` says so
            self._unsent = b""

    def _ask(self, kind: int, worker: ProcessId) -> None:
        self._unsent += REQUEST.pack(kind, worker)
        self.flush()
