"""Several nodes on this host, as an object: Ray's `ray.cluster_utils.Cluster`, for tests of what runs on many nodes.

with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}, connect=True) as cluster:
    node = cluster.add_node(num_cpus=2, resources={"special": 1})
    ...                     # sparkray.remote, get, ... in this session
    cluster.kill(node)      # as if its machine lost power
    cluster.wait_for_nodes()

The nodes are real: each is its keeper, raylet, store, zygote and workers, and speaks to the others over TCP. They end
with this process, and nothing is left of them.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psutil

from sparkray import session
from sparkray.ending import NodeWatch, StopReport, end_all
from sparkray.init_arguments import check, sort_out
from sparkray.joining import bare
from sparkray.node_command import LOOPBACK, Offer, further_config, head_config
from sparkray.visit import visiting
from sparkray_core.ids import HEAD
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.core import Core
from sparkray_core.run.processes import Identity, identify
from sparkray_core.run.published import KEY_FILE, SessionKey
from sparkray_core.run.settings_sources import resolve
from sparkray_core.run.start import NodeStartError, StartedNode, StartingNode, sweep

STARTED_BY = "cluster"
_INIT_ALONE: Mapping[str, Any] = {  # what `init` takes and a node does not
    **dict.fromkeys(("address", "namespace", "log_to_driver", "job_config", "configure_logging")),
    **dict.fromkeys(("logging_level", "logging_format", "logging_config")),
    "ignore_reinit_error": False,
}
STORE_BYTES = 150 << 20  # Ray's, for nodes of a Cluster; memory is taken as it is written to
_ENDS_NODE = frozenset({"all", "keeper", "raylet", "zygote"})  # without any of these a node cannot go on
PARTS = (*sorted(_ENDS_NODE), "head", "schedulers", "shards", "workers")
_KILL_LIMIT_S = 10.0
_LOOK_S = 0.01


class ClusterNode:
    """A node of a `Cluster`."""

    def __init__(self, config: NodeConfig, starting: StartingNode) -> None:
        self.node_id = self.unique_id = config.node.hex()  # as `sparkray.nodes()` has it; the second name is Ray's
        self.is_head = config.is_head
        self.node_ip_address = config.host
        self.folder = config.folder
        self.raylet_socket_name = config.socket_path
        self.killed = False  # it is to be gone, and not because it was told to
        self._keeper = Identity(0, 0.0)  # until it is up
        self._starting = starting
        self._started: StartedNode | None = None
        self._failure: NodeStartError | None = None
        self._watch: NodeWatch | None = None  # as it was before somebody killed a part of it

    def __repr__(self) -> str:
        return f"<ClusterNode {self.node_id}{', the head' if self.is_head else ''}>"

    @property
    def started(self) -> StartedNode:
        """Once it is up.

        Raises:
            NodeStartError: it does not come up; nothing is left of it.
        """
        if self._failure is not None:
            raise self._failure
        if self._started is None:
            try:
                self._started = self._starting.ready()
            except NodeStartError as error:
                self._failure = error
                raise
            keeper = identify(self._started.pid)
            self._keeper = keeper or Identity(self._started.pid, 0.0)  # gone already: an identity that nobody has
        return self._started

    def came_up(self) -> bool:
        """Whether its start succeeded; waits for that."""
        with contextlib.suppress(NodeStartError):
            return bool(self.started)
        return False

    @property
    def address(self) -> str:
        """host:port of its raylet."""
        return bare(self.started.address)

    @property
    def pid(self) -> int:
        """Of its keeper, the parent of all its processes."""
        return self.started.pid

    def is_running(self) -> bool:
        return self.started.is_running()

    def pids(self, part: str = "all") -> list[int]:
        """
        Args:
            part: "keeper", "raylet", "zygote", "workers"; "head", "schedulers" and "shards", of the first node; "all"
                of them, in the order in which they can be ended without one of them taking notice of the end of
                another.

        Returns:
            Those that live.
        """
        if part not in PARTS:
            raise ValueError(f"part {part!r} is none of {', '.join(PARTS)}")
        if not self.is_running():
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            keeper = psutil.Process(self.pid)
            every = [(_part(child), child) for child in keeper.children()]
            schedulers = [child.pid for name, child in every if name == "scheduler"]
            if part == "schedulers":
                return schedulers
            shards = [child.pid for name, child in every if name == "shard"]
            if part == "shards":
                return shards
            children = {name: child for name, child in every if name not in ("scheduler", "shard")}
            if part == "keeper":
                return [self.pid]
            forked = children["zygote"].children() if "zygote" in children else []
            if part == "workers":
                return [child.pid for child in forked if _part(child) != "spare"]
            if part != "all":
                return [children[part].pid] if part in children else []
            first = [children[name].pid for name in ("raylet", "head") if name in children]
            last = [child.pid for child in children.values() if child.pid not in first]
            return [*first, self.pid, *last, *schedulers, *shards, *(child.pid for child in forked)]
        return []

    def send_signal(self, number: int, part: str = "all") -> list[int]:
        """To those processes: SIGSTOP makes a node that says nothing more, SIGCONT lets it go on.

        Returns:
            Their pids.

        Raises:
            ProcessLookupError: there is none.
        """
        pids = self.pids(part)
        if not pids:
            raise ProcessLookupError(f"{self} has no process to send a signal to: part {part!r} does not run")
        if number == signal.SIGKILL:
            self._watch = self.watch()
        self.killed |= number == signal.SIGKILL and part in _ENDS_NODE
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids

    def kill(self, part: str = "all") -> None:
        """kill -9, and wait until these processes are gone.

        Args:
            part: see `pids`. Without its raylet, zygote or keeper a node ends by itself. "all" is what a machine
                does that loses power: nobody takes leave.
        """
        watched = [found for found in map(identify, self.pids(part)) if found is not None]
        self.send_signal(signal.SIGKILL, part)
        deadline = time.monotonic() + _KILL_LIMIT_S
        while any(identify(one.pid) == one for one in watched):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self}: what was killed ({part}) is still there after {_KILL_LIMIT_S:g} s")
            time.sleep(_LOOK_S)

    def kill_raylet(self, check_alive: bool = True) -> None:
        """`kill("raylet")`, by Ray's name."""
        self._kill_by_rays_name("raylet", check_alive)

    def kill_gcs_server(self, check_alive: bool = True) -> None:
        """`kill("head")`, by Ray's name."""
        self._kill_by_rays_name("head", check_alive)

    def _kill_by_rays_name(self, part: str, check_alive: bool) -> None:
        try:
            self.kill(part)
        except ProcessLookupError:
            if check_alive:
                raise

    def watch(self) -> NodeWatch:
        """For its end: all that belonged to it before any part was killed."""
        if self._watch is not None:
            return self._watch
        started = self.started
        return NodeWatch(bytes.fromhex(self.node_id), self.node_ip_address, self._keeper, started.folder)

    def wake(self) -> None:
        """If it is stopped: it would not hear that it is to end."""
        with contextlib.suppress(ProcessLookupError):
            self.send_signal(signal.SIGCONT)


