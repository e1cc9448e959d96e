"""What a task costs each scheduler, and what a node that joins costs the head, by the number of nodes.

    python benchmarks/scaling.py                          10 to 10,000 nodes, each with the same work for a CPU
    python benchmarks/scaling.py --nodes 10 100 --rounds 5
    python benchmarks/scaling.py --alone                  the owner alone, which takes a minute or two

Simulated (`sparkray_core.testing.simulate`): the time is the models' own, CPU time of this machine, so that what else
runs on it matters little, but for the caches. Each round has a session of every size, the small ones several times;
the medians are shown. In the simulator all models share one core's caches: between two steps of the owner raylets have
theirs, the more the more nodes there are. So each is measured alone, too, as a process has its memory to itself: the
owner gets its leases and its answers, and nothing else happens; the head, and one raylet after the other, hear again
what they heard in the session, decoded just before, as it comes off a socket. The table of nodes is counted as it is
encoded.
docs/scale.md says what came out.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from array import array
from collections import deque
from typing import Any

from sparkray_core.ids import FunctionId, LeaseId, NodeId, ProcessId, node_of, raylet_of
from sparkray_core.messages import LeaseGranted, NodeBeat, NodeTable, PushTasks, RequestLeases, TaskResults
from sparkray_core.model.effects import Effect, Send, WakeAt
from sparkray_core.model.entries import Entry
from sparkray_core.model.events import ClockTicked, Event, Received
from sparkray_core.model.head import Head
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.owner import Function, Owner, Task
from sparkray_core.model.resources import from_floats
from sparkray_core.testing.measured import Measured, OwnShare
from sparkray_core.testing.timed import COMPONENTS, HEAD_BEATS, RAYLET_BEATS, Host, TimedSession
from sparkray_core.wire import codec

CPUS = 4  # of each node
BATCH = 64  # tasks that are submitted together, as in run.local_process
SUBMIT_S = 8e-6  # between two of them
Heard = tuple[float, str, ProcessId | None, bytes]


def one_by_one(nodes: int, most: int = 200) -> float:
    """Microseconds that a task takes its owner which is submitted by itself, while a worker on each CPU idles."""
    me = ProcessId(NodeId(bytes(7) + b"\1") + b"driver..")
    owner, measured, share = Owner(me), Measured(), OwnShare()
    shape, function = owner.leasing.shape(from_floats({"CPU": 1}), True), Function(FunctionId(b"f" * 16), "f", b"")
    workers = [ProcessId(n.to_bytes(8, "big") + n.to_bytes(8, "big")) for n in range(1, nodes * CPUS + 1)]

    def task(number: int) -> Task:
        return Task(number, function, b"", None, None, (Entry(me, number),), 3, shape)

    owner.submit([task(number) for number in range(1, 2 * len(workers) + 1)], 0.0)
    for worker in workers:
        owner.handle(raylet_of(node_of(worker)), LeaseGranted(next(iter(owner.leasing.requests)), worker), 0.0)
    while owner.book.tasks:
        for worker, lease in owner.leasing.by_worker.items():
            owner.handle(worker, TaskResults([(number, [b"value"], None) for number in lease.inflight], 2.5), 0.1)
    count = min(most, len(workers))
    for number in range(1, count + 1):
        measured.step(owner.submit, [task(2 * len(workers) + number)], 0.1)
    return measured.seconds * share.so_far() / count * 1e6


class Recorded(TimedSession):
    """Keeps what the head and the raylets heard: when, as which kind of step, from whom, and the message's bytes."""

    def __init__(self, nodes: int) -> None:
        self.heard: dict[NodeId, list[Heard]] = {}
        super().__init__(nodes, CPUS)
        self.kinds = {id(measured): name for name, measured in self.measured.items()}

    def _handle(self, host: Host, event: Event, now: float, cost: float) -> None:
        kind = self.kinds[id(self._measured_of(host, event))]
        sender, body = (event.sender, codec.encode(event.message)) if isinstance(event, Received) else (None, b"")
        self.heard.setdefault(host.node, []).append((max(now, host.free_at), kind, sender, body))
        super()._handle(host, event, now, cost)

    def replayed(self) -> dict[str, float]:
        """Seconds of CPU time by kind of step, where one model after the other hears all that it heard."""
        fresh, share = TimedSession(len(self.raylets), CPUS), OwnShare()
        for node, events in self.heard.items():
            host = fresh._hosts[node]
            model = fresh._model(host, events[0][0])
            for at, kind, sender, body in events:
                event = ClockTicked() if sender is None else Received(sender, codec.decode(body))
                fresh.measured[kind].step(model.handle, event, at)
        return {name: measured.seconds * share.so_far() for name, measured in fresh.measured.items()}


def measure(nodes: int, per_cpu: int, seconds: float) -> tuple[list[float], float]:
    """Microseconds per task of raylets and head alone, and in the session by component, and of beats alone per node
    and second; and messages per task without beats."""
    count = nodes * CPUS * per_cpu
    session, share = Recorded(nodes), OwnShare()
    driver = session.add_driver(array("d", [seconds]) * count)
    session.run()
    together = [session.measured[name].seconds * share.so_far() / count * 1e6 for name in COMPONENTS]
    alone = session.replayed()
    assert driver.finished_at is not None
    beats = [alone[name] / nodes / driver.finished_at * 1e6 for name in (RAYLET_BEATS, HEAD_BEATS)]
    messages = sum(number for kind, number in session.sent.items() if kind is not NodeBeat) / count
    return [*(alone[name] / count * 1e6 for name in COMPONENTS[1:]), *together, *beats], messages


