"""What a node's processes are told at their start. It travels as one JSON line on the keeper's stdin."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sparkray_core.ids import NodeId
from sparkray_core.settings import Settings
from sparkray_core.wire.hello import TOKEN_BYTES

NODE_ID_LABEL = "ray.io/node-id"  # Ray's name: libraries ask for it

_LONGEST_SOCKET_PATH = 103  # bytes, without the final zero: 107 on Linux, 103 on macOS
_LONGEST_SOCKET_NAME = len("/0123456789abcdef.sock")
_SESSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


class BadConfig(ValueError):
    """The keeper cannot start a node from this; the sentence says which field and why."""


TOLD_LATER = ""  # as head_address: by `start.StartingNode.tell_head`


@dataclass(frozen=True, slots=True)
class StdinTie:
    """The node lives as long as the process that started it: until the keeper's stdin ends."""


@dataclass(frozen=True, slots=True)
class ProcessTie:
    """The node lives as long as this process, which need not be its parent (an executor's JVM)."""

    pid: int
    start: float  # `processes.Identity.start`


@dataclass(frozen=True, slots=True)
class NoTie:
    """The node lives until it is told to end (`sparkray stop`), or its session ends."""


Tie = StdinTie | ProcessTie | NoTie


def default_base_folder(given: str | None = None) -> str:
    """The setting `base_folder`, where it was read already; else this machine's. Short: sockets lie below it."""
    return given or os.environ.get("SPARKRAY_BASE_FOLDER") or f"/tmp/sparkray-{os.getuid()}"


def by_name(host: str, is_head: bool) -> dict[str, int]:
    """The resources, in thousandths, by which work can ask for this node."""
    return {f"node:{host}": 1000, **({"node:__internal_head__": 1000} if is_head else {})}


