"""`sparkray doctor`: whether sparkray works in a Spark, and what to set if not."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from sparkray.cli.failures import FAILED, WRONG_USE, fail

_QUIET = ("spark.ui.enabled", "spark.ui.showConsoleProgress")


def add_to(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    master: Annotated[
        str | None, typer.Option(help="Spark's: local[2], spark://HOST:7077, yarn, ...; else spark-defaults.conf's.")
    ] = None,
    conf: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of Spark's; may be given several times.")] = None,
    nodes: Annotated[int | None, typer.Option(help="num_ray_nodes; one to an executor if not given.")] = None,
    object_store_memory: Annotated[str, typer.Option(help="Of each node.")] = "64m",
    start_timeout: Annotated[float | None, typer.Option(help="Seconds for the start of the nodes.")] = None,
) -> None:
    """Start Spark and sparkray in it, try everything once, stop both; say what is wrong and what to set."""
    from sparkray.doctor import Doctor

    settings = {"spark.app.name": "sparkray doctor"} | dict.fromkeys(_QUIET, "false")
    for one in conf or ():
        name, is_one, value = one.partition("=")
        if not is_one:
            raise fail(f"--conf must be NAME=VALUE, not {one!r}", WRONG_USE)
        settings[name] = value
    if master is not None:
        settings["spark.master"] = master
    python = os.environ.get("PYSPARK_PYTHON") or sys.executable
    wishes = {"num_ray_nodes": nodes, "object_store_memory": object_store_memory, "start_timeout": start_timeout}
    well = True
    for found in Doctor(settings, python, **wishes).findings():
        well = well and found.ok
        head = f"{'ok' if found.ok else 'FAILED':<7}{found.step:<28}{found.seconds:>7.2f} s"
        lines = found.said.splitlines()
        typer.echo(f"{head}  {lines[0]}" if len(lines) == 1 else "\n       ".join([head, *lines]))
    if not well:
        raise typer.Exit(FAILED)
    typer.echo("sparkray works here.")
