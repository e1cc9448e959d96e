"""How fast would it be? The real schedulers, on virtual time, at the size of a cluster that one does not have.

    python -m sparkray_core.testing.simulate --nodes 1000 --cpus-per-node 4 --tasks 1000000 --task-seconds 1
    python -m sparkray_core.testing.simulate --nodes 10000 --tasks 10000000 --seed 7
    python -m sparkray_core.testing.simulate --nodes 3 --cpus-per-node 28 --tasks 10000 --task-seconds exponential:0.1

But for the times on this machine's own clock, which come last, the same arguments print the same bytes. docs/scale.md
says what the model is, and what it leaves out.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from sparkray_core.testing.costs import Costs, read_costs
from sparkray_core.testing.measured import OwnShare
from sparkray_core.testing.timed import COMPONENTS, HEAD_BEATS, OFFERS, RAYLET_BEATS, TimedSession

PERCENTILES = (0.5, 0.9, 0.99)
PACE = 16_000  # tasks a second that one driver can well deal with
WINDOW = 1_000_000  # unanswered tasks of a driver: each takes about half a kilobyte of it


@dataclass(frozen=True)
class Prediction:
    """What a session would do. Seconds are virtual."""

    nodes: int
    cpus: int
    tasks: int
    makespan: float  # seconds from the first submission to the last answer
    throughput: float  # tasks per second
    efficiency: float  # seconds of the tasks themselves / (CPUs x makespan)
    queueing: dict[str, float]  # seconds from submission to start: mean, largest, and percentiles
    messages_per_task: dict[str, float]  # by name
    bytes_per_task: float | None  # of messages; only if they were encoded
    placed: int  # leases that the head placed
    offered: int  # leases that waited so long that it placed them again
    granted: int  # leases that raylets granted
    busy: dict[str, float]  # share of the makespan that the busiest driver, raylet, worker, and the head, had to do


@dataclass(frozen=True)
class Measurement:
    """What the same run took on this machine's own clock."""

    seconds: float  # of everything
    events: int
    # CPU time in the models (with the codec, if it was asked for), in microseconds, by component; and beats apart
    us_per_task: dict[str, float]
    us_per_step: dict[str, float]  # of one event
    us_per_node_second: dict[str, float]  # of beats, and what else comes with the clock, per node and virtual second
    us_per_second: float  # of leases that waited so long that they were offered again, in all
    decisions_per_s: dict[str, float]  # leases placed by the head, granted by raylets, per second of their models' time


def predict(
    task_seconds: Sequence[float],
    *,
    nodes: int = 1,
    cpus_per_node: int = 1,
    costs: Costs | None = None,
    drivers: int = 1,
    window: int | None = None,
    with_bytes: bool = False,
) -> Prediction:
    """How long a session takes for independent tasks of these durations, submitted in this order in one loop.

    The driver lives on the first node, whose CPUs run tasks as well; workers are up, and idle. Several drivers, on
    nodes of their own as far as there are enough, share the tasks out.

    Args:
        task_seconds: of each task's own code.
        costs: what everything else takes; None: as on the machine that docs/scale.md names.
        window: so many tasks of a driver may be unanswered at a time; None: all.
        with_bytes: messages are encoded, so that their bytes are known.
    """
    return run(task_seconds, nodes, cpus_per_node, costs, drivers, window, with_bytes)[0]


