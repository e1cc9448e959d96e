"""A Redis server of our own, on a socket in a folder, with a password that stands on no command line."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from tests.waiting import wait_until

PASSWORD = "not-to-be-seen-anywhere"
_SERVER = shutil.which("redis-server")

needs_redis = pytest.mark.skipif(_SERVER is None, reason="redis-server is not installed (Debian: redis-server)")


class RedisServer:
    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, "redis.sock")  # short: a socket's path may have 107 bytes
        self.url = f"unix://:{PASSWORD}@{self.path}?db=0"
        self._folder = folder
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        assert _SERVER is not None
        process = subprocess.Popen(
            [_SERVER, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, cwd=self._folder
        )
        assert process.stdin is not None
        lines = ("port 0", f"unixsocket {self.path}", f"requirepass {PASSWORD}", 'save ""', "appendonly no")
        process.stdin.write("\n".join(lines).encode() + b"\n")
        process.stdin.close()
        wait_until(self._listens, "the server listens")
        return process

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(self.path)
            return True
        return False

    def keys(self) -> list[str]:
        import redis

        with redis.Redis.from_url(self.url, decode_responses=True) as client:
            return sorted(str(key) for key in client.scan_iter())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def start_again(self) -> None:
        """Empty."""
        self.process = self._start()


@contextlib.contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Skips the test where there is none."""
    if _SERVER is None:
        pytest.skip("redis-server is not installed (Debian: redis-server)")
    pytest.importorskip("redis", reason="the package redis is not installed")
    with tempfile.TemporaryDirectory(prefix="sr-redis-") as folder:
        server = RedisServer(folder)
        try:
            yield server
        finally:
            server.stop()
