"""What a task costs each scheduler, and what a node that joins costs the head, by the number of nodes.

    python benchmarks/scaling.py                          10 to 10,000 nodes, each with the same work for a CPU
    python benchmarks/scaling.py --nodes 10 100 --at-once
    python benchmarks/scaling.py --alone                  an owner with a long queue, and a shard, each alone

Simulated (`sparkray_core.testing.simulate`): the driver lives on a node without CPUs, as in Spark, and keeps as many
tasks unanswered as there are CPUs; with `--at-once` it submits all of them first, and asks for up to 64 leases more
than there are. Once the head places the leases, and once a scheduler beside it (`global_schedulers=1`).

Lines of the models' code that run for a task, and messages, are counted: they are the same wherever and beside whatever
it runs. (For lines one step of some is looked at.) CPU time of this machine is shown twice. By itself a small session
fits into the processor's caches and a large one does not, whatever its code does. So there is a second table in which
each row has as many nodes, tasks and messages in this process: 1,000 sessions of 10 nodes that take turns by a dice,
or 1 of 10,000. There all find the caches full of something else, as a process does that has little to do among others;
the smaller ones more so, since what a head or an owner looks at in each step is there once for each session.
What comes with the clock, beats above all, is paid for each node and second, not for tasks, and is shown by itself.
docs/scale.md says what came out.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from array import array
from collections.abc import Sequence
from functools import partial

from scaling_parts import CPUS, RECORDED, in_turns, one_by_one, owner_steps, shard_steps

from sparkray_core.ids import NodeId
from sparkray_core.messages import NodeTable
from sparkray_core.model.effects import Send
from sparkray_core.model.events import ClockTicked, Received
from sparkray_core.model.head import Head
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.resources import from_floats
from sparkray_core.testing.measured import Counted, Measured, OwnShare
from sparkray_core.testing.timed import COMPONENTS, HEAD_BEATS, LOADS, PACED, RAYLET_BEATS, SCHEDULERS, TimedSession
from sparkray_core.wire import codec

OF_TASKS = (*COMPONENTS, SCHEDULERS)
OF_THE_CLOCK = (RAYLET_BEATS, HEAD_BEATS, LOADS)
MESSAGES = "messages"
Costs = dict[tuple[str, str], float]  # by component and unit


def measure(nodes: int, count: int, schedulers: int, args: argparse.Namespace, every: int = 0) -> Costs:
    """Of so many sessions in turns: microseconds per task, and per node and second of what comes with the clock; and
    messages per task. Or (`every`) lines in place of microseconds, for which one step of so many is looked at."""
    kind = partial(Counted, every) if every else Measured
    sessions = [
        TimedSession(nodes, CPUS, drivers_apart=True, schedulers=schedulers, measure=kind) for _ in range(count)
    ]
    measured = sessions[0].measured
    tasks = nodes * CPUS * args.per_cpu
    for session in sessions:
        session.measured = measured
        session.add_driver(array("d", [args.task_seconds]) * tasks, window=None if args.at_once else nodes * CPUS)
    share = OwnShare()
    in_turns(session.steps() for session in sessions)
    costs: Costs = {}
    for name in (*OF_TASKS, *OF_THE_CLOCK):
        one = measured[name]
        units = count * (nodes * sessions[0].now if name in OF_THE_CLOCK else tasks)
        if isinstance(one, Counted):
            costs[name, "lines"] = one.lines / units
        else:
            costs[name, "us"] = one.seconds * share.so_far() / units * 1e6
    sent = sessions[0].sent.items()
    costs[MESSAGES, ""] = sum(number for kind, number in sent if kind not in PACED) / tasks
    return costs


def both(nodes: int, count: int, args: argparse.Namespace, every: int = 0) -> Costs:
    """With the head placing leases, and of a scheduler that does."""
    costs: Costs = {}
    for schedulers in args.schedulers:
        found = measure(nodes, count, schedulers, args, every)
        costs.update({key: cost for key, cost in found.items() if key not in costs or key[0] in (SCHEDULERS, LOADS)})
    return costs


def compare_sessions(args: argparse.Namespace) -> None:
    beside = args.beside or max(args.nodes)
    how = "all tasks at once" if args.at_once else "as many tasks unanswered as there are CPUs"
    print(f"{CPUS} CPUs a node, {args.per_cpu} tasks of {args.task_seconds:g} s for each CPU, {how}.")
    if args.what != "times":
        every = {nodes: 1 if nodes <= 100 else 7 if nodes <= 1000 else 31 for nodes in args.nodes}
        lines = {nodes: both(nodes, 1, args, every[nodes]) for nodes in args.nodes}
        columns = [*((name, "lines") for name in OF_TASKS), (MESSAGES, "")]
        show("Lines of code that run for a task, and messages", lines, columns)
    if args.what == "lines":
        return
    found: dict[int, list[Costs]] = {nodes: [] for nodes in args.nodes}
    alone: dict[int, list[Costs]] = {nodes: [] for nodes in args.nodes}
    for _ in range(args.rounds):
        for nodes in args.nodes:
            count = max(1, beside // nodes)
            found[nodes].append(both(nodes, count, args))
            alone[nodes] += [both(nodes, 1, args) for _ in range(min(3, count - 1))] or found[nodes][-1:]
    each, times = f"{beside:,} nodes in each row; medians of {args.rounds}", [(name, "us") for name in OF_TASKS]
    show(f"us of CPU time per task, {each}", medians(found), times)
    show("us of CPU time per task, each session by itself", medians(alone), times)
    clock = [(name, "us") for name in OF_THE_CLOCK]
    show(f"us of CPU time per node and second for what comes with the clock, {each}", medians(found), clock)


def medians(found: dict[int, list[Costs]]) -> dict[int, Costs]:
    return {
        nodes: {key: statistics.median(costs[key] for costs in some) for key in some[0]}
        for nodes, some in found.items()
    }


def show(title: str, rows: dict[int, Costs], columns: Sequence[tuple[str, str]]) -> None:
    """A table; below it how much the last row is above the first, and the dearest above the cheapest."""
    print(f"\n{title}:\n\n| nodes | {' | '.join(name for name, _ in columns)} |\n|{'---:|' * (len(columns) + 1)}")
    for nodes, costs in rows.items():
        cells = (f"{costs[column]:.2f}" if column[0] == MESSAGES else f"{costs[column]:.1f}" for column in columns)
        print(f"| {nodes:,} | {' | '.join(cells)} |")
    spans = []
    for column in columns:
        some = [costs[column] for costs in rows.values()]
        spans.append(f"{some[-1] / some[0] - 1:+.0%}; {max(some) / min(some) - 1:.0%}" if min(some) else "")
    print(f"| last to first; most to least | {' | '.join(spans)} |", flush=True)


def compare_alone(args: argparse.Namespace) -> None:
    beside = args.beside or max(args.nodes)
    print(f"{CPUS} CPUs a node, {args.per_cpu} tasks for each CPU, all at once. us of CPU time, medians (least):\n")
    print("| nodes | owners, shards | owner, a task | one by one, all workers idle | shard, an object |")
    print(f"|{'---:|' * 5}")
    for nodes in args.nodes:
        count = max(1, beside // nodes)
        owner, shard = [], []
        for _ in range(args.rounds):
            measured, share = Measured(), OwnShare()
            in_turns([owner_steps(nodes, args.per_cpu, args.task_seconds, measured) for _ in range(count)])
            owner.append(measured.seconds * share.so_far() / (count * nodes * CPUS * args.per_cpu) * 1e6)
            measured, share = Measured(), OwnShare()
            in_turns([shard_steps(nodes, measured) for _ in range(count)])
            shard.append(measured.seconds * share.so_far() / (count * nodes * CPUS * RECORDED) * 1e6)
        single = [one_by_one(nodes) for _ in range(3)]
        cells = (f"{statistics.median(some):.1f} ({min(some):.1f})" for some in (owner, single, shard))
        print(f"| {nodes:,} | {count:,} | {' | '.join(cells)} |", flush=True)


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
    parser.add_argument("--per-cpu", type=int, default=5, help="tasks for each CPU")
    parser.add_argument("--task-seconds", type=float, default=2.5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--what", choices=["all", "lines", "times"], default="all")
    parser.add_argument("--beside", type=int, default=0, help="nodes in each row; else as many as the largest has")
    parser.add_argument("--schedulers", type=int, nargs="+", default=[0, 1], help="beside the head, in turn")
    parser.add_argument("--at-once", action="store_true", help="all tasks are submitted at once")
    parser.add_argument("--alone", action="store_true", help="an owner and a shard alone, and no sessions")
    parser.add_argument("--joins", action="store_true", help="what a node that joins costs, and nothing else")
    args = parser.parse_args()
    gc.disable()  # as the simulator has it: what the models leave behind has no cycles
    if args.alone:
        compare_alone(args)
    elif not args.joins:
        compare_sessions(args)
    if not args.alone:
        show_joins(args.nodes)


if __name__ == "__main__":
    main()