def run(
    task_seconds: Sequence[float],
    nodes: int,
    cpus_per_node: int,
    costs: Costs | None = None,
    drivers: int = 1,
    window: int | None = None,
    with_bytes: bool = False,
) -> tuple[Prediction, Measurement]:
    """As `predict`, and what it took."""
    if not len(task_seconds):
        raise ValueError("there are no tasks to predict anything about")
    if drivers < 1:
        raise ValueError(f"{drivers} drivers: at least one is needed")
    began = perf_counter()
    session = TimedSession(nodes, cpus_per_node, costs, with_bytes=with_bytes)
    for number in range(drivers):
        some = task_seconds[len(task_seconds) * number // drivers : len(task_seconds) * (number + 1) // drivers]
        session.add_driver(some, nodes * number // drivers, window)
    share = OwnShare()
    collects = gc.isenabled()
    if sys.implementation.name == "cpython":  # elsewhere it is all that frees
        gc.disable()  # what the models leave behind has no cycles, and there is very much of it
    try:
        session.run()
    finally:
        if collects:
            gc.enable()
    prediction = _predicted(session, task_seconds)
    return prediction, _measured(session, prediction, perf_counter() - began, share.so_far())


def _predicted(session: TimedSession, task_seconds: Sequence[float]) -> Prediction:
    tasks = len(task_seconds)
    makespan = max(driver.finished_at or 0.0 for driver in session.drivers)
    queueing = {"mean": session.delays.mean, "max": session.delays.largest}
    queueing |= {f"p{share * 100:g}": session.delays.percentile(share) for share in PERCENTILES}
    busy = {
        "driver": max(driver.busy_s for driver in session.drivers),
        "raylet": max(host.busy_s for host in session.raylets),
        "head": session.head_busy_s,
        "worker": max(worker.busy_s for worker in session.workers),
    }
    return Prediction(
        nodes=len(session.raylets),
        cpus=session.cpus,
        tasks=tasks,
        makespan=makespan,
        throughput=tasks / makespan,
        efficiency=sum(task_seconds) / (session.cpus * makespan),
        queueing=queueing,
        messages_per_task={
            kind.__name__: count / tasks
            for kind, count in sorted(session.sent.items(), key=lambda one: one[0].__name__)
        },
        bytes_per_task=session.sent_bytes / tasks if session.with_bytes else None,
        placed=session.placed,
        offered=session.offered,
        granted=session.granted,
        busy={name: seconds / makespan for name, seconds in busy.items()},
    )


def _measured(session: TimedSession, prediction: Prediction, seconds: float, share: float) -> Measurement:
    measured = session.measured
    for one in measured.values():
        one.seconds *= share
    per_task = {name: measured[name] for name in (*COMPONENTS, "worker")}
    node_seconds = prediction.nodes * prediction.makespan
    decisions = {"head": (session.placed, measured["head"]), "raylet": (session.granted, measured["raylet"])}
    return Measurement(
        seconds=seconds,
        events=session.events,
        us_per_task={name: one.seconds / prediction.tasks * 1e6 for name, one in per_task.items()},
        us_per_step={name: one.seconds / one.steps * 1e6 for name, one in measured.items() if one.steps},
        us_per_second=measured[OFFERS].seconds / prediction.makespan * 1e6,
        us_per_node_second={name: measured[name].seconds / node_seconds * 1e6 for name in (RAYLET_BEATS, HEAD_BEATS)},
        decisions_per_s={name: count / one.seconds if one.seconds else 0.0 for name, (count, one) in decisions.items()},
    )


# ---------------------------------------------------------------------- durations
def durations(what: str, count: int, seed: int) -> Sequence[float]:
    """Seconds of each of `count` tasks.

    Args:
        what: "0.01", all alike; "uniform:0.01:0.03"; "exponential:0.01", by its mean; "pareto:0.01:1.5", by the
            shortest and the exponent: few are very long.

    Raises:
        ValueError: it is none of these.
    """
    kind, _, rest = what.partition(":") if ":" in what else ("constant", "", what)
    dice = Random(seed)
    try:
        numbers = [float(word) for word in rest.split(":")]
        if any(number < 0 for number in numbers):
            raise ValueError
        if kind == "constant":
            (seconds,) = numbers
            return array("d", [seconds]) * count
        if kind == "uniform":
            least, most = numbers
            return array("d", (dice.uniform(least, most) for _ in range(count)))
        if kind == "exponential":
            (mean,) = numbers
            return array("d", (dice.expovariate(1 / mean) if mean else 0.0 for _ in range(count)))
        if kind == "pareto":
            least, exponent = numbers
            return array("d", (least * dice.paretovariate(exponent) for _ in range(count)))
    except (ValueError, ZeroDivisionError):
        pass
    raise ValueError(
        f"{what!r} says nothing of how long tasks take. Write seconds, or uniform:LEAST:MOST, exponential:MEAN or "
        f"pareto:LEAST:EXPONENT"
    )


# ---------------------------------------------------------------------- the command
def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    try:
        costs = read_costs(args.costs) if args.costs else Costs()
        if args.task_seconds is None:
            args.task_seconds = f"{max(0.01, args.nodes * args.cpus_per_node / args.drivers / PACE):g}"
        seconds = durations(args.task_seconds, args.tasks, args.seed)
        predicted, measured = run(
            seconds, args.nodes, args.cpus_per_node, costs, args.drivers, args.window, args.with_bytes
        )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"simulate: {error}\n")
        return 2
    sys.stdout.write("\n".join([*_lines(predicted, args.task_seconds), "", *_own_lines(measured), ""]))
    if args.json:
        facts: dict[str, Any] = {"seed": args.seed, "task_seconds": args.task_seconds, "drivers": args.drivers}
        facts |= {"costs": asdict(costs), "predicted": asdict(predicted), "measured": asdict(measured)}
        Path(args.json).write_text(json.dumps(facts, indent=1) + "\n")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__, formatter_class=_Raw)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--cpus-per-node", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument(
        "--task-seconds",
        help="0.01 | uniform:A:B | exponential:MEAN | pareto:MIN:EXP; without it, as long as it takes for the drivers "
        f"to keep all CPUs busy: CPUs / drivers / {PACE:,}, at least 0.01",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the durations")
    parser.add_argument("--drivers", type=int, default=1, help="that share the tasks out")
    parser.add_argument("--window", type=int, default=WINDOW, help="unanswered tasks that each may have at a time")
    parser.add_argument("--costs", metavar="FILE.json", help="of what each step takes; see testing/costs.py")
    parser.add_argument("--with-bytes", action="store_true", help="encode every message, and count its bytes")
    parser.add_argument("--json", metavar="FILE", help="write all of it there, too")
    return parser.parse_args(argv)


