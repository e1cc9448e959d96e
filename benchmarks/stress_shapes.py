"""i x j x k as shapes of tasks: what is asked of the scheduler, not of the processor."""

from __future__ import annotations

import os
import signal
import struct
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from stress_work import RECORD, edge, leaves, run_leaf, value

FOREVER = -1  # retries and restarts: the killer knows no limit
SEED = 20261129
CLOCKS_APART = 1.0  # seconds that the time of a process's start can be off from that of files
RECORD_BYTES = struct.calcsize(RECORD)


def flat(ray: Any, count: int, cpus: int, journal: str) -> int:
    """All leaves from the driver."""
    leaf = ray.remote(max_retries=FOREVER)(run_leaf)
    return sum(ray.get([leaf.remote(tuple(at), SEED, journal) for at in leaves(count)]))


def nested(ray: Any, count: int, cpus: int, journal: str) -> int:
    """A task for each i, which submits its j x k leaves and waits for them: more waiters than CPUs."""

    @ray.remote(max_retries=FOREVER)
    def row(some: list[tuple[int, int, int]]) -> int:
        leaf = ray.remote(max_retries=FOREVER)(run_leaf)
        return sum(ray.get([leaf.remote(at, SEED, journal) for at in some]))

    rows: dict[int, list[tuple[int, int, int]]] = {}
    for at in leaves(count):
        rows.setdefault(at.i, []).append((at.i, at.j, at.k))
    return sum(ray.get([row.remote(some) for some in rows.values()]))


def actors(ray: Any, count: int, cpus: int, journal: str) -> int:
    """Ordered calls to one actor per CPU. Each refuses a call that comes before one that was made earlier."""

    @ray.remote(max_restarts=FOREVER, max_task_retries=FOREVER)
    class Counting:
        def __init__(self) -> None:
            self.last: tuple[int, int, int] = (-1, -1, -1)  # again after a restart: what follows is in order, too

        def leaf(self, at: tuple[int, int, int]) -> int:
            if at <= self.last:
                raise RuntimeError(f"the call {at} came after {self.last}")
            self.last = at
            return run_leaf(at, SEED, journal)

    crew = [Counting.remote() for _ in range(cpus)]
    total = sum(ray.get([crew[number % cpus].leaf.remote(tuple(at)) for number, at in enumerate(leaves(count))]))
    for one in crew:
        ray.kill(one)
    return total


def tree(ray: Any, count: int, cpus: int, journal: str) -> int:
    """Leaves, then pairs of sums until one is left: as many tasks again, each of which waits for two others."""
    leaf = ray.remote(max_retries=FOREVER)(run_leaf)
    add = ray.remote(max_retries=FOREVER)(lambda one, other: one + other)
    level = [leaf.remote(tuple(at), SEED, journal) for at in leaves(count)]
    while len(level) > 1:
        odd = [level.pop()] if len(level) % 2 else []
        level = [add.remote(one, other) for one, other in zip(level[::2], level[1::2], strict=True)] + odd
    return ray.get(level[0])


def in_this_process(ray: Any, count: int, cpus: int, journal: str) -> int:
    """No tasks at all: what a leaf costs that nobody sends anywhere, which is in every shape's time."""
    return sum(run_leaf((at.i, at.j, at.k), SEED, journal) for at in leaves(count))


SHAPES: dict[str, Callable[[Any, int, int, str], int]] = {
    "flat": flat,
    "nested": nested,
    "actors": actors,
    "tree": tree,
    "none": in_this_process,
}


def check(count: int, answer: int, journal: str, *, passes: int = 1, kills: int) -> int:
    """How many executions there were. A wrong sum, a leaf that never ran, or ran twice without a kill, is an error."""
    side = edge(count)
    ran = array("L", [0]) * count  # by number of the leaf: a dict of a million leaves would be most of our memory
    strangers = 0
    for i, j, k, _ in struct.iter_unpack(RECORD, Path(journal).read_bytes()):
        number = (i * side + j) * side + k
        if j < side and k < side and number < count:
            ran[number] += 1
        else:
            strangers += 1
    if answer != (right := passes * sum(value(at, SEED) for at in leaves(count))):
        raise RuntimeError(f"the sum is {answer}, not {right}: leaves were lost, or counted twice")
    if (lacking := sum(times < passes for times in ran)) or strangers:
        raise RuntimeError(f"{lacking} leaves never ran, or too rarely; {strangers} are none of ours")
    if not kills and (more := sum(ran) - passes * count):
        raise RuntimeError(f"{more} of {count} leaves ran twice, and nothing was killed")
    return sum(ran)


@contextmanager
def killing(journal: str, every: float | None) -> Iterator[list[int]]:
    """Every so many seconds, kill who ran the last leaf. Yields the list of the killed, which grows."""
    killed: list[int] = []
    if every is None:
        yield killed
        return
    stop = threading.Event()
    failed: list[Exception] = []

    def kill_them() -> None:
        try:
            while not stop.wait(every):
                if victim := _last_runner(journal):
                    killed.append(victim.pid)
                    with suppress(psutil.NoSuchProcess):
                        victim.send_signal(signal.SIGKILL)
        except (OSError, psutil.Error) as failure:
            failed.append(failure)

    thread = threading.Thread(target=kill_them, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def _last_runner(journal: str) -> psutil.Process | None:
    with open(journal, "rb") as file:
        if file.seek(0, os.SEEK_END) < RECORD_BYTES:
            return None
        file.seek(-RECORD_BYTES, os.SEEK_END)
        pid = struct.unpack(RECORD, file.read(RECORD_BYTES))[3]  # more may have been appended meanwhile
        written = os.fstat(file.fileno()).st_mtime
    try:
        process = psutil.Process(pid)
        return process if process.create_time() <= written + CLOCKS_APART else None  # else one that got its number
    except psutil.NoSuchProcess:
        return None
