"""Nodes that belong to no driver: what `sparkray start` starts and `sparkray stop` ends."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sparkray.ending import NodeWatch, StopReport, end_all
from sparkray.joining import bare, joining_config, numeric, own_address, parse, refuse_if_nobody_listens, start_joining
from sparkray.options import thousandths
from sparkray_core.ids import new_node_id
from sparkray_core.run.config import NodeConfig, NoTie, StdinTie, default_base_folder
from sparkray_core.run.published import KEY_FILE, PublishedNode, SessionKey, published_nodes
from sparkray_core.run.settings_sources import resolve
from sparkray_core.run.start import StartedNode, new_session_name, new_token, start_node, sweep
from sparkray_core.settings import Settings

DEFAULT_PORT = 6379  # Ray's
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node has to give."""

    num_cpus: float | None = None  # None: as many as this process may use
    num_gpus: float | None = None  # None: as many as this process may use
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    store_bytes: int | None = None  # None: a share of the machine's memory
    memory: int | None = None  # bytes to hand out; None: what the store leaves

    def on(self, config: NodeConfig) -> NodeConfig:
        """That node, with these.

        Raises:
            ValueError: an amount that is negative or finer than a thousandth; CPU or GPU among `resources`.
        """
        from sparkray.session import default_memory, default_store_bytes, usable_cpus, usable_gpus

        clash = {"CPU", "GPU"} & set(self.resources)
        if clash:
            raise ValueError(f"{clash.pop()} has an option of its own: do not give it with the resources")
        cpus = usable_cpus() if self.num_cpus is None else self.num_cpus
        store_bytes = default_store_bytes(config.settings) if self.store_bytes is None else self.store_bytes
        amounts = {
            "CPU": cpus,
            "GPU": usable_gpus(self.num_gpus),
            "memory": default_memory(store_bytes) if self.memory is None else self.memory,
            **self.resources,
        }
        negative = [name for name, amount in amounts.items() if amount < 0]
        if negative:
            raise ValueError(f"{negative[0]} must not be negative")
        return replace(
            config,
            resources={name: thousandths(amount) for name, amount in amounts.items() if amount},
            labels=dict(self.labels),
            store_bytes=store_bytes,
            prestart=config.settings.prestarted(int(cpus)),
        )


def start_head(offer: Offer, host: str = LOOPBACK, port: int = DEFAULT_PORT, tied: bool = False) -> StartedNode:
    """Start a session whose head is here.

    Args:
        host: the address to listen on, and under which other nodes reach it. 0.0.0.0 listens on all.
        port: 0 takes a free one.
        tied: it ends with this process; else it lives until `stop_all`.

    Raises:
        NodeStartError: it did not come up; the text says why.
    """
    config = head_config(offer, host, port, resolve(), "start", tied)
    sweep(config.base_folder, config.settings.keep_logs)
    return _let_go(start_node(config), tied)


def head_config(offer: Offer, host: str, port: int, settings: Settings, by: str, tied: bool) -> NodeConfig:
    """Of the first node of a new session.

    Args:
        by: what starts it, for those who look for sessions.
        tied: it ends with this process.
    """
    bind, reached = _binding(host, towards=None)
    config = NodeConfig(
        session=new_session_name(),
        node=new_node_id(),
        token=new_token(),
        is_head=True,
        head_address=None,
        resources={},
        store_bytes=1,
        bind_host=bind,
        host=reached,
        port=port,
        tie=StdinTie() if tied else NoTie(),
        published_by=by,
        base_folder=default_base_folder(settings.base_folder),
        settings=settings,
    )
    return offer.on(config)


def start_further(
    offer: Offer, address: str, key: SessionKey, host: str | None = None, tied: bool = False
) -> StartedNode:
    """Start a node that joins the session whose head is at `address`.

    Args:
        host: the address to listen on, and under which other nodes reach it; None: the one that reaches the head.

    Raises:
        AuthenticationError: the head refused the key.
        ConnectionError: it cannot be reached.
    """
    head_host, head_port = parse(address)
    refuse_if_nobody_listens(head_host, head_port)
    config = further_config(offer, address, key, host, resolve(), "start", tied)
    sweep(config.base_folder, config.settings.keep_logs)
    return _let_go(start_joining(config), tied)


def further_config(
    offer: Offer, address: str, key: SessionKey, host: str | None, settings: Settings, by: str, tied: bool
) -> NodeConfig:
    """Of a node for the session whose head is at `address`. (`by`, `tied`: see `head_config`.)"""
    head_host, head_port = parse(address)
    bind, reached = _binding(host or own_address(head_host), towards=head_host)
    config = joining_config(key, f"tcp://{numeric(head_host)}:{head_port}", reached, settings)
    return replace(offer.on(config), bind_host=bind, tie=StdinTie() if tied else NoTie(), published_by=by)


def _let_go(node: StartedNode, tied: bool) -> StartedNode:
    if not tied:
        node.leave()
    return node


def _binding(host: str, towards: str | None) -> tuple[str, str]:
    """(numeric address to bind, address that others are told)."""
    address = numeric(host)
    if address in ("0.0.0.0", "::"):
        return address, own_address(towards or "192.0.2.1")  # of the documentation's net: the default route's
    return address, address if address == LOOPBACK else host


# ------------------------------------------------------------------------------------------ the end
def started_nodes() -> list[PublishedNode]:
    """Of this user, on this host, in whatever session."""
    return [node for node in published_nodes(default_base_folder(resolve().base_folder)) if node.by == "start"]


def stop_all(force: bool = False) -> StopReport:
    """End all nodes that `sparkray start` started here; with a session's head the session ends on all hosts.

    Args:
        force: kill at once instead of telling them first.
    """
    watches = [NodeWatch(node.node, bare(node.head_address), node.keeper, node.folder) for node in started_nodes()]
    report = end_all(watches, force)
    settings = resolve()
    sweep(default_base_folder(settings.base_folder), settings.keep_logs)
    return report


def published_at(node: StartedNode) -> str:
    """The file with the key of its session."""
    return os.path.join(node.folder, KEY_FILE)


def wait_end(node: StartedNode) -> None:
    """Until the node has ended."""
    while node.is_running():
        time.sleep(0.1)
