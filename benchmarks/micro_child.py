"""Runs one row on one system in this process, and writes what came of it to stdout as JSON lines.

    python micro_child.py SYSTEM ROW SECONDS TIMEOUT

Lines, in this order: {"version", "python"}, then one of {"value"}, {"absent"}, {"error"}, then {"ended": true} once the
session is shut down. A child that dies or hangs leaves out the rest; its last words are on stderr.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from micro_measure import Absent, Row, Stopwatch, check
from micro_rows import ROWS
from micro_session import start


def run_row(ray: Any, row: Row, watch: Stopwatch) -> dict[str, object]:
    try:
        if not row.starts_session:
            start(ray)
        for feature in row.needs:
            check(ray, feature)
        return {"value": row.measure(ray, watch)}
    except (Absent, NotImplementedError) as refusal:
        return {"absent": str(refusal) or type(refusal).__name__}
    except AttributeError as missing:
        if missing.obj is ray:
            return {"absent": str(missing)}
        return _error(missing)
    except Exception as failure:  # noqa: BLE001 - the system under test is user code here
        return _error(failure)


def _error(failure: Exception) -> dict[str, object]:
    traceback.print_exc()
    return {"error": f"{type(failure).__name__}: {failure}"}


def lines_to_parent(timeout: float) -> Callable[[dict[str, object]], None]:
    """What tells the parent a fact. After `timeout` seconds this process dies, with its stacks on stderr."""
    # A hang then tells where it hangs, and a child whose parent was killed does not stay: the alarm dumps all stacks,
    # then kills. Not faulthandler's own timer, which is a thread: a system that forks would fork beside it.
    faulthandler.enable()
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    # Our lines have stdout to themselves: whatever the system and its processes print goes to stderr.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(facts: dict[str, object]) -> None:
        lines.write(json.dumps(facts) + "\n")

    return tell


def main() -> None:
    system, name, seconds, timeout = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    tell = lines_to_parent(timeout)
    ray = importlib.import_module(system)
    tell({"version": str(getattr(ray, "__version__", "?")), "python": platform.python_version()})
    row = next(row for row in ROWS if row.name == name)
    tell(run_row(ray, row, Stopwatch(seconds)))
    ray.shutdown()
    tell({"ended": True})


if __name__ == "__main__":
    main()