class Cluster:
    """A session of its own with nodes of its own. Without `connect` this process need not be part of it."""

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: Mapping[str, Any] | None = None,
        shutdown_at_exit: bool = True,
    ) -> None:
        """
        Args:
            initialize_head: start the first node, which has the head, now.
            connect: and make this process a driver of the session.
            head_node_args: see `add_node`.
            shutdown_at_exit: at this process's exit wait for the end of the nodes. They end with it in any case.
        """
        self.head_node: ClusterNode | None = None
        self.worker_nodes: set[ClusterNode] = set()
        self.connected = False
        self._removed: set[str] = set()  # ids
        if not initialize_head and connect:
            raise RuntimeError("Cannot connect to uninitialized cluster.")
        if shutdown_at_exit:
            atexit.register(self.shutdown)
        if initialize_head:
            self.add_node(**(head_node_args or {}))
            if connect:
                self.connect()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    # ------------------------------------------------------------------ the session
    @property
    def address(self) -> str:
        """host:port of the head: for `init(address=...)`, here and in other processes of this host."""
        return bare(self._head.started.head_address)

    gcs_address = address

    @property
    def session_name(self) -> str:
        return self._head.started.config.session

    @property
    def key(self) -> SessionKey:
        """For those who join from where the nodes' folders are not seen."""
        config = self._head.started.config
        assert config.curve_public is not None
        assert config.curve_secret is not None
        return SessionKey(config.session, config.token, config.curve_public, config.curve_secret)

    @property
    def _head(self) -> ClusterNode:
        if self.head_node is None:
            raise RuntimeError("the cluster has no node yet: the first add_node() starts its head")
        return self.head_node

    def connect(self, namespace: str | None = None, **init_args: Any) -> Any:
        """Make this process a driver of the session: `sparkray.init` with its address. What that returns."""
        init_args.setdefault("base_folder", self._head.started.config.base_folder)
        joined = session.init(address=self.address, namespace=namespace, ignore_reinit_error=True, **init_args)
        self.connected = True
        return joined

    # ------------------------------------------------------------------ nodes
    def add_node(self, wait: bool = True, **node_args: Any) -> ClusterNode:
        """Start a node; the first one has the head.

        Args:
            wait: until it is up; else `wait_for_nodes` does that, and several come up at a time.
            node_args: num_cpus (1), num_gpus (0), memory, object_store_memory (150 MiB), resources, labels,
                env_vars (of its processes), node_ip_address (127.0.0.1; the address to listen on, by which the other
                nodes reach it), port (of the head; a free one), settings, or any setting by its name (one that
                concerns the session counts at its head). As in `init`, what can have no effect of Ray's further
                arguments is warned of.

        Raises:
            NodeStartError: it does not come up; nothing is left of it.
            TypeError, ValueError, RuntimeError, BadSetting: an argument; as in `init`.
        """
        config, environment = self._config(**node_args)
        sweep(config.base_folder, config.settings.keep_logs)
        node = ClusterNode(config, StartingNode(config, environment=environment))
        if wait:
            _ = node.started
        if self.head_node is None:
            self.head_node = node
        else:
            self.worker_nodes.add(node)
        return node

    def _config(
        self,
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        memory: int | None = None,
        object_store_memory: int | str = STORE_BYTES,
        resources: Mapping[str, float] | str | None = None,
        labels: Mapping[str, str] | None = None,
        env_vars: Mapping[str, str] | None = None,
        node_ip_address: str = LOOPBACK,
        port: int | None = None,
        settings: Mapping[str, Any] | None = None,
        _system_config: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> tuple[NodeConfig, dict[str, str]]:
        amounts = json.loads(resources) if isinstance(resources, str) else resources  # Ray takes JSON, too
        store_bytes = check(
            **_INIT_ALONE,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            resources=amounts,
            labels=labels,
            object_store_memory=object_store_memory,
        )
        known = [name for name in Cluster._config.__annotations__ if name not in ("more", "return")]
        wishes, _ = sort_out(more, settings, _system_config, known, whose="add_node")
        offer = Offer(num_cpus, num_gpus, amounts or {}, labels or {}, store_bytes, memory)
        chosen = resolve(wishes)
        if self.head_node is None:
            config = head_config(offer, node_ip_address, port or 0, chosen, STARTED_BY, tied=True)
        else:
            if port is not None:
                raise ValueError("port is the head's, and the cluster has one: leave it out")
            config = further_config(offer, self.address, self.key, node_ip_address, chosen, STARTED_BY, tied=True)
        return config, dict(env_vars or {})

    def remove_node(self, node: ClusterNode, allow_graceful: bool = True) -> StopReport:
        """End a node, and wait for that.

        Args:
            allow_graceful: it is told to end, and takes its leave; else all of it is killed at once.

        Returns:
            What was found of it before, and after.

        Raises:
            ValueError: this process is connected to it.
        """
        here = session.current()
        if here is not None and here.address_info["node_id"] == node.node_id:
            raise ValueError(
                "Removing a node that is connected to this client is not allowed, because it would break the driver: "
                "call sparkray.shutdown() first, or remove another node."
            )
        report = self._end([node], force=not allow_graceful)
        self._removed.add(node.node_id)
        self.worker_nodes.discard(node)
        if node is self.head_node:
            self.head_node = None
        return report

    def kill(self, node: ClusterNode, part: str = "all") -> None:
        """kill -9 to a node: see `ClusterNode.kill`. `wait_for_nodes` waits until the session knows."""
        node.kill(part)

    def wait_for_nodes(self, timeout: float = 30) -> None:
        """Until all nodes that were added have joined, and the head knows of the end of those that were removed or
        killed.

        Raises:
            TimeoutError: it says which are missing.
            NodeStartError: one does not come up.
            RuntimeError: this process is part of another session.
        """
        deadline = time.monotonic() + timeout
        nodes = [node for node in self.list_all_nodes() if node.started.is_running() and not node.killed]
        gone = (self._removed | {node.node_id for node in self.list_all_nodes()}) - {node.node_id for node in nodes}
        with self._asking() as core:
            while True:
                alive = {facts["node"].hex() for facts in core.ask(HEAD, "nodes") if facts["alive"]}
                missing = {node.node_id for node in nodes} - alive
                late = gone & alive
                if not missing and not late:
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"Timed out while waiting for nodes to join: after {timeout:g} s the head at {self.address} "
                        f"does not have {sorted(missing)}, and takes {sorted(late)} for alive, which have ended"
                    )
                time.sleep(_LOOK_S)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Core]:
        """Somebody who can ask the head."""
        here = session.current()
        if here is None:
            with visiting(self.address, os.path.join(self._head.folder, KEY_FILE)) as core:
                yield core
        elif here.core.session == self.session_name:
            yield here.core
        else:
            raise RuntimeError("this process is part of another session: call sparkray.shutdown() first")

    def list_all_nodes(self) -> list[ClusterNode]:
        """The head's node first. Killed ones are among them until they are removed."""
        return [*([self.head_node] if self.head_node is not None else []), *self.worker_nodes]

    def remaining_processes_alive(self) -> bool:
        """Whether all nodes run that were added and not removed."""
        return all(node.is_running() for node in self.list_all_nodes())

    # ------------------------------------------------------------------ the end
    def shutdown(self) -> StopReport:
        """Leave the session, if this process is in it, and end all nodes; nothing is left of them. What was found."""
        atexit.unregister(self.shutdown)
        nodes = self.list_all_nodes()
        here = session.current()
        if here is not None and self.head_node is not None and here.core.session == self.session_name:
            session.shutdown()
        self.connected = False
        report = self._end(nodes)
        self.worker_nodes.clear()
        self.head_node = None
        return report

    @staticmethod
    def _end(nodes: list[ClusterNode], force: bool = False) -> StopReport:
        nodes = [node for node in nodes if node.came_up()]
        if not nodes:
            return StopReport()
        watches = [node.watch() for node in nodes]
        for node in nodes:
            if node.is_running() and force:
                with contextlib.suppress(ProcessLookupError):  # it has ended since
                    node.kill()
            elif node.is_running():
                node.wake()
        config = nodes[0].started.config
        sweep(config.base_folder, config.settings.keep_logs)  # what the killed left
        report = end_all(watches)
        for node in nodes:
            node.started.stop()  # its keeper is reaped
        sweep(config.base_folder, config.settings.keep_logs)
        return report


_NAMES = {"shard": "sparkray-gcs-sh"}  # 15 characters are kept


def _part(process: psutil.Process) -> str:
    """Which of a node's processes it is."""
    with contextlib.suppress(psutil.Error):
        title = " ".join(process.cmdline())
        for part, words in (
            ("shard", "gcs shard"),
            ("raylet", "raylet"),
            ("head", "gcs"),
            ("zygote", "zygote"),
            ("scheduler", "scheduler"),
            ("spare", "spare worker"),
        ):
            if process.name() == _NAMES.get(part, f"sparkray-{part}") or title.startswith(f"sparkray: {words}"):
                return part
    return f"process {process.pid}"
