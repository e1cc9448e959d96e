"""The lines of a node's logs, written once more where somebody looks for them: Kubernetes, at the output of the pod.

Nothing may wait for whoever reads there, so what it does not take at once is written later, from the file.
"""

from __future__ import annotations

import contextlib
import os

_CHUNK = 1 << 16  # bytes of one file at a time
_LONGEST_LINE = 1 << 15  # a longer one is cut


class Follower:
    """Copies whole lines of all files of a folder, each with its process in front: "[sparkray raylet] ..."."""

    def __init__(self, folder: str, place: str) -> None:
        """
        Args:
            place: a file, or a descriptor of another process of ours ("/proc/1/fd/1").

        Raises:
            OSError: it cannot be written to.
        """
        self._folder = folder
        # Opened anew, and not duplicated: the flag is ours alone then.
        self._out = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
        self._read: dict[str, int] = {}  # bytes of each file that were taken
        self._left = b""  # of them, what was not written yet

    def follow(self) -> None:
        """Write what has come since the last time, as far as it is taken. Costs 20 us where nothing has."""
        if not self._flush():
            return
        with contextlib.suppress(FileNotFoundError):
            for entry in sorted(os.scandir(self._folder), key=lambda entry: entry.name):
                with contextlib.suppress(FileNotFoundError):
                    while entry.stat().st_size > self._read.get(entry.name, 0) and self._copy(entry):
                        if not self._flush():
                            return

    def close(self) -> None:
        """After a last look."""
        if self._out >= 0:
            self.follow()
            os.close(self._out)
            self._out = -1

    def _copy(self, entry: os.DirEntry[str]) -> bool:
        """Take some whole lines; False: there are none."""
        with open(entry.path, "rb") as file:
            file.seek(self._read.get(entry.name, 0))
            chunk = file.read(_CHUNK)
        whole = chunk.rfind(b"\n") + 1
        if not whole and len(chunk) < _LONGEST_LINE:
            return False
        lines = chunk[: whole or len(chunk)]
        self._read[entry.name] = self._read.get(entry.name, 0) + len(lines)
        mark = b"[sparkray %s] " % os.fsencode(entry.name.removesuffix(".log").removesuffix(".out"))
        self._left = b"".join(mark + line + b"\n" for line in lines.splitlines())
        return True

    def _flush(self) -> bool:
        """Whether all is written."""
        while self._left:
            try:
                written = os.write(self._out, self._left)
            except BlockingIOError:
                return False
            except OSError:  # nobody reads any more
                self._left = b""
                break
            self._left = self._left[written:]
        return True
