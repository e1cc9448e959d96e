"""A garbage peer on every socket of a node, by a seed.

    python -m sparkray_core.testing.fuzz --seeds 0 500

Each seed starts nothing: it attacks the sockets of one running session, in some ways without its secrets and in some
with them, and then asks whether raylet and head still answer. What a peer with the token or the keys may do is end
tasks, workers, even the session, by well-formed messages of meaning; so those that end the session are not sent.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import random
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zmq

from sparkray_core.frozen import field_names
from sparkray_core.ids import HEAD, HEAD_NODE, NodeId, ProcessId, new_node_id, new_process_id, raylet_of
from sparkray_core.messages import (
    MESSAGES,
    DrainNode,
    EndSession,
    ExitWorker,
    NodeDraining,
    NodeGone,
    ProcessGone,
    PushCalls,
    PushTasks,
    ShardTable,
    StartActor,
    StopActor,
    WorkerSetUp,
)
from sparkray_core.model.link import Link, Transmit
from sparkray_core.run import folders
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.core import Core
from sparkray_core.run.start import new_session_name, new_token, start_node
from sparkray_core.wire import hello
from sparkray_core.wire.zmq_transport import ZmqTransport, new_session_keys

_LENGTH = struct.Struct("!I")
# Well-formed, these do what they say: run code in a worker, end it, a node or the session, or say who has records.
_SPARED = {EndSession, NodeGone, ProcessGone, PushTasks, PushCalls, StartActor, StopActor, ExitWorker, WorkerSetUp} | {
    DrainNode,
    NodeDraining,
    ShardTable,
}
_NUMBERS = [number for number, kind in MESSAGES.items() if kind not in _SPARED]
_READ_S = 0.02


@dataclass(frozen=True, slots=True)
class Target:
    """A running session's sockets and secrets."""

    node: NodeId
    folder: str
    token: bytes
    raylet_address: str
    head_address: str
    keys: tuple[bytes, bytes]

    def unix_sockets(self) -> list[str]:
        """The raylet's, and those of the node's processes that listen now."""
        return [os.path.join(self.folder, name) for name in sorted(os.listdir(self.folder)) if name.endswith(".sock")]


# ------------------------------------------------------------------------------------------ what is sent
def value(dice: random.Random, depth: int = 0) -> Any:
    """Any primitive, sometimes one that is hard to handle."""
    kinds: list[Callable[[], Any]] = [
        lambda: None,
        lambda: dice.random() < 0.5,
        lambda: dice.choice([0, 1, -1, 2**31, 2**63, -(2**63) - 1, 2**200, dice.randrange(10**6)]),
        lambda: dice.choice([0.0, -1.5, float("inf"), float("nan")]),
        lambda: dice.choice(["", "CPU", "x" * dice.randrange(300), "\ud800", "\0", "../../etc"]),
        lambda: dice.randbytes(dice.choice([0, 1, 8, 16, 24, 28, 29, 3000])),
    ]
    if depth < 4:
        kinds += [
            lambda: [value(dice, depth + 1) for _ in range(dice.randrange(4))],
            lambda: tuple(value(dice, depth + 1) for _ in range(dice.randrange(5))),
            lambda: {dice.choice(["CPU", b"k", 1, None]): value(dice, depth + 1) for _ in range(dice.randrange(3))},
        ]
    return dice.choice(kinds)()


def nested(depth: int) -> Any:
    found: Any = ()
    for _ in range(depth):
        found = (found,)
    return found


