"""The root logger as a job wants it, in the driver and in each of its workers: lines of text or of JSON, with who logs.

Each line tells the job, the node and the worker, and in a worker the task or actor that logged it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sparkray_core.run import current_task, object_ref

ENCODINGS = ("TEXT", "JSON")
# What `logging` itself puts into a record. (Python 3.12 added taskName.)
STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_ALWAYS = ("asctime", "levelname", "message", "filename", "lineno")
_handler: logging.Handler | None = None


def configure(facts: Mapping[str, Any]) -> None:
    """Have the root logger write so. A second call replaces what the first set up.

    Args:
        facts: `encoding`, one of ENCODINGS; `log_level`, as `logging` knows it; `attributes`, names of STANDARD that
            each line shall have, too.
    """
    restore()
    global _handler
    _handler = handler = logging.StreamHandler()
    handler.setLevel(facts["log_level"])
    handler.setFormatter(Formatter(facts["encoding"], facts["attributes"]))
    root = logging.getLogger()
    root.setLevel(facts["log_level"])
    root.addHandler(handler)


def restore() -> None:
    """Take away what `configure` added. The level stays."""
    global _handler
    if _handler is not None:
        logging.getLogger().removeHandler(_handler)
        _handler = None


class Formatter(logging.Formatter):
    """One line to a record, but for tracebacks in text."""

    def __init__(self, encoding: str, attributes: Sequence[str]) -> None:
        super().__init__("%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s")
        self._as_json = encoding == "JSON"
        self._attributes = tuple(attributes)

    def format(self, record: logging.LogRecord) -> str:
        more = {name: getattr(record, name, None) for name in self._attributes if name not in _ALWAYS}
        more |= who()
        more |= {name: value for name, value in record.__dict__.items() if name not in STANDARD}  # given as extra=
        more["timestamp_ns"] = time.time_ns()
        if not self._as_json:
            line, newline, traceback = super().format(record).partition("\n")
            return line + "".join(f" {name}={value}" for name, value in more.items()) + newline + traceback
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        facts = {name: getattr(record, name) for name in _ALWAYS} | more
        if record.exc_info:
            facts["exc_text"] = self.formatException(record.exc_info)
        return json.dumps(facts, default=str)


def who() -> dict[str, str]:
    """Ids and names of the process and of what it runs, as hex strings; what there is not is left out."""
    core = object_ref.current
    if core is None:
        return {}
    facts = {"job_id": core.session, "worker_id": core.me.hex(), "node_id": core.node.hex()}
    if current_task.actor is not None:
        facts["actor_id"] = current_task.actor.actor.hex()
        facts["actor_name"] = str(current_task.actor.setup.get("public_name") or "")
    running = current_task.get()
    if running is not None:
        facts |= {"task_id": running.task.hex(), "task_name": running.name, "task_func_name": running.name}
    return facts