def owner_alone(nodes: int, per_cpu: int, seconds: float) -> float:
    """Microseconds per task of an owner with a lease on each CPU, whose tasks are answered as they end."""
    me = ProcessId(NodeId(bytes(7) + b"\1") + b"driver..")
    owner, measured, share = Owner(me), Measured(), OwnShare()
    shape = owner.leasing.shape(from_floats({"CPU": 1}), True)
    function, payload = Function(FunctionId(b"f" * 16), "f", b"pickle"), bytes(42)
    values: list[Any] = [b"\x80\x05N."]
    workers = [
        ProcessId((1 + number // CPUS).to_bytes(8, "big") + (1 + number).to_bytes(8, "big"))
        for number in range(nodes * CPUS)
    ]
    free = list(reversed(workers))
    busy_until = dict.fromkeys(workers, 0.0)
    asked: deque[LeaseId] = deque()
    ends: deque[tuple[float, ProcessId, int]] = deque()  # of tasks: all take as long, so they end as they began
    now, wake = 0.0, float("inf")

    def perform(effects: list[Effect]) -> None:
        nonlocal wake
        for effect in effects:
            if isinstance(effect, WakeAt):
                wake = min(wake, effect.at)
            elif isinstance(effect, Send) and isinstance(effect.message, RequestLeases):
                asked.extend(effect.message.leases)
            elif isinstance(effect, Send) and isinstance(effect.message, PushTasks):
                for task in effect.message.tasks:
                    busy_until[effect.to] = max(now, busy_until[effect.to]) + seconds
                    ends.append((busy_until[effect.to], effect.to, task[0]))

    count = nodes * CPUS * per_cpu
    for first in range(1, count + 1, BATCH):
        numbers = range(first, min(first + BATCH, count + 1))
        tasks = [Task(n, function, payload, None, None, (Entry(me, n),), 3, shape) for n in numbers]
        perform(measured.step(owner.submit, tasks, now))
        now += len(tasks) * SUBMIT_S
        while asked and free:
            worker = free.pop()
            granted = LeaseGranted(asked.popleft(), worker)
            perform(measured.step(owner.handle, raylet_of(node_of(worker)), granted, now))
    while ends:
        end, worker, number = ends.popleft()
        now = max(now, end)
        if wake <= now:
            wake = float("inf")
            perform(measured.step(owner.tick, now))
        perform(measured.step(owner.handle, worker, TaskResults([(number, values, None)], seconds), now))
        while asked and free:
            worker = free.pop()
            granted = LeaseGranted(asked.popleft(), worker)
            perform(measured.step(owner.handle, raylet_of(node_of(worker)), granted, now))
    assert not owner.book.tasks, f"{len(owner.book.tasks)} tasks were not answered"
    return measured.seconds * share.so_far() / count * 1e6


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
    parser.add_argument("--alone", action="store_true", help="the owner alone, and no sessions")
    args = parser.parse_args()
    gc.disable()  # as the simulator has it: what the models leave behind has no cycles
    if args.alone:
        for nodes in args.nodes:
            times = [owner_alone(nodes, args.per_cpu, args.task_seconds) for _ in range(max(1, min(30, 3000 // nodes)))]
            single = statistics.median(one_by_one(nodes) for _ in range(3))
            print(f"{nodes:>6,} nodes: {statistics.median(times):.1f} us per task, least {min(times):.1f}; ", end="")
            print(f"one by one, all workers idle: {single:.1f}", flush=True)
        return
    found: dict[int, list[list[float]]] = {nodes: [] for nodes in args.nodes}
    alone: dict[int, list[float]] = {nodes: [] for nodes in args.nodes}
    messages: dict[int, float] = {}
    for _ in range(args.rounds):
        for nodes in args.nodes:
            for _ in range(max(1, min(10, 1000 // nodes))):
                costs, messages[nodes] = measure(nodes, args.per_cpu, args.task_seconds)
                found[nodes].append(costs)
                alone[nodes].append(owner_alone(nodes, args.per_cpu, args.task_seconds))
    print(f"{CPUS} CPUs a node, {args.per_cpu} tasks of {args.task_seconds:g} s for each CPU. us of CPU time:\n")
    print(
        "| nodes | tasks | sessions | per task, each alone: owner | raylets | head | all in one process: owner", end=""
    )
    print(" | raylets | head | per node and second, of beats: raylet | head | messages per task |\n|" + 12 * "---:|")
    for nodes, all_costs in found.items():
        medians = [statistics.median(column) for column in zip(*all_costs, strict=True)]
        shown = [f"{us:.1f}" for us in medians]
        shown.insert(0, f"{statistics.median(alone[nodes]):.1f}")
        shown.append(f"{messages[nodes]:.2f}")
        print(f"| {nodes:,} | {nodes * CPUS * args.per_cpu:,} | {len(all_costs)} | {' | '.join(shown)} |")
    print("\nA node joins:\n")
    print("| nodes | seconds between two beats of one | bytes told to it | to each other node | in all |")
    print("|" + 5 * "---:|")
    for nodes in args.nodes:
        whole, row, total = tell_of_a_join(nodes)
        print(f"| {nodes:,} | {NodeLimits().beat_after(nodes):g} | {whole:,} | {row:,} | {total:,} |")


if __name__ == "__main__":
    main()
