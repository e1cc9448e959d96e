"""What a task of the barrier stage does: the first on each executor starts a node, which lives as long as its JVM.

    task                                       driver
     here: which executor, which sparkray ──>
                                          <── start: you host the head, or not   (or abort)
     (if not: its node comes up as far as it can)
                                          <── head: it is at ...                 (or abort)
     ready: where the node is | failed    ──>
                                          <── done: all are ready                (or abort)

Then the task ends, and its slot goes back to Spark. If the driver is gone or says abort, the task ends its node first.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from sparkray.containers import PROCESS_BYTES
from sparkray.rendezvous import Meeting, MeetingEnded, numeric_address
from sparkray.sizing import Host, UnfitSpark, elect, host_of, python_limit_told, store_bytes_on
from sparkray.versions import versions
from sparkray_core.errors import RaySystemError
from sparkray_core.ids import NodeId, new_node_id
from sparkray_core.run.config import TOLD_LATER, NodeConfig, ProcessTie, default_base_folder
from sparkray_core.run.processes import Identity, identify
from sparkray_core.run.start import StartedNode, StartingNode
from sparkray_core.settings import Settings
from sparkray_core.system import LINUX

log = logging.getLogger(__name__)

TaskResult = tuple[str, bool]
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class StartOrder:
    """What the driver tells every task, by Spark's own RPC: the secrets travel nowhere else. Primitives only."""

    session: str
    token: bytes = field(repr=False)
    curve_public: bytes
    curve_secret: bytes = field(repr=False)
    rendezvous: tuple[str, int]
    barrier: bool  # all tasks run at one time; else they come when Spark has executors for them (`elastic`)
    driver_node: bytes  # the session ends when this node leaves it
    nodes: int
    cores: int | None  # of each node; None: those of its host
    resources: Mapping[str, int]  # further ones of each node, in thousandths
    labels: Mapping[str, str]
    store_bytes: int | None
    environment: Mapping[str, str]  # of the node's processes, beyond the executor's own
    same_machine: bool  # as the driver: then everything stays on loopback
    sys_path: tuple[str, ...]  # where workers look for modules; empty: where the executor's Python does
    python_prefix: str  # of the driver; an environment of the executor's own looks in its own places, too
    cwd: str | None
    namespace: str  # of actors' names, where none is given
    base_folder: str | None
    limit_s: float  # for the whole start
    container_bytes: int  # that all of an executor may use, where no cgroup limits it; 0: not known
    settings: Mapping[str, Any]  # those of the session that are not at their default

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(facts: dict[str, Any]) -> TaskResult:
    """The task.

    Args:
        facts: `StartOrder.as_dict()`; a dict, because the task unpickles it before it can import us.

    Returns:
        Its executor's address, and whether it was chosen: none is when there are too few executors among all tasks'.
    """
    from pyspark import BarrierTaskContext

    order = StartOrder(**facts)
    if not order.barrier:
        return _join(order)
    context = BarrierTaskContext.get()
    partition = context.partitionId()
    addresses = [info.address for info in context.getTaskInfos()]
    address = addresses[partition]
    chosen = elect(addresses, order.nodes)
    if partition in chosen:
        here = host_of(address)
        neighbours = sum(host_of(addresses[other]) == here for other in chosen)
        with Meeting.join(order.rendezvous, order.token) as meeting:
            _launch(meeting, order, address, neighbours)
    return address, partition in chosen


def _join(order: StartOrder) -> TaskResult:
    """The driver has the head, and knows which executor has a node already. A task does not hear what Spark calls its
    executor, nor who its neighbours are."""
    with Meeting.join(order.rendezvous, order.token) as meeting:
        address = f"{'127.0.0.1' if order.same_machine else meeting.own_host}:{os.getppid()}"
        return address, _launch(meeting, order, address, order.nodes)


def _launch(meeting: Meeting, order: StartOrder, address: str, neighbours: int) -> bool:
    """Start one node, or tell the driver why there is none. Nothing is left of it unless all are ready.

    Returns:
        Whether it was to be started here.

    Raises:
        MeetingEnded: the driver is gone.
    """
    try:
        jvm = executor_jvm()
    except UnfitSpark as error:
        meeting.say({"kind": "failed", "address": address, "why": str(error)})
        return False
    here = {"address": address, "host": host_of(address), "jvm": list(jvm), "versions": versions()}
    meeting.say({"kind": "here", **here})
    word = meeting.hear(order.limit_s)
    if word["kind"] != "start":
        return False
    try:
        config = _config(order, word["hosts_head"], address, word.get("neighbours", neighbours), jvm)
        starting = StartingNode(config, sys.executable, {**_absolute_python(), **order.environment})
        if not config.is_head and not _hears_of_head(meeting, starting, order.limit_s):
            return True
        node = starting.ready(order.limit_s)
    except MeetingEnded:
        raise
    except (RaySystemError, OSError, ValueError) as error:  # BadConfig is a ValueError
        meeting.say({"kind": "failed", "address": address, "why": str(error)})
        return True
    agreed = False
    try:
        meeting.say({"kind": "ready", **_describe(node, address, jvm)})
        agreed = meeting.hear(order.limit_s)["kind"] == "done"
    finally:
        if agreed:
            node.leave()
        else:
            node.stop()
    return True


def _absolute_python() -> dict[str, str]:
    """For processes whose current folder is not the container's, as seen from which Spark names an archive's Python."""
    named = os.environ.get("PYSPARK_PYTHON", "")
    return {"PYSPARK_PYTHON": sys.executable} if os.sep in named and not os.path.isabs(named) else {}


