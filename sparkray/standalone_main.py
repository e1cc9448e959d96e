"""Keeps a standalone Spark for one driver: a master and workers on this host, and nothing of them afterwards.

    python -I -c "...main()" < one line of Order as JSON; stdin then stays open

It starts the master and, once that tells its address, the workers; prints one JSON line, {"ready": true, "master": ...}
or {"ready": false, "why": ...}; and waits for the first of: end of stdin, end of the driver, SIGTERM, end of the
master. Then all goes: daemons, executors, whatever the executors have started, and the folder with their logs and work.
A keeper that is killed takes the daemons along (PR_SET_PDEATHSIG); its folder is swept when the next node starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from sparkray_core.run import folders, processes
from sparkray_core.run.config import BadConfig, StdinTie
from sparkray_core.run.keeping import Watch, read_order, say
from sparkray_core.run.tie import Tie

GRACE_S = 5.0  # for daemons and executors to end by themselves; they need one second, on a busy machine three
POLL_S = 0.05  # between two looks into the daemons' logs, during the start only
_STARTED = re.compile(r"Starting Spark master at (spark://\S+)")
_WEB_PAGE = re.compile(r"Bound MasterWebUI to .* (http://\S+)")
_REGISTERED = re.compile(r"Successfully registered with master")
_MASTER, _WORKER = "org.apache.spark.deploy.master.Master", "org.apache.spark.deploy.worker.Worker"
# What a user may have set for a Spark of his own, and what would turn ours into something else.
_NOT_OURS = (
    "SPARK_MASTER_",
    "SPARK_WORKER_",
    "SPARK_DAEMON_",
    "SPARK_PUBLIC_DNS",
    "SPARK_ENV_LOADED",
)

# They do little: without the second compiler and a parallel collector they are up sooner, and take less.
_SMALL_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

# Only what is read below is logged: the daemons' own words. Warnings of others, too.
_LOG4J = """\
rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = stderr
logger.deploy.name = org.apache.spark.deploy
logger.deploy.level = info
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{yyyy-MM-dd HH:mm:ss} %p %c{1}: %m%n%ex
"""


@dataclass(frozen=True, slots=True)
class Order:
    """What the driver wants. It travels as one JSON line."""

    base_folder: str
    name: str  # of the folder in it
    spark_home: str
    secret: str = field(repr=False)
    workers: list[list[str]]  # for each: words before its command (numactl ...), none as a rule
    cores: int  # of each worker
    memory_mib: int  # of each worker, for its executors
    limit_s: float
    keep_logs: str | None

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


class Ended(Exception):
    """It is over; the text says why."""


def main() -> int:
    """Exit code: 0 when it was told to end, 1 when something failed."""
    processes.set_title("standalone Spark", "sparkray-spark")
    try:
        order = Order(**json.loads(read_order()))
    except BadConfig as error:
        raise SystemExit(str(error)) from None
    tie = Tie(StdinTie())
    folder = folders.make_node_folder(order.base_folder, order.name, "standalone")
    keeper = StandaloneKeeper(order, folder, tie)
    try:
        return keeper.run()
    finally:
        keeper.end_all()
        folders.remove_node_folder(folder, order.keep_logs)


class StandaloneKeeper:
    """The daemons' parent, and that of all that they leave behind."""

    def __init__(self, order: Order, folder: str, tie: Tie) -> None:
        self._order, self._folder = order, folder
        self._watch = Watch(tie)
        self._daemons: dict[int, str] = {}

    def run(self) -> int:
        self._watch.catch_signals()
        processes.adopt_orphans()
        try:
            facts = self._start()
        except Ended as end:
            say({"ready": False, "why": str(end), "log": folders.log_tail(self._folder)})
            return 1
        say({"ready": True, "folder": self._folder, **facts})
        processes.redirect_output(os.path.join(self._folder, "logs", "keeper.log"))
        try:
            while True:
                self._wait(None)
        except Ended as end:
            sys.stderr.write(f"{end}\n")
        return 0

    def _start(self) -> dict[str, Any]:
        me = processes.identify(os.getpid())
        assert me is not None
        folders.mark_folder(self._folder, me)  # not inherited by a Popen: with us the folder is dead
        self._write_settings()
        deadline = time.monotonic() + self._order.limit_s
        self._spawn("master", [], _MASTER, "--port", "0")
        master = self._hear("master", _STARTED, deadline)
        web_page = self._hear("master", _WEB_PAGE, deadline)
        work = os.path.join(self._folder, "work")
        size = ("--cores", str(self._order.cores), "--memory", f"{self._order.memory_mib}m")
        names = [f"worker-{number}" for number in range(len(self._order.workers))]
        for name, before in zip(names, self._order.workers, strict=True):
            self._spawn(name, before, _WORKER, "--port", "0", *size, "--work-dir", work, master)
        for name in names:
            self._hear(name, _REGISTERED, deadline)
        return {"master": master, "web_page": web_page}

    def _path(self, *names: str) -> str:
        return os.path.join(self._folder, *names)

    def _write_settings(self) -> None:
        """Whoever reaches the master's port could run code as this user, so it asks for a secret, of this driver alone.

        It stands in a file, because what is given to a JVM otherwise is seen on its command line.
        """
        os.mkdir(self._path("conf"), 0o700)
        for name, text in (
            ("log4j2.properties", _LOG4J),
            (
                "spark-defaults.conf",
                f"spark.authenticate true\nspark.authenticate.secret {self._order.secret}\n"
                "spark.ui.killEnabled false\nspark.master.rest.enabled false\n",
            ),
        ):
            path = self._path("conf", name)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)

    def _spawn(self, name: str, before: list[str], main_class: str, *arguments: str) -> None:
        home, me = self._order.spark_home, os.getpid()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_OURS)} | {
            "SPARK_HOME": home,
            "SPARK_CONF_DIR": self._path("conf"),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_DAEMON_MEMORY": "512m",
            "SPARK_DAEMON_JAVA_OPTS": _SMALL_JVM,
            "SPARK_LOCAL_DIRS": os.environ.get("SPARK_LOCAL_DIRS", self._path("scratch")),
        }
        command = [*before, os.path.join(home, "bin", "spark-class"), main_class]
        with open(self._path("logs", f"{name}.log"), "ab") as log:
            daemon = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--webui-port", "0", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                preexec_fn=lambda: processes.die_with_parent(signal.SIGTERM, me),
            )
        self._daemons[daemon.pid] = name
        daemon.returncode = 0  # `processes.reap` waits for it, not this object

    def _hear(self, name: str, pattern: re.Pattern[str], deadline: float) -> str:
        """The first group of the line that the daemon logs when it is so far."""
        while True:
            with open(self._path("logs", f"{name}.log"), errors="replace") as log:
                found = pattern.search(log.read())
            if found is not None:
                return found.group(1) if pattern.groups else found.group()
            if time.monotonic() > deadline:
                raise Ended(f"the {name} of a standalone Spark was not up after {self._order.limit_s:g} s")
            self._wait(POLL_S)

    # ------------------------------------------------------------------------------ waiting, and the end
    def _wait(self, limit: float | None) -> None:
        """
        Raises:
            Ended: the driver, the master, all workers or a signal say that it is over; during the start any daemon.
        """
        starting = limit is not None
        readable = self._watch.wait(limit)
        if self._watch.signals:
            raise Ended(f"got {self._watch.signals[0]}")
        for pid, code in processes.reap():
            name = self._daemons.pop(pid, None)
            if name is None:
                continue
            what = f"the {name} of a standalone Spark (pid {pid}) ended: {processes.exit_in_words(code)}"
            if starting or name == "master" or len(self._daemons) == 1:
                raise Ended(what)
            sys.stderr.write(f"{what}; the others go on\n")
        why = self._watch.tie.why_gone(readable)
        if why is not None:
            raise Ended(why)

    def end_all(self) -> None:
        """Daemons, executors, and what those have left to us; each has a moment to end by itself."""
        me = os.getpid()
        for pid in self._daemons:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while processes.children_of(me) and time.monotonic() < deadline:
            processes.reap()
            time.sleep(0.02)
        processes.end_tree((), 0)
