"""Finding a session that is up, its key, and a node of it on this host: for `init(address=...)` and the command line.

A process of a session speaks to the raylet of its own host, over a Unix socket. Where the session has no node on this
host, whoever joins starts one that has nothing to give and lives as long as its starter (a *visitor*).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sparkray_core.errors import AuthenticationError
from sparkray_core.ids import new_node_id
from sparkray_core.run.config import NodeConfig, default_base_folder
from sparkray_core.run.published import BadKey, PublishedNode, SessionKey, published_nodes
from sparkray_core.run.start import NodeStartError, StartedNode, start_node
from sparkray_core.settings import Settings

log = logging.getLogger(__name__)

ADDRESS_VARIABLES = ("SPARKRAY_ADDRESS", "RAY_ADDRESS")
KEY_VARIABLE, KEY_FILE_VARIABLE = "SPARKRAY_KEY", "SPARKRAY_KEY_FILE"
CONNECT_LIMIT_S = 5.0  # for a TCP connection to the head, before anything is started
VISITOR_STORE_BYTES = 256 << 20  # for what the driver itself puts or reads; memory is taken as it is written to
LOCAL, AUTO = "local", "auto"


@dataclass(frozen=True, slots=True)
class Target:
    """A session to join."""

    address: str  # host:port of its head
    key: SessionKey
    here: PublishedNode | None  # a node of it on this host


def find(address: str | None, key_file: str | None = None, base_folder: str | None = None) -> Target | None:
    """What `init(address)` should join; None: start a session here.

    Args:
        address: None: the one in SPARKRAY_ADDRESS or RAY_ADDRESS, else the latest session of this host and user that
            `sparkray start` began, else none. "auto": the same, but there must be one; one of another driver's `init`
            counts, too. "local": none. "host:port": that one.
        base_folder: the setting of that name.
        key_file: where the session's key is; not needed if it is in the environment or a node of it is on this host.

    Raises:
        ConnectionError: "auto", and no session is there; or nobody listens at the address.
        AuthenticationError: the session's key is not known here.
        ValueError: the address is not of this form.
    """
    if address == LOCAL:
        return None
    if address in (None, AUTO):
        named = next((os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)), None)
        if named is not None and named not in (LOCAL, AUTO):
            address = named
        elif named is not None and address is None:
            return find(named, key_file, base_folder)
    nodes = published_nodes(default_base_folder(base_folder))
    if address in (None, AUTO):
        started = [node for node in nodes if node.by == "start"]
        candidates = started or (nodes if address == AUTO else [])
        if candidates:
            return Target(bare(candidates[0].head_address), candidates[0].key, candidates[0])
        if address == AUTO:
            raise ConnectionError(
                "Could not find any running sparkray session of this user on this host. Start one with `sparkray start "
                "--head`, or name one by its address (host:port)."
            )
        return None
    assert address is not None
    host, port = parse(address)
    key, here = _key_for(host, port, nodes, key_file)
    if here is None:
        refuse_if_nobody_listens(host, port)
    return Target(f"{host}:{port}", key, here)


def parse(address: str) -> tuple[str, int]:
    """Host and port of "host:port" (or "tcp://host:port").

    Raises:
        ValueError: it is something else.
    """
    host, colon, port = bare(address).rpartition(":")
    if address.startswith("ray://"):
        raise ValueError(f"address {address!r}: there is no thin client; join as a driver, with host:port")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"address {address!r} is none of 'auto', 'local' and host:port")
    return host, int(port)


def bare(address: str) -> str:
    return address.removeprefix("tcp://")


def refuse_if_nobody_listens(host: str, port: int) -> None:
    """
    Raises:
        ConnectionError: the text says what the system said.
    """
    try:
        socket.create_connection((host, port), CONNECT_LIMIT_S).close()
    except OSError as error:
        raise ConnectionError(
            f"no sparkray session can be reached at {host}:{port}: {error.strerror or error}. Is its head up, and does "
            f"it listen on an address that this host reaches (`sparkray start --head --host ...`)?"
        ) from None


def _key_for(
    host: str, port: int, nodes: Iterable[PublishedNode], key_file: str | None
) -> tuple[SessionKey, PublishedNode | None]:
    """The key that was given, else the one of a node here; and a node here that fits it."""
    at_address = [node for node in nodes if _is_at(node, host, port)]
    given = given_key(key_file)
    if given is None:
        if at_address:
            return at_address[0].key, at_address[0]
        raise AuthenticationError(
            f"the key of the session at {host}:{port} is not known: no node of it runs on this host as this user, and "
            f"neither {KEY_VARIABLE} nor {KEY_FILE_VARIABLE} is set. `sparkray start --head` says where the key is."
        )
    return given, next((node for node in at_address if node.key == given), None)


def given_key(key_file: str | None = None) -> SessionKey | None:
    """The key of that file, else of SPARKRAY_KEY, else of the file in SPARKRAY_KEY_FILE.

    Raises:
        AuthenticationError: it cannot be read, or is no key.
    """
    try:
        path = key_file
        if path is None:
            if os.environ.get(KEY_VARIABLE):
                return SessionKey.from_text(os.environ[KEY_VARIABLE])
            path = os.environ.get(KEY_FILE_VARIABLE)
        if path is None:
            return None
        with open(path) as file:
            return SessionKey.from_text(file.read())
    except (OSError, BadKey) as error:
        raise AuthenticationError(f"the key cannot be used: {error}") from None


def _is_at(node: PublishedNode, host: str, port: int) -> bool:
    head_host, head_port = parse(node.head_address)
    if port != head_port:
        return False
    ours = numeric(host)
    return host == head_host or ours == numeric(head_host) or (node.is_head and is_of_this_machine(ours))


def numeric(host: str) -> str:
    """The address of `host`, an IPv4 one if there is any; the name itself where it is not known."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return host
    return str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])


