"""What a loss costs, what locality saves, and what eight nodes cost: sparkray, and Ray where it can do it.

    python benchmarks/recovery.py                                  all of it, and its results
    python benchmarks/recovery.py --parts recovery --into FILE     a part, put into a file of results
    python benchmarks/recovery.py --quick                          does it run: small, one round, without Ray

worker      a worker is killed that runs a task: until the task's answer; and a pass of tasks of 5 ms on two CPUs, in
            the middle of which that happens, beside an undisturbed one
node        all processes of a node are killed at once: until nodes() shows it dead, and until four tasks that ran there
            have been answered by another node, which has its workers already
silent      the same, but they are stopped (SIGSTOP): no connection breaks
gcs         the head's process is killed: the longest pause of a loop of tasks, of tasks each of another amount of
            CPU (so each needs a lease of its own) and of actors. Ray's GCS cannot come back without Redis: not measured
locality    inputs on each of two nodes, and a task over each of them: where the scheduler wants them; and elsewhere:
            each by soft node affinity on the node that does not have its input
nodes       tasks per second of eight nodes of one CPU, and of one node of eight, in turn

All of it may take an hour on two cores, most of it Ray's; what was found is written after each child.

Each value comes from a fresh process with nodes of its own, and is the median of some repetitions there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from micro import describe_machine, say
from micro_process import run_child, why_not_importable

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = "recovery.md"
CHILD = HERE / "recovery_child.py"
OURS, NETWORK, RIVAL = "sparkray", "sparkray-network", "ray"
ROUNDS = 3  # at least, of a run that writes results by itself


class Case(NamedTuple):
    name: str
    systems: Sequence[str]
    times: int
    size: int
    quick: int  # the size of a quick run
    rival_times: int = 0  # if fewer
    children: int = 1  # per round; each gives a value


PARTS = {
    "recovery": [
        Case("worker", (OURS, RIVAL), 9, 200, 40, 5),
        Case("node", (OURS, RIVAL), 5, 0, 0, 1),
        Case("silent", (OURS, RIVAL), 3, 0, 0, 1),
        Case("gcs", (OURS,), 1, 0, 0, children=2),  # three kills each; a session takes four in a minute
    ],
    "locality": [
        Case("locality", (OURS, NETWORK, RIVAL), 3, 10, 1),
        Case("locality", (OURS, NETWORK, RIVAL), 3, 30, 1),
        Case("locality", (OURS, NETWORK, RIVAL), 1, 100, 2),  # 2.4 GB are written and read for it
    ],
    "nodes": [
        Case("single", (OURS, RIVAL), 5, 32000, 3200, 1),
        Case("eight", (OURS, RIVAL), 5, 32000, 3200, 1),
    ],
}
WRITTEN = {"worker": "a killed worker", "node": "a killed node", "silent": "a silent node", "gcs": "a killed GCS"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"with commas between: {', '.join(PARTS)}")
    parser.add_argument("--cases", default="", help="only these, with commas between; worker, node, ...")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="children per system and case (3)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one child (300)")
    parser.add_argument("--ray-python", default=str(HERE.parent / ".venv-ray/bin/python"))
    parser.add_argument("--into", type=Path, metavar="FILE", help="put what was measured into this file of results")
    parser.add_argument("--quick", action="store_true", help="small, one round, without Ray")
    args = parser.parse_args()
    unknown = [part for part in args.parts.split(",") if part not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if args.into and not args.into.parent.is_dir():
        parser.error(f"--into {args.into}: there is no folder {args.into.parent}")
    rival, absent = os.path.abspath(args.ray_python), ""
    if not args.quick:
        absent = why_not_importable(rival, RIVAL) if Path(rival).exists() else "no such file"
        if absent:
            say(f"Ray is not measured: no Ray with --ray-python {rival}: {absent}")
    machine = describe_machine()
    say("  ".join(f"{key}: {value}" for key, value in machine.items()))
    only, without_rival = set(filter(None, args.cases.split(","))), bool(args.quick or absent)
    stamp = datetime.now(timezone.utc).isoformat(timespec="minutes")
    whole = not args.quick and args.rounds >= ROUNDS and set(args.parts.split(",")) == set(PARTS) and not only
    into = args.into or (RESULTS / f"recovery-{stamp[:10]}.json" if whole else None)
    known: dict[str, Any] = json.loads(into.read_text()) if into and into.exists() else {}
    rows: dict[str, dict[str, Any]] = {}
    for part in args.parts.split(","):
        for turn in range(1 if args.quick else args.rounds):
            for case in PARTS[part]:
                done = args.quick and any(
                    (row["case"], row["size"]) == (case.name, case.quick) for row in rows.values()
                )
                if done or (only and case.name not in only):
                    continue
                for _ in range(1 if args.quick else case.children):
                    measure(case, args, turn, rival, without_rival, rows)
                    for row in rows.values():
                        row |= {"when": stamp, "machine": machine}
                    if into:  # each time: whoever ends this run has what it found
                        into.write_text(json.dumps(known | rows, indent=1, sort_keys=True) + "\n")
                        into.with_name(PAGE).write_text(page(known | rows))
    say("\n" + "\n".join(table(rows)))
    if into:
        say(f"written: {into.name}, {PAGE}")
    return int(any(row["errors"] for row in rows.values() if row["system"] != RIVAL))


def measure(
    case: Case, args: argparse.Namespace, turn: int, rival: str, without_rival: bool, rows: dict[str, dict[str, Any]]
) -> None:
    """One child for each system, in another order each turn."""
    systems = [system for system in case.systems if system != RIVAL or not without_rival]
    size = case.quick if args.quick else case.size
    for system in systems[turn % len(systems) :] + systems[: turn % len(systems)]:
        times = 1 if args.quick else (system == RIVAL and case.rival_times) or case.times
        outcome = run_child(
            rival if system == RIVAL else sys.executable,
            system,
            [case.name, str(times), str(size)],
            args.timeout,
            CHILD,
        )
        name = f"{case.name} {size} {system}" if size else f"{case.name} {system}"
        empty = {"case": case.name, "size": size, "system": system, "values": {}, "errors": []}
        row = rows.setdefault(name, {**empty, "version": outcome.version})
        if outcome.error:
            row["errors"].append(outcome.error)
            say(f"{name}: {outcome.error}\n{outcome.stderr}")
        for what, value in outcome.counts.items():
            row["values"].setdefault(what, []).append(value)
        say(f"{name}: " + ", ".join(f"{what} {value}" for what, value in outcome.counts.items()))


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each value: least, median and most of the rounds."""
    lines = ["| case | system | what | min - median - max | rounds | load before |", "|---|---|---|---:|---:|---:|"]
    for row in rows.values():
        case, load = titled(row), row["machine"]["load"].split()[0]
        for what, values in row["values"].items():
            name, unit, spread = shown(what, values)
            lines.append(f"| {case} | {row['system']} | {name} | {spread}{unit} | {len(values)} | {load} |")
        lines += [f"| {case} | {row['system']} | error | {error} | | {load} |" for error in sorted(set(row["errors"]))]
    return lines


