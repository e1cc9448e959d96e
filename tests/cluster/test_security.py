"""Who is not of the session: another user of this host, a peer without the key, a garbage peer on every socket."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

import sparkray
from sparkray.exceptions import AuthenticationError
from sparkray.joining import KEY_VARIABLE
from sparkray.node_command import started_nodes
from sparkray_core.ids import new_process_id
from sparkray_core.run.published import SessionKey
from sparkray_core.wire import hello
from sparkray_core.wire.zmq_transport import new_session_keys
from tests.cluster.conftest import run

NOBODY = 65534
LISTENING = "0A"  # in /proc/net/tcp

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which only root can")


@pytest.fixture
def session(base_folder: Path) -> Iterator[Any]:
    yield sparkray.init(num_cpus=1, address="local")
    sparkray.shutdown()


def works() -> bool:
    @sparkray.remote
    def double(value: int) -> int:
        return 2 * value

    return bool(sparkray.get(double.remote(21), timeout=30) == 42)


def as_nobody(act: Callable[[], object]) -> str:
    """What comes of it in a process of another user: "done", or the name of the exception."""
    hear, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            act()
            os.write(tell, b"done")
        except BaseException as error:  # noqa: BLE001 - its name is the answer
            os.write(tell, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(tell)
    with open(hear) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return said


def processes(session: Any) -> list[psutil.Process]:
    keeper = psutil.Process(session.node.pid)
    return [psutil.Process(), keeper, *keeper.children(recursive=True)]


def connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)


# ------------------------------------------------------------------------------------------ the network
def listening_addresses(pids: list[int]) -> set[str]:
    """Of all TCP sockets of these processes that listen: the addresses, in hexadecimal as the kernel has them."""
    inodes = set()
    for pid in pids:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        path = Path("/proc/net", table)
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if f"socket:[{fields[9]}]" in inodes and (fields[3] == LISTENING or table.startswith("udp")):
                found.add(fields[1].partition(":")[0])
    return found


def test_a_plain_session_listens_on_loopback_alone(session: Any) -> None:
    assert works()

    addresses = listening_addresses([process.pid for process in processes(session)])

    assert addresses == {"0100007F"}


# ------------------------------------------------------------------------------------------ another user
def test_folders_sockets_and_files_are_their_user_s_alone(session: Any, base_folder: Path) -> None:
    assert works()
    modes = {stat.S_IMODE(os.stat(path).st_mode) for path in (base_folder, *base_folder.rglob("*")) if path.is_dir()}
    assert modes == {0o700}
    others = {path: path.lstat().st_mode for path in base_folder.rglob("*") if not path.is_dir()}
    assert [path for path, mode in others.items() if stat.S_ISSOCK(mode)]
    assert not [path for path, mode in others.items() if stat.S_IMODE(mode) & 0o077]


@needs_root
def test_another_user_neither_reads_nor_connects(session: Any, base_folder: Path) -> None:
    folder = session["session_dir"]
    raylet = next(process for process in processes(session) if process.name().endswith("raylet"))

    assert as_nobody(lambda: os.listdir(base_folder)) == "PermissionError"
    assert as_nobody(lambda: os.listdir(folder)) == "PermissionError"
    assert as_nobody(lambda: Path(folder, "key").read_text()) == "PermissionError"
    assert as_nobody(lambda: connect(os.path.join(folder, "raylet.sock"))) == "PermissionError"
    assert as_nobody(lambda: os.listdir(f"/proc/{raylet.pid}/fd")) == "PermissionError"  # with the store's memory
    assert as_nobody(lambda: Path(f"/proc/{raylet.pid}/environ").read_bytes()) == "PermissionError"
    assert works()


@needs_root
def test_another_user_is_refused_where_the_folders_are_open_even_with_the_token(
    session: Any, base_folder: Path
) -> None:
    folder = Path(session["session_dir"])
    token = SessionKey.from_text((folder / "key").read_text()).token
    for path in (base_folder.parent, base_folder, folder.parent, folder):
        path.chmod(0o755)
    (folder / "raylet.sock").chmod(0o666)

    me = new_process_id(sparkray.session.current().core.node)  # a forked child has no session to ask

    def greet() -> None:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(10)
            peer.connect(str(folder / "raylet.sock"))
            frame = hello.hello_frame(token, me, "driver")
            peer.sendall(len(frame).to_bytes(4, "big") + frame)
            if not peer.recv(1):
                raise ConnectionRefusedError

    assert as_nobody(greet) in ("ConnectionRefusedError", "ConnectionResetError")
    assert works()


def test_our_own_user_without_the_token_is_refused(session: Any) -> None:
    folder = session["session_dir"]
    for name in (name for name in os.listdir(folder) if name.endswith(".sock")):
        for said in (
            _frame(hello.hello_frame(os.urandom(32), new_process_id(sparkray.session.current().core.node), "driver")),
            _frame(pickle.dumps(_Bomb(f"touch {folder}/exploded"))),
            b"GET / HTTP/1.1\r\n\r\n" * 20,
            os.urandom(1000),
        ):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(10)
                peer.connect(os.path.join(folder, name))
                peer.sendall(said)
                with contextlib.suppress(ConnectionResetError):
                    assert peer.recv(1) == b""
    assert not os.path.exists(os.path.join(folder, "exploded"))
    assert works()


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


class _Bomb:
    """Unpickled, it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