def is_of_this_machine(address: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as trial:
            trial.bind((address, 0))
    except OSError:
        return False
    return True


def own_address(towards: str) -> str:
    """The address under which `towards` reaches this machine; no packet is sent for that."""
    there = numeric(towards)
    with socket.socket(socket.AF_INET6 if ":" in there else socket.AF_INET, socket.SOCK_DGRAM) as trial:
        trial.connect((there, 9))
        return str(trial.getsockname()[0])


def start_visitor(target: Target, sys_path: tuple[str, ...], settings: Settings) -> StartedNode:
    """A node of the session on this host that has nothing to give, and ends with this process.

    Raises:
        AuthenticationError: the session's head did not take the key.
        ConnectionError: it cannot be reached.
    """
    host, port = parse(target.address)
    config = joining_config(target.key, f"tcp://{numeric(host)}:{port}", own_address(host), settings)
    config = replace(config, store_bytes=VISITOR_STORE_BYTES, visits=True, prestart=0, sys_path=sys_path)
    return start_joining(config)


def joining_config(key: SessionKey, head_address: str, host: str, settings: Settings) -> NodeConfig:
    """Of a node that joins; with no resources of its own yet."""
    return NodeConfig(
        session=key.session,
        node=new_node_id(),
        token=key.token,
        is_head=False,
        head_address=head_address,
        resources={},
        store_bytes=1,
        curve_public=key.curve_public,
        curve_secret=key.curve_secret,
        bind_host=numeric(host),
        host=host,
        base_folder=default_base_folder(settings.base_folder),
        settings=settings,
    )


def start_joining(config: NodeConfig) -> StartedNode:
    """Start a node of a session that is up.

    Raises:
        AuthenticationError: the session's head did not take the key.
        ConnectionError: it cannot be reached, or the node failed; the text says how.
    """
    try:
        return start_node(config)
    except NodeStartError as error:
        if error.refused:
            raise AuthenticationError(f"the session at {bare(config.head_address or '')} refused the key") from None
        raise ConnectionError(f"the session at {bare(config.head_address or '')} was not joined: {error}") from None
