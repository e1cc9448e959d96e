"""What the simulator's costs are on this machine, and how well it predicts a real session then.

    python benchmarks/simulator.py calibrate             measure, and print a file for `simulate --costs`
    python benchmarks/simulator.py compare               real runs on 1 and 2 CPUs beside their prediction
    python benchmarks/simulator.py compare --costs FILE  with other costs than the simulator's own

docs/scale.md shows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import psutil

import sparkray as ray
from sparkray_core.testing.costs import Costs, read_costs
from sparkray_core.testing.simulate import predict

ROUNDS = 5
TASKS, CALLS, SHORT, SLOW = 20_000, 2_000, 1_000, 50
SHORT_S = 0.001  # of a task that is pushed behind others, and whose result goes by itself
SLOW_S = 0.020  # of a task that nobody looks on for: who waits for it sleeps
KINDS = ("worker", "raylet", "gcs")


def noop() -> bytes:
    return b"ok"


def compute(seconds: float) -> None:
    """As long as the clock says, on a processor all the time."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


WORK: dict[str, Callable[[float], None]] = {"compute": compute, "sleep": time.sleep}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("calibrate", "compare"))
    parser.add_argument("--costs", metavar="FILE.json")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds-each", type=float, default=2.0, help="of work per CPU in one run of `compare`")
    args = parser.parse_args()
    if args.action == "calibrate":
        print(json.dumps(asdict(calibrated(args.rounds)), indent=1))
    else:
        compare(read_costs(args.costs) if args.costs else Costs(), args)
    return 0


# ---------------------------------------------------------------------- costs
class Clocks:
    """Seconds of processor that each kind of process has used, and this one, and the wall clock."""

    def __init__(self) -> None:
        self.by_kind: dict[str, list[psutil.Process]] = {kind: [] for kind in KINDS}
        for process in psutil.Process().children(recursive=True):
            title = " ".join(process.cmdline())
            for kind, found in self.by_kind.items():
                if kind in title:
                    found.append(process)
                    break
        if missing := [kind for kind, found in self.by_kind.items() if not found]:
            raise SystemExit(f"no process of the session says in its title that it is a {' or '.join(missing)}")

    def read(self) -> dict[str, float]:
        used = {kind: sum(map(_used, found)) for kind, found in self.by_kind.items()}
        return {**used, "driver": time.process_time(), "wall": time.perf_counter()}

    def per(self, count: int, work: Callable[[], None]) -> dict[str, float]:
        before = self.read()
        work()
        after = self.read()
        return {kind: (after[kind] - before[kind]) / count for kind in before}


def _used(process: psutil.Process) -> float:
    """Not `cpu_times`, which counts in hundredths of a second."""
    nanoseconds = 0
    for task in process.threads():
        with open(f"/proc/{process.pid}/task/{task.id}/schedstat") as file:
            nanoseconds += int(file.read().split()[0])
    return nanoseconds / 1e9


def calibrated(rounds: int) -> Costs:
    """One CPU, so that driver and worker have a core each. Medians of the rounds."""
    ray.init(num_cpus=1)
    task, work = ray.remote(noop), ray.remote(compute)

    def pipelined() -> None:
        ray.get([task.remote() for _ in range(TASKS)])

    def one_by_one() -> None:
        for _ in range(CALLS):
            ray.get(task.remote())

    def slowly() -> None:
        ray.get([work.remote(SLOW_S) for _ in range(SLOW)])

    def shortly() -> None:
        ray.get([work.remote(SHORT_S) for _ in range(SHORT)])

    def submitted() -> float:
        """Seconds per task until the loop is over; results that came in between are in it."""
        began = time.process_time()
        refs = [task.remote() for _ in range(TASKS)]
        taken = time.process_time() - began
        ray.get(refs)
        return taken / TASKS

    for _ in range(2):
        for warm in (pipelined, shortly, one_by_one, slowly):
            warm()
    clocks = Clocks()
    rows: dict[str, list[dict[str, float]]] = {"pipelined": [], "one by one": [], "short": [], "slow": []}
    submitting = []
    for _ in range(rounds):
        rows["pipelined"].append(clocks.per(TASKS, pipelined))
        rows["one by one"].append(clocks.per(CALLS, one_by_one))
        rows["short"].append(clocks.per(SHORT, shortly))
        rows["slow"].append(clocks.per(SLOW, slowly))
        submitting.append(submitted())
    ray.shutdown()
    middle = {
        name: {key: statistics.median(row[key] for row in some) for key in some[0]} for name, some in rows.items()
    }
    for name, row in middle.items():
        words = "  ".join(f"{kind} {seconds * 1e6:.1f}" for kind, seconds in row.items())
        print(f"{name:<12} us per task: {words}", file=sys.stderr)
    print(f"submitting   us per task: driver {statistics.median(submitting) * 1e6:.1f}", file=sys.stderr)
    return costs_of(middle, statistics.median(submitting))


