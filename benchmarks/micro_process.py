"""Starts the child of one row, waits for it, and makes sure that nothing it started outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHILD = Path(__file__).resolve().parent / "micro_child.py"
GRACE = 5.0  # seconds: for a child that its own alarm ends, and for the processes that a session leaves to go away
STDERR_TAIL = 2000  # characters
STDOUT_TAIL = 1_000_000  # the child's own lines; a stress child's has a number for each part of its loops
_MARK = "MICRO_BENCHMARK_CHILD"  # in the environment of everything that a child starts


@dataclass(frozen=True)
class Outcome:
    """What one child did: a value, or why there is none, and what it left behind."""

    value: float | None = None  # in the row's unit
    absent: str | None = None  # the feature that the system refuses
    error: str | None = None  # one line; a value can stand beside it, when only the shutdown failed
    stderr: str = ""  # the tail, kept for errors alone
    version: str = "?"
    python: str = "?"
    leftovers: tuple[str, ...] = ()  # processes that outlived the child by GRACE seconds, and had to be killed
    counts: Mapping[str, int] = field(default_factory=dict)  # what a stress child counted besides
    part_seconds: Sequence[float] = ()  # and how long each part of its loops takes
    # Or each system's passes, in turn: seconds, and those of the processors in the loops themselves.
    turns: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)


def run_child(python: str, system: str, words: Sequence[str], timeout: float, script: Path = CHILD) -> Outcome:
    """Run one row in a process of its own, with a temporary folder of its own.

    Args:
        words: what the script is told besides the system and the timeout, between these.
        timeout: seconds for all of it: start, row and shutdown. Then the child dumps its stacks to stderr and ends.
    """
    mark = uuid.uuid4().hex
    scratch = tempfile.mkdtemp(prefix="mb")  # short: Unix sockets go below it, and their paths end at 107 bytes
    environment = {**os.environ, _MARK: mark, **variables(system, scratch)}
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        child = subprocess.Popen(
            [python, str(script), system, *words, str(timeout)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            cwd=scratch,
            start_new_session=True,
        )
        try:
            child.wait(timeout + GRACE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            leftovers = _clean_up(child, mark)
            shutil.rmtree(scratch, ignore_errors=True)
        return _outcome(child.returncode, timeout, _read(stdout, STDOUT_TAIL), _read(stderr, STDERR_TAIL), leftovers)


def why_not_importable(python: str, system: str) -> str:
    """The last line of what `import` says in that interpreter; empty when all is well."""
    environment = {**os.environ, **variables(system, "")}
    command = [python, "-c", f"import numpy, {system}"]
    ended = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=120)
    lines = ended.stderr.strip().splitlines()
    return "" if ended.returncode == 0 else (lines or [f"exit code {ended.returncode}"])[-1]


def variables(system: str, scratch: str) -> dict[str, str]:
    """Of the environment, for a child that works in that folder."""
    if system != "ray":
        entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # the child works in another folder
        return {"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in entries if entry)}
    return {
        "PYTHONPATH": "",  # ours would send Ray's interpreter to packages of another one
        "PYTHONWARNINGS": "ignore",
        "RAY_TMPDIR": scratch,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns at every start that this will change
    }


def _clean_up(child: subprocess.Popen[bytes], mark: str) -> tuple[str, ...]:
    """End the child's group, then whatever else it started. Returns the names of what did not go by itself."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    deadline = time.monotonic() + GRACE
    while (alive := _alive(child.pid, mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return tuple(sorted(alive.values()))


def _alive(session: int, mark: str) -> dict[int, str]:
    """Processes of the child's session, or with its mark in their environment: number and name.

    Either sign alone has a hole: a daemon makes a session of its own, and a process that renames itself overwrites its
    environment. Without /proc (macOS) nothing is found.
    """
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            state, _parent, _group, its_session = rest.split()[:4]
            marked = f"{_MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile, or is somebody else's
            continue
        if state != "Z" and (marked or int(its_session) == session):
            found[int(folder.name)] = name
    return found


def _outcome(code: int, timeout: float, stdout: str, stderr: str, leftovers: tuple[str, ...]) -> Outcome:
    facts: dict[str, Any] = {}
    for line in stdout.splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # the last line of a child that died while writing it
            facts.update(json.loads(line))
    error = facts.get("error")
    if error is None and "ended" not in facts:
        stage = "in shutdown" if "value" in facts or "absent" in facts else "in the row" if facts else "at import"
        hung = code in (-signal.SIGALRM, -signal.SIGKILL)
        error = f"hung {stage}, given up after {timeout:.0f} s" if hung else f"died {stage} with exit code {code}"
        error += f": {stderr.splitlines()[-1].strip()}" if stderr and not hung else ""
    return Outcome(
        value=facts.get("value"),
        absent=facts.get("absent"),
        error=error,
        stderr=stderr if error else "",
        version=facts.get("version", "?"),
        python=facts.get("python", "?"),
        leftovers=leftovers,
        counts=facts.get("counts", {}),
        part_seconds=facts.get("part_seconds", ()),
        turns=facts.get("turns", {}),
    )


def _read(file: Any, most: int) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - most))
    return bytes(file.read()).decode(errors="replace").strip()
