"""`RayContext`: sparkray's nodes inside the executors of a SparkContext, and this process as their driver.

    with RayContext(sc, object_store_memory="4g") as ctx:
        ...                                        # sparkray.remote, get, put, data work on the executors

In local mode there is one JVM, so one node, and the driver starts it itself: no Spark job is needed. On a cluster one
barrier stage starts a node in each executor (`launch`, `executor_main`), and the driver has one of its own, without CPUs,
for its objects.

Whatever ends, ends all: each executor's node lives as long as that executor's JVM; the session lives as long as the
driver's node, which lives as long as this process; and `sc.stop()` stops the session first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sparkray import session
from sparkray.ending import NodeWatch, StopReport, wait_gone
from sparkray.executor_main import StartOrder, measure_host, module_path
from sparkray.launch import launch, registered_executors, total_slots
from sparkray.options import thousandths
from sparkray.rendezvous import Rendezvous, address_towards
from sparkray.sizing import NodePlan, Spark, UnfitSpark, Wishes, memory_bytes, plan, show_bytes, store_bytes_on
from sparkray_core.ids import NodeId, new_node_id, new_process_id
from sparkray_core.run.config import NodeConfig, ProcessTie, StdinTie, default_base_folder
from sparkray_core.run.core import Core
from sparkray_core.run.processes import Identity, identify
from sparkray_core.run.start import StartedNode, new_session_name, new_token, start_node, sweep

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

START_TIMEOUT_S = 60.0
GENTLE_END_S = 3.0  # for the nodes to end by themselves, once the head has told them
END_S = 5.0  # and after SIGTERM, and after SIGKILL, to their keepers

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExecutorNode:
    """A node and the executor in which it lives.

    A Spark Python worker is on this node if `jvm` is one of the processes above it; its raylet listens in `folder`.
    """

    node: NodeId
    host: str  # as the other nodes reach it
    executor: str  # host:port, by which Spark knows the executor; in local mode the driver's
    jvm: Identity  # (pid, start): the executor
    keeper: Identity
    folder: str  # raylet.sock is in it
    address: str  # tcp://host:port of the raylet
    cores: int
    store_bytes: int


class RayContext:
    """See the module. Making one starts nothing; `init` does."""

    _active: ClassVar[RayContext | None] = None

    def __init__(
        self,
        sc: SparkContext | SparkSession,
        num_ray_nodes: int | None = None,
        ray_node_cpu_cores: int | None = None,
        object_store_memory: int | str | None = None,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        verbose: bool = False,
        start_timeout: float = START_TIMEOUT_S,
    ) -> None:
        """
        Args:
            sc: where the nodes shall live.
            num_ray_nodes: one to an executor; as many as there are executors, if not given.
            ray_node_cpu_cores: CPUs that each node hands out; those of its executor, if not given. They are shared
                with Spark, which does not know of them.
            object_store_memory: of each node, in bytes or like "4g" (binary units); 30 % of the host's memory, divided
                by the nodes on it, if not given. Memory is taken as it is written to.
            resources: further resources of each node by name, to be asked for with `resources=`.
            labels: names and values that describe each node.
            env: environment variables for all of sparkray's processes, workers included.
            verbose: say on stderr what happens during the start.
            start_timeout: seconds for the whole of it.

        Raises:
            TypeError: `sc` is neither; Spark Connect has no SparkContext.
            ValueError: an argument out of range.
        """
        self.sc = _spark_context(sc)
        self.num_ray_nodes = num_ray_nodes
        self.ray_node_cpu_cores = ray_node_cpu_cores
        self.object_store_memory = memory_bytes(object_store_memory)
        self.resources = {name: thousandths(amount) for name, amount in (resources or {}).items()}
        self.labels = dict(labels or {})
        self.env = {str(name): str(value) for name, value in (env or {}).items()}
        self.verbose = verbose
        self.start_timeout = start_timeout
        self.address_info: dict[str, Any] = {}
        self.executors: list[ExecutorNode] = []
        self.last_stop = StopReport()
        self._running: _Running | None = None
        self._lock = threading.RLock()
        RayContext._active = self

    @classmethod
    def get(cls, initialize: bool = True) -> RayContext:
        """The context that was made last.

        Args:
            initialize: start it, if that has not been done.

        Raises:
            RuntimeError: there is none.
        """
        if cls._active is None:
            raise RuntimeError("there is no RayContext: make one, RayContext(sc), with a SparkContext")
        if initialize:
            cls._active.init()
        return cls._active

    @property
    def initialized(self) -> bool:
        """It was started, and its session goes on."""
        return self._running is not None and self._running.core.owner.ended is None

    @property
    def is_local(self) -> bool:
        return self._plan().in_driver

    @property
    def core(self) -> Core:
        """This process's half of the engine; its `token` is the session's.

        Raises:
            RuntimeError: not started.
        """
        if self._running is None:
            raise RuntimeError("this RayContext is not running: call its init()")
        return self._running.core

    @property
    def token(self) -> bytes:
        """The session's secret, which every connection to a raylet shows."""
        return self.core.token

    # ------------------------------------------------------------------ start
    def init(self) -> dict[str, Any]:
        """Start the nodes, and make their session the one of this process. A second call changes nothing.

        Returns:
            Addresses, under the names that Ray's `init` uses.

        Raises:
            UnfitSpark: this SparkContext cannot host the nodes that were asked for; the text says what to set.
            StartFailed, NodeStartError: they did not come up. Nothing is left of them.
            RuntimeError: another session is up in this process, or the SparkContext is stopped.
        """
        with self._lock:
            if self.initialized:
                return self.address_info
            self.stop()  # the remains, if the session ended by itself
            if self.sc._jsc is None:  # type: ignore[attr-defined]
                raise RuntimeError("this SparkContext is stopped: make a new one, and a new RayContext")
            if session.is_initialized():
                raise RuntimeError(
                    "a sparkray session is up in this process already: call sparkray.shutdown() or RayContext.stop() first"
                )
            began = time.monotonic()
            sweep(default_base_folder())
            chosen = self._plan()
            self._tell(f"{_count(chosen.nodes)} of {chosen.cores or 'all'} CPUs, in the executors of {self.sc.master}")
            with contextlib.ExitStack() as undo:
                self._running = running = _Running()
                undo.callback(self._end_running)
                if chosen.in_driver:
                    self._start_local(chosen, running)
                else:
                    self._start_cluster(chosen, running)
                session.adopt(self)
                undo.pop_all()
            self.address_info = running.address_info()
            self._tell(f"ready after {time.monotonic() - began:.2f} s")
            RayContext._active = self
            return self.address_info

    def _plan(self) -> NodePlan:
        settings = dict(self.sc.getConf().getAll())
        spark = Spark(self.sc.master, settings)
        if not spark.master.startswith("local[") and spark.master != "local":
            spark = Spark(self.sc.master, settings, registered_executors(self.sc), total_slots(self.sc) or 0)
        return plan(
            spark, measure_host(), Wishes(self.num_ray_nodes, self.ray_node_cpu_cores, self.object_store_memory)
        )

    def _start_local(self, chosen: NodePlan, running: _Running) -> None:
        """The JVM is the driver's and dies with this process; so a node tied to it dies with either."""
        jvm = identify(int(self.sc._jvm.java.lang.ProcessHandle.current().pid()))  # type: ignore[union-attr]
        if jvm is None:
            raise UnfitSpark("the SparkContext's JVM is not on this host")
        assert chosen.cores is not None
        config = NodeConfig(
            session=new_session_name(),
            node=new_node_id(),
            token=new_token(),
            is_head=True,
            head_address=None,
            resources={"CPU": chosen.cores * 1000, **self.resources},
            store_bytes=store_bytes_on(measure_host(), 1, chosen.store_bytes),
            labels=self.labels,
            tie=ProcessTie(jvm.pid, jvm.start),
            prestart=chosen.cores,
            sys_path=module_path(),
            cwd=os.getcwd(),
        )
        running.own = node = start_node(config, sys.executable, self.start_timeout, self.env)
        keeper = identify(node.pid) or Identity(node.pid, 0.0)
        executor = f"{self.sc.getConf().get('spark.driver.host')}:{self.sc.getConf().get('spark.driver.port')}"
        self.executors = running.executors = [
            ExecutorNode(
                config.node,
                config.host,
                executor,
                jvm,
                keeper,
                node.folder,
                node.address,
                chosen.cores,
                config.store_bytes,
            )
        ]
        running.connect()
        running.hook(self)

    def _start_cluster(self, chosen: NodePlan, running: _Running) -> None:
        import zmq

        host = "127.0.0.1" if chosen.same_machine else str(self.sc.getConf().get("spark.driver.host"))
        public, secret = zmq.curve_keypair()
        token = new_token()
        driver = NodeConfig(
            session=new_session_name(),
            node=new_node_id(),
            token=token,
            is_head=False,
            head_address="to be told",
            resources={},
            store_bytes=store_bytes_on(
                measure_host(), chosen.nodes + 1 if chosen.same_machine else 1, chosen.store_bytes
            ),
            curve_public=public,
            curve_secret=secret,
            bind_host=address_towards(host),
            host=host,
            tie=StdinTie(),
            prestart=0,
            sys_path=module_path(),
            cwd=os.getcwd(),
        )
        with Rendezvous(driver.bind_host, token) as rendezvous:
            order = StartOrder(
                session=driver.session,
                token=token,
                curve_public=public,
                curve_secret=secret,
                rendezvous=(host, rendezvous.port),
                driver_node=driver.node,
                nodes=chosen.nodes,
                cores=chosen.cores,
                resources=self.resources,
                labels=self.labels,
                store_bytes=chosen.store_bytes,
                environment=self.env,
                same_machine=chosen.same_machine,
                sys_path=module_path() if chosen.same_machine else (),
                cwd=os.getcwd() if chosen.same_machine else None,
                base_folder=driver.base_folder if chosen.same_machine else None,
                limit_s=self.start_timeout,
            )

            def start_own(head_address: str) -> None:
                self._tell(f"the head is at {head_address}")
                running.start_own(driver, head_address, self.start_timeout, self.env)

            deadline = time.monotonic() + self.start_timeout
            ready = launch(self.sc, chosen, order, rendezvous, deadline, start_own)
        self.executors = running.executors = [_executor_node(facts) for facts in ready]
        for facts in ready:
            self._tell(f"node {facts['node']} on {facts['host']}, executor {facts['executor']}: {facts['seconds']}")
        running.hook(self)

    def _tell(self, what: str) -> None:
        log.info("%s", what)
        if self.verbose:
            sys.stderr.write(f"sparkray: {what}\n")

    # ------------------------------------------------------------------ stop
    def stop(self) -> StopReport:
        """End the session: its processes on all nodes, and their folders. Without a session nothing happens.

        Returns:
            What is gone and what is left, of each node. The SparkContext goes on, and `init` may be called again.
        """
        session.release(self)
        with self._lock:
            self._end_running()
            return self.last_stop

    def end(self) -> bool:
        """For `sparkray.shutdown()`: whether all of it is gone."""
        return self.stop().clean

    def _end_running(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            self.executors, self.address_info = [], {}
            self.last_stop = running.end()
            log.info("%s", self.last_stop)

    def disconnect(self) -> None:
        """The same as `stop`, by Ray's name for it."""
        self.stop()

    def __enter__(self) -> RayContext:
        self.init()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"{_count(len(self.executors))}" if self.initialized else "not running"
        return f"<RayContext on {self.sc.master}: {state}>"

    def _repr_html_(self) -> str:
        if not self.initialized:
            return f"<b>RayContext</b> on <code>{self.sc.master}</code>: not running"
        rows = "".join(
            f"<tr><td><code>{one.node.hex()}</code></td><td>{one.executor}</td><td>{one.cores}</td>"
            f"<td>{show_bytes(one.store_bytes)}</td></tr>"
            for one in self.executors
        )
        return (
            f"<b>RayContext</b> on <code>{self.sc.master}</code>"
            f"<table><tr><th>node</th><th>executor</th><th>CPUs</th><th>object store</th></tr>{rows}</table>"
        )


class _Running:
    """A session, as far as it has come up."""

    def __init__(self) -> None:
        self.own: StartedNode | None = None  # the node that this process started: in local mode the only one
        self.executors: list[ExecutorNode] = []
        self._core: Core | None = None
        self._unhook: Callable[[], None] | None = None

    @property
    def core(self) -> Core:
        assert self._core is not None
        return self._core

    def start_own(self, config: NodeConfig, head_address: str, limit: float, environment: Mapping[str, str]) -> None:
        from dataclasses import replace

        self.own = start_node(replace(config, head_address=head_address), sys.executable, limit, environment)
        self.connect()

    def connect(self) -> None:
        assert self.own is not None
        self._core = Core(new_process_id(self.own.config.node), self.own.folder, self.own.config.token, "driver")
        self._core.connect()

    def hook(self, context: RayContext) -> None:
        """Have `sc.stop()`, by whatever way it is called, stop the session first."""
        sc = context.sc
        stop_spark = sc.stop

        def stop() -> None:
            context.stop()
            stop_spark()

        def unhook() -> None:
            if sc.__dict__.get("stop") is stop:
                del sc.__dict__["stop"]

        sc.__dict__["stop"] = stop
        self._unhook = unhook

    def address_info(self) -> dict[str, Any]:
        own = self.own
        assert own is not None
        socket_path = os.path.join(own.folder, "raylet.sock")
        return {
            "address": own.head_address,
            "gcs_address": own.head_address,
            "node_id": self.core.node.hex(),
            "node_ip_address": own.config.host,
            "session_dir": own.folder,
            "raylet_socket_name": socket_path,
            "object_store_address": socket_path,
            "webui_url": "",
        }

    def end(self) -> StopReport:
        began = time.monotonic()
        if self._unhook is not None:
            self._unhook()
        own = self.own
        seen = {one.node: one for one in self.executors if own is not None and one.host == own.config.host}
        watches = [NodeWatch(one.node, one.host, one.keeper, one.folder) for one in seen.values()]
        if own is not None and own.config.node not in seen:
            keeper = identify(own.pid) or Identity(own.pid, 0.0)
            watches.append(NodeWatch(own.config.node, own.config.host, keeper, own.folder))
        if self._core is not None:
            if self._core.owner.ended is None:
                self._core.end_session("RayContext.stop() was called")
            self._core.close("RayContext.stop() was called")
        if not wait_gone(watches, GENTLE_END_S):
            for how in (signal.SIGTERM, signal.SIGKILL):
                for watch in watches:
                    watch.end_keeper(how)
                if wait_gone(watches, END_S):
                    break
        if own is not None:
            own.stop()
        reports = [watch.report() for watch in watches]
        return StopReport(tuple(reports), time.monotonic() - began)


def _executor_node(facts: dict[str, Any]) -> ExecutorNode:
    return ExecutorNode(
        node=NodeId(bytes.fromhex(facts["node"])),
        host=facts["host"],
        executor=facts["executor"],
        jvm=Identity(*facts["jvm"]),
        keeper=Identity(*facts["keeper"]),
        folder=facts["folder"],
        address=facts["address"],
        cores=facts["cores"],
        store_bytes=facts["store_bytes"],
    )


def _spark_context(given: Any) -> SparkContext:
    from pyspark import SparkContext

    if isinstance(given, SparkContext):
        return given
    if type(given).__module__.startswith("pyspark.sql.connect"):
        raise TypeError(
            "this SparkSession is of Spark Connect, which has no SparkContext here: use a classic SparkSession"
        )
    inner = getattr(given, "sparkContext", None)
    if not isinstance(inner, SparkContext):
        raise TypeError(f"RayContext takes a SparkContext or a SparkSession, not {given!r}")
    return inner


def _count(nodes: int) -> str:
    return "1 node" if nodes == 1 else f"{nodes} nodes"