# ------------------------------------------------------------------------------------------ without the key
def ports(session: Any) -> list[int]:
    pids = {process.pid for process in processes(session)}
    found: list[Any] = psutil.net_connections("tcp")
    return sorted({one.laddr.port for one in found if one.pid in pids and one.status == psutil.CONN_LISTEN})


def test_what_a_peer_without_the_key_sends_is_never_unpickled(session: Any, tmp_path: Path) -> None:
    marker = tmp_path / "exploded"
    bomb = pickle.dumps(_Bomb(f"touch {marker}"))
    found = ports(session)
    assert len(found) == 2  # head and raylet
    wrong_public, wrong_secret = new_session_keys()
    for port in found:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as peer:
            peer.sendall(os.urandom(4096) + bomb)
        for curve in (False, True):
            with zmq.Context() as context, context.socket(zmq.DEALER) as peer_socket:
                peer_socket.linger = 100
                if curve:
                    peer_socket.curve_serverkey = peer_socket.curve_publickey = wrong_public
                    peer_socket.curve_secretkey = wrong_secret
                peer_socket.connect(f"tcp://127.0.0.1:{port}")
                for _ in range(10):
                    peer_socket.send(bomb)
                assert not peer_socket.poll(200)
    assert works()
    assert not marker.exists()


def test_a_driver_with_another_key_is_refused_and_the_session_goes_on(head: str, elsewhere: dict[str, str]) -> None:
    (node,) = started_nodes()
    public, secret = new_session_keys()
    wrong = SessionKey(node.session, os.urandom(32), public, secret)
    stolen = SessionKey(node.session, node.key.token, node.key.curve_public, secret)
    for key in (wrong.to_text(), stolen.to_text(), "nonsense"):
        done = run(
            "-c",
            f"import sparkray; sparkray.init({head!r})",
            environment={**elsewhere, KEY_VARIABLE: key},
        )
        assert done.returncode == 1
        assert "AuthenticationError" in done.stderr, done.stderr
    done = run("-c", f"import sparkray; sparkray.init({head!r})", environment=elsewhere)
    assert "is not known" in done.stderr
    sparkray.init(head)
    assert works()


def test_the_errors_of_a_missing_session_are_those_that_ray_s_users_catch(base_folder: Path) -> None:
    assert issubclass(AuthenticationError, ConnectionError)
    with pytest.raises(ConnectionError, match="sparkray start"):
        sparkray.init("auto")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        public, secret = new_session_keys()
        os.environ[KEY_VARIABLE] = SessionKey("1-2", b"t" * 32, public, secret).to_text()
        try:
            with pytest.raises(ConnectionError, match="can be reached"):
                sparkray.init(f"127.0.0.1:{port}")
        finally:
            del os.environ[KEY_VARIABLE]
    for nonsense in ("somewhere", "host:port", "ray://host:10001", ":1"):
        with pytest.raises(ValueError, match="address"):
            sparkray.init(nonsense)
    assert not sparkray.is_initialized()
