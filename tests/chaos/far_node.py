"""A node on another host: it has joined a cluster of this one, from a network namespace."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psutil

import sparkray
from sparkray.cluster_utils import Cluster
from sparkray.joining import KEY_VARIABLE
from tests.waiting import wait_until

STORE_BYTES = 64 << 20


class FarNode:
    """Of two CPUs. This process has joined the cluster."""

    def __init__(self, words: Callable[..., list[str]], host: str, cluster: Cluster, folder: str) -> None:
        """
        Args:
            words: of a command that is to run on the other host.
            host: its address.
            folder: for what a node has on disk; not this host's nodes' own.
        """
        self._process = subprocess.Popen(
            words(
                *(sys.executable, "-m", "sparkray", "start", "--block"),
                *(f"--address={cluster.address}", f"--host={host}", "--num-cpus=2", '--resources={"place": 1}'),
                f"--object-store-memory={STORE_BYTES}",
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "SPARKRAY_BASE_FOLDER": folder, KEY_VARIABLE: cluster.key.to_text()},
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert "has joined" in said, said + self._process.stdout.read()
        self.id = next(one["NodeID"] for one in sparkray.nodes() if one["NodeManagerAddress"] == host and one["Alive"])
        self._all = psutil.Process(self._process.pid).children(recursive=True)

    def facts(self) -> Any:
        return next(one for one in sparkray.nodes() if one["NodeID"] == self.id)

    def workers(self) -> list[int]:
        """Their pids."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
            return [one.pid for one in family if _name(one) == "sparkray-worker"]
        return []

    def wait_end(self, limit: float) -> None:
        """Until all its processes have gone, by themselves."""
        self._process.wait(limit)
        wait_until(lambda: not any(one.is_running() for one in self._all), "all of the node has ended", limit)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        wait_until(lambda: not any(one.is_running() for one in self._all), "all of the node has ended")


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return str(process.name())
    return ""
