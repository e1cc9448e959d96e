"""The microbenchmark: Ray's own rows, and a few more, on sparkray, on Ray, or on both in turn.

    python benchmarks/micro.py                  sparkray alone
    python benchmarks/micro.py --against ray    both, row by row in turn, with ratios
    python benchmarks/micro.py --quick --rows tasks_sync,put_small

benchmarks/README.md says what a row measures, and how far to trust it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from micro_measure import Row
from micro_process import Outcome, run_child, why_not_importable
from micro_report import (
    OURS,
    RIVAL,
    Cell,
    Table,
    grid,
    markdown,
    mean_lines,
    means,
    note_lines,
    number,
    ratio,
    terminal,
)
from micro_rows import ROWS

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    args = parse_arguments()
    pythons = {OURS: sys.executable, RIVAL: args.ray_python}
    table: Table = {row.name: {system: Cell() for system in args.systems} for row in args.rows}
    for system in args.systems:
        if why := why_not_importable(pythons[system], system):
            say(f"{system} cannot be measured with {pythons[system]}: {why}")
            return 2
    machine = describe_machine()
    say("  ".join(f"{key}: {value}" for key, value in machine.items()))

    finished = True
    try:
        measure(args, pythons, table)
    except KeyboardInterrupt:
        finished = False
        say("interrupted: what follows is what there is so far")

    report(args, table)
    if finished:
        write_files(args, machine, table)
    return (
        1
        if any(outcome.error for cells in table.values() for cell in cells.values() for outcome in cell.outcomes)
        else 0
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", choices=[RIVAL], help="measure this system too, in turn with sparkray")
    parser.add_argument("--only", choices=[OURS, RIVAL], help="measure this system alone")
    parser.add_argument("--rows", help=f"names with commas between: {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--rounds", type=int, help="children per row and system (3)")
    parser.add_argument("--seconds", type=float, help="measured in each child, after a warm-up of a quarter of it (1)")
    parser.add_argument("--quick", action="store_true", help="one round of half a second: does it run, not how fast")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds for one child (180)")
    parser.add_argument(
        "--ray-python", default=str(HERE.parent / ".venv-ray/bin/python"), help="an interpreter with Ray"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there as well")
    args = parser.parse_args()

    if args.against and args.only:
        parser.error("--against measures two systems, --only measures one")
    args.systems = [OURS, RIVAL] if args.against else [args.only or OURS]
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.seconds = args.seconds or (0.5 if args.quick else 1.0)
    args.complete = (
        args.rows is None and args.rounds >= 3 and not args.quick
    )  # less than that does not replace the published table
    args.rows = choose_rows(parser, args.rows)
    args.ray_python = os.path.abspath(args.ray_python)  # children start elsewhere. Not resolved: a venv is its link
    if RIVAL in args.systems and not Path(args.ray_python).exists():
        parser.error(
            f"no interpreter at {args.ray_python}: make a venv with `pip install ray numpy`, and name its python "
            "with --ray-python"
        )
    return args


def choose_rows(parser: argparse.ArgumentParser, names: str | None) -> list[Row]:
    if names is None:
        return list(ROWS)
    by_name = {row.name: row for row in ROWS}
    wanted = [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in by_name]:
        parser.error(f"no row named {', '.join(unknown)}; there are: {', '.join(by_name)}")
    return [by_name[name] for name in wanted]


def measure(args: argparse.Namespace, pythons: dict[str, str], table: Table) -> None:
    """Fill the table, one child at a time.

    The rounds go around all rows, so that a slow minute hits one value of three, not one row. The systems take turns at
    being first.
    """
    for turn in range(args.rounds):
        for row in args.rows:
            for system in args.systems if turn % 2 == 0 else args.systems[::-1]:
                outcome = run_child(pythons[system], system, [row.name, str(args.seconds)], args.timeout)
                table[row.name][system].outcomes.append(outcome)
                say(f"round {turn + 1}  {row.name:<20} {system:<9} {describe(row, outcome)}")


def describe(row: Row, outcome: Outcome) -> str:
    words = [] if outcome.value is None else [f"{number(outcome.value)} {row.unit}"]
    words += [f"not there yet ({outcome.absent})"] if outcome.absent else []
    words += [f"ERROR {outcome.error}\n{outcome.stderr}"] if outcome.error else []
    words += [f"LEFT BEHIND {', '.join(outcome.leftovers)}"] if outcome.leftovers else []
    return "  ".join(words)


def report(args: argparse.Namespace, table: Table) -> None:
    say()
    say(terminal(grid(args.rows, args.systems, table)))
    say()
    for line in mean_lines(args.rows, table) + note_lines(args.rows, args.systems, table):
        say(line)


def write_files(args: argparse.Namespace, machine: dict[str, str], table: Table) -> None:
    now = datetime.datetime.now().astimezone()
    versions = {system: versions_of(system, table) for system in args.systems}
    facts = {
        "when": now.isoformat(timespec="seconds"),
        "machine": machine,
        "versions": versions,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "means": means(args.rows, table),
        "rows": [row_facts(row, table) for row in args.rows],
    }
    text = without_paths(json.dumps(facts, indent=1)) + "\n"
    if args.json:
        args.json.write_text(text)
    if not args.complete:
        return
    RESULTS.mkdir(exist_ok=True)
    name = "micro" if args.against else f"micro-{args.systems[0]}"
    (RESULTS / f"{name}-{now:%Y-%m-%dT%H%M}.json").write_text(text)
    page = [
        "# Microbenchmark",
        "",
        f"{now:%Y-%m-%d}. " + ", ".join(f"{system} {version}" for system, version in versions.items()) + ".",
        ", ".join(f"{key} {value}" for key, value in machine.items()) + ".",
        f"Each cell: min - median - max over {args.rounds} rounds of {args.seconds:g} s."
        + (" A ratio above 1: sparkray is better; ~: the ranges overlap, it may be chance." if args.against else ""),
        "",
        markdown(grid(args.rows, args.systems, table)),
        "",
        *(f"- {line}" for line in mean_lines(args.rows, table) + note_lines(args.rows, args.systems, table)),
    ]
    (RESULTS / f"{name}.md").write_text(without_paths("\n".join(page)).rstrip() + "\n")


def row_facts(row: Row, table: Table) -> dict[str, Any]:
    cells = table[row.name]
    systems = {
        system: {
            "values": cell.values,
            "median": cell.median,
            "outcomes": [asdict(outcome) for outcome in cell.outcomes],
        }
        for system, cell in cells.items()
    }
    return {"row": row.name, "title": row.title, "unit": row.unit, "ratio": ratio(row, cells), **systems}


def versions_of(system: str, table: Table) -> str:
    outcomes = [outcome for cells in table.values() for outcome in cells[system].outcomes]
    return ", ".join(sorted({f"{o.version} (Python {o.python})" for o in outcomes if o.version != "?"})) or "?"


def describe_machine() -> dict[str, str]:
    """What a reader needs to judge the numbers, and nothing that names the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    release = ".".join(platform.release().split(".")[:2])
    load = f"{os.getloadavg()[0]:.1f} before the run"
    system = f"{platform.system()} {release} {platform.machine()}"
    return {
        "cores": str(cores),
        "processor": processor(),
        "memory": f"{memory:.0f} GiB",
        "system": system,
        "load": load,
    }


def processor() -> str:
    try:
        lines: Sequence[str] = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "?"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


def without_paths(text: str) -> str:
    """Tracebacks name files of this machine, results are for others: of an absolute path only the last part stays."""
    return re.sub(r"(?<![\w.])(?:/[\w.+@-]+){2,}/(?=[\w.+-])", ".../", text)


if __name__ == "__main__":
    sys.exit(main())
