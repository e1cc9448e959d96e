"""`RayContext`: sparkray's nodes inside the executors of a SparkContext, and this process as their driver.

    with RayContext(sc, object_store_memory="4g") as ctx:
        ...                                        # sparkray.remote, get, put, data work on the executors

In local mode there is one JVM, so one node, and the driver starts it itself: no Spark job is needed. On a cluster one
barrier stage starts a node in each executor (`launch`, `executor_main`), and the driver has one of its own, without
CPUs, for its objects. Over Spark Connect, too: its JVM is no child of this process, whatever its master (`connect`).

Whatever ends, ends all: each executor's node lives as long as that executor's JVM; the session lives as long as the
driver's node, which lives as long as this process; and `sc.stop()` stops the session first.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sparkray import session
from sparkray.bigdl_arguments import warn_of_obsolete
from sparkray.cluster_session import ClusterSession, ExecutorNode
from sparkray.cluster_start import start_cluster, start_local
from sparkray.ending import StopReport
from sparkray.environments import environment
from sparkray.init_arguments import known_to_us
from sparkray.options import thousandths
from sparkray.preflight import STOPPED, LaunchPlan, look, look_or_wait
from sparkray.runtime_env import checked
from sparkray.sizing import Wishes, is_local, memory_bytes, show_bytes
from sparkray.spark_facts import ctrl_c_is_told
from sparkray.sparks import ClassicSpark, spark_of
from sparkray_core.run.core import Core
from sparkray_core.run.settings_sources import resolve
from sparkray_core.run.start import sweep
from sparkray_core.run.threads import VARIABLES as THREAD_VARIABLES

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession
    from pyspark.sql.connect.session import SparkSession as ConnectSession

__all__ = ["ExecutorNode", "RayContext"]

log = logging.getLogger(__name__)


class RayContext:
    """See the module. Making one starts nothing; `init` does."""

    _active: ClassVar[RayContext | None] = None

    def __init__(
        self,
        sc: SparkContext | SparkSession | ConnectSession,
        num_ray_nodes: int | None = None,
        ray_node_cpu_cores: int | None = None,
        object_store_memory: int | str | None = None,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        verbose: bool = False,
        system_config: Mapping[str, Any] | None = None,
        elastic: bool = False,
        min_ray_nodes: int | None = None,
        namespace: str | None = None,
        log_to_driver: bool = True,
        start_timeout: float | None = None,
        settings: Mapping[str, Any] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        **obsolete: Any,
    ) -> None:
        """
        Args:
            sc: where the nodes shall live. A SparkSession may be one of Spark Connect.
            num_ray_nodes: one to an executor; as many as there are executors, if not given.
            ray_node_cpu_cores: CPUs that each node hands out; those of its executor, if not given. They are shared
                with Spark, which does not know of them.
            object_store_memory: of each node, in bytes or like "4g" (binary units); 30 % of the host's memory, divided
                by the nodes on it, if not given. Memory is taken as it is written to.
            resources: further resources of each node by name, to be asked for with `resources=`.
            labels: names and values that describe each node.
            env: environment variables for all of sparkray's processes, workers included.
            verbose: say on stderr what is going to be started, and what happens meanwhile.
            system_config: Ray's; of it, the names are taken that are a setting's.
            elastic: an executor that Spark starts later, or for one that died, gets a node, too. The head is the
                driver's then, so that no executor's end ends the session. With spark.dynamicAllocation.enabled this is
                always so.
            min_ray_nodes: with `elastic`, or dynamic allocation: the session begins with so many; the others of
                `num_ray_nodes` join when Spark has executors for them. All of them, if not given.
            namespace: of the names of actors, where none is given with the name.
            log_to_driver: show what workers print, with the name and pid of who printed it.
            start_timeout: seconds for the whole of it; the setting `start_limit_s` if not given.
            settings: by name; see `docs/settings.md`. What is not given is taken from the driver's environment, then
                from a file.
            runtime_env: of all tasks and actors, which may lay their own over it: see `sparkray.runtime_env`.
            obsolete: further arguments of BigDL's (`bigdl_arguments`); a DeprecationWarning says what replaces them.

        Raises:
            TypeError: an unknown argument; `sc` is neither.
            ValueError: an argument out of range; `BadSetting`, if it is a setting.
        """
        warn_of_obsolete(obsolete, "RayContext", stacklevel=3)
        self.num_ray_nodes = num_ray_nodes
        self.ray_node_cpu_cores = ray_node_cpu_cores
        self.settings = resolve({**known_to_us(system_config), **(settings or {})})
        if start_timeout is not None and start_timeout <= 0:
            raise ValueError(f"start_timeout must be above 0 seconds, not {start_timeout!r}")
        self.object_store_memory = memory_bytes(object_store_memory)
        self.resources = {name: thousandths(amount) for name, amount in (resources or {}).items()}
        self.labels = dict(labels or {})
        # What the user has said of threads holds in the executors too, whose own environment is Spark's.
        threads = {name: os.environ[name] for name in sorted(THREAD_VARIABLES) if name in os.environ}
        self.env = {**threads, **{str(name): str(value) for name, value in (env or {}).items()}}
        if min_ray_nodes is not None and (
            isinstance(min_ray_nodes, bool) or not isinstance(min_ray_nodes, int) or min_ray_nodes < 1
        ):
            raise ValueError(f"min_ray_nodes must be a whole number above 0, not {min_ray_nodes!r}")
        self.elastic, self.min_ray_nodes = elastic, min_ray_nodes
        self.verbose = verbose
        self.namespace = namespace or ""
        self.log_to_driver = log_to_driver
        self.start_timeout = self.settings.start_limit_s if start_timeout is None else start_timeout
        self.runtime_env = checked(runtime_env)
        self.spark = spark_of(sc, self.start_timeout)
        self.address_info: dict[str, Any] = {}
        self.executors: list[ExecutorNode] = []
        self.last_stop = StopReport()
        self._session: ClusterSession | None = None
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
    def sc(self) -> SparkContext:
        """
        Raises:
            RuntimeError: over Spark Connect there is none.
        """
        if not isinstance(self.spark, ClassicSpark):
            raise RuntimeError("over Spark Connect there is no SparkContext: use the SparkSession")
        return self.spark.sc

    @property
    def initialized(self) -> bool:
        """It was started, and its session goes on."""
        return self._session is not None and self._session.goes_on

    @property
    def is_local(self) -> bool:
        return not self.spark.is_remote and is_local(self.spark.master)

    @property
    def core(self) -> Core:
        """This process's half of the engine; its `token` is the session's.

        Raises:
            RuntimeError: not started.
        """
        if self._session is None:
            raise RuntimeError("this RayContext is not running: call its init()")
        return self._session.core

    @property
    def token(self) -> bytes:
        """The session's secret, which every connection to a raylet shows."""
        return self.core.token

    # ------------------------------------------------------------------ start
    def init(self, driver_cores: int = 0, **obsolete: Any) -> dict[str, Any]:
        """Start the nodes, and make their session the one of this process. A second call changes nothing.

        Args:
            driver_cores: CPUs that the driver's own node hands out; in local mode its node is the only one, and this
                changes nothing.
            obsolete: as for `RayContext`.

        Returns:
            Addresses, under the names that Ray's `init` uses.

        Raises:
            UnfitSpark: this SparkContext cannot host the nodes that were asked for; the text says what to set.
            StartFailed, NodeStartError: they did not come up. Nothing is left of them.
            RuntimeError: another session is up in this process, or the SparkContext is stopped.
        """
        warn_of_obsolete(obsolete, "RayContext.init", stacklevel=3)
        if isinstance(driver_cores, bool) or not isinstance(driver_cores, int) or driver_cores < 0:
            raise ValueError(f"driver_cores must be a whole number of 0 or more, not {driver_cores!r}")
        with self._lock, ctrl_c_is_told():
            if self.initialized:
                return self.address_info
            self.stop()  # the remains, if the session ended by itself
            if self.spark.stopped:
                raise RuntimeError(STOPPED)
            if session.is_initialized():
                raise RuntimeError(
                    "a sparkray session is up in this process already: call sparkray.shutdown() or RayContext.stop() "
                    "first"
                )
            began = time.monotonic()
            deadline = began + self.start_timeout
            wishes, share = self.wishes(), self.settings.object_store_share
            looked = look_or_wait(self.spark, wishes, self.start_timeout, share, deadline, self.elastic)
            chosen = looked.nodes
            self.tell(f"to be started:\n{looked}")
            for note in chosen.notes:
                log.warning("%s", note)
            self._session = started = ClusterSession(self.env, self.start_timeout, self.log_to_driver, self.settings)
            sweep(started.base_folder, self.settings.keep_logs)
            try:
                if chosen.in_driver:
                    start_local(self, chosen, started)
                else:
                    start_cluster(self, chosen, started, deadline, driver_cores)
                started.watch_losses(self.spark)
                started.hook(self.spark.handle, self.stop)
                self.core.env = environment(self.core, self.runtime_env)
                session.adopt(self)
                self.executors, self.address_info = started.executors, started.address_info()
            except BaseException:  # a Ctrl-C too
                self._end("its start failed")
                raise
            self.tell(f"ready after {time.monotonic() - began:.2f} s")
            RayContext._active = self
            return self.address_info

    def plan(self) -> LaunchPlan:
        """Show what `init` would start, on stdout, and start nothing.

        Raises:
            UnfitSpark: `init` could not; the text says which setting to change.
        """
        found = look(self.spark, self.wishes(), self.start_timeout, self.settings.object_store_share, self.elastic)
        sys.stdout.write(f"{found}\n")
        return found

    def wishes(self) -> Wishes:
        """What was asked for, of the number and size of nodes."""
        return Wishes(self.num_ray_nodes, self.ray_node_cpu_cores, self.object_store_memory)

    def tell(self, what: str) -> None:
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
            self._end("RayContext.stop() was called")
            return self.last_stop

    def end(self) -> bool:
        """For `sparkray.shutdown()`: whether all of it is gone."""
        return self.stop().clean

    def _end(self, why: str) -> None:
        started, self._session = self._session, None
        self.executors, self.address_info = [], {}
        if started is not None:
            self.last_stop = started.end(why)
            log.info("%s", self.last_stop)

    def disconnect(self) -> None:
        """The same as `stop`, by Ray's name for it."""
        self.stop()

    def purge(self) -> None:
        """The same as `stop`, by BigDL's name for what ended the nodes, too."""
        self.stop()

    @property
    def redis_address(self) -> str | None:
        """The head's address, by the name that BigDL uses; None while nothing runs."""
        return self.address_info.get("redis_address")

    def __enter__(self) -> RayContext:
        self.init()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = _count(len(self.executors)) if self.initialized else "not running"
        return f"<RayContext on {self.spark.name}: {state}>"

    def _repr_html_(self) -> str:
        if not self.initialized:
            return f"<b>RayContext</b> on <code>{self.spark.name}</code>: not running"
        rows = "".join(
            f"<tr><td><code>{one.node.hex()}</code></td><td>{one.executor}</td><td>{one.cores}</td>"
            f"<td>{show_bytes(one.store_bytes)}</td></tr>"
            for one in self.executors
        )
        return (
            f"<b>RayContext</b> on <code>{self.spark.name}</code>"
            f"<table><tr><th>node</th><th>executor</th><th>CPUs</th><th>object store</th></tr>{rows}</table>"
        )


def _count(nodes: int) -> str:
    return "1 node" if nodes == 1 else f"{nodes} nodes"
