"""One case of `transfer.py` on one system, in a process of its own. Lines on stdout as `micro_child` writes them.

python transfer_child.py SYSTEM CASE MB TIMES TIMEOUT
"""

from __future__ import annotations

import importlib
import os
import platform
import statistics
import sys
import time
from typing import Any

import numpy as np
from micro_child import _error, lines_to_parent

READERS = 8


def main(system: str, case: str, mb: str, times: str, timeout: str) -> None:
    tell = lines_to_parent(float(timeout))
    module = system.partition("-")[0]
    ray = importlib.import_module(module)
    utils = importlib.import_module(f"{module}.cluster_utils")
    tell({"version": ray.__version__, "python": platform.python_version()})
    size = int(mb) * 1_000_000
    store = 2 * size + (200 << 20)
    others = 3 if case == "three" else 1
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": store})
    try:
        nodes = [
            cluster.add_node(num_cpus=READERS, object_store_memory=store, resources={f"n{number}": 1000})
            for number in range(others)
        ]
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        places = [f"n{number}" for number in range(others)] * (READERS if case == "readers" else 1)
        tell({"value": measure(ray, places, size, int(times), nodes if system.endswith("-network") else [], cluster)})
    except Exception as failure:  # noqa: BLE001 - the system under test is user code here
        tell(_error(failure))
    ray.shutdown()
    cluster.shutdown()
    tell({"ended": True})


def measure(ray: Any, places: list[str], size: int, times: int, hidden: list[Any], cluster: Any) -> float:
    """Seconds until all have read it; the median."""

    @ray.remote  # type: ignore[untyped-decorator]
    def read(refs: list[Any]) -> int:
        return int(ray.get(refs[0])[::4096].sum())

    small = ray.put(np.zeros(10, np.uint8))
    ray.get([read.options(resources={place: 1}).remote([small]) for place in places])  # workers are there
    if hidden:  # nobody can connect any more: as between two hosts
        for node in [cluster.head_node, *hidden]:
            os.rename(node.raylet_socket_name, f"{node.raylet_socket_name}.hidden")
    seconds = []
    for turn in range(times + 1):
        value = np.full(size, turn + 1, np.uint8)
        ref = ray.put(value)
        begun = time.perf_counter()
        sums = ray.get([read.options(resources={place: 1}).remote([ref]) for place in places])
        seconds.append(time.perf_counter() - begun)
        if sums != [int(value[::4096].sum())] * len(places):
            raise AssertionError(f"other bytes arrived: {sums}")
        del ref, value
        time.sleep(1)  # for the store to free it
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main(*sys.argv[1:])
