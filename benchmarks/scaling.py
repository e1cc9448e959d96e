"""What a task costs each scheduler, and what a node that joins costs the head, by the number of nodes.

    python benchmarks/scaling.py                          10 to 10,000 nodes, each with the same work for a CPU
    python benchmarks/scaling.py --what lines
    python benchmarks/scaling.py --nodes 10 100 --at-once

Simulated (`sparkray_core.testing.simulate`): the driver lives on a node without CPUs, as in Spark, and keeps as many
tasks unanswered as there are CPUs; with `--at-once` it submits all of them first, and asks for up to 64 leases more
than there are. Once the head places the leases, and once a scheduler beside it (`global_schedulers=1`).

Lines of the models' code that run for a task, and messages, are counted: they are the same wherever and beside whatever
it runs. (For lines one step of some is looked at.) CPU time is that of this machine, of each process as if it had a
processor to itself (`scaling_replays`), and with it what a message takes to be decoded and encoded; each number of
nodes and the least take turns of milliseconds, since machines are faster and slower from one second to the next.
What comes with the clock, beats above all, is paid for each node and second, not for tasks, and is shown by itself.
docs/scale.md says what came out.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from array import array
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from scaling_parts import CPUS, of_a_shard, one_by_one
from scaling_replays import Recording, side_by_side

from sparkray_core.ids import NodeId
from sparkray_core.messages import NodeTable
from sparkray_core.model.effects import Send
from sparkray_core.model.events import ClockTicked, Received
from sparkray_core.model.head import Head
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.resources import from_floats
from sparkray_core.testing.measured import Counted
from sparkray_core.testing.timed import COMPONENTS, HEAD_BEATS, LOADS, PACED, RAYLET_BEATS, SCHEDULERS, TimedSession
from sparkray_core.wire import codec

OF_TASKS = (*COMPONENTS, SCHEDULERS)
MESSAGES = "messages"
Costs = dict[str, float]  # by component


def show_lines(args: argparse.Namespace) -> None:
    every = {nodes: 1 if nodes <= 100 else 7 if nodes <= 1000 else 31 for nodes in args.nodes}
    found = {}
    for nodes in args.nodes:
        found[nodes] = lines(nodes, 0, args, every[nodes])
        found[nodes][SCHEDULERS] = lines(nodes, 1, args, every[nodes])[SCHEDULERS]
    show("Lines of code that run for a task, and messages", found, [*OF_TASKS, MESSAGES])


def lines(nodes: int, schedulers: int, args: argparse.Namespace, every: int) -> Costs:
    """For a task. One step of so many (`every`) is looked at."""
    measure = partial(Counted, every)
    session = TimedSession(nodes, CPUS, drivers_apart=True, schedulers=schedulers, measure=measure)
    tasks = nodes * CPUS * args.per_cpu
    session.add_driver(array("d", [args.task_seconds]) * tasks, window=None if args.at_once else nodes * CPUS)
    for _ in session.steps():
        pass
    costs: Costs = {}
    for name in OF_TASKS:
        counted = session.measured[name]
        assert isinstance(counted, Counted)
        costs[name] = counted.lines / tasks
    costs[MESSAGES] = sum(number for kind, number in session.sent.items() if kind not in PACED) / tasks
    return costs


def show_times(args: argparse.Namespace) -> None:
    """Of each number of nodes, beside the first in the same seconds."""
    least, *more = args.nodes
    found: defaultdict[tuple[int, str], list[float]] = defaultdict(list)
    ratios: defaultdict[tuple[int, str], list[float]] = defaultdict(list)
    heard: dict[int, Costs] = {count: {} for count in args.nodes}
    for nodes in more:
        for schedulers, names in ((0, COMPONENTS), (1, [SCHEDULERS])):
            both = [
                Recording(count, schedulers, args.per_cpu, args.task_seconds, args.at_once) for count in (least, nodes)
            ]
            for name in [name for name in names for _ in range(args.rounds)]:
                few, many = side_by_side(name, *both)
                ratios[nodes, name].append(many[name] / few[name])
                for count, costs in ((least, few), (nodes, many)):
                    for what, cost in costs.items():
                        found[count, what].append(cost)
            for name in names:
                heard[least][name], heard[nodes][name] = (recording.messages(name) for recording in both)
    of_the_clock = (RAYLET_BEATS, HEAD_BEATS, LOADS)
    medians = {
        count: {what: statistics.median(found[count, what]) for what in (*OF_TASKS, *of_the_clock)}
        for count in args.nodes
    }
    show(f"us of CPU time for a task, medians of {args.rounds}", medians, OF_TASKS)
    print(f"\nBeside {least:,} nodes in the same seconds, medians (least to most):\n\n{_header(OF_TASKS)}")
    for nodes in more:
        cells = []
        for name in OF_TASKS:
            some = [ratio - 1 for ratio in ratios[nodes, name]]
            cells.append(f"{statistics.median(some):+.0%} ({min(some):+.0%} to {max(some):+.0%})")
        print(f"| {nodes:,} | {' | '.join(cells)} |", flush=True)
    show("Messages that each hears for a task", heard, OF_TASKS, 2)
    show("us of CPU time for a node and second, of what comes with the clock", medians, of_the_clock)


def _header(columns: Sequence[str]) -> str:
    return f"| nodes | {' | '.join(columns)} |\n|{'---:|' * (len(columns) + 1)}"


def show(title: str, rows: dict[int, Costs], columns: Sequence[str], digits: int = 1) -> None:
    """A table; below it how much the last row is above the first, and the dearest above the cheapest."""
    print(f"\n{title}:\n\n{_header(columns)}")
    for nodes, costs in rows.items():
        cells = (f"{costs[name]:.{2 if name == MESSAGES else digits}f}" for name in columns)
        print(f"| {nodes:,} | {' | '.join(cells)} |")
    spans = []
    for name in columns:
        some = [costs[name] for costs in rows.values()]
        spans.append(f"{some[-1] / some[0] - 1:+.0%}; {max(some) / min(some) - 1:.0%}" if min(some) else "")
    print(f"| last to first; most to least | {' | '.join(spans)} |", flush=True)


def show_alone(nodes: Sequence[int]) -> None:
    print("\nus of CPU time, single runs:\n")
    print("| nodes | owner: a task by itself, all workers idle | shard: an object |\n|---:|---:|---:|")
    for count in nodes:
        print(f"| {count:,} | {one_by_one(count):.1f} | {of_a_shard(count):.1f} |", flush=True)


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


def show_joins(nodes: Sequence[int]) -> None:
    print("\nA node joins:\n")
    print("| nodes | seconds between two beats of one | bytes told to it | to each other node | in all |")
    print("|" + 5 * "---:|")
    for there in nodes:
        whole, row, total = tell_of_a_join(there)
        print(f"| {there:,} | {NodeLimits().beat_after(there):g} | {whole:,} | {row:,} | {total:,} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--per-cpu", type=int, default=3, help="tasks for each CPU")
    parser.add_argument("--task-seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--what", choices=["lines", "times", "alone", "joins"], nargs="+", help="else all of it")
    parser.add_argument("--at-once", action="store_true", help="all tasks are submitted at once")
    args = parser.parse_args()
    what = args.what or ["lines", "times", "alone", "joins"]
    gc.disable()  # as the simulator has it: what the models leave behind has no cycles
    how = "all tasks at once" if args.at_once else "as many tasks unanswered as there are CPUs"
    print(f"{CPUS} CPUs a node, {args.per_cpu} tasks of {args.task_seconds:g} s for each CPU, {how}.")
    if "lines" in what:
        show_lines(args)
    if "times" in what:
        show_times(args)
    if "alone" in what:
        show_alone(args.nodes)
    if "joins" in what:
        show_joins(args.nodes)


if __name__ == "__main__":
    main()
