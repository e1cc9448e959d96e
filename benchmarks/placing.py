"""How many leases one head places per second, by the number of nodes and of leases in one message.

    python benchmarks/placing.py               10 to 10,000 nodes
    python benchmarks/placing.py 1000          that many
    python benchmarks/placing.py --schedulers  1, 2 and 4 schedulers beside the head at once (global_schedulers)

The model alone: no sockets, no pickling. Between requests the nodes report what became of what they were given, as they
do; a beat's own time is shown beside it. Several schedulers are as many processes; each gets all nodes' loads in one
message, as the head passes them on, and its time is what passes on the wall, so on fewer cores they take turns.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from sparkray_core.ids import HEAD, LeaseId, NodeId, ProcessId, raylet_of, task_id
from sparkray_core.messages import Loads, NodeBeat, NodeTable, PlaceLeases, RequestLeases
from sparkray_core.model.effects import Send, SendFrom
from sparkray_core.model.events import ClockTicked, Received
from sparkray_core.model.head import Head
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.scheduler import Scheduler

CPUS = 4
LEASES = 40_000  # placed in one line of the table
BATCHES = (1, 8, 64)  # leases in one message


def main() -> int:
    if sys.argv[1:2] == ["--schedulers"]:
        return compare_schedulers(1000)
    print(" nodes  leases a message  placements/s  us each  us of a beat")
    for nodes in map(int, sys.argv[1:] or ("10", "100", "1000", "10000")):
        for batch in BATCHES:
            gc.collect()
            per_second, beat_us = measure(nodes, batch)
            print(
                f"{nodes:>6}  {batch:>16}  {per_second:>12,.0f}  {1e6 / per_second:>7.1f}  {beat_us:>12.1f}", flush=True
            )
    return 0


def measure(nodes: int, batch: int) -> tuple[float, float]:
    """Placements per second of the head's own time, and microseconds of a beat."""
    head = Head("placing")
    names = [NodeId((number + 1).to_bytes(8, "big")) for number in range(nodes)]
    for node in names:
        info = NodeInfo(node, "tcp://x:1", "x", 1, {"CPU": CPUS * 1000}, {}, 1 << 30, "/x")
        head.handle(Received(raylet_of(node), info.join()), 0.0)
    head.handle(ClockTicked(), 1.0)
    owner = ProcessId(names[0] + b"\xff" * 8)
    given = dict.fromkeys(names, 0)
    now, asked, placing, beating, beats = 1.0, 0, 0.0, 0.0, 0
    while asked < LEASES:
        fresh: dict[NodeId, None] = {}
        for _ in range(max(1, min(nodes * CPUS, 4096) // batch)):
            leases = [LeaseId(task_id(owner, asked + number)) for number in range(batch)]
            asked += batch
            event = Received(owner, RequestLeases(leases, {"CPU": 1000}, []))
            began = time.perf_counter()
            effects = head.handle(event, now)
            placing += time.perf_counter() - began
            for effect in effects:
                if isinstance(effect, SendFrom) and isinstance(effect.message, RequestLeases):
                    node = NodeId(effect.to[:8])
                    given[node] += len(effect.message.leases)
                    fresh[node] = None
        now += 0.01
        for node in fresh:
            beat = Received(raylet_of(node), NodeBeat({"CPU": CPUS * 1000}, 0, 0.01, given[node], given[node]))
            began = time.perf_counter()
            head.handle(beat, now)
            beating += time.perf_counter() - began
            beats += 1
    return asked / placing, beating / beats * 1e6


def compare_schedulers(nodes: int) -> int:
    print(
        f"{nodes} nodes, {os.cpu_count()} cores\nschedulers  leases a message  placements/s in all  us of a node's load"
    )
    for schedulers in (1, 2, 4):
        for batch in BATCHES:
            with ProcessPoolExecutor(schedulers) as pool:
                list(pool.map(time.sleep, [0.2] * schedulers))  # all are up
                found = list(pool.map(measure_scheduler, [nodes] * schedulers, [batch] * schedulers))
            per_second, load_us = sum(rate for rate, _ in found), sum(load for _, load in found) / schedulers
            print(f"{schedulers:>10}  {batch:>16}  {per_second:>19,.0f}  {load_us:>19.1f}", flush=True)
    return 0


def measure_scheduler(nodes: int, batch: int) -> tuple[float, float]:
    """Placements per second of one scheduler's time, and microseconds of one node's load."""
    scheduler = Scheduler(NodeId(b"\0sch...."), "tcp://x:1")
    names = [NodeId((number + 1).to_bytes(8, "big")) for number in range(nodes)]
    infos = [NodeInfo(node, "tcp://x:1", "x", 1, {"CPU": CPUS * 1000}, {}, 1 << 30, "/x") for node in names]
    scheduler.handle(Received(HEAD, NodeTable([info.as_dict() for info in infos])), 0.0)
    owner = ProcessId(names[0] + b"\xff" * 8)
    given = dict.fromkeys(names, 0)
    asked, placing, hearing, rows = 0, 0.0, 0.0, 0
    while asked < LEASES:
        for _ in range(max(1, min(nodes * CPUS, 4096) // batch)):
            leases = [LeaseId(task_id(owner, asked + number)) for number in range(batch)]
            asked += batch
            event = Received(owner, RequestLeases(leases, {"CPU": 1000}, []))
            began = time.perf_counter()
            effects = scheduler.handle(event, 0.0)
            placing += time.perf_counter() - began
            for effect in effects:
                if isinstance(effect, Send) and isinstance(effect.message, PlaceLeases):
                    given[NodeId(effect.to[:8])] += len(effect.message.leases)
        loads = Received(
            HEAD, Loads([(node, {"CPU": CPUS * 1000}, 0, 0.01, {}, given[node], given[node]) for node in names])
        )
        began = time.perf_counter()
        scheduler.handle(loads, 0.0)
        hearing += time.perf_counter() - began
        rows += nodes
    return asked / placing, hearing / rows * 1e6


if __name__ == "__main__":
    sys.exit(main())