@dataclass(frozen=True, slots=True)
class NodeConfig:
    session: str  # letters, digits, ".", "_" and "-": it is a folder's name
    node: NodeId
    token: bytes = field(repr=False)  # 32 bytes that every connection to the raylet shows first
    is_head: bool
    head_address: str | None  # tcp://host:port; None on the head's own node, until the head is bound; or TOLD_LATER
    resources: dict[str, int]  # in thousandths
    store_bytes: int
    curve_public: bytes | None = None  # Z85, 40 characters; None: the head's keeper makes a pair and reports it
    curve_secret: bytes | None = field(default=None, repr=False)
    base_folder: str = field(default_factory=default_base_folder)
    bind_host: str = "127.0.0.1"  # an address of this machine; 0.0.0.0 for all
    host: str = "127.0.0.1"  # under which other nodes reach it
    labels: dict[str, str] = field(default_factory=dict)
    tie: Tie = field(default_factory=StdinTie)
    head_from: int | None = None  # descriptor of the keeper where a head_address that is TOLD_LATER comes, as one line
    lives_for: NodeId | None = None  # to the head: the session ends when this node, the driver's, leaves or never joins
    prestart: int | None = None  # workers forked before anyone asks, and kept idle; None: one per whole CPU
    sys_path: tuple[str, ...] = ()  # of the driver; its workers look for modules there first
    cwd: str | None = None  # of the workers; None: the keeper's
    namespace: str = ""  # of names of actors, where none is given
    settings: Settings = field(default_factory=Settings)
    port: int = 0  # the head's; 0: a free one
    job: dict[str, Any] = field(default_factory=dict)  # for workers: "logging" (`logs.configure`), "actor_lifetime"
    published_by: str | None = None  # "init", "start" or "cluster": others here may join, by its folder's key
    container_logs: str | None = None  # a folder whose files somebody collects (YARN); logs lie there, linked from ours
    shown_at: str | None = None  # a file or another process's descriptor that gets the logs' lines, too (Kubernetes)
    # What the executor and this node may hold together, where no cgroup says so (YARN); 0: all.
    container_bytes: int = 0
    container_pid: int = 0  # the first process of that, below which all others are; 0: what this node is tied to
    visits: bool = False  # it is there for one driver, and goes with it: nothing of others is placed on it

    def __post_init__(self) -> None:
        if not _SESSION_NAME.fullmatch(self.session) or ".." in self.session:
            raise BadConfig(f"session {self.session!r} is not up to 40 letters, digits, '.', '_' or '-'")
        if len(self.node) != 8:
            raise BadConfig(f"node has {len(self.node)} bytes; an id of a node has 8")
        if len(self.token) != TOKEN_BYTES:
            raise BadConfig(f"token has {len(self.token)} bytes instead of {TOKEN_BYTES}")
        if self.head_address is None and not self.is_head:
            raise BadConfig("head_address must be given on every node but the head's own")
        if (self.curve_public is None) != (self.curve_secret is None):
            raise BadConfig("curve_public and curve_secret go together")
        if self.store_bytes <= 0 or any(amount < 0 for amount in self.resources.values()):
            raise BadConfig("store_bytes must be above 0, and no resource below it")
        length = len(os.fsencode(self.folder)) + _LONGEST_SOCKET_NAME
        if length > _LONGEST_SOCKET_PATH:
            raise BadConfig(
                f"sockets in {self.folder} would have paths of {length} bytes, and the system takes "
                f"{_LONGEST_SOCKET_PATH}: choose a shorter base_folder"
            )

    @property
    def folder(self) -> str:
        """Where the node's sockets and logs are."""
        return os.path.join(self.base_folder, self.session, self.node.hex()[:8])

    @property
    def all_resources(self) -> dict[str, int]:
        """With those by which a node can be asked for: "node:<host>", and on the head's "node:__internal_head__"."""
        if self.visits:
            return self.resources
        return {**self.resources, **by_name(self.host, self.is_head)}

    @property
    def all_labels(self) -> dict[str, str]:
        """With the one by which a node can be chosen."""
        return {**self.labels, NODE_ID_LABEL: self.node.hex()}

    @property
    def socket_path(self) -> str:
        """Where its raylet listens."""
        return os.path.join(self.folder, "raylet.sock")

    def log_path(self, process: str) -> str:
        return os.path.join(self.folder, "logs", f"{process}.log")

    def new_log(self, process: str, ending: str = ".log") -> str:
        """`log_path`, for who is going to write there first."""
        path = self.log_path(process).removesuffix(".log") + ending
        if self.container_logs is not None and os.path.isdir(self.container_logs):
            place = os.path.join(self.container_logs, f"sparkray-{self.node.hex()[:8]}-{process}{ending}")
            with contextlib.suppress(FileExistsError):
                os.symlink(place, path)
        return path

    def without_secrets(self) -> NodeConfig:
        """For workers, which run the user's code and never speak to another node, or the GCS's server, themselves."""
        return replace(self.without_storage(), curve_public=None, curve_secret=None)

    def without_storage(self) -> NodeConfig:
        """For all but the head and its shards: where these write, with which password, is nobody else's affair."""
        if self.settings.gcs_storage is None:
            return self
        return replace(self, settings=replace(self.settings, gcs_storage=None))

    def to_json(self) -> str:
        """One line, secrets included: for a pipe, never for a file, an argument or the environment."""
        tie = self.tie
        facts: dict[str, Any] = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in (*_BYTES, "tie", "settings")
        }
        facts |= {name: None if getattr(self, name) is None else getattr(self, name).hex() for name in _BYTES}
        facts["settings"] = self.settings.changed()
        facts["tie"] = {"kind": _TIES[type(tie)], **(asdict(tie))}
        return json.dumps(facts)

    @classmethod
    def from_json(cls, line: str | bytes) -> NodeConfig:
        """
        Raises:
            BadConfig: not JSON, a field that is missing or unknown, or a value that cannot be.
        """
        try:
            facts = json.loads(line)
            for name in _BYTES:
                if facts.get(name) is not None:
                    facts[name] = bytes.fromhex(facts[name])
            facts["sys_path"] = tuple(facts.get("sys_path", ()))
            facts["settings"] = Settings(**facts.get("settings", {}))
            if "tie" in facts:
                facts["tie"] = _tie(**facts["tie"])
            return cls(**facts)
        except BadConfig:
            raise
        except (ValueError, TypeError, AttributeError) as error:
            raise BadConfig(f"not a node's configuration: {error}") from error


_BYTES = ("node", "token", "curve_public", "curve_secret", "lives_for")


_TIES: dict[type[Tie], str] = {StdinTie: "stdin", ProcessTie: "process", NoTie: "none"}


def _tie(kind: str, pid: int = 0, start: float = 0.0) -> Tie:
    if kind == "stdin":
        return StdinTie()
    if kind == "none":
        return NoTie()
    if kind == "process" and pid > 0:
        return ProcessTie(pid, start)
    raise BadConfig(f"tie {kind!r} is none of 'stdin', 'none' and 'process' with a pid")
