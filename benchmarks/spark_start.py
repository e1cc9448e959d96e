"""How long it takes to have sparkray, or Ray, in the executors of a Spark that is there, and to be rid of it again.

One standalone Spark, a master and two workers, is started for both. Each system is a driver in a process of its own,
with an application of its own there: two executors of one core. They take turns, and one waits until the other is gone.
`RayContext(sc).init()` stands against `setup_ray_cluster` and `ray.init()`, both until the first task's result;
`RayContext.stop()` against `shutdown_ray_cluster()`. What a system has started is what descends from this process after
its start and did not before (but for Spark's own Python workers); it is looked for until none is left.
"""

from __future__ import annotations

import argparse
import socket
import time
from contextlib import suppress
from typing import Any

from micro import say
from micro_measure import Row
from micro_process import Outcome
from micro_report import OURS, RIVAL, Cell, Table, grid, note_lines, number
from spark_process import Child, adopt_orphans, beyond, kill, wait_until_gone

LEFT_S = 30.0  # after the call has returned; what lives longer is said to be left behind, and killed
EXECUTORS = 2
MEMORY_MIB = 1024  # of an executor


def _row(name: str, title: str, unit: str) -> Row:
    return Row(name, title, lambda *_: 0.0, unit)


ROWS = [
    _row("start", "from no cluster to the first task's result", "s"),
    _row("init", "of which until the cluster is up and joined", "s"),
    _row("stop", "the call that stops it", "s"),
    _row("gone", "the same, to the end of the last process", "s"),
    _row("started", "processes while it is up", ""),
    _row("alive", "of which alive when the call returned", ""),
]


def measure(args: argparse.Namespace, table: Table) -> dict[str, str]:
    """Fill the table. Returns versions.

    Raises:
        RuntimeError: a child ended; its last words.
    """
    from sparkray.standalone import _SECRET, Shape, Standalone  # of this process, and so of its standalone Spark

    adopt_orphans()
    pythons = {OURS: args.python, RIVAL: args.ray_python}
    # Room for both drivers' executors at a time: a start is not to wait for the other's executors to go.
    shape = Shape(EXECUTORS, len(args.systems), len(args.systems) * (MEMORY_MIB + 384), numa=False)
    spark = Standalone.start(shape)
    children: dict[str, Child] = {}
    try:
        for system in args.systems:
            children[system] = Child(pythons[system], system, order(spark.master, _SECRET))
        for turn in range(args.start_rounds + 1):
            for system in args.systems if turn % 2 else args.systems[::-1]:
                found = one_round(children[system])
                say(f"{f'round {turn}' if turn else 'warm-up'}  {system:<9} {describe(found)}")
                if turn:
                    for name, outcome in found.items():
                        table[name][system].outcomes.append(outcome)
        return {
            system: f"{child.facts['version']} (Python {child.facts['python']})" for system, child in children.items()
        }
    finally:
        for child in children.values():
            child.end()
        spark.stop()


def order(master: str, secret: str) -> dict[str, Any]:
    conf = {
        "spark.executor.cores": "1",
        "spark.cores.max": str(EXECUTORS),
        "spark.executor.memory": f"{MEMORY_MIB}m",
        "spark.executorEnv.RAY_ON_SPARK_WORKER_CPU_CORES": "1",  # else it takes all of the host's for one node
        "spark.executorEnv.RAY_USAGE_STATS_ENABLED": "0",
        "spark.executorEnv.RAY_AUTH_MODE": "disabled",  # as the driver has it
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        "spark.authenticate": "true",
        "spark.driver.host": own_address(),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    return {"master": master, "secret": secret, "conf": conf}


def own_address() -> str:
    """By which others would reach this host: Ray looks for its head there, wherever Spark's driver is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked, suppress(OSError):
        asked.connect(("8.8.8.8", 80))  # nothing is sent
        return str(asked.getsockname()[0])
    return "127.0.0.1"


def one_round(child: Child) -> dict[str, Outcome]:
    before = child.before = beyond({})
    found = dict(child.do("start"))
    started = beyond(before)
    began = time.perf_counter()
    found |= child.do("stop")
    alive = beyond(before)
    left = wait_until_gone(before, LEFT_S) if alive else {}
    gone = time.perf_counter() - began if alive else found["stop"]
    outcomes = {name: Outcome(value) for name, value in found.items()}
    names = tuple(f"{name} after {LEFT_S:g} s" for name in sorted(left.values()))
    kill(left)
    wait_until_gone(before, 5.0)
    outcomes["gone"] = Outcome(gone, leftovers=names)
    outcomes["started"] = Outcome(float(len(started)))
    outcomes["alive"] = Outcome(float(len(alive)))
    return outcomes


def describe(found: dict[str, Outcome]) -> str:
    words = [f"{name} {number(outcome.value or 0.0)}" for name, outcome in found.items()]
    return "  ".join(
        words + [f"LEFT {', '.join(outcome.leftovers)}" for outcome in found.values() if outcome.leftovers]
    )


def new_table(systems: list[str]) -> Table:
    return {row.name: {system: Cell() for system in systems} for row in ROWS}


def lines(table: Table, systems: list[str]) -> tuple[list[list[str]], list[str]]:
    """The table as text cells, and notes."""
    header, *body = grid(ROWS, systems, table)
    if len(systems) > 1:
        for row, line in zip(ROWS, body, strict=True):
            if not row.unit:
                line[-1] = ""
            elif any(outcome.leftovers for outcome in table[row.name][RIVAL].outcomes):
                line[-1] = f"> {line[-1]}"  # it was not waited for any longer
    return [header, *body], note_lines(ROWS, systems, table)
