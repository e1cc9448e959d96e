"""Hosts of their own, as far as the network and the clocks go: network namespaces.

`Link` joins one to this host, and can be cut; packets take no time. `Net` joins several, by lines with a delay and a
rate: this kernel may have no netem, so the packets go through a process (`forwarding.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.forwarding import Weather

HERE, THERE = "10.213.77.1", "10.213.77.2"
AHEAD_S = 1_000_000  # of the other host's clock: on real hosts it counts from each one's start
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h


class NoNamespaceError(Exception):
    """They cannot be made here; the text says why."""


def _do(*words: str) -> None:
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=10)
    except OSError as error:
        raise NoNamespaceError(f"{words[0]} cannot be run: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        raise NoNamespaceError(f"{' '.join(words)}: {error.stderr.strip()}") from None


class Namespace:
    """One host. It is there while `open` is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inside = ("ip", "netns", "exec", name)

    def words(self, *command: str) -> list[str]:
        """The command, to be run there. It ends with its parent."""
        clock = ("unshare", "--time", "--monotonic", str(AHEAD_S), "--fork", "--kill-child")
        return [*self.inside, *(clock if _own_clock() else ()), *command]

    @contextlib.contextmanager
    def open(self) -> Iterator[Namespace]:
        """
        Raises:
            NoNamespaceError: nothing is left of the attempt.
        """
        if os.getuid() != 0 or shutil.which("ip") is None:
            raise NoNamespaceError("network namespaces take root, and the command ip")
        _do("ip", "netns", "add", self.name)
        try:
            _do("ip", "-n", self.name, "link", "set", "lo", "up")
            yield self
        finally:
            _do("ip", "netns", "del", self.name)


class Link:
    """From this host (`HERE`) to the other one (`THERE`)."""

    def __init__(self) -> None:
        self._there = Namespace(f"sprk-{os.getpid()}")
        self._near, self._far = f"sprkn{os.getpid()}"[:15], f"sprkf{os.getpid()}"[:15]
        self.words = self._there.words

    @contextlib.contextmanager
    def open(self) -> Iterator[Link]:
        """
        Raises:
            NoNamespaceError: nothing is left of the attempt.
        """
        if shutil.which("iptables") is None:
            raise NoNamespaceError("a link that can be cut takes the command iptables")
        name = self._there.name
        with self._there.open():
            try:
                _do("ip", "link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", name)
                _do("ip", "addr", "add", f"{HERE}/30", "dev", self._near)
                _do("ip", "link", "set", self._near, "up")
                _do("ip", "-n", name, "addr", "add", f"{THERE}/30", "dev", self._far)
                _do("ip", "-n", name, "link", "set", self._far, "up")
                _do(*self._there.inside, "iptables", "-L", "INPUT")
                yield self
            finally:
                with contextlib.suppress(NoNamespaceError):
                    _do("ip", "link", "del", self._near)

    @contextlib.contextmanager
    def losing(self, share: float = 1.0) -> Iterator[None]:
        """That share of the packets, either way: all of them is a link that is cut; neither end is told."""
        some = ("-m", "statistic", "--mode", "random", "--probability", f"{share:g}") if share < 1 else ()
        rules = [("INPUT", "-i", self._far, *some, "-j", "DROP"), ("OUTPUT", "-o", self._far, *some, "-j", "DROP")]
        for rule in rules:
            _do(*self._there.inside, "iptables", "-A", *rule)
        try:
            yield
        finally:
            for rule in rules:
                _do(*self._there.inside, "iptables", "-D", *rule)


class Net:
    """This host and some others, all at one distance from each other."""

    def __init__(self, others: int, seed: int) -> None:
        self.others = [Namespace(f"sprk-{os.getpid()}-{number}") for number in range(1, others + 1)]
        self._seed = seed
        self._process: subprocess.Popen[str] | None = None

    @staticmethod
    def address(number: int) -> str:
        """Of this host (0), or of one of the others, counted from 1."""
        return f"10.213.78.{number + 1}"

    @contextlib.contextmanager
    def open(self) -> Iterator[Net]:
        """
        Raises:
            NoNamespaceError: nothing is left of the attempt.
        """
        with contextlib.ExitStack() as stack:
            for other in self.others:
                stack.enter_context(other.open())
            devices = []
            for number in range(len(self.others) + 1):
                devices.append(open_tun(f"sprkt{os.getpid()}-{number}"[-15:]))
                stack.callback(os.close, devices[-1][1])
            for number, (name, _) in enumerate(devices):
                place = ("-n", self.others[number - 1].name) if number else ()
                if place:
                    _do("ip", "link", "set", name, "netns", place[1])
                _do("ip", *place, "addr", "add", f"{self.address(number)}/24", "dev", name)
                _do("ip", *place, "link", "set", name, "up")
            numbers = [descriptor for _, descriptor in devices]
            program = str(Path(__file__).with_name("forwarding.py"))
            words = [sys.executable, program, str(self._seed), *map(str, numbers)]
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=numbers, text=True
            )
            with self._process as process:  # it ends when its stdin does
                self.set(Weather())
                yield self
            assert process.returncode == 0

    def set(self, weather: Weather) -> dict[str, int]:
        """From now on. What it has counted so far: packets that `passed`, that were `lost`, that ran into a `cut`."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(weather._asdict()) + "\n")
        self._process.stdin.flush()
        counts: dict[str, int] = json.loads(self._process.stdout.readline())
        return counts


def _own_clock() -> bool:
    with contextlib.suppress(NoNamespaceError):
        _do("unshare", "--time", "--monotonic", str(AHEAD_S), "--fork", "true")
        return True
    return False


def open_tun(name: str) -> tuple[str, int]:
    """A network device whose packets are read and written here. It is gone when the descriptor is closed.

    Raises:
        NoNamespaceError
    """
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        raise NoNamespaceError(f"/dev/net/tun: {error.strerror}") from None
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        os.close(descriptor)
        raise NoNamespaceError(f"a TUN device: {error.strerror}") from None
    return name, descriptor
