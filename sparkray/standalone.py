"""`init_spark_standalone`: Spark on a standalone master, which may be one of this process's own, on this host."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkray.cluster_job import sizes, split, user_settings
from sparkray.env_archives import own_python
from sparkray.sizing import memory_bytes
from sparkray.spark_session import SparkNotStarted, require_java, spark_context, warn_of_obsolete
from sparkray.standalone_main import GRACE_S, Order
from sparkray_core.run import folders
from sparkray_core.run.config import default_base_folder
from sparkray_core.run.settings_sources import resolve
from sparkray_core.run.start import new_session_name

if TYPE_CHECKING:
    from pyspark import SparkContext

START_LIMIT_S = 180.0  # for the daemons: three JVMs after each other, 20 s on a busy machine of two cores
END_S = 6 * GRACE_S  # for the keeper, which kills what does not end by itself after `GRACE_S`
_REACH_LIMIT_S = 5.0  # for a connection to a master that was given; Spark itself tries for a minute
_LEAST_OVERHEAD_MIB = 384  # Spark's own, per executor
_MASTER_URL = re.compile(r"spark://[^\s,:]+:\d+(?:,[^\s,:]+:\d+)*")
_NUMA_NODES = Path("/sys/devices/system/node")
# Of this process; a JVM that is used for a second SparkContext may have kept the first one's.
_SECRET = os.urandom(32).hex()
# Only what the driver itself would import: no current folder, and nothing that PYTHONPATH would add.
_BOOTSTRAP = """\
import sys
sys.path[:] = sys.argv[1:]
from sparkray.standalone_main import main
sys.exit(main())
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a master's workers: one to an executor, each as large as its executor."""

    workers: int
    cores: int
    memory_mib: int
    numa: bool