class _Raw(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The docstring as it is, and defaults."""


def _lines(one: Prediction, seconds: str) -> list[str]:
    delays = "  ".join(f"{name} {seconds * 1e3:.3f}" for name, seconds in one.queueing.items())
    messages = sorted(one.messages_per_task.items(), key=lambda pair: -pair[1])
    lines = [
        f"{one.tasks} tasks of {seconds} s, {one.nodes} nodes, {one.cpus} CPUs",
        f"makespan             {one.makespan:.6f} s",
        f"throughput           {one.throughput:.1f} tasks/s",
        f"efficiency           {one.efficiency:.2%}",
        f"queueing delay, ms   {delays}",
        f"messages per task    {sum(one.messages_per_task.values()):.4f}",
        *(f"    {name:<20} {count:.6f}" for name, count in messages),
        f"leases               {one.placed} placed by the head, {one.offered} again, {one.granted} granted by raylets",
        f"busiest of its kind  {'  '.join(f'{name} {share:.1%}' for name, share in one.busy.items())}",
    ]
    if one.bytes_per_task is not None:
        lines.append(f"bytes per task       {one.bytes_per_task:.1f}")
    return lines


def _own_lines(one: Measurement) -> list[str]:
    decisions = "  ".join(f"{name} {count:,.0f}" for name, count in one.decisions_per_s.items())
    return [
        "on this machine's own clock:",
        f"the simulation took  {one.seconds:.1f} s, {one.events} events, {one.events / one.seconds:,.0f} per second",
        f"CPU us per task      {'  '.join(f'{name} {us:.2f}' for name, us in one.us_per_task.items() if us)}",
        f"CPU us per step      {'  '.join(f'{name} {us:.1f}' for name, us in one.us_per_step.items())}",
        f"per node and second  {'  '.join(f'{name} {us:.1f}' for name, us in one.us_per_node_second.items())}",
        f"per second           {OFFERS} {one.us_per_second:.1f}",
        f"decisions per second {decisions}",
    ]


if __name__ == "__main__":
    sys.exit(main())
