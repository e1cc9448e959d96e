"""One session inside Spark, from the first process to the last: what `RayContext` starts and stops."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparkray import jobs
from sparkray.elastic import ElasticNodes
from sparkray.ending import NodeWatch, StopReport, nodes_in, wait_gone
from sparkray.losses import Losses
from sparkray.sparks import AnySpark
from sparkray_core.ids import HEAD, NodeId, new_process_id
from sparkray_core.run.config import NodeConfig, default_base_folder
from sparkray_core.run.core import Core
from sparkray_core.run.processes import Identity, identify
from sparkray_core.run.start import StartedNode, StartingNode, new_session_name, sweep
from sparkray_core.settings import Settings

GENTLE_END_S = 3.0  # for the nodes to end by themselves, once the head has told them
END_S = 5.0  # and after SIGTERM, and after SIGKILL, to their keepers


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
    executor_id: str | None = None  # by which its scheduler does; None in local mode
    hosts_head: bool = False

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> ExecutorNode:
        """Of what a task says when its node is ready (`executor_main`)."""
        return cls(
            node=NodeId(bytes.fromhex(facts["node"])),
            host=facts["host"],
            executor=facts["executor"],
            jvm=Identity(*facts["jvm"]),
            keeper=Identity(*facts["keeper"]),
            folder=facts["folder"],
            address=facts["address"],
            cores=facts["cores"],
            store_bytes=facts["store_bytes"],
            executor_id=facts.get("executor_id"),
            hosts_head=facts.get("hosts_head", False),
        )


class ClusterSession:
    """As much of a session as has come up."""

    def __init__(
        self, environment: Mapping[str, str], limit: float, log_to_driver: bool, settings: Settings | None = None
    ) -> None:
        """
        Args:
            environment: of the node that this process starts, beyond our own.
            limit: seconds for its start.
        """
        self.name = new_session_name()
        self._pid = os.getpid()
        self._settings = settings or Settings()
        self.base_folder = default_base_folder(self._settings.base_folder)
        self._environment, self._limit, self._log_to_driver = environment, limit, log_to_driver
        self.own: StartedNode | None = None  # the node that this process started: in local mode the only one
        self.executors: list[ExecutorNode] = []
        self.elastic: ElasticNodes | None = None  # where executors' nodes come and go
        self._starting: StartingNode | None = None
        self._core: Core | None = None
        self._losses: Losses | None = None
        self._unhook: Callable[[], None] | None = None

    @property
    def core(self) -> Core:
        assert self._core is not None
        return self._core

    @property
    def goes_on(self) -> bool:
        return self._core is not None and self._core.owner.ended is None

    def begin_own(self, config: NodeConfig) -> None:
        """Have this process's own node come up, as far as it can. `connect` has to follow."""
        self._starting = StartingNode(config, sys.executable, self._environment)

    def connect(self, head_address: str | None = None) -> StartedNode:
        """Wait for this process's own node, and connect to it.

        Args:
            head_address: where the head is; None: this node hosts it.

        Raises:
            NodeStartError: it did not come up.
        """
        assert self._starting is not None
        if head_address is not None:
            self._starting.tell_head(head_address)
        self.own = self._starting.ready(self._limit)
        self._starting = None
        config = self.own.config
        core = Core(new_process_id(config.node), self.own.folder, config.token, "driver", self._settings)
        core.namespace = config.namespace
        core.printer.shown = self._log_to_driver
        core.connect()
        core.map_ahead()
        jobs.register(core)
        self._core = core
        return self.own

    def alive(self) -> set[str]:
        """The ids of the session's nodes that live, in hexadecimal.

        Raises:
            RaySystemError: the session has ended.
        """
        return {facts["node"].hex() for facts in self.core.ask(HEAD, "nodes") if facts["alive"]}

    def watch_losses(self, spark: AnySpark) -> None:
        """Ask Spark, from now on, about executors whose nodes are gone."""
        assert self.own is not None
        self._losses = Losses(spark, self.core, self.own.config.host, lambda: self.executors)

    def hook(self, sc: Any, stop_session: Callable[[], object]) -> None:
        """Have `sc.stop()`, by whatever way it is called, stop the session first."""
        stop_spark = sc.stop

        def stop() -> None:
            stop_session()
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
            "redis_address": own.head_address,  # so BigDL's users know it
            "node_id": self.core.node.hex(),
            "node_ip_address": own.config.host,
            "session_dir": own.folder,
            "raylet_socket_name": socket_path,
            "object_store_address": socket_path,
            "webui_url": "",
        }

    def end(self, why: str) -> StopReport:
        """End it on all nodes: by the head's word, then, on this host, by signals."""
        if os.getpid() != self._pid:  # a forked child: the session is its parent's
            return StopReport()
        began = time.monotonic()
        if self._unhook is not None:
            self._unhook()
        if self.elastic is not None:
            self.elastic.close()
        if self._starting is not None:
            self._starting.give_up()
        lost = {} if self._losses is None else self._losses.close()
        watches = self._watches()
        if self._core is not None:
            if self.goes_on:
                self._core.end_session(why)
            self._core.close(why)
        # A keeper that was killed while its node started has left a folder, and there was no raylet yet to remove it.
        sweep(self.base_folder, self._settings.keep_logs)
        if not wait_gone(watches, GENTLE_END_S):
            sweep(self.base_folder, self._settings.keep_logs)  # its children needed a moment
            for how in (signal.SIGTERM, signal.SIGKILL):
                for watch in watches:
                    watch.end_keeper(how)
                if wait_gone(watches, END_S):
                    break
        if self.own is not None:
            self.own.stop()
        here = {watch.node: watch for watch in watches}
        reports = [watch.report() for watch in watches]
        reports += [NodeWatch.elsewhere(one.node, one.host) for one in self.executors if one.node not in here]
        reports = [replace(report, lost=lost.get(NodeId(report.node), "")) for report in reports]
        return StopReport(tuple(reports), time.monotonic() - began)

    def _watches(self) -> list[NodeWatch]:
        """Of the nodes on this host, our own last; also those that nobody heard of, since their start was cut off."""
        found: list[NodeWatch] = []
        own = self.own
        if own is not None:
            host, keeper = own.config.host, identify(own.pid) or Identity(own.pid, 0.0)
            found = [
                NodeWatch(one.node, host, one.keeper, one.folder)
                for one in self.executors
                if one.host == host and one.node != own.config.node
            ]
            found.append(NodeWatch(own.config.node, host, keeper, own.folder))
        known = {watch.folder for watch in found}
        return [
            watch for watch in nodes_in(os.path.join(self.base_folder, self.name)) if watch.folder not in known
        ] + found