def _hears_of_head(meeting: Meeting, starting: StartingNode, limit: float) -> bool:
    """Whether the node may go on; else it has been ended."""
    word: dict[str, Any] = {"kind": ""}
    try:
        word = meeting.hear(limit)
    finally:
        if word["kind"] != "head":
            starting.give_up()
    if word["kind"] != "head":
        return False
    starting.tell_head(word["address"])
    return True


def _config(order: StartOrder, hosts_head: bool, address: str, neighbours: int, jvm: Identity) -> NodeConfig:
    host = measure_host()
    reached_at = "127.0.0.1" if order.same_machine else _reached_at(address)
    cores = order.cores or host.cpus
    settings = Settings(**{"object_spilling_directory": spark_s_folder(), **order.settings})
    stores = neighbours + 1 if order.same_machine else neighbours  # the driver's own
    store = store_bytes_on(host, stores, order.store_bytes, settings.object_store_share)
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < PROCESS_BYTES + store:
        raise UnfitSpark(python_limit_told(soft, PROCESS_BYTES + store))
    return NodeConfig(
        session=order.session,
        node=new_node_id(),
        token=order.token,
        is_head=hosts_head,
        head_address=None if hosts_head else TOLD_LATER,
        resources={"CPU": cores * 1000, **order.resources},
        store_bytes=store,
        curve_public=order.curve_public,
        curve_secret=order.curve_secret,
        base_folder=order.base_folder or default_base_folder(),
        bind_host=numeric_address(reached_at),
        host=reached_at,
        labels=dict(order.labels),
        tie=ProcessTie(jvm.pid, jvm.start),
        lives_for=NodeId(order.driver_node) if hosts_head else None,
        prestart=settings.prestarted(cores),
        sys_path=(order.sys_path if order.python_prefix == sys.prefix else ()) or module_path(),
        cwd=order.cwd,
        namespace=order.namespace,
        settings=settings,
        container_logs=container_logs(),
        shown_at=pod_output(jvm.pid),
        container_bytes=order.container_bytes,
    )


def container_logs() -> str | None:
    """The folder whose files YARN collects, if this is in a container of its."""
    return os.environ.get("LOG_DIRS", "").split(",")[0] or None if "CONTAINER_ID" in os.environ else None


def pod_output(process: int) -> str | None:
    """Where Kubernetes looks for the lines of a pod, if this is one of Spark's: the output of its main process."""
    spark_s = "SPARK_EXECUTOR_POD_IP" in os.environ or "SPARK_DRIVER_BIND_ADDRESS" in os.environ
    return f"/proc/{process}/fd/1" if spark_s and "KUBERNETES_SERVICE_HOST" in os.environ else None


def spark_s_folder() -> str | None:
    """Where Spark puts what has no room in memory: the executor's disk, where /tmp may be small, or the container's."""
    first = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    return first if os.path.isabs(first) and os.path.isdir(first) else None


def _reached_at(address: str) -> str:
    """Where other hosts reach this one: where Spark does. In a pod that is the pod's address, which Spark sets."""
    return os.environ.get("SPARK_EXECUTOR_POD_IP") or host_of(address)


def _describe(node: StartedNode, address: str, jvm: Identity) -> dict[str, Any]:
    keeper = identify(node.pid)
    return {
        "node": node.config.node.hex(),
        "host": node.config.host,
        "executor": address,
        "jvm": list(jvm),
        "executor_id": executor_id(jvm),
        "hosts_head": node.config.is_head,
        "keeper": list(keeper or (node.pid, 0.0)),
        "folder": node.folder,
        "address": node.address,
        "head_address": node.head_address,
        "store_bytes": node.config.store_bytes,
        "cores": node.config.resources["CPU"] // 1000,
        "seconds": node.seconds,
    }


def executor_id(jvm: Identity) -> str | None:
    """By which Spark's scheduler knows an executor. Python is not told; the JVM's command line says it."""
    import psutil

    try:
        words = psutil.Process(jvm.pid).cmdline()
    except psutil.Error:
        return None
    return next((after for word, after in pairwise(words) if word == "--executor-id"), None)


def executor_jvm() -> Identity:
    """The JVM above this Python worker: the process that is the executor, and for which the node lives.

    Spark starts `pyspark.daemon`, which forks the workers; without the daemon it starts the workers itself.
    """
    import psutil

    above = psutil.Process().parents()
    for process in above:
        if process.name().startswith("java"):
            return _identity(process.pid)
    for process in above:  # a JVM by another name: whoever started Spark's Python
        if not any(word.startswith("pyspark.") for word in process.cmdline()):
            return _identity(process.pid)
    raise UnfitSpark(
        f"process {os.getpid()} has no JVM among its parents: it is not a Python worker of a Spark executor"
    )


def _identity(pid: int) -> Identity:
    found = identify(pid)
    if found is None:
        raise UnfitSpark(f"the executor's JVM, process {pid}, has ended")
    return found


def measure_host() -> Host:
    """This machine, or this container where it has limits of its own."""
    cpus = len(os.sched_getaffinity(0)) if LINUX and hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _CGROUP_LIMITS:
        try:
            with open(path) as limit:
                text = limit.read().strip()
        except OSError:
            continue
        if text.isdigit():  # "max": no limit
            memory = min(memory, int(text))
    return Host(cpus, memory)


def module_path() -> tuple[str, ...]:
    """Where this process looks for modules, so that others can look there too."""
    return tuple(os.path.abspath(entry) for entry in sys.path)
