"""How others on this host find a session, and with what key: one file in each of its nodes' 0700 folders.

    /tmp/sparkray-<uid>/<session>/<node>/session.json    0600: where the head is, who started it, and the key

It is written once the node is up, and only for sessions that others may join: those of `init` and of `sparkray start`.
The key of a session inside Spark is not written anywhere: executors of one host may share a user, but not a trust.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
from dataclasses import dataclass, field

from sparkray_core.ids import NodeId
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.folders import KEEPER_FILE, is_abandoned, node_folders
from sparkray_core.run.processes import Identity
from sparkray_core.wire.hello import TOKEN_BYTES

SESSION_FILE = "session.json"
KEY_FILE = "key"
_CURVE_BYTES = 40  # Z85
_SECRET_BYTES = TOKEN_BYTES + 2 * _CURVE_BYTES


class BadKey(ValueError):
    """The text is not the key of a session."""


@dataclass(frozen=True, slots=True)
class SessionKey:
    """All that makes a process one of the session. Who has it can run code as the user whose session it is."""

    session: str
    token: bytes = field(repr=False)
    curve_public: bytes = field(repr=False)
    curve_secret: bytes = field(repr=False)

    def to_text(self) -> str:
        """One line of letters, digits and `-_.`: for a file or an environment variable."""
        secret = base64.urlsafe_b64encode(self.token + self.curve_public + self.curve_secret).decode().rstrip("=")
        return f"{self.session}.{secret}"

    @classmethod
    def from_text(cls, text: str) -> SessionKey:
        """
        Raises:
            BadKey: it is not what `to_text` wrote.
        """
        session, _, secret = text.strip().rpartition(".")
        try:
            raw = base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4))
        except (ValueError, binascii.Error):
            raw = b""
        if not session or len(raw) != _SECRET_BYTES:
            raise BadKey(
                "this is not the key of a session: it is one line, as `sparkray start --head` writes it to the file "
                "that it names"
            )
        public, secret_key = raw[TOKEN_BYTES : TOKEN_BYTES + _CURVE_BYTES], raw[TOKEN_BYTES + _CURVE_BYTES :]
        return cls(session, raw[:TOKEN_BYTES], public, secret_key)


@dataclass(frozen=True, slots=True)
class PublishedNode:
    """A living node of this host and user that others may join."""

    folder: str
    node: NodeId
    keeper: Identity
    head_address: str  # tcp://host:port
    is_head: bool
    host: str  # by which other nodes reach it
    by: str  # what started it: "init", "start" or "cluster" (`sparkray.cluster_utils`)
    started: float  # seconds since 1970
    key: SessionKey

    @property
    def session(self) -> str:
        return self.key.session

    @property
    def key_file(self) -> str:
        return os.path.join(self.folder, KEY_FILE)


def publish(config: NodeConfig, started: float) -> None:
    """Say in the node's folder how to join its session, if others may."""
    if config.published_by is None:
        return
    assert config.curve_public is not None
    assert config.curve_secret is not None
    key = SessionKey(config.session, config.token, config.curve_public, config.curve_secret)
    folder = config.folder
    facts = {
        "node": config.node.hex(),
        "head_address": config.head_address,
        "is_head": config.is_head,
        "host": config.host,
        "by": config.published_by,
        "started": started,
    }
    _write(os.path.join(folder, KEY_FILE), key.to_text() + "\n")
    _write(os.path.join(folder, SESSION_FILE), json.dumps(facts) + "\n")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
    os.rename(path + ".new", path)  # whole, or not there


def published_nodes(base: str) -> list[PublishedNode]:
    """Those whose keepers live, newest session first, within a session the head's node first."""
    found = []
    for folder in node_folders(base):
        with contextlib.suppress(OSError, ValueError, KeyError):  # it is ending, or was never published
            found.append(_read(folder))
    found.sort(key=lambda node: (node.session, node.is_head, node.started), reverse=True)
    return found


def _read(folder: str) -> PublishedNode:
    with open(os.path.join(folder, SESSION_FILE)) as file:
        facts = json.load(file)
    with open(os.path.join(folder, KEEPER_FILE)) as file:
        keeper = json.load(file)
    with open(os.path.join(folder, KEY_FILE)) as file:
        key = SessionKey.from_text(file.read())
    if is_abandoned(folder):
        raise ValueError(f"the node of {folder} is dead")
    return PublishedNode(
        folder,
        NodeId(bytes.fromhex(facts["node"])),
        Identity(keeper["pid"], keeper["start"]),
        facts["head_address"],
        facts["is_head"],
        facts["host"],
        facts["by"],
        facts["started"],
        key,
    )
