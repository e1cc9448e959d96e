"""A real YARN on this machine for tests: a ResourceManager and NodeManagers out of Hadoop's own jars, on loopback.

The jars (68 MB) are fetched once, by Spark's own Ivy, into a folder below the user's cache; SPARKRAY_HADOOP_JARS names
a folder that has them, where there is no Maven repository to be reached.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyspark
from pyspark import SparkContext

from tests.waiting import is_running, wait_until

UP_S = 120.0  # three JVMs, on a machine busy with other tests
FETCH_S = 300.0
# Room for an ApplicationMaster, or a driver, and one executor of two times `EXECUTOR_MIB`, not for two executors: each
# node gets one of them.
NODE_MIB, NODE_CORES = 2500, 8
EXECUTOR_MIB = 600  # of heap, and again as much beside it
EXPIRY_MS = 6000  # of a NodeManager that is silent; YARN's own is ten minutes
_JARS = Path(str(pyspark.__file__)).parent / "jars"
_MANAGER = "org.apache.hadoop.yarn.server.resourcemanager.ResourceManager"
_NODE_MANAGER = "org.apache.hadoop.yarn.server.nodemanager.NodeManager"
_FETCH = """
import sys
from pyspark import SparkConf, SparkContext
hadoop, ivy = sys.argv[1:]
packages = f"org.apache.hadoop:hadoop-client-minicluster:{hadoop},org.bouncycastle:bcpkix-jdk18on:1.78.1"
there = "org.apache.hadoop:hadoop-client-api,org.apache.hadoop:hadoop-client-runtime"
conf = SparkConf().setMaster("local[1]").set("spark.ui.enabled", "false").set("spark.jars.ivy", ivy)
SparkContext(conf=conf.set("spark.jars.packages", packages).set("spark.jars.excludes", there)).stop()
"""


def hadoop_jars() -> Path:
    """The folder that has them; they are fetched into it if need be."""
    given = os.environ.get("SPARKRAY_HADOOP_JARS")
    if given:
        return Path(given)
    (api,) = _JARS.glob("hadoop-client-api-*.jar")
    version = api.stem.removeprefix("hadoop-client-api-")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparkray-tests"
    cache.mkdir(parents=True, exist_ok=True)
    jars = cache / f"hadoop-{version}"
    with open(cache / f"hadoop-{version}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # others that run tests
        if not jars.exists():
            ivy = cache / f"ivy-{version}"
            shutil.rmtree(ivy, ignore_errors=True)
            environment = os.environ | {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
            command = [sys.executable, "-c", _FETCH, version, str(ivy)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=FETCH_S)
            assert done.returncode == 0, f"Hadoop's jars were not fetched (see SPARKRAY_HADOOP_JARS): {done.stderr}"
            (ivy / "jars").rename(jars)
            shutil.rmtree(ivy)
    return jars


class Yarn:
    """The daemons, and what their web page says of applications."""

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.folder, self.nodes = folder, nodes
        self.conf = folder / "conf"
        self.logs = folder / "aggregated"
        self._page = f"127.0.0.1:{_free_port()}"
        self._manager: subprocess.Popen[bytes] | None = None
        self.node_managers: dict[int, subprocess.Popen[bytes]] = {}
        self._class_path = ":".join(map(str, (self.conf, hadoop_jars() / "*", _JARS / "*")))

    def start(self) -> None:
        self._write_conf()
        self._manager = self._daemon("resourcemanager", _MANAGER)
        for number in range(self.nodes):
            self.start_node_manager(number)
        self.wait_for_nodes(self.nodes)

    def start_node_manager(self, number: int) -> None:
        own = self.folder / f"node-{number}"
        options = {f"yarn.nodemanager.{name}.address": "127.0.0.1:0" for name in _NODE_PORTS}
        options |= {"yarn.nodemanager.local-dirs": str(own / "local"), "yarn.nodemanager.log-dirs": str(own / "logs")}
        words = [f"-D{name}={value}" for name, value in options.items()]
        self.node_managers[number] = self._daemon(f"nodemanager-{number}", _NODE_MANAGER, *words)

    def wait_for_nodes(self, count: int) -> None:
        def there() -> bool:
            for name, daemon in (("manager", self._manager), *self.node_managers.items()):
                assert daemon is None or daemon.poll() is None, f"{name} of YARN ended: {self._tails()}"
            with contextlib.suppress(OSError):
                return bool(self.ask("metrics", "clusterMetrics")["activeNodes"] == count)
            return False

        wait_until(there, f"{count} NodeManagers are registered", UP_S)

    def kill_node_manager(self, number: int) -> None:
        """As a lost host does, as far as YARN can see. The containers' processes live on."""
        daemon = self.node_managers.pop(number)
        daemon.kill()
        daemon.wait()

    def node_of(self, pid: int) -> int:
        """Which NodeManager is above this process."""
        above = {process.pid for process in psutil.Process(pid).parents()}
        return next(number for number, daemon in self.node_managers.items() if daemon.pid in above)

    def application_masters(self) -> list[int]:
        """Of all applications that run in client mode."""
        above = [psutil.Process(daemon.pid) for daemon in self.node_managers.values()]
        below = [process for daemon in above for process in daemon.children(recursive=True)]
        return [process.pid for process in below if _runs(process, "org.apache.spark.deploy.yarn.ExecutorLauncher")]

    def stop(self) -> None:
        """The daemons, and what they have started, even if it hangs."""
        daemons = [daemon for daemon in (self._manager, *self.node_managers.values()) if daemon is not None]
        family: list[psutil.Process] = []
        for daemon in daemons:
            with contextlib.suppress(psutil.NoSuchProcess):
                family += psutil.Process(daemon.pid).children(recursive=True)
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()
            daemon.wait()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # psutil compares the start time, too
                process.kill()
        for process in family:
            wait_until(lambda process=process: not is_running(process.pid), f"{process} has ended")  # type: ignore[misc]
        shutil.rmtree(self.folder, ignore_errors=True)

    def settings(self) -> dict[str, str]:
        """For Spark on it: nothing is uploaded, and nothing lies outside the folder."""
        return {
            "spark.yarn.jars": f"local:{_JARS}/*",
            "spark.yarn.stagingDir": str(self.folder / "staging"),
            "spark.yarn.am.memory": "512m",
            "spark.yarn.am.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            "spark.yarn.populateHadoopClasspath": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.yarn.appMasterEnv.SPARK_LOCAL_IP": "127.0.0.1",
            "spark.executorEnv.SPARK_LOCAL_IP": "127.0.0.1",
        }

    # ------------------------------------------------------------------ applications
    def ask(self, what: str, root: str) -> dict[str, Any]:
        """
        Args:
            root: the name of the whole, which Hadoop 3.3 leaves out.
        """
        with urllib.request.urlopen(f"http://{self._page}/ws/v1/cluster/{what}", timeout=10) as answer:
            said: dict[str, Any] = json.loads(answer.read())
        found: dict[str, Any] | None = said.get(root, said)
        return found or {}

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        """Hadoop's own, in our JVM. (On Java 17 the page of Hadoop 3.3 leaves out most of an application.)"""
        jvm: Any = SparkContext._jvm
        assert jvm is not None, "this process has no JVM of Spark's"
        hadoop = jvm.org.apache.hadoop.yarn
        client = hadoop.client.api.YarnClient.createYarnClient()
        client.init(hadoop.conf.YarnConfiguration())
        client.start()
        try:
            yield client
        finally:
            client.stop()

    def application(self, name: str) -> dict[str, Any]:
        jvm: Any = SparkContext._jvm
        with self._client() as client:
            found = client.getApplicationReport(jvm.org.apache.hadoop.yarn.api.records.ApplicationId.fromString(name))
            return {
                "finalStatus": str(found.getFinalApplicationStatus()),
                "state": str(found.getYarnApplicationState()),
                "diagnostics": str(found.getDiagnostics()),
                "runningContainers": found.getApplicationResourceUsageReport().getNumUsedContainers(),
            }

    def applications(self) -> set[str]:
        with self._client() as client:
            return {str(found.getApplicationId()) for found in client.getApplications()}

    def kill_application(self, name: str) -> None:
        url = f"http://{self._page}/ws/v1/cluster/apps/{name}/state?user.name={getpass.getuser()}"
        body = json.dumps({"state": "KILLED"}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    def wait_for_end(self, name: str, limit: float = 60) -> dict[str, Any]:
        wait_until(lambda: self.application(name)["finalStatus"] != "UNDEFINED", f"{name} has ended", limit)
        return self.application(name)

    # ------------------------------------------------------------------ daemons
    def _daemon(self, name: str, main_class: str, *words: str) -> subprocess.Popen[bytes]:
        own = self.folder / name
        own.mkdir(parents=True, exist_ok=True)
        small = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-XX:-UsePerfData"]
        small += [f"-Dyarn.log.dir={own}", f"-Djava.io.tmpdir={own}"]
        opened = [
            word for package in ("lang", "net") for word in ("--add-opens", f"java.base/java.{package}=ALL-UNNAMED")
        ]
        home = os.environ.get("JAVA_HOME")
        java = os.path.join(home, "bin", "java") if home else "java"
        with open(own / "log", "ab") as log:
            return subprocess.Popen(
                [java, *small, *opened, "-cp", self._class_path, main_class, *words],
                env=os.environ | {"HADOOP_CONF_DIR": str(self.conf)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=own,
                start_new_session=True,
            )

    def _tails(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*manager*/log"))

    def _write_conf(self) -> None:
        self.conf.mkdir(parents=True)
        manager = {f"yarn.resourcemanager.{name}.address": f"127.0.0.1:{_free_port()}" for name in _MANAGER_PORTS}
        (self.conf / "log4j2.properties").write_text(_LOG4J)
        _write(self.conf / "core-site.xml", {"fs.defaultFS": "file:///", "hadoop.tmp.dir": str(self.folder)})
        _write(
            self.conf / "yarn-site.xml",
            {
                "yarn.resourcemanager.hostname": "127.0.0.1",
                "yarn.resourcemanager.address": f"127.0.0.1:{_free_port()}",
                "yarn.resourcemanager.webapp.address": self._page,
                **manager,
                "yarn.nodemanager.address": "127.0.0.1:0",
                "yarn.nodemanager.hostname": "127.0.0.1",
                "yarn.nodemanager.resource.memory-mb": str(NODE_MIB),
                "yarn.nodemanager.resource.cpu-vcores": str(NODE_CORES),
                "yarn.scheduler.minimum-allocation-mb": "128",
                "yarn.nodemanager.vmem-check-enabled": "false",
                "yarn.nodemanager.resource.memory.enforced": "false",  # or the polling check kills nobody
                "yarn.nodemanager.container-monitor.interval-ms": "500",
                "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": "99.9",
                "yarn.nm.liveness-monitor.expiry-interval-ms": str(EXPIRY_MS),
                "yarn.log-aggregation-enable": "true",
                "yarn.nodemanager.remote-app-log-dir": str(self.logs),
            },
        )
        _write(
            self.conf / "capacity-scheduler.xml",
            {
                "yarn.scheduler.capacity.root.queues": "default",
                "yarn.scheduler.capacity.root.default.capacity": "100",
                "yarn.scheduler.capacity.maximum-am-resource-percent": "0.5",
            },
        )


_LOG4J = """\
rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{yyyy-MM-dd HH:mm:ss} %p %c{1}: %m%n%ex
"""
_MANAGER_PORTS = ("scheduler", "resource-tracker", "admin")
_NODE_PORTS = ("webapp", "localizer", "collector-service", "amrmproxy")


def _write(path: Path, settings: dict[str, str]) -> None:
    lines = [f"<property><name>{name}</name><value>{value}</value></property>" for name, value in settings.items()]
    path.write_text("\n".join(["<configuration>", *lines, "</configuration>", ""]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _runs(process: psutil.Process, main_class: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name() == "java" and main_class in process.cmdline()
    return False


@contextlib.contextmanager
def running_yarn(folder: Path) -> Iterator[Yarn]:
    yarn = Yarn(folder)
    try:
        yarn.start()
        yield yarn
    finally:
        yarn.stop()
