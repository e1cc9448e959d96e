"""Runs one system's loops, or one shape of tasks, in this process; what came of it goes to stdout as JSON lines.

    python stress_child.py SYSTEM loops SHAPE N CPUS SECONDS KILL_EVERY TIMEOUT
    python stress_child.py SYSTEM,SYSTEM,... turns SHAPE N CPUS SECONDS KILL_EVERY TIMEOUT
    python stress_child.py SYSTEM serve ANY 0 CPUS 0 0 TIMEOUT    a pass for each line "SHAPE N" of stdin
    python stress_child.py SYSTEM tasks SHAPE LEAVES CPUS SECONDS KILL_EVERY TIMEOUT

The lines are those of micro_child.py, and the seconds of one pass are the value. A wrong answer is an error.
"""

from __future__ import annotations

import importlib
import os
import platform
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from micro_child import lines_to_parent
from micro_process import variables
from stress_systems import FLOOR, PACKAGES, PYTHON, STATIC, Forks, running, running_elsewhere, serve, session
from stress_systems import Pass as Run
from stress_work import expected, part, total

LEAST_PASSES = 2


class Pass(NamedTuple):
    seconds: float
    busy_s: float  # of the processors, in the loops themselves


def loops(system: str, shape: str, n: int, cpus: int, seconds: float) -> dict[str, object]:
    """Seconds of one pass: the median of those that fit into `seconds`, after one that is not counted."""
    if system in FLOOR:
        took = list(_passes(lambda: _forked(system, shape, n, cpus).seconds, seconds))
    else:
        with running(system, cpus) as run:
            took = list(_passes(lambda: _timed(run, shape, n).seconds, seconds))
    parts = {"part_seconds": _part_seconds(shape, n)} if system == PYTHON else {}
    return {"value": statistics.median(took[1:]), "counts": {"passes": len(took) - 1}, **parts}


def turns(systems: list[str], shape: str, n: int, cpus: int, seconds: float) -> dict[str, object]:
    """All of these side by side, each ready from the beginning, a pass each in turn, until `seconds` are over."""
    took: dict[str, list[Pass]] = {system: [] for system in systems}
    with ExitStack() as ready:
        runs = {system: ready.enter_context(_beside(system, cpus)) for system in systems if system not in FLOOR}
        for run in runs.values():
            _timed(run, shape, n)
        until = time.perf_counter() + seconds
        order = list(systems)
        while time.perf_counter() < until or len(took[systems[0]]) < LEAST_PASSES:
            for system in order:
                one = (
                    partial(_timed, runs[system], shape, n)
                    if system in runs
                    else partial(_forked, system, shape, n, cpus)
                )
                took[system].append(one())
            order.append(order.pop(0))
    return {"turns": took}


def _beside(system: str, cpus: int) -> AbstractContextManager[Run]:
    """Ready in this process, or in a child of it, where the environment names an interpreter for that system."""
    python = os.environ.get(f"STRESS_{system.upper()}_PYTHON")
    if python is None:
        return running(system, cpus)
    words = [python, __file__, system, "serve", "any", "0", str(cpus), "0", "0", "0"]
    return running_elsewhere(words, {**os.environ, **variables(system, str(Path.cwd()))})


def _passes(one: Callable[[], float], seconds: float) -> Iterator[float]:
    yield one()
    left, done = seconds, 0
    while left > 0 or done < LEAST_PASSES:
        took = one()
        yield took
        left, done = left - took, done + 1


def _forked(system: str, shape: str, n: int, cpus: int) -> Pass:
    forks = Forks(shape, n, cpus, dealt=system == STATIC)
    took = _timed(lambda _shape, _n: forks.run(), shape, n)
    forks.end()
    return took


def _timed(run: Callable[[str, int], list[tuple[int, int, float]]], shape: str, n: int) -> Pass:
    began = time.perf_counter()
    answers = run(shape, n)
    seconds = time.perf_counter() - began
    answer, busy_s = total(answers)
    if answer != (right := expected(shape, n)):
        raise RuntimeError(f"{answer} is not {right}")
    return Pass(seconds, busy_s)


def _part_seconds(shape: str, n: int) -> list[float]:
    """Of each part on its own, for whoever wants to foretell how they would go on other machines."""
    took = []
    for i in range(1, n + 1):
        began = time.perf_counter()
        part(shape, n, i)
        took.append(round(time.perf_counter() - began, 7))
    return took


def tasks(system: str, shape: str, leaves: int, cpus: int, seconds: float, kill_every: float) -> dict[str, object]:
    """Seconds of one pass, or the mean of as many as it takes to last `seconds`."""
    from stress_shapes import SHAPES, check, killing  # needs psutil, which Ray has in a place of its own

    journal = str(Path.cwd() / "executions")
    Path(journal).touch()
    with nullcontext() if system == PYTHON else session(system, cpus) as ray:
        if system != PYTHON:
            _warm_up(ray)
        with killing(journal, kill_every or None) as killed:
            answer = passes = 0
            began = time.perf_counter()
            while not passes or time.perf_counter() - began < seconds:
                answer += SHAPES[shape](ray, leaves, cpus, journal)
                passes += 1
            took = time.perf_counter() - began
        peak = _peak_mib()
        if kill_every and took > 2 * kill_every and not killed:
            raise RuntimeError(f"nothing was killed in {took:.1f} s, by a killer that comes every {kill_every:g} s")
        executions = check(leaves, answer, journal, passes=passes, kills=len(killed))
    counts = {"executions": executions, "kills": len(killed), "passes": passes, "peak_mib": peak}
    return {"value": took / passes, "counts": counts}


def _warm_up(ray: Any) -> None:
    warm = ray.remote(lambda number: number)
    ray.get([warm.remote(number) for number in range(100)])


def _peak_mib() -> int:
    """Of this process, the driver, until now."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


def main() -> None:
    system, kind, shape, size, cpus, seconds, kill_every, timeout = sys.argv[1:]
    tell = lines_to_parent(float(timeout))
    try:
        version = str(getattr(importlib.import_module(PACKAGES.get(system, system)), "__version__", "?"))
    except ModuleNotFoundError:  # plain processes
        version = platform.python_version()
    tell({"version": version, "python": platform.python_version()})
    try:
        if kind == "loops":
            tell(loops(system, shape, int(size), int(cpus), float(seconds)))
        elif kind == "serve":
            with running(system, int(cpus)) as run:
                for facts in serve(run, sys.stdin):
                    tell(facts)
        elif kind == "turns":
            tell(turns(system.split(","), shape, int(size), int(cpus), float(seconds)))
        else:
            tell(tasks(system, shape, int(size), int(cpus), float(seconds), float(kill_every)))
    except Exception as failure:  # noqa: BLE001 - the system under test is user code here
        traceback.print_exc()
        tell({"error": f"{type(failure).__name__}: {failure}"})
    tell({"ended": True})


if __name__ == "__main__":
    main()
