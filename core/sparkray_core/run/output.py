"""What workers print, on its way to the driver.

A worker's stdout and stderr are files in the node's folder, so that nothing it prints can block it or be lost with it.
It reads them back itself: before it sends results, and ten times a second while a task runs. So what a task printed is
there before its result is. Output goes to whoever gave the worker its work; a worker passes it on, up to the driver.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import sys
from collections import deque
from typing import Any, TextIO

from sparkray_core.messages import LogLines

LOOK_S = 0.1  # how often a running task's output is looked for
_SPARE_DESCRIPTORS = 200
MOST_BYTES = 256 << 10  # read at once from one file: what is printed faster than this is sent in turns
LAST_WORDS_BYTES, LAST_WORDS_LINES = 8192, 20  # a fault's dump of a few threads, or the end of a traceback
PENDING_LINES = 100_000  # that wait in the driver to be shown; beyond, the oldest are dropped and counted


class Tail:
    """The growing end of this process's stdout and stderr."""

    def __init__(self, out_path: str, err_path: str) -> None:
        """stdout is sent to `out_path`; stderr goes to `err_path` already."""
        out = os.open(out_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        sys.stdout.flush()
        os.dup2(out, 1)
        os.close(out)
        self._files = [os.open(path, os.O_RDONLY) for path in (out_path, err_path)]
        self._read = [os.fstat(file).st_size for file in self._files]

    def new_lines(self, last: bool = False) -> list[tuple[int, list[str]]]:
        """(1 for stdout or 2 for stderr, whole lines) printed since the last call; with `last`, the rest too."""
        found = []
        for index, file in enumerate(self._files):
            size = os.lseek(file, 0, os.SEEK_END)  # a third of an fstat; it is asked for with each answer
            if size == self._read[index]:
                continue
            data = os.pread(file, min(size - self._read[index], MOST_BYTES), self._read[index])
            end = len(data) if last or len(data) == MOST_BYTES else data.rfind(b"\n") + 1
            if end:
                self._read[index] += end
                found.append((index + 1, data[:end].decode(errors="replace").splitlines()))
        return found


class _Stream(io.FileIO):
    """stdout or stderr of a worker, which a task may have closed: then it is opened again, for the tasks after it."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self._number = number
        # High up, where a task that closes its first descriptors does not find it.
        self._spare = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _SPARE_DESCRIPTORS)

    def write(self, data: Any, /) -> Any:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.dup2(self._spare, self._number)
            return super().write(data)


def keep_streams() -> None:
    """Let what this worker prints survive a task that closes the descriptors of stdout and stderr."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = io.TextIOWrapper(
            io.BufferedWriter(_Stream(number)), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def last_words(err_path: str) -> str:
    """The end of a dead worker's stderr, for the error that tells of its death; empty if it said nothing."""
    try:
        with open(err_path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_WORDS_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        ours = f'  File "{os.path.dirname(__file__)}'
        lines = [line for line in lines if not line.startswith(ours)]  # below the user's frames, and the same each time
    except FileNotFoundError:
        return ""
    return "\n".join("    " + line for line in lines[-LAST_WORDS_LINES:])


class Printer:
    """The driver's end: shows lines with who printed them, outside of any lock."""

    def __init__(self) -> None:
        self.shown = True  # False: output stays in the workers' files
        self._pending: deque[tuple[int, str, str]] = deque()
        self._dropped = 0

    def add(self, message: LogLines) -> None:
        if not self.shown:
            return
        who = f"({message.name} pid={message.pid}" + (f", ip={message.host}" if message.host else "") + ")"
        for line in message.lines:
            self._pending.append((message.stream, line, who))
        while len(self._pending) > PENDING_LINES:
            self._pending.popleft()
            self._dropped += 1

    def show(self) -> None:
        """Print what has come. The same line of several workers, come together, is printed once with their number."""
        if not self._pending:
            return
        counted: dict[tuple[int, str], list[str]] = {}
        while self._pending:
            stream, line, who = self._pending.popleft()
            counted.setdefault((stream, line), []).append(who)
        if self._dropped:
            sys.stderr.write(f"({self._dropped} lines of workers were not shown: they print too fast)\n")
            self._dropped = 0
        for (stream, line), printers in counted.items():
            others = len(set(printers)) - 1
            if others:
                print(
                    f"{printers[0]} {line} [repeated {len(printers)}x across {others + 1} workers]",
                    file=_stream(stream),
                )
            else:
                for who in printers:
                    _stream(stream).write(f"{who} {line}\n")
        for number in (1, 2):
            _stream(number).flush()


def _stream(number: int) -> TextIO:
    return sys.stdout if number == 1 else sys.stderr
