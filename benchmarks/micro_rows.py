"""All rows: those of Ray's microbenchmark (its actors are in micro_actor_rows.py), and ours (micro_extra_rows.py).

A row uses nothing but the common API, through the module it is given, so the same lines run on both systems. The names,
the counts and what is inside the clock are those of `ray microbenchmark` in Ray 2.60 (benchmarks/README.md has the few
differences). Remote functions are defined inside the rows: so they travel by value, and no worker needs this folder.
numpy is imported by the rows that use it: where it is missing, they alone fail.
"""

from __future__ import annotations

from typing import Any

from micro_actor_rows import ACTOR_ROWS
from micro_extra_rows import EXTRA_ROWS
from micro_measure import Feature, Row, Stopwatch

BATCH = 1000  # tasks of one batch
LARGE = 100 * 1024 * 1024  # int64 values of the large array: 0.84 GB
MIDDLE = 10 * 1024 * 1024  # int64 values that each of the ten putting tasks puts ten times: 84 MB


def get_small(ray: Any, watch: Stopwatch) -> float:
    ref = ray.put(0)
    return watch.rate(lambda: ray.get(ref))


def put_small(ray: Any, watch: Stopwatch) -> float:
    return watch.rate(lambda: ray.put(0))


def put_small_multi(ray: Any, watch: Stopwatch) -> float:
    def put_hundred() -> None:
        for _ in range(100):
            ray.put(0)

    task = ray.remote(put_hundred)
    return watch.rate(lambda: ray.get([task.remote() for _ in range(10)]), 10 * 100)


def put_gigabytes(ray: Any, watch: Stopwatch) -> float:
    import numpy as np

    array = np.zeros(LARGE, dtype=np.int64)
    # A put into memory that was never touched has a tenth of the speed, and Ray comes to such memory some six times in
    # its first thirty puts. The first put has a row of its own.
    return watch.rate(lambda: ray.put(array), array.nbytes / 1e9, warm_calls=30)


def put_gigabytes_multi(ray: Any, watch: Stopwatch) -> float:
    import numpy as np

    def put_ten() -> None:
        for _ in range(10):
            ray.put(np.zeros(MIDDLE, dtype=np.int64))

    task = ray.remote(put_ten)
    return watch.rate(lambda: ray.get([task.remote() for _ in range(10)]), 10 * 10 * MIDDLE * 8 / 1e9)


def tasks_and_get_batch(ray: Any, watch: Stopwatch) -> float:
    task = _small_task(ray)
    return watch.rate(lambda: ray.get([task.remote() for _ in range(BATCH)]))


def get_10k_refs(ray: Any, watch: Stopwatch) -> float:
    def make_refs() -> list[Any]:
        return [ray.put(1) for _ in range(10_000)]

    holder = ray.remote(make_refs).remote()
    return watch.rate(lambda: ray.get(holder))


def wait_1k_refs(ray: Any, watch: Stopwatch) -> float:
    task = _small_task(ray)

    def wait_one_by_one() -> None:
        waiting = [task.remote() for _ in range(BATCH)]
        fetch = True  # once is enough: the fetches go on after `wait` returned
        while waiting:
            _ready, waiting = ray.wait(waiting, fetch_local=fetch)
            fetch = False

    return watch.rate(wait_one_by_one)


def tasks_sync(ray: Any, watch: Stopwatch) -> float:
    task = _small_task(ray)
    return watch.rate(lambda: ray.get(task.remote()))


def tasks_async(ray: Any, watch: Stopwatch) -> float:
    task = _small_task(ray)
    return watch.rate(lambda: ray.get([task.remote() for _ in range(BATCH)]), BATCH)


def tasks_async_multi(ray: Any, watch: Stopwatch) -> float:
    clients, tasks_each = 4, 10_000
    task = _small_task(ray)

    class Client:
        def run_batch(self, count: int) -> None:
            ray.get([task.remote() for _ in range(count)])

    actors = [ray.remote(num_cpus=0)(Client).remote() for _ in range(clients)]
    return watch.rate(lambda: ray.get([a.run_batch.remote(tasks_each) for a in actors]), clients * tasks_each)


def placement_groups(ray: Any, watch: Stopwatch) -> float:
    def create_and_remove() -> None:
        groups = [ray.util.placement_group(bundles=[{"CPU": 0.001}]) for _ in range(100)]
        for group in groups:
            group.wait(timeout_seconds=30)
        for group in groups:
            ray.util.remove_placement_group(group)

    return watch.rate(create_and_remove, 100)


def _small_task(ray: Any) -> Any:
    def small_value() -> bytes:
        return b"ok"

    return ray.remote(small_value)


_SMALL = "Ray keeps a small value in shared memory, sparkray in the process that put it until another one asks"

ROWS = (
    Row("get_small", "single client get calls (Plasma Store)", get_small, unlike=_SMALL),
    Row("put_small", "single client put calls (Plasma Store)", put_small, unlike=_SMALL),
    Row("put_small_multi", "multi client put calls (Plasma Store)", put_small_multi, unlike=_SMALL),
    Row("put_gigabytes", "single client put gigabytes", put_gigabytes, "GB/s"),
    Row("tasks_and_get_batch", "single client tasks and get batch", tasks_and_get_batch, "batches/s"),
    Row("put_gigabytes_multi", "multi client put gigabytes", put_gigabytes_multi, "GB/s"),
    Row("get_10k_refs", "single client get object containing 10k refs", get_10k_refs),
    Row("wait_1k_refs", "single client wait 1k refs", wait_1k_refs, "batches/s"),
    Row("tasks_sync", "single client tasks sync", tasks_sync),
    Row("tasks_async", "single client tasks async", tasks_async),
    Row("tasks_async_multi", "multi client tasks async", tasks_async_multi),
    *ACTOR_ROWS,
    Row(
        "placement_groups",
        "placement group create/removal",
        placement_groups,
        needs=(Feature.PLACEMENT_GROUPS,),
    ),
    *EXTRA_ROWS,
)
