"""i x j x k: the same loops on every system, beside what plain forked processes reach; and as shapes of tasks.

    python benchmarks/stress.py                            everything that 24 minutes allow; or: make bench
    python benchmarks/stress.py --parts loops --n 200      one part, or other sizes
    python benchmarks/stress.py --quick                    small, one round: does it run, not how fast
    python benchmarks/stress.py --parts loops --into RESULT.json    measured again, and put into that result
    python benchmarks/stress.py --plot RESULT.json         the picture of a result again

benchmarks/README.md says what is measured, and how.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from micro import RESULTS, describe_machine, say, without_paths
from micro_process import Outcome, run_child, why_not_importable
from micro_report import OURS, RIVAL, Cell, markdown, number, terminal
from stress_plot import PICTURE, draw
from stress_predict import predictions
from stress_report import GROWTH_FROM, Run, failures, growth, notes_of, table
from stress_systems import COUNTER, ON_SPARK, OUR_POOL, PYTHON, STATIC
from stress_work import CUBE, TRIANGLE

HERE = Path(__file__).resolve().parent
CHILD = HERE / "stress_child.py"
PARTS = (
    "turns",
    "tasks",
    "kills",
    "loops",
)  # in this order: if time runs out, what lacks is the last rounds of the loops
TASK_SHAPES = ("flat", "nested", "actors", "tree")  # of stress_shapes, which needs a session's packages
SPARK_SHAPES = ("flat", "nested")  # its start takes up to a minute
NONE = "none"
POOL, POOL_1, JOBLIB = "multiprocessing", "multiprocessing_chunk1", "joblib"
# Ours between the two that it is compared with.
SYSTEMS = (PYTHON, STATIC, OURS, COUNTER, ON_SPARK, POOL, OUR_POOL, POOL_1, JOBLIB, RIVAL)
HEAVY = (ON_SPARK, RIVAL)  # to start; not with --quick
RIVAL_LEAVES = (10_000,)  # of those that are asked for: more would take it minutes
BESIDE_EACH_OTHER = (STATIC, OURS, COUNTER, POOL, OUR_POOL, POOL_1, JOBLIB)
# Apart from the others, because its processes use the processors when it is not its turn.
BESIDE_RIVAL = (STATIC, OURS, COUNTER, RIVAL)
TITLES = {
    "turns": "Loops, in turn",
    "loops": "Loops",
    "tasks": "Shapes of tasks",
    "kills": "Shapes of tasks, while workers are killed",
}


def main() -> int:
    args = parse_arguments()
    if args.plot:
        draw(json.loads(args.plot.read_text()), args.png)
        say(f"{args.png}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the child is ended
    os.environ["STRESS_RAY_PYTHON"] = args.ray_python  # for the child of turns, which starts Ray's
    machine = describe_machine()
    say("  ".join(f"{key}: {value}" for key, value in machine.items()))
    absent = why_absent(args)
    args.systems = [system for system in args.systems if system not in absent]
    facts: dict[str, Any] = {"machine": machine, "rounds": args.rounds, "seconds": args.seconds}
    facts["absent"] = [f"{system} was not measured: {why}" for system, why in absent.items()]
    for line in facts["absent"]:
        say(line)
    plan = {
        part: {"turns": turn_runs, "loops": loop_runs, "tasks": task_runs, "kills": kill_runs}[part](args)
        for part in args.parts
    }
    cells = {part: {run: Cell() for run in runs} for part, runs in plan.items()}
    progress = Progress(sum(run.rounds for runs in plan.values() for run in runs), args.minutes)
    for part, its in cells.items():
        load = f"{os.getloadavg()[0]:.1f}"
        omitted = measure(args, its, progress)
        lines, notes = table(part, its), [*growth(its), *notes_of(its)] if part == "tasks" else notes_of(its)
        if omitted:
            notes.append(
                f"{omitted} children of this part were not run: {args.minutes:g} minutes were over (--minutes)"
            )
        say("\n".join(["", TITLES[part], terminal(lines), *notes, ""]))
        facts[part] = {"when": local_time(), "load before": load, "table": lines, "notes": notes}
        facts[part]["values"] = [values(run, cell) for run, cell in its.items()]
    facts["machine"]["load after"] = f"{os.getloadavg()[0]:.1f}"
    facts["versions"] = versions(cells)
    if "loops" in facts:
        facts["predicted"] = predictions(facts["loops"]["values"])
    write(args, facts)
    return 1 if any(failures(its) for its in cells.values()) else 0


# ---------------------------------------------------------------------- what is run
def why_absent(args: argparse.Namespace) -> dict[str, str]:
    found = {}
    if JOBLIB in args.systems and (why := why_not_importable(sys.executable, "joblib")):
        found[JOBLIB] = f"it comes with scikit-learn, in the extra `demo`: {why}"
    if ON_SPARK in args.systems and not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        found[ON_SPARK] = "Spark needs Java, and there is neither `java` nor JAVA_HOME"
    if RIVAL in args.systems:
        there = Path(args.ray_python).exists()
        if why := why_not_importable(args.ray_python, RIVAL) if there else "no such file":
            found[RIVAL] = f"no Ray with --ray-python {args.ray_python}: {why}"
    return found


def loop_runs(args: argparse.Namespace) -> list[Run]:
    """The cube of every n, and the triangle of the largest; that n on 1, 2, 4... CPUs, the others on all.

    What is heavy to start runs all but the largest cube in the first round alone.
    """
    runs = []
    for n in args.n:
        for shape in args.loops:
            if shape == TRIANGLE and n != max(args.n):
                continue
            for cpus in cpu_counts(args.cpus) if n == max(args.n) and not args.quick else [args.cpus]:
                for system in args.systems:
                    scaling = system in (STATIC, COUNTER, OURS)
                    if cpus == args.cpus or scaling:
                        on = 1 if system == PYTHON else cpus
                        rounds = 1 if system in HEAVY and (shape, n) != (CUBE, max(args.n)) else args.rounds
                        runs.append(Run("loops", system, shape, n, on, rounds, args.seconds))
    return runs


def turn_runs(args: argparse.Namespace) -> list[Run]:
    """One child for each loop, with all systems that can stand beside each other, and one with Ray."""
    shapes = [(shape, n) for n in args.n for shape in args.loops if shape != TRIANGLE or n == max(args.n)]
    companies = [BESIDE_EACH_OTHER, *([BESIDE_RIVAL] if RIVAL in args.systems else [])]
    return [
        Run("turns", ",".join(it for it in company if it in args.systems), shape, n, args.cpus, 1, args.turn_seconds)
        for company in companies
        for shape, n in shapes
    ]


def cpu_counts(most: int) -> list[int]:
    counts = [1]
    while counts[-1] * 2 < most:
        counts.append(counts[-1] * 2)
    return counts if most == 1 else [*counts, most]


def task_runs(args: argparse.Namespace) -> list[Run]:
    """Small sizes in every round, those that take long in the first alone."""
    runs = []

    def add(system: str, shape: str, leaves: int) -> None:
        if system in args.systems:
            often = leaves <= GROWTH_FROM and system == OURS
            cpus = 1 if system == PYTHON else args.cpus
            runs.append(Run("tasks", system, shape, leaves, cpus, args.rounds if often else 1, 0.0))

    for leaves in sorted({min(GROWTH_FROM, max(args.leaves)), max(args.leaves)}):
        add(PYTHON, NONE, leaves)
    for shape in TASK_SHAPES:
        for leaves in args.leaves:
            add(OURS, shape, leaves)
            if leaves in RIVAL_LEAVES:
                add(RIVAL, shape, leaves)
            if leaves == GROWTH_FROM and shape in SPARK_SHAPES:
                add(ON_SPARK, shape, leaves)
    return runs


def kill_runs(args: argparse.Namespace) -> list[Run]:
    sizes = {OURS: args.kill_leaves, RIVAL: min(args.kill_leaves, max(RIVAL_LEAVES))}
    return [
        Run("kills", system, shape, size, args.cpus, 1, args.kill_seconds, args.kill_every)
        for shape in TASK_SHAPES
        for system, size in sizes.items()
        if system in args.systems
    ]


# ---------------------------------------------------------------------- running it
class Progress:
    """Says what each child came to, how many there are to be, and the minutes so far."""

    def __init__(self, children: int, most: float) -> None:
        self._children, self._most = children, most
        self._began, self._done = time.monotonic(), 0

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self._began) / 60

    @property
    def is_over(self) -> bool:
        return self.minutes >= self._most

    def say(self, run: Run, outcome: Outcome) -> None:
        self._done += 1
        say(f"{self._done}/{self._children}  {self.minutes:4.1f} min  {run!s:<52} {describe(outcome)}")


def measure(args: argparse.Namespace, cells: dict[Run, Cell], progress: Progress) -> int:
    """One child at a time. Rounds go around all lines, every other one backwards, so that a slow minute hits all.

    Returns:
        How many children there was no time for.
    """
    omitted = 0
    for turn in range(args.rounds):
        for run in list(cells) if turn % 2 == 0 else list(cells)[::-1]:
            if turn >= run.rounds:
                continue
            if progress.is_over:
                omitted += 1
                continue
            python = args.ray_python if run.system == RIVAL else sys.executable
            kind = "tasks" if run.part == "kills" else run.part
            words = [kind, run.shape, str(run.size), str(run.cpus), str(run.seconds), str(run.kill_every)]
            limit = args.ray_timeout if run.system == RIVAL else args.timeout
            cells[run].outcomes.append(outcome := run_child(python, run.system, words, limit, CHILD))
            progress.say(run, outcome)
    return omitted


def describe(outcome: Outcome) -> str:
    words = [] if outcome.value is None else [f"{number(outcome.value)} s"]
    words += [f"{count:,} {what}" for what, count in outcome.counts.items()]
    words += [f"ERROR {outcome.error}\n{outcome.stderr}"] if outcome.error else []
    words += [f"LEFT BEHIND {', '.join(outcome.leftovers)}"] if outcome.leftovers else []
    return "  ".join(words)


def values(run: Run, cell: Cell) -> dict[str, Any]:
    return {**run._asdict(), "median": cell.median, "outcomes": [asdict(outcome) for outcome in cell.outcomes]}


def versions(cells: dict[str, dict[Run, Cell]]) -> dict[str, str]:
    return {
        run.system: f"{outcome.version} (Python {outcome.python})"
        for its in cells.values()
        for run, cell in its.items()
        for outcome in cell.outcomes
        if run.system in (OURS, RIVAL)
    }


# ---------------------------------------------------------------------- what is written
def write(args: argparse.Namespace, facts: dict[str, Any]) -> None:
    facts = {"when": local_time(), **facts}
    if args.into:
        before = json.loads(args.into.read_text())
        facts = {**before, **{key: facts[key] for key in (*args.parts, "predicted") if key in facts}}
    text = without_paths(json.dumps(facts, indent=1)) + "\n"
    if args.json:
        args.json.write_text(text)
    if not (args.complete or args.into):
        return
    RESULTS.mkdir(exist_ok=True)
    path = args.into or RESULTS / f"stress-{facts['when'][:16].replace(':', '')}.json"
    path.write_text(text)
    (RESULTS / "stress.md").write_text(without_paths(page(facts)))
    say(f"benchmarks/results/{path.name}, benchmarks/results/stress.md")
    try:
        draw(facts, args.png)
    except (ImportError, ValueError) as lacking:  # of matplotlib, or of loops that there was time for
        say(f"no picture: {lacking}")
    else:
        say(f"{args.png}")


def local_time() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def page(facts: dict[str, Any]) -> str:
    """Of a result, for people."""
    said = ", ".join(f"{system} {version}" for system, version in facts["versions"].items())
    lines = [
        "# Stress: i x j x k",
        "",
        f"{facts['when'][:10]}. {said}.",
        ", ".join(f"{key} {value}" for key, value in facts["machine"].items()) + ".",
        f"Each cell: min - median - max over {facts['rounds']} rounds, or one value where there was one round.",
        "What the columns mean is in [benchmarks/README.md](../README.md#stress-i-x-j-x-k).",
    ]
    for part, title in TITLES.items():
        if part in facts:
            its = facts[part]
            since = its["when"][:16].replace("T", " ")
            lines += [
                "",
                f"## {title}",
                "",
                f"Until {since}; load before: {its['load before']}.",
                "",
                markdown(its["table"]),
                "",
            ]
            lines += [f"- {line}" for line in [*its["notes"], *(facts["absent"] if part == "loops" else [])]]
    return "\n".join(lines).rstrip() + "\n"


# ---------------------------------------------------------------------- the command
def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", type=names(PARTS), default=PARTS, help=f"with commas between: {', '.join(PARTS)}")
    parser.add_argument("--systems", type=names(SYSTEMS), help=f"with commas between: {', '.join(SYSTEMS)}")
    parser.add_argument("--loops", type=names((CUBE, TRIANGLE)), help="with a comma between: cube, triangle (both)")
    parser.add_argument("--n", type=numbers, help="of the loops, with commas between (200,300,400)")
    parser.add_argument(
        "--leaves", type=numbers, help="of the shapes of tasks, with commas between (100 to 1000000, in tens)"
    )
    parser.add_argument("--cpus", type=int, default=cpus_here(), help="the most that are used (all)")
    parser.add_argument("--kill-every", type=float, default=2.0, help="seconds between two kills of a worker (2)")
    parser.add_argument("--kill-leaves", type=int, help="of a pass while workers are killed (100000; Ray: 10000)")
    parser.add_argument("--kill-seconds", type=float, help="that passes with kills fill at least (10)")
    parser.add_argument("--rounds", type=int, help="children per line (3; of those that take long, 1)")
    parser.add_argument("--turn-seconds", type=float, help="for the passes of all systems in turn, for each loop (60)")
    parser.add_argument("--seconds", type=float, help="that passes of the loops fill at least, in each child (1)")
    parser.add_argument(
        "--quick", action="store_true", help="small, one round, without Ray and Spark: does it run, not how fast"
    )
    parser.add_argument("--minutes", type=float, default=24.0, help="after these nothing more is begun (24)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one child (300)")
    parser.add_argument("--ray-timeout", type=float, default=75.0, help="the same, for one of Ray (75)")
    parser.add_argument(
        "--ray-python", default=str(HERE.parent / ".venv-ray/bin/python"), help="an interpreter with Ray"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there as well")
    parser.add_argument("--into", type=Path, metavar="RESULT", help="put what is measured into that result, in place")
    parser.add_argument("--plot", type=Path, metavar="RESULT", help="measure nothing: draw what that file has")
    parser.add_argument("--png", type=Path, default=PICTURE, help="where pictures go (docs/images/scaling.png)")
    args = parser.parse_args()
    quick = args.quick
    args.systems = args.systems or [system for system in SYSTEMS if not (quick and system in HEAVY)]
    args.loops = args.loops or ([TRIANGLE] if quick else [CUBE, TRIANGLE])
    args.rounds = args.rounds or (1 if quick else 3)
    args.turn_seconds = args.turn_seconds or (0.1 if quick else 60.0)
    args.seconds = args.seconds or (0.01 if quick else 1.0)
    args.complete = not quick and args.rounds >= 3 and set(args.parts) == set(PARTS)  # less than that is no result
    args.n = args.n or ([20] if quick else [200, 300, 400])
    args.leaves = args.leaves or ([30] if quick else [10**power for power in range(2, 7)])
    args.kill_leaves = args.kill_leaves or (10_000 if quick else 100_000)
    args.kill_seconds = args.kill_seconds or (3.0 if quick else 10.0)
    args.ray_python = os.path.abspath(args.ray_python)  # children start elsewhere. Not resolved: a venv is its link
    return args


def names(known: tuple[str, ...]) -> Any:
    def chosen(text: str) -> list[str]:
        found = [name.strip() for name in text.split(",")]
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
        return [name for name in known if name in found]

    return chosen


def numbers(text: str) -> list[int]:
    found = [int(word.replace("_", "")) for word in text.split(",")]
    if any(number < 1 for number in found):
        raise argparse.ArgumentTypeError("numbers from 1")
    return found


def cpus_here() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
