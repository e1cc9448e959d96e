"""Runs one system's loops, or one shape of tasks, in this process; what came of it goes to stdout as JSON lines.

    python stress_child.py SYSTEM loops SHAPE N CPUS PASSES TIMEOUT
    python stress_child.py SYSTEM tasks SHAPE LEAVES CPUS KILL_EVERY TIMEOUT

The lines are those of micro_child.py, and the seconds are the value. A wrong answer is an error.
"""

from __future__ import annotations

import importlib
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from micro_child import lines_to_parent
from stress_systems import FLOOR, STATIC, Forks, running, session
from stress_work import expected, total


def loops(system: str, shape: str, n: int, cpus: int, passes: int) -> dict[str, object]:
    """Seconds of one pass: the median of some, after one that is not counted."""
    if system in FLOOR:
        seconds = []
        for _ in range(passes + 1):
            forks = Forks(shape, n, cpus, dealt=system == STATIC)
            seconds.append(_timed(lambda _shape, _n, ready=forks: ready.run(), shape, n))
            forks.end()
    else:
        with running(system, cpus) as run:
            seconds = [_timed(run, shape, n) for _ in range(passes + 1)]
    return {"value": statistics.median(seconds[1:])}


def _timed(run: Callable[[str, int], list[tuple[int, int]]], shape: str, n: int) -> float:
    began = time.perf_counter()
    answers = run(shape, n)
    seconds = time.perf_counter() - began
    if (answer := total(answers)) != (right := expected(shape, n)):
        raise RuntimeError(f"{answer} is not {right}")
    return seconds


def tasks(system: str, shape: str, leaves: int, cpus: int, kill_every: float) -> dict[str, object]:
    from stress_shapes import SHAPES, check, killing  # needs psutil, which is not in every system's environment

    journal = str(Path.cwd() / "executions")
    ray = session(system, cpus)
    Path(journal).touch()
    warm = ray.remote(abs)
    ray.get([warm.remote(-number) for number in range(100)])
    with killing(journal, kill_every or None) as killed:
        began = time.perf_counter()
        answer = SHAPES[shape](ray, leaves, cpus, journal)
        seconds = time.perf_counter() - began
    executions = check(leaves, answer, journal, kills=len(killed))
    ray.shutdown()
    return {"value": seconds, "counts": {"executions": executions, "kills": len(killed)}}


def main() -> None:
    system, kind, shape, size, cpus, last, timeout = sys.argv[1:]
    tell = lines_to_parent(float(timeout))
    try:
        version = str(getattr(importlib.import_module(system), "__version__", "?"))
    except ModuleNotFoundError:  # plain processes
        version = platform.python_version()
    tell({"version": version, "python": platform.python_version()})
    try:
        if kind == "loops":
            tell(loops(system, shape, int(size), int(cpus), int(last)))
        else:
            tell(tasks(system, shape, int(size), int(cpus), float(last)))
    except Exception as failure:  # noqa: BLE001 - the system under test is user code here
        traceback.print_exc()
        tell({"error": f"{type(failure).__name__}: {failure}"})
    tell({"ended": True})


if __name__ == "__main__":
    main()
