"""What sparkray costs beside Spark: starting and stopping in its executors, and moving a DataFrame into the stores.

    python benchmarks/spark.py                        all parts, each against what else there is: make bench
    python benchmarks/spark.py --quick                a small DataFrame, one round: does it run, not how fast
    python benchmarks/spark.py --parts data --mb 200  one of them

The parts are `spark_start`, `spark_clusters` and `spark_data`, which say how they measure. Within a part the systems
take turns; a round that warms up is left out. Each whole part writes its values to results/, and its section of
results/spark.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import spark_clusters
import spark_data
import spark_start
from micro import RESULTS, describe_machine, say, without_paths
from micro_process import why_not_importable
from micro_report import OURS, RIVAL, markdown, ratio, terminal

HERE = Path(__file__).resolve().parent
PARTS = ("start", "clusters", "data")
TITLES = {
    "start": "Start and stop",
    "clusters": "The first result on each kind of cluster",
    "data": "A DataFrame into the stores",
}


def main() -> int:
    args = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    machine = describe_machine()
    say("  ".join(f"{key}: {value}" for key, value in machine.items()))
    for part in args.parts:
        say(f"\n{TITLES[part]}")
        section = SECTIONS[part](args)
        table = section.pop("table")
        say("\n" + terminal(table))
        for note in section["notes"]:
            say(note)
        if args.complete:
            write(part, {**section, "machine": machine, "table": table})
    return 0


def start_section(args: argparse.Namespace) -> dict[str, Any]:
    args.systems, notes = [OURS], []
    there = Path(args.ray_python).exists()
    if why := why_not_importable(args.ray_python, "ray.util.spark, pyspark") if there else "no such file":
        notes.append(f"Ray was not measured, {args.ray_python} lacks it: {why}")
    else:
        args.systems.append(RIVAL)
    cells = spark_start.new_table(args.systems)
    versions = spark_start.measure(args, cells)
    table, more = spark_start.lines(cells, args.systems)
    return {
        "what": (
            f"{', '.join(f'{system} {version}' for system, version in versions.items())}; one standalone Spark, "
            f"{spark_start.EXECUTORS} executors of one core for each. Each cell: min - median - max over "
            f"{args.start_rounds} rounds after one that does not count."
        ),
        "versions": versions,
        "rounds": args.start_rounds,
        "rows": {
            row.name: {
                "title": row.title,
                "unit": row.unit,
                "ratio": ratio(row, cells[row.name]) if row.unit else None,
                **{system: cells[row.name][system].values for system in args.systems},
            }
            for row in spark_start.ROWS
        },
        "table": table,
        "notes": notes + more,
    }


def data_section(args: argparse.Namespace) -> dict[str, Any]:
    rows = spark_data.new_rows()
    versions, notes = spark_data.measure(args, rows)
    return {
        "what": (
            f"{', '.join(f'{name} {version}' for name, version in versions.items())}; {args.mb} MB of numbers and "
            f"strings in {spark_data.PARTITIONS} partitions, {args.master}; {args.rounds} rounds after one that does "
            "not count."
        ),
        "versions": versions,
        "master": args.master,
        "mb": args.mb,
        "rounds": args.rounds,
        "rows": {
            name: {"title": row.title.strip(), "unit": row.unit, "values": row.values} for name, row in rows.items()
        },
        "table": [spark_data.HEADER, *(row.cells() for row in rows.values())],
        "notes": notes,
    }


def clusters_section(args: argparse.Namespace) -> dict[str, Any]:
    rows, versions, notes = spark_clusters.measure(args)
    return {
        "what": (
            f"{', '.join(f'{name} {version}' for name, version in versions.items())}; on each a driver of its own with "
            f"{spark_clusters.EXECUTORS} executors of one core, which have run Python before; {args.start_rounds} "
            "rounds in turn after one that does not count."
        ),
        "versions": versions,
        "rounds": args.start_rounds,
        "rows": {
            name: {"title": row.title.strip(), "unit": row.unit, "values": row.values} for name, row in rows.items()
        },
        "table": [spark_data.HEADER, *(row.cells() for row in rows.values())],
        "notes": notes,
    }


SECTIONS = {"start": start_section, "clusters": clusters_section, "data": data_section}


def write(part: str, section: dict[str, Any]) -> None:
    """Its values, and the page made anew of the latest of each part."""
    now = datetime.datetime.now().astimezone()
    facts = {"part": part, "when": now.isoformat(timespec="seconds"), **section}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"spark-{part}-{now:%Y-%m-%dT%H%M}.json"
    path.write_text(without_paths(json.dumps(facts, indent=1)) + "\n")
    say(f"\nbenchmarks/results/{path.name}")
    page = ["# Beside Spark"]
    for name in PARTS:
        if found := sorted(RESULTS.glob(f"spark-{name}-*.json")):
            page += section_lines(name, json.loads(found[-1].read_text()))
    (RESULTS / "spark.md").write_text("\n".join(page) + "\n")


def section_lines(part: str, facts: dict[str, Any]) -> list[str]:
    table: Sequence[Sequence[str]] = facts["table"]
    return [
        "",
        f"## {TITLES[part]}",
        "",
        f"{facts['when'][:10]}. {facts['what']}",
        ", ".join(f"{key} {value}" for key, value in facts["machine"].items()) + ".",
        "",
        markdown(table),
        *(["", *(f"- {note}" for note in facts["notes"])] if facts["notes"] else []),
    ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", help="with a comma between: start, clusters, data (all)")
    parser.add_argument("--mb", type=int, help="size of the DataFrame, as Arrow counts it (1000)")
    parser.add_argument("--rounds", type=int, help="of data, measured after one that is not (3)")
    parser.add_argument("--start-rounds", type=int, help="of start and stop, and of clusters (3)")
    parser.add_argument("--quick", action="store_true", help="20 MB, one round: does it run, not how fast")
    parser.add_argument("--master", default="local-cluster[2,1,1024]", help="of data's Spark (local-cluster[2,1,1024])")
    parser.add_argument(
        "--ray-python", default=str(HERE.parent / ".venv-ray/bin/python"), help="an interpreter with Ray and PySpark"
    )
    parser.add_argument(
        "--raydp-python",
        default=str(HERE.parent / ".venv-raydp/bin/python"),
        help="an interpreter with RayDP, its Ray and its PySpark",
    )
    args = parser.parse_args()
    args.parts = [part for part in PARTS if args.parts is None or part in args.parts.split(",")]
    if not args.parts:
        parser.error(f"--parts takes {', '.join(PARTS)}")
    args.python = sys.executable
    # Less than that does not replace what is published.
    args.complete = not args.quick and (args.rounds or 3) >= 3 and (args.start_rounds or 3) >= 3
    args.mb = args.mb or (20 if args.quick else 1000)
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.start_rounds = args.start_rounds or (1 if args.quick else 3)
    args.ray_python = os.path.abspath(args.ray_python)  # children start elsewhere. Not resolved: a venv is its link
    args.raydp_python = os.path.abspath(args.raydp_python)
    return args


if __name__ == "__main__":
    sys.exit(main())
