"""Where each thread of a process is, in Python: asked for by message, or by a signal that works when messages do not.

The message is answered by a side thread, which needs the interpreter. A worker that sits in native code with the
interpreter held answers the signal all the same: faulthandler writes from within the signal's handler.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback

# A real-time signal, which hardly anybody uses; where there is none, only messages are answered.
SIGNAL: int | None = signal.SIGRTMAX - 5 if hasattr(signal, "SIGRTMAX") else None
_LOOK_S = 0.02
_files: list[object] = []  # kept open for the handler


def text() -> str:
    """The stack of every thread of this process, the main thread's first, the innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] != main)
    return "".join(
        f"Thread {names.get(ident, '?')} ({ident:#x}):\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in frames
    )


def file_of(log: str) -> str:
    """Where the signal's answer of the process with this log goes."""
    return log.removesuffix(".log") + ".stack"


def arm(log: str) -> None:
    """Answer the signal from now on."""
    if SIGNAL is not None:
        descriptor = os.open(file_of(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        file = open(descriptor, "w")  # noqa: SIM115 - open as long as the process lives
        _files.append(file)
        faulthandler.register(SIGNAL, file=file, all_threads=True, chain=False)


def by_signal(pid: int, log: str, limit_s: float) -> str | None:
    """Ask a process of this host by signal; None if it does not answer, or never armed itself."""
    path = file_of(log)
    if SIGNAL is None or not os.path.exists(path):
        return None  # not sent: who is not prepared for it would die of it
    before = os.path.getsize(path)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, SIGNAL)
    deadline, size = time.monotonic() + limit_s, before
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        last, size = size, os.path.getsize(path)
        if size > before and size == last:
            break
    if size == before:
        return None
    with open(path, "rb") as file:
        file.seek(before)
        return file.read().decode(errors="replace")