class Standalone:
    """A master and workers that this process started. They end with it, however it ends."""

    def __init__(self, shape: Shape, keeper: subprocess.Popen[bytes], facts: Mapping[str, Any]) -> None:
        self.shape = shape
        self.master: str = facts["master"]
        self.web_page: str = facts["web_page"]
        self.folder: str = facts["folder"]
        self.pid = keeper.pid
        self._keeper = keeper
        self._owner = os.getpid()

    @classmethod
    def start(cls, shape: Shape) -> Standalone:
        """
        Raises:
            SparkNotStarted: some daemon did not come up. Nothing is left of the others.
        """
        from pyspark.find_spark_home import _find_spark_home

        settings = resolve(None)
        base = default_base_folder(settings.base_folder)
        folders.sweep(base, settings.keep_logs)
        order = Order(
            base_folder=base,
            name=f"spark-{new_session_name()}",
            spark_home=_find_spark_home(),
            secret=_SECRET,
            workers=_numa_words(shape.workers) if shape.numa else [[] for _ in range(shape.workers)],
            cores=shape.cores,
            memory_mib=shape.memory_mib,
            limit_s=START_LIMIT_S,
            keep_logs=settings.keep_logs,
        )
        path = [os.path.abspath(entry) for entry in sys.path if entry]
        keeper = subprocess.Popen(
            [sys.executable, "-I", "-c", _BOOTSTRAP, *path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # a Ctrl-C in the terminal or notebook is not for Spark's daemons
        )
        try:
            assert keeper.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it says why, below
                keeper.stdin.write(order.to_json())
                keeper.stdin.flush()
            facts = _first_line(keeper, order.limit_s + GRACE_S)
            if not facts["ready"]:
                raise SparkNotStarted(f"{facts['why']}\n{facts.get('log', '')}".strip())
        except BaseException:  # a Ctrl-C too
            _end(keeper)
            raise
        return cls(shape, keeper, facts)

    @property
    def is_up(self) -> bool:
        return self._owner == os.getpid() and self._keeper.poll() is None

    def stop(self) -> None:
        """Returns when all is gone. In a forked child nothing happens: it is the parent's."""
        if self._owner == os.getpid():
            _end(self._keeper)


_lock = threading.RLock()
_running: Standalone | None = None


def _forget_after_fork() -> None:
    """A forked child would hold the pipe by whose end the keeper sees that its driver is gone."""
    if _running is not None and _running._keeper.stdin is not None:
        _running._keeper.stdin.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def init_spark_standalone(
    num_executors: int,
    executor_cores: int,
    executor_memory: str = "2g",
    driver_cores: int = 4,
    driver_memory: str = "2g",
    master: str | None = None,
    extra_executor_memory_for_ray: str | None = None,
    extra_python_lib: str | None = None,
    spark_log_level: str = "WARN",
    redirect_spark_log: bool = True,
    conf: Mapping[str, str] | None = None,
    jars: str | None = None,
    python_location: str | None = None,
    enable_numa_binding: bool = False,
) -> SparkContext:
    """Start Spark on a standalone master, or return the SparkContext that is there, if it is the same.

    Args:
        num_executors: and so the number of sparkray's nodes.
        executor_cores: of each executor.
        executor_memory: the heap of each executor's JVM, as Spark writes sizes ("2g").
        driver_cores: for the record; Spark counts a driver's cores only where it runs the driver itself.
        driver_memory: the heap of the driver's JVM. A JVM that is up already, because this process had a SparkContext
            before, keeps its own.
        master: "spark://host:port". None: a master and `num_executors` workers are started on this host, for this
            process alone: whoever connects needs a secret. `stop_spark_standalone` ends them; so does the end of this
            process, however it ends.
        extra_executor_memory_for_ray: per executor, for all but the heap: sparkray's processes, its store, Python.
        extra_python_lib: .py, .zip or .egg files for the path of Spark's Python, separated by commas.
        spark_log_level: "ALL", "DEBUG", "INFO", "WARN", "ERROR", "FATAL" or "OFF".
        redirect_spark_log: obsolete.
        conf: further settings of Spark.
        jars: for the class path of driver and executors, separated by commas.
        python_location: the interpreter of Spark's Python workers. Not given: PYSPARK_PYTHON, else this process's own.
        enable_numa_binding: workers are bound to the machine's NUMA nodes in turn, by numactl. Only without `master`.

    Raises:
        SparkNotStarted: no Java, nobody listens at `master`, a daemon did not start, or Spark refused a setting.
        ValueError: an argument out of range, or another SparkContext is active in this process.
    """
    warn_of_obsolete(redirect_spark_log)
    settings = sizes(
        num_executors,
        executor_cores,
        executor_memory,
        driver_cores,
        driver_memory,
        extra_executor_memory_for_ray,
    )
    if master is not None and not _MASTER_URL.fullmatch(master):
        raise ValueError(f'master must be like "spark://host:7077", not {master!r}')
    if master is not None and enable_numa_binding:
        raise ValueError("enable_numa_binding is for workers that sparkray starts: leave master out, or bind yours")
    settings["spark.cores.max"] = str(num_executors * executor_cores)
    if jars is not None:
        settings["spark.jars"] = jars
    settings |= user_settings(conf)
    python = python_location or own_python()
    files = split(extra_python_lib)
    require_java()
    with _lock:
        if master is None:
            mib = _in_mib(executor_memory)
            overhead = extra_executor_memory_for_ray
            mib += max(mib // 10, _LEAST_OVERHEAD_MIB) if overhead is None else _in_mib(overhead)
            started = _own(Shape(num_executors, executor_cores, mib, enable_numa_binding))
            settings |= {
                "spark.master": started.master,
                "spark.authenticate": "true",
                "spark.driver.host": "127.0.0.1",
                "spark.driver.bindAddress": "127.0.0.1",
            }
        else:
            settings["spark.master"] = master
        try:
            if master is not None:
                _require_listener(master)
            secrets = {"spark.authenticate.secret": _SECRET} if master is None else {}
            return spark_context(settings, spark_log_level, python, files, secrets)
        except BaseException:
            if master is None and not _in_use():
                stop_spark_standalone()
            raise


def stop_spark_standalone() -> None:
    """End the master and the workers that `init_spark_standalone` started, and first the SparkContext on them.

    Without any nothing happens. It returns when their processes and folders are gone, after some seconds.
    """
    global _running
    with _lock:
        if _running is None:
            return
        started, _running = _running, None
        sc = _context_on(started)
        if sc is not None:
            sc.stop()
        started.stop()


def _own(shape: Shape) -> Standalone:
    """One of this shape: what is up, if nobody could tell the difference."""
    global _running
    if _running is not None and _running.is_up and (_running.shape == shape or _in_use()):
        return _running  # of another shape and in use: the SparkContext's settings differ, which is told
    stop_spark_standalone()
    _running = Standalone.start(shape)
    return _running


def _context_on(started: Standalone) -> SparkContext | None:
    from pyspark import SparkContext

    active = SparkContext._active_spark_context
    return active if active is not None and active.master == started.master else None


def _in_use() -> bool:
    return _running is not None and _context_on(_running) is not None


def _require_listener(master: str) -> None:
    """
    Raises:
        SparkNotStarted: at none of the addresses.
    """
    why = ""
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACH_LIMIT_S).close()
            return
        except OSError as error:
            why = str(error)
    raise SparkNotStarted(
        f"nobody listens at {master} ({why}): start a standalone master there, or leave master out, and one is started "
        "on this host"
    )


def _in_mib(size: str) -> int:
    return -(-(memory_bytes(size) or 0) // (1 << 20))


def _numa_words(workers: int) -> list[list[str]]:
    """What to put before each worker's command.

    Raises:
        ValueError: this machine cannot bind.
    """
    nodes = sorted(int(path.name[4:]) for path in _NUMA_NODES.glob("node[0-9]*"))
    numactl = shutil.which("numactl")
    if not nodes or numactl is None:
        what = "numactl is not installed" if nodes else "this system does not tell its NUMA nodes"
        raise ValueError(f"enable_numa_binding cannot be done: {what}. Install it, or leave enable_numa_binding out")
    bound = [nodes[number % len(nodes)] for number in range(workers)]
    return [[numactl, f"--cpunodebind={node}", f"--membind={node}"] for node in bound]


def _first_line(keeper: subprocess.Popen[bytes], limit: float) -> dict[str, Any]:
    assert keeper.stdout is not None
    descriptor, line, deadline = keeper.stdout.fileno(), b"", time.monotonic() + limit
    while not line.endswith(b"\n"):
        if not select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
            return {"ready": False, "why": f"the daemons of a standalone Spark were not up after {limit:g} s"}
        more = os.read(descriptor, 1 << 16)
        line += more
        if not more:
            return {"ready": False, "why": f"the keeper of a standalone Spark ended ({keeper.wait()}); see above"}
    facts: dict[str, Any] = json.loads(line)
    return facts


def _end(keeper: subprocess.Popen[bytes]) -> None:
    for stream in (keeper.stdin, keeper.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    keeper.terminate()  # not by the pipe alone: a forked child may hold it
    try:
        keeper.wait(END_S)
    except subprocess.TimeoutExpired:
        keeper.kill()  # the daemons get SIGTERM from the system then
        keeper.wait()


atexit.register(stop_spark_standalone)