def body(dice: random.Random, bombs: bool) -> bytes:
    """A message's body: malformed in one of many ways, or of the right form and senseless.

    `bombs`: also those that ask for memory. Raylet and head refuse them; a worker, which runs whatever code a peer with
    the token sends, does not look.
    """
    number = dice.choice(_NUMBERS)
    count = len(field_names(MESSAGES[number]))
    kind = dice.randrange(9)
    match kind if bombs or kind not in (4, 5) else 0:
        case 0:
            return dice.randbytes(dice.randrange(200))
        case 1:  # of a class: an unpickler that finds any would run it
            return pickle.dumps((number, os.system), 5)
        case 2:
            return pickle.dumps((dice.choice([-1, 0, 999, "1", None, 2**70]), 1), 5)
        case 3:  # too many fields, or too few
            return pickle.dumps((number, *(value(dice) for _ in range(count + dice.choice([-1, 1, 5])))), 5)
        case 4:  # memory for a memo that the frame does not have
            return b"\x80\x05N" + dice.choice([b"r\xff\xff\xff\x7f", b"p99999999999\n", b"r\0\0\0\x40"]) + b"."
        case 5:  # a length far beyond the end
            return b"\x80\x05" + dice.choice([b"\x8e", b"\x8d", b"\x96"]) + struct.pack("<Q", 1 << 40) + b"abc."
        case 6:  # as deep as our own pickler writes it
            return pickle.dumps((number, *(nested(150) for _ in range(count))), 5)
        case 7:
            return pickle.dumps((number, *([value(dice)] * 3000 for _ in range(count))), 5)
        case _:
            return pickle.dumps((number, *(value(dice) for _ in range(count))), 5)


def frame(dice: random.Random, target: Target, me: ProcessId, bombs: bool = True) -> bytes:
    """A body in an envelope, which may be wrong, too."""
    to = dice.choice([raylet_of(target.node), HEAD, me, new_process_id(target.node), new_process_id(new_node_id())])
    sender = dice.choice([me, me, me, HEAD, raylet_of(target.node)])
    whole = to + sender + body(dice, bombs and to in (raylet_of(target.node), HEAD))
    return whole[: dice.randrange(40)] if dice.random() < 0.1 else whole


# ------------------------------------------------------------------------------------------ the attacks
def attack_unix(dice: random.Random, target: Target, path: str) -> str:
    """One connection to a Unix socket; returns what was done, for the report of a failure."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(1.0)
    me = ProcessId(target.node + dice.randbytes(8))
    greeting = hello.hello_frame(target.token, me, dice.choice(["driver", "worker", "guest", "nonsense"]))
    how = dice.randrange(8)
    with sock, contextlib.suppress(OSError):  # it may cut us off at any time: that is what it is there for
        sock.connect(path)
        match how:
            case 0:
                sock.sendall(dice.randbytes(dice.randrange(1, 5000)))
            case 1:
                sock.sendall((_LENGTH.pack(len(greeting)) + greeting)[: dice.randrange(len(greeting))])
            case 2:
                wrong = hello.hello_frame(dice.randbytes(32), me, "driver")
                sock.sendall(_LENGTH.pack(len(wrong)) + wrong + b"x" * 100)
            case 3:
                sock.sendall(_LENGTH.pack(dice.choice([0, 2**31, 2**32 - 1])) + dice.randbytes(50))
            case _:
                sock.sendall(_LENGTH.pack(len(greeting)) + greeting)
                _drain(sock)
                bombs = path.endswith("raylet.sock")
                frames = [frame(dice, target, me, bombs) for _ in range(dice.randrange(1, 12))]
                frames += dice.sample(frames, dice.randrange(len(frames) + 1))  # replayed
                if how == 4:
                    frames.append(b"")
                for one in frames:
                    sock.sendall(_LENGTH.pack(len(one)) + one)
                if how == 5:
                    sock.sendall(_LENGTH.pack(2**32 - 1) + b"abc")
                elif how == 6:  # the beginning of a frame whose end never comes
                    sock.sendall(_LENGTH.pack(10_000) + b"abc")
        _drain(sock)
    return f"unix {os.path.basename(path)} {how}"


def _drain(sock: socket.socket) -> None:
    sock.settimeout(_READ_S)
    with contextlib.suppress(TimeoutError):
        while sock.recv(65536):
            pass
    sock.settimeout(1.0)


def attack_tcp(dice: random.Random, target: Target, address: str) -> str:
    """Bytes to a ROUTER's port that are no ZeroMQ, or its beginning."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01" + dice.choice([b"NULL", b"CURVE", b"PLAIN"]).ljust(20, b"\0")
    with socket.create_connection((host, int(port)), timeout=1.0) as sock, contextlib.suppress(OSError):
        sock.sendall(dice.choice([dice.randbytes(dice.randrange(1, 2000)), greeting.ljust(64, b"\0"), greeting[:20]]))
        if dice.random() < 0.5:
            sock.sendall(dice.randbytes(500))
        _drain(sock)
    return f"tcp {port}"


