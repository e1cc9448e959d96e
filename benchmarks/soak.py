"""A million tasks and 100,000 actor calls in one driver: does the memory of any process grow?

    python benchmarks/soak.py [--tasks 1000000] [--calls 100000] [--write]

Resident memory of the driver and of each process of the node is sampled all along. What each ends with is compared
with what it had after the first tenth: caches are full by then, and growth from there on is a leak. Exit code 1 if any
kind of process ends more than 10 % (and more than 2 MiB, which is noise of the allocator) above that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import psutil

import sparkray as ray

ALLOWED = 1.10
NOISE_BYTES = 2 << 20
BATCH = 5_000
SAMPLES = 50


@ray.remote
def add(a: int, b: int) -> int:
    return a + b


@ray.remote
def chain(value: int, refs: list[Any]) -> int:
    return value + len(refs)


@ray.remote
class Counter:
    def __init__(self) -> None:
        self.n = 0

    def inc(self, by: int) -> int:
        self.n += by
        return self.n


def resident() -> dict[str, int]:
    """Bytes by kind of process: the driver, and what descends from it, by the part that its title names.

    Of the driver without what it shares: the start of its node's store, which it maps for a minute.
    """
    memory = psutil.Process().memory_info()
    found = {"driver": memory.rss - getattr(memory, "shared", 0)}
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            rss = process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        kinds = ("keeper", "gcs", "raylet", "zygote", "actor", "worker")
        kind = next((kind for kind in kinds if f"sparkray: {kind}" in title), "other")
        found[kind] = found.get(kind, 0) + rss
    return found


def soak(tasks: int, calls: int) -> tuple[list[dict[str, Any]], float]:
    """Samples, evenly over the work, and the seconds that all of it took."""
    counter = Counter.remote()
    samples: list[dict[str, Any]] = []
    done_tasks = done_calls = total = 0
    begin = time.perf_counter()
    while done_tasks < tasks:
        kept = ray.put(done_tasks)
        refs = [add.remote(i, 1) for i in range(BATCH - BATCH // 10)]
        refs += [
            chain.remote(refs[i], [kept, refs[i]]) for i in range(BATCH // 10)
        ]  # references in and beside arguments
        assert ray.get(refs[:3]) == [1, 2, 3]
        ready, rest = ray.wait(refs, num_returns=len(refs))
        assert not rest
        ray.get(ready)
        done_tasks += BATCH
        want = calls * done_tasks // tasks
        total += want - done_calls
        assert ray.get([counter.inc.remote(1) for _ in range(want - done_calls)])[-1:] in ([total], [])
        done_calls = want
        del refs, ready, rest, kept
        if len(samples) < SAMPLES * done_tasks / tasks:
            samples.append({"tasks": done_tasks, "calls": done_calls, "rss": resident()})
    return samples, time.perf_counter() - begin


def verdict(samples: list[dict[str, Any]]) -> list[tuple[str, int, int, bool]]:
    """(kind, bytes after the first tenth, at the end, whether that is within the limit)."""
    early, late = samples[len(samples) // 10]["rss"], samples[-1]["rss"]
    rows = []
    for kind in sorted(early.keys() | late.keys()):
        first, last = early.get(kind, 0), late.get(kind, 0)
        rows.append((kind, first, last, last <= max(first * ALLOWED, first + NOISE_BYTES)))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/soak-<date>.json")
    given = parser.parse_args()
    with ray.init(num_cpus=2):
        samples, seconds = soak(given.tasks, given.calls)
    rows = verdict(samples)
    print(f"{given.tasks:,} tasks and {given.calls:,} actor calls in {seconds:.1f} s")
    for kind, first, last, fine in rows:
        change = last / first - 1 if first else 0.0
        print(
            f"{kind:8} {first / 2**20:8.1f} MiB -> {last / 2**20:8.1f} MiB  {change:+7.1%}  {'' if fine else 'GROWS'}"
        )
    if given.write:
        facts = {
            "tasks": given.tasks,
            "calls": given.calls,
            "seconds": round(seconds, 1),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
            "samples": samples,
        }
        path = Path(__file__).parent / "results" / time.strftime("soak-%Y-%m-%dT%H%M.json", time.gmtime())
        path.write_text(json.dumps(facts, indent=1) + "\n")
        print(path)
    return 0 if all(fine for *_, fine in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
