"""What a task costs each scheduler, and what a node that joins costs the head, by the number of nodes.

    python benchmarks/scaling.py                          10 to 10,000 nodes, each with the same work for a CPU
    python benchmarks/scaling.py --nodes 10 100 --rounds 5

Simulated (`sparkray_core.testing.simulate`): the time is the models' own, CPU time of this machine, so that what else
runs on it matters little, but for the caches. Each round has a session of every size, the small ones several times;
the medians are shown. The table of nodes is counted as it is encoded. docs/scale.md says what came out.
"""

from __future__ import annotations

import argparse
import statistics
from array import array

from sparkray_core.ids import NodeId
from sparkray_core.messages import NodeTable
from sparkray_core.model.effects import Send
from sparkray_core.model.events import ClockTicked, Received
from sparkray_core.model.head import Head
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.resources import from_floats
from sparkray_core.testing import simulate
from sparkray_core.testing.timed import COMPONENTS, HEAD_BEATS, RAYLET_BEATS
from sparkray_core.wire import codec

CPUS = 4  # of each node
COLUMNS = (*COMPONENTS, RAYLET_BEATS, HEAD_BEATS)


def measure(nodes: int, per_cpu: int, seconds: float) -> tuple[list[float], float]:
    """Microseconds by column, per task, or for beats per node and second; and messages per task without beats."""
    prediction, measured = simulate.run(array("d", [seconds]) * (nodes * CPUS * per_cpu), nodes, CPUS)
    costs = measured.us_per_task | measured.us_per_node_second
    messages = sum(count for name, count in prediction.messages_per_task.items() if name != "NodeBeat")
    return [costs[column] for column in COLUMNS], messages


def tell_of_a_join(nodes: int) -> tuple[int, int, int]:
    """Bytes that leave the head when one more joins: to this one, to each other, and in all. (Links' headers apart.)"""
    head = Head("scaling")
    effects = []
    for number in range(1, nodes + 2):
        info = NodeInfo(
            NodeId(number.to_bytes(8, "big")),
            f"tcp://10.{number >> 16}.{number >> 8 & 255}.{number & 255}:40000",
            f"host-{number:05}",
            number,
            from_floats({"CPU": CPUS}),
            {},
            1 << 30,
            "/tmp/sparkray-1000/session/node",
        )
        if number == nodes + 1:
            head.handle(ClockTicked(), 1e6)
        now = 0.0 if number <= nodes else 2e6
        effects = head.handle(Received(bytes(info.node) + bytes(8), info.join()), now)  # type: ignore[arg-type]
    told = [one.message for one in effects if isinstance(one, Send) and isinstance(one.message, NodeTable)]
    sizes = [len(codec.encode(message)) for message in (told[0], told[-1])]
    return sizes[0], sizes[1], sizes[0] + sizes[1] * (len(told) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--per-cpu", type=int, default=10, help="tasks for each CPU")
    parser.add_argument("--task-seconds", type=float, default=2.5)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    found: dict[int, list[list[float]]] = {nodes: [] for nodes in args.nodes}
    messages: dict[int, float] = {}
    for _ in range(args.rounds):
        for nodes in args.nodes:
            for _ in range(max(1, min(10, 1000 // nodes))):
                costs, messages[nodes] = measure(nodes, args.per_cpu, args.task_seconds)
                found[nodes].append(costs)
    print(f"{CPUS} CPUs a node, {args.per_cpu} tasks of {args.task_seconds:g} s for each CPU. us of CPU time:\n")
    print("| nodes | tasks | sessions | per task: " + " | ".join(COMPONENTS) + " | messages", end="")
    print(" | per node and second: raylet, beats | head, beats |\n|" + 8 * "---:|")
    for nodes, all_costs in found.items():
        medians = [statistics.median(column) for column in zip(*all_costs, strict=True)]
        shown = [f"{us:.1f}" for us in medians]
        shown.insert(len(COMPONENTS), f"{messages[nodes]:.2f}")
        print(f"| {nodes:,} | {nodes * CPUS * args.per_cpu:,} | {len(all_costs)} | {' | '.join(shown)} |")
    print("\nA node joins:\n")
    print("| nodes | seconds between two beats of one | bytes told to it | to each other node | in all |")
    print("|" + 5 * "---:|")
    for nodes in args.nodes:
        whole, row, total = tell_of_a_join(nodes)
        print(f"| {nodes:,} | {NodeLimits().beat_after(nodes):g} | {whole:,} | {row:,} | {total:,} |")


if __name__ == "__main__":
    main()