def attack_zmq(dice: random.Random, target: Target, peer: NodeId, address: str) -> str:
    """Packets over ZeroMQ: without the session's keys (nothing is heard), or with them."""
    with_keys = dice.random() < 0.8
    transport = ZmqTransport(new_node_id(), os.urandom(8), target.keys if with_keys else new_session_keys())
    try:
        transport.connect(peer, address)
        link = Link(os.urandom(8), time.monotonic())
        for _ in range(dice.randrange(1, 6)):
            match dice.randrange(4):
                case 0:
                    transport.send(peer, dice.randbytes(dice.randrange(200)))
                case 1:
                    where = dice.choice(
                        [b"", b"tcp://", b"nowhere", b"tcp://127.0.0.1:1", b"ipc:///tmp/x", b"\xff" * 99]
                    )
                    transport.send(peer, b"sparkray lives at " + where)
                case _:
                    me = new_process_id(target.node)
                    payloads = [frame(dice, target, me) for _ in range(dice.randrange(1, 5))]
                    transport.send(peer, b"sparkray lives at " + transport.address.encode())
                    for effect in link.send(payloads, time.monotonic()):
                        if isinstance(effect, Transmit):
                            transport.send(peer, effect.packet)
                            transport.send(peer, effect.packet)  # replayed
        until = time.monotonic() + 5 * _READ_S
        while time.monotonic() < until:  # answer, or the other end's link delivers nothing
            for _, packet in transport.receive():
                if not packet.startswith(b"sparkray lives at "):
                    for effect in link.received(packet, time.monotonic()):
                        if isinstance(effect, Transmit):
                            transport.send(peer, effect.packet)
            time.sleep(0.001)
    finally:
        transport.close()
    return f"zmq {'with' if with_keys else 'without'} keys {address}"


def attack(seed: int, target: Target) -> list[str]:
    """All of a seed's attacks, one after the other. Returns what was done."""
    dice = random.Random(seed)
    nodes = [(target.node, target.raylet_address), (HEAD_NODE, target.head_address)]
    done = [attack_unix(dice, target, dice.choice(target.unix_sockets())) for _ in range(3)]
    done.append(attack_unix(dice, target, os.path.join(target.folder, "raylet.sock")))
    node, address = dice.choice(nodes)
    done.append(attack_tcp(dice, target, address))
    done.append(attack_zmq(dice, target, node, address))
    return done


def slowloris(target: Target, path: str, connections: int) -> list[socket.socket]:
    """Connections that say nothing; the caller closes them."""
    socks = []
    for _ in range(connections):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(1.0)
        with contextlib.suppress(OSError):
            sock.connect(path)
        socks.append(sock)
    return socks


# ------------------------------------------------------------------------------------------ by itself
def check(core: Core) -> None:
    """Raylet, head and store still serve. Raises what they raise if not."""
    assert core.ask(core.raylet_id, "status")["node"] == core.node
    assert "CPU" in core.ask(HEAD, "available")
    written = core.put(b"x" * 300_000)
    assert core.get([written._entry], 10.0) == [b"x" * 300_000]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 100), metavar=("FROM", "TO"))
    first, last = parser.parse_args().seeds
    config = NodeConfig(new_session_name(), new_node_id(), new_token(), True, None, {"CPU": 2000}, 64 << 20)
    node = start_node(config)
    core = Core(new_process_id(config.node), node.folder, config.token, "driver")
    try:
        core.connect()
        public, secret = node.config.curve_public, node.config.curve_secret
        assert public is not None
        assert secret is not None
        target = Target(config.node, node.folder, config.token, node.address, node.head_address, (public, secret))
        for seed in range(first, last):
            done = attack(seed, target)
            try:
                check(core)
            except Exception:
                sys.stderr.write(f"seed {seed} is red: {', '.join(done)}\n{folders.log_tail(node.folder)}\n")
                raise
        sys.stdout.write(f"seeds {first} to {last}: raylet and head serve on\n")
    finally:
        core.close()
        node.stop()
    return 0


if __name__ == "__main__":
    with contextlib.suppress(zmq.ContextTerminated):
        sys.exit(main())
