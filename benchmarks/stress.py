"""i x j x k: the same loops on every system, beside what plain forked processes reach; and as shapes of tasks.

    python benchmarks/stress.py                            n = 200, and 100 to 10,000 leaves
    python benchmarks/stress.py --n 200,300,400            larger loops
    python benchmarks/stress.py --leaves 10000,1000000     more leaves
    python benchmarks/stress.py --parts tasks --kill-every 2
    python benchmarks/stress.py --quick                    small, one round: does it run, not how fast

benchmarks/README.md says what is measured, and how.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from micro import RESULTS, describe_machine, say, without_paths
from micro_process import Outcome, run_child, why_not_importable
from micro_report import OURS, RIVAL, Cell, number, terminal
from stress_systems import FLOOR, PYTHON
from stress_work import CUBE, TRIANGLE, expected

HERE = Path(__file__).resolve().parent
CHILD = HERE / "stress_child.py"
PARTS = ("loops", "tasks")
TASK_SHAPES = ("flat", "nested", "actors", "tree")  # of stress_shapes, which needs a session's packages


class Run(NamedTuple):
    """What one child does, and the name of a line of the table."""

    system: str
    shape: str
    size: int  # n, or leaves
    cpus: int


Cells = dict[Run, Cell]


def main() -> int:
    args = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the child is ended
    machine = describe_machine()
    say("  ".join(f"{key}: {value}" for key, value in machine.items()))
    facts: dict[str, Any] = {"machine": machine, "rounds": args.rounds, "passes": args.passes}
    failed = False
    for part in args.parts:
        runs, notes = (loop_runs if part == "loops" else task_runs)(args)
        cells: Cells = {run: Cell() for run in runs}
        say(f"\n{part}")
        measure(args, part, cells)
        table = (loop_table if part == "loops" else task_table)(cells)
        notes += [f"{' '.join(map(str, run))}: {note}" for run, cell in cells.items() for note in cell.notes]
        say("\n" + terminal(table))
        for note in notes:
            say(note)
        failed = failed or any(outcome.error for cell in cells.values() for outcome in cell.outcomes)
        facts[part] = {"table": table, "notes": notes, "values": list(map(values, cells.items()))}
    facts["machine"]["load after"] = f"{os.getloadavg()[0]:.1f}"
    write(args, facts)
    return 1 if failed else 0


def loop_runs(args: argparse.Namespace) -> tuple[list[Run], list[str]]:
    """One line per system, and for the floor and for us one per number of CPUs."""
    notes = []
    rivals = ["multiprocessing", "multiprocessing_chunk1", "joblib", RIVAL]
    if why := why_not_importable(sys.executable, "joblib"):
        rivals.remove("joblib")
        notes.append(f"joblib was not measured (it comes with scikit-learn, in the extra `demo`): {why}")
    there = Path(args.ray_python).exists()
    if args.quick or (why := why_not_importable(args.ray_python, RIVAL) if there else "no such file"):
        rivals.remove(RIVAL)
        notes.append(f"Ray was not measured: {'--quick' if args.quick else f'{args.ray_python} lacks it: {why}'}")
    runs = []
    for n in args.n:
        for shape in args.loops:
            runs.append(Run(PYTHON, shape, n, 1))
            for cpus in range(args.cpus if args.quick else 1, args.cpus + 1):
                runs += [Run(system, shape, n, cpus) for system in (*FLOOR, OURS)]
            runs += [Run(system, shape, n, args.cpus) for system in rivals]
    return runs, notes


def task_runs(args: argparse.Namespace) -> tuple[list[Run], list[str]]:
    runs = [Run(OURS, shape, leaves, args.cpus) for shape in TASK_SHAPES for leaves in args.leaves]
    return runs, [f"every {args.kill_every:g} s the process that ran the last leaf is killed"] * bool(args.kill_every)


def measure(args: argparse.Namespace, part: str, cells: Cells) -> None:
    """One child at a time. Rounds go around all lines, every other one backwards, so that a slow minute hits all."""
    last = str(args.passes if part == "loops" else args.kill_every)
    for turn in range(args.rounds):
        for run in list(cells) if turn % 2 == 0 else list(cells)[::-1]:
            python = args.ray_python if run.system == RIVAL else sys.executable
            words = [part, run.shape, str(run.size), str(run.cpus), last]
            outcome = run_child(python, run.system, words, args.timeout, CHILD)
            cells[run].outcomes.append(outcome)
            say(f"round {turn + 1}  {' '.join(map(str, run)):<40} {describe(outcome)}")


def describe(outcome: Outcome) -> str:
    words = [] if outcome.value is None else [f"{number(outcome.value)} s"]
    words += [f"{count} {what}" for what, count in outcome.counts.items()]
    words += [f"ERROR {outcome.error}\n{outcome.stderr}"] if outcome.error else []
    words += [f"LEFT BEHIND {', '.join(outcome.leftovers)}"] if outcome.leftovers else []
    return "  ".join(words)


def loop_table(cells: Cells) -> list[list[str]]:
    lines = [["loops", "n", "operations", "system", "CPUs", "seconds: min - median - max", "x serial", "of the floor"]]
    for run, cell in cells.items():
        serial, floor = cells[run._replace(system=PYTHON, cpus=1)].median, floor_of(cells, run)
        lines.append(
            [
                run.shape,
                str(run.size),
                f"{expected(run.shape, run.size).operations:,}",
                run.system,
                str(run.cpus),
                cell.text,
                f"{serial / cell.median:.2f}" if serial and cell.median else "",
                f"{floor / cell.median:.0%}" if floor and cell.median else "",
            ]
        )
    return lines


def floor_of(cells: Cells, run: Run) -> float | None:
    """Seconds of the better of the plain forked processes, for the same loops on as many CPUs."""
    medians = [cells.get(run._replace(system=system), Cell()).median for system in FLOOR]
    return min((median for median in medians if median), default=None)


def task_table(cells: Cells) -> list[list[str]]:
    lines = [["shape", "leaves", "system", "CPUs", "seconds: min - median - max", "us per leaf", "executions", "kills"]]
    for run, cell in cells.items():
        counts = [outcome.counts for outcome in cell.outcomes if outcome.counts]
        most = [f"{max(count[what] for count in counts):,}" if counts else "" for what in ("executions", "kills")]
        each = f"{cell.median / run.size * 1e6:,.0f}" if cell.median else ""
        lines.append([run.shape, f"{run.size:,}", run.system, str(run.cpus), cell.text, each, *most])
    return lines


def values(line: tuple[Run, Cell]) -> dict[str, Any]:
    run, cell = line
    median = statistics.median(cell.values) if cell.values else None
    return {**run._asdict(), "median": median, "outcomes": [asdict(outcome) for outcome in cell.outcomes]}


def write(args: argparse.Namespace, facts: dict[str, Any]) -> None:
    now = datetime.datetime.now().astimezone()
    text = without_paths(json.dumps({"when": now.isoformat(timespec="seconds"), **facts}, indent=1)) + "\n"
    if args.json:
        args.json.write_text(text)
    if args.complete:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"stress-{now:%Y-%m-%dT%H%M}.json"
        path.write_text(text)
        say(f"\nbenchmarks/results/{path.name}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", type=names, default=PARTS, help="with a comma between: loops, tasks (both)")
    parser.add_argument("--loops", type=names, help="with a comma between: cube, triangle (both)")
    parser.add_argument("--n", type=numbers, help="of the loops, with commas between (200)")
    parser.add_argument("--leaves", type=numbers, help="of the shapes of tasks, with commas between (100,1000,10000)")
    parser.add_argument("--cpus", type=int, default=cpus_here(), help="the most that are used (all)")
    parser.add_argument("--kill-every", type=float, default=0.0, help="kill a worker every so many seconds (never)")
    parser.add_argument("--rounds", type=int, help="children per line (3)")
    parser.add_argument("--passes", type=int, help="of the loops in each child, after one that is not counted (3)")
    parser.add_argument("--quick", action="store_true", help="small, one round, without Ray: does it run, not how fast")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one child (300)")
    parser.add_argument(
        "--ray-python", default=str(HERE.parent / ".venv-ray/bin/python"), help="an interpreter with Ray"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there as well")
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    args.loops = args.loops or ([TRIANGLE] if args.quick else [CUBE, TRIANGLE])
    if unknown := [shape for shape in args.loops if shape not in (CUBE, TRIANGLE)]:
        parser.error(f"there are no loops {', '.join(unknown)}; there are {CUBE} and {TRIANGLE}")
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.passes = args.passes or (1 if args.quick else 3)
    args.complete = not args.quick and args.rounds >= 3  # less than that is no result
    args.n = args.n or ([20] if args.quick else [200])
    args.leaves = args.leaves or ([30] if args.quick else [100, 1000, 10000])
    args.ray_python = os.path.abspath(args.ray_python)  # children start elsewhere. Not resolved: a venv is its link
    return args


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def numbers(text: str) -> list[int]:
    found = [int(word.replace("_", "")) for word in text.split(",")]
    if any(number < 1 for number in found):
        raise argparse.ArgumentTypeError("numbers from 1")
    return found


def cpus_here() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
