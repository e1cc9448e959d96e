"""A host of its own, as far as the network and the clocks go: a network namespace behind a link that can be cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

HERE, THERE = "10.213.77.1", "10.213.77.2"
AHEAD_S = 1_000_000  # of the other host's clock: on real hosts it counts from each one's start


class NoNamespaceError(Exception):
    """They cannot be made here; the text says why."""


def _do(*words: str) -> None:
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=10)
    except OSError as error:
        raise NoNamespaceError(f"{words[0]} cannot be run: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        raise NoNamespaceError(f"{' '.join(words)}: {error.stderr.strip()}") from None


class Link:
    """From this host (`HERE`) to the other one (`THERE`)."""

    def __init__(self) -> None:
        self._name = f"sprk-{os.getpid()}"
        self._inside = ("ip", "netns", "exec", self._name)
        self._near, self._far = f"sprkn{os.getpid()}"[:15], f"sprkf{os.getpid()}"[:15]

    def words(self, *command: str) -> list[str]:
        """The command, to be run there. It ends with its parent."""
        clock = ("unshare", "--time", "--monotonic", str(AHEAD_S), "--fork", "--kill-child")
        return [*self._inside, *(clock if _own_clock() else ()), *command]

    @contextlib.contextmanager
    def open(self) -> Iterator[Link]:
        """
        Raises:
            NoNamespaceError: nothing is left of the attempt.
        """
        if os.getuid() != 0 or shutil.which("ip") is None or shutil.which("iptables") is None:
            raise NoNamespaceError("network namespaces take root, and the commands ip and iptables")
        _do("ip", "netns", "add", self._name)
        try:
            _do("ip", "link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self._name)
            _do("ip", "addr", "add", f"{HERE}/30", "dev", self._near)
            _do("ip", "link", "set", self._near, "up")
            _do("ip", "-n", self._name, "addr", "add", f"{THERE}/30", "dev", self._far)
            _do("ip", "-n", self._name, "link", "set", self._far, "up")
            _do("ip", "-n", self._name, "link", "set", "lo", "up")
            _do(*self._inside, "iptables", "-L", "INPUT")
            yield self
        finally:
            with contextlib.suppress(NoNamespaceError):
                _do("ip", "link", "del", self._near)
            _do("ip", "netns", "del", self._name)

    @contextlib.contextmanager
    def losing(self, share: float = 1.0) -> Iterator[None]:
        """That share of the packets, either way: all of them is a link that is cut; neither end is told."""
        some = ("-m", "statistic", "--mode", "random", "--probability", f"{share:g}") if share < 1 else ()
        rules = [("INPUT", "-i", self._far, *some, "-j", "DROP"), ("OUTPUT", "-o", self._far, *some, "-j", "DROP")]
        for rule in rules:
            _do(*self._inside, "iptables", "-A", *rule)
        try:
            yield
        finally:
            for rule in rules:
                _do(*self._inside, "iptables", "-D", *rule)


def _own_clock() -> bool:
    with contextlib.suppress(NoNamespaceError):
        _do("unshare", "--time", "--monotonic", str(AHEAD_S), "--fork", "true")
        return True
    return False