def titled(row: Mapping[str, Any]) -> str:
    if row["case"] == "locality":
        return f"inputs of {row['size']} MB"
    return {"single": "one node of 8 CPUs", "eight": "8 nodes of one CPU"}.get(
        row["case"], WRITTEN.get(row["case"], "?")
    )


def shown(what: str, values: Sequence[float]) -> tuple[str, str, str]:
    """Name, unit, and the three values in it."""
    three = [min(values), statistics.median(values), max(values)]
    name, unit = what, ""
    if what.endswith("us"):
        name, unit = what[:-2].strip() or "as the scheduler wants", " ms"
        return name, unit, " - ".join(f"{value / 1000:,.1f}" for value in three)
    if what.endswith("bytes of 10,000"):
        name, unit = what.removesuffix(", bytes of 10,000") + " (share of the bytes)", " %"
        return name, unit, " - ".join(f"{value / 100:.1f}" for value in three)
    if what.endswith("%"):
        name, unit = what.removesuffix(" %") + " (share of the tasks)", " %"
    return name, unit, " - ".join(f"{value:,.0f}" for value in three)


def ratios(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Between rows, of medians."""
    lines = []
    middle = {
        (row["case"], row["size"], row["system"], what): statistics.median(values)
        for row in rows.values()
        for what, values in row["values"].items()
    }
    for (case, size, system, what), value in middle.items():
        if case == "locality" and what == "us":
            by = middle[case, size, system, "elsewhere us"] / value
            lines.append(f"{system}, inputs of {size} MB: elsewhere takes {by:.1f} times as long.")
        if case == "eight" and (case, size, system, what) and ("single", size, system, what) in middle:
            by = value / middle["single", size, system, what]
            lines.append(f"{system}, {what}: eight nodes do {by:.0%} of what one does.")
    return lines


def page(rows: Mapping[str, Mapping[str, Any]]) -> str:
    machines = {row["when"]: row["machine"] for row in rows.values()}
    lines = ["# Losses, locality, eight nodes", "", "By `benchmarks/recovery.py`, which says what each case is.", ""]
    for when, machine in sorted(machines.items()):
        lines.append(f"- {when[:16]} UTC: " + ", ".join(f"{key} {value}" for key, value in machine.items()))
    versions = sorted({f"{row['system']} {row['version']}" for row in rows.values()})
    lines += ["- " + ", ".join(versions), "", *table(rows), "", *(f"- {line}" for line in ratios(rows))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