def costs_of(middle: dict[str, dict[str, float]], submitting: float) -> Costs:
    """Of raylets, the head and the network nothing is measured here: they are the simulator's own.

    Processors' clocks tell what a task takes where there is no pause. What a message takes they do not, since who waits
    for one looks on for a while; that is in the wall clock: of tasks one by one (both sides look on), of short ones
    (each sends a message, and every second gets one, while the worker's other thread runs), and of slow ones (both
    sides sleep).
    """
    many, single, short, slow = (middle[name] for name in ("pipelined", "one by one", "short", "slow"))
    driver, worker = many["driver"], many["worker"]
    submit = min(submitting, 0.7 * driver)
    one_way = (single["wall"] - driver - worker) / 2
    driver_message, local = one_way / 3, one_way / 6
    worker_message = max(0.0, short["wall"] - SHORT_S - worker) / 1.5
    wake = (slow["wall"] - SLOW_S - driver - worker) / 2 - driver_message - worker_message - local
    return replace(
        Costs(),
        driver_submit_s=round(submit, 7),
        driver_result_s=round(driver - submit, 7),
        driver_message_s=round(driver_message, 7),
        worker_task_s=round(worker, 7),
        worker_message_s=round(worker_message, 7),
        local_s=round(local, 7),
        wake_s=round(max(0.0, wake), 7),
    )


# ---------------------------------------------------------------------- real runs beside predictions
def compare(costs: Costs, args: argparse.Namespace) -> None:
    print("work     CPUs  ms each  tasks  real s: min - median - max     predicted s  error")
    for cpus in (1, 2):
        ray.init(num_cpus=cpus)
        for name, work in WORK.items():
            task = ray.remote(work)
            for seconds in (0.001, 0.005, 0.020):
                count = int(args.seconds_each * cpus / seconds)
                real, own = measured(task, seconds, count, args.rounds)
                predicted = predict([own] * count, cpus_per_node=cpus, costs=costs).makespan
                middle = statistics.median(real)
                took = f"{min(real):.3f} - {middle:.3f} - {max(real):.3f}"
                line = f"{name:<8} {cpus:>4}  {own * 1e3:>7.3f}  {count:>5}  {took:<28}"
                print(f"{line} {predicted:>11.3f}  {predicted / middle - 1:+.1%}", flush=True)
        ray.shutdown()


def measured(task: Any, seconds: float, count: int, rounds: int) -> tuple[list[float], float]:
    """Seconds of each round; and of one task's own code, called here, where nothing else runs."""
    ray.get([task.remote(seconds) for _ in range(count // 4)])
    real = []
    for _ in range(rounds):
        began = time.perf_counter()
        ray.get([task.remote(seconds) for _ in range(count)])
        real.append(time.perf_counter() - began)
    return real, alone(WORK["compute" if task._function is compute else "sleep"], seconds)


def alone(work: Callable[[float], None], seconds: float) -> float:
    """What one call takes here, where nothing else runs."""
    taken = []
    for _ in range(50):
        began = time.perf_counter()
        work(seconds)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    sys.exit(main())
