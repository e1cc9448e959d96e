"""A child (`spark_child`) that takes orders, and the processes that it and its Spark have."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

CHILD = Path(__file__).resolve().parent / "spark_child.py"
POLL_S = 0.03  # between two looks at the processes
STDERR_TAIL = 3000  # characters

Processes = dict[tuple[int, float], str]  # pid and start time: name


class Child:
    """One system in a process of its own, with a folder of its own."""

    def __init__(
        self, python: str, system: str, order: Mapping[str, Any], more: Mapping[str, str] | None = None
    ) -> None:
        self.system = system
        self.scratch = tempfile.mkdtemp(prefix="sb")  # short: Unix sockets go below it
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (read at the end)
        self._process = subprocess.Popen(
            [python, str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment(python, self.scratch) | dict(more or {}),
            cwd=self.scratch,
            start_new_session=True,
        )
        try:
            self.facts = self._ask({"system": system, "scratch": self.scratch, **order})
        except BaseException:
            self.end()
            raise
        self.before = descendants()

    def do(self, what: str) -> dict[str, float]:
        return self._ask({"do": what})

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the child of {self.system} ended, {self._process.wait()}:\n{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{answer['error']}\n{self._last_words()}")
        return answer

    def _last_words(self) -> str:
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - STDERR_TAIL))
        return self._stderr.read().decode(errors="replace")

    def end(self, limit: float = 30.0) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(limit)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)


def environment(python: str, scratch: str) -> dict[str, str]:
    """Of a child: its own interpreter for Spark's Python, too, and for what starts programs by name."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYTHON", "RAY_"))},
        "PATH": os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")]),
        "PYSPARK_PYTHON": python,
        "PYSPARK_DRIVER_PYTHON": python,
        "PYTHONWARNINGS": "ignore",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_AUTH_MODE": "disabled",  # else a head takes the token of any earlier Ray here, and who joins it does not
        "RAY_ON_SPARK_WORKER_CPU_CORES": "1",
        "TMPDIR": scratch,
    }


def adopt_orphans() -> None:
    """Whatever descends from this process stays below it, daemons too (Linux), so that none can hide."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def descendants() -> Processes:
    """All that live, but Spark's Python workers: Spark keeps these for its next job, whoever had them started."""
    found: Processes = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                _reap(process.pid)
            elif not any("pyspark" in word and "daemon" in word for word in process.cmdline()):
                found[process.pid, process.create_time()] = process.name()
    return found


def _reap(pid: int) -> None:
    """One that was left to us. (Its parent's own are not ours to wait for, which the system says.)"""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def wait_until_gone(before: Processes, limit: float) -> Processes:
    """Until nothing lives that was not there before. What is left after `limit` seconds is returned, still alive."""
    deadline = time.monotonic() + limit
    while (left := beyond(before)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return left


def beyond(before: Processes) -> Processes:
    return {who: name for who, name in descendants().items() if who not in before}


def kill(processes: Processes) -> None:
    for pid, started in processes:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.create_time() == started:
                process.kill()
