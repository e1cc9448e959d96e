"""Where the driver's time goes, in tasks that return at once: what `docs/performance.md` shows.

python benchmarks/profile_hot_path.py            # pipelined, then one by one; top functions by own time
"""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable

import sparkray as ray

TASKS = 50_000
CALLS = 5_000
LINES = 18


def main() -> None:
    ray.init(num_cpus=2)

    @ray.remote
    def noop() -> bytes:
        return b"ok"

    def pipelined() -> None:
        for _ in range(TASKS // 5_000):
            ray.get([noop.remote() for _ in range(5_000)])

    def one_by_one() -> None:
        for _ in range(CALLS):
            ray.get(noop.remote())

    pipelined()  # warm
    for name, work, count in (("pipelined", pipelined, TASKS), ("one by one", one_by_one, CALLS)):
        begin = time.perf_counter()
        work()
        seconds = time.perf_counter() - begin
        print(f"== {name}: {count / seconds:,.0f} tasks/s without the profiler, {seconds / count * 1e6:.1f} us each")
        _profile(work)
    ray.shutdown()


def _profile(work: Callable[[], None]) -> None:
    profile = cProfile.Profile()
    profile.runcall(work)
    pstats.Stats(profile).sort_stats("tottime").print_stats(LINES)


if __name__ == "__main__":
    main()
