"""Starting a node and ending it, from a process that wants one: a driver, or a task of Spark in an executor.

This runs in the user's own process, which may have threads and other children, so it imports no zmq and forks nothing
itself: it starts the keeper as a fresh Python, tells it everything through stdin, and hears one line back.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import IO, Any

from sparkray_core.errors import RaySystemError
from sparkray_core.run import processes
from sparkray_core.run.config import TOLD_LATER, NodeConfig, StdinTie
from sparkray_core.run.folders import sweep
from sparkray_core.wire.hello import TOKEN_BYTES

__all__ = ["NodeStartError", "StartedNode", "StartingNode", "new_session_name", "new_token", "start_node", "sweep"]

STOP_LIMIT_S = 10.0
_SHOWN_CHARACTERS = 4000  # of a failed node's output

# Our own folder comes after the standard library, which nothing of ours may hide, and before what is installed, which
# may be another version of us. The empty entry, the current folder, goes: a file there would hide the library too.
# The collector would look in vain for garbage in what is being imported, for 7 % of the time.
_BOOTSTRAP = """\
import gc, sys
gc.disable()
path = [entry for entry in sys.path if entry]
path.insert(next((i for i, entry in enumerate(path) if entry.endswith("-packages")), len(path)), sys.argv.pop(1))
sys.path[:] = path
from sparkray_core.run.keeper import main
sys.exit(main())
"""


_started: weakref.WeakSet[StartedNode] = weakref.WeakSet()


def _forget_after_fork() -> None:
    """A forked child would hold the pipe on whose end the keeper ends, also when our own end of it is closed."""
    for node in _started:
        node.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


class NodeStartError(RaySystemError):
    """The node did not come up; nothing of it is left behind."""

    def __init__(self, why: str, log: str, refused: bool = False) -> None:
        Exception.__init__(self, why, log, refused)
        self.why, self.log = why, log
        self.refused = refused  # the head did not take its key

    def __str__(self) -> str:
        return f"the node did not start: {self.why}" + (f"\n{self.log}" if self.log else "")


def new_session_name() -> str:
    """Sorts by the time of its start; short, because it is part of the sockets' paths."""
    return f"{time.strftime('%m%d-%H%M%S')}-{os.urandom(3).hex()}"


def new_token() -> bytes:
    return os.urandom(TOKEN_BYTES)


class StartedNode:
    """A node that this process started. With a `StdinTie` it ends when this object's pipe, or this process, does."""

    def __init__(self, keeper: subprocess.Popen[bytes], config: NodeConfig, facts: dict[str, Any]) -> None:
        self._keeper = keeper
        _started.add(self)
        self.config = config  # with the head's address and, where the keeper made them, the curve keys
        self.pid = keeper.pid
        self.folder: str = facts["folder"]
        self.address: str = facts["address"]  # tcp://host:port of the raylet
        self.head_address: str = facts["head_address"]
        self.seconds: dict[str, float] = facts["seconds"]  # of each phase of the keeper's start

    def is_running(self) -> bool:
        return self._keeper.poll() is None

    def stop(self, timeout: float = STOP_LIMIT_S) -> bool:
        """Tell the keeper to end the node, and wait for it, `timeout` seconds at most.

        Returns:
            Whether all is gone, processes and folder. Calling it again asks again.
        """
        stdin = self._keeper.stdin
        assert stdin is not None
        stdin.close()
        if not isinstance(self.config.tie, StdinTie) and self.is_running():
            self._keeper.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(timeout)
        return not self.is_running() and not os.path.exists(self.folder)

    def forget(self) -> None:
        """In a forked child: it is the parent's, and goes on."""
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()
        self._keeper.returncode = 0  # not to be waited for here

    def leave(self) -> None:
        """Let it live on without us, for its `ProcessTie` or nobody. Its end is waited for: no zombie of ours stays."""
        threading.Thread(target=self._keeper.wait, daemon=True, name="sparkray-reaper").start()

    def __enter__(self) -> StartedNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class StartingNode:
    """A keeper on its way up. It ends with `ready` or `give_up`.

    Of a node that does not host the head, all but the last step can be done before anyone knows where the head is: give
    it TOLD_LATER for `head_address`, and call `tell_head`.
    """

    def __init__(
        self, config: NodeConfig, python: str = sys.executable, environment: Mapping[str, str] | None = None
    ) -> None:
        """
        Args:
            python: the interpreter of the node's processes.
            environment: variables of the node's processes, beyond our own.

        Raises:
            NodeStartError: `python` cannot be run.
        """
        hear_head: int | None = None
        self._tell_head: int | None = None
        if config.head_address == TOLD_LATER:
            hear_head, self._tell_head = os.pipe()
        passed = () if hear_head is None else (hear_head,)
        self._config = config if hear_head is None else replace(config, head_from=hear_head)
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        try:
            self._keeper = subprocess.Popen(
                [python, "-c", _BOOTSTRAP, root],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,  # before the node is ready; then they go to its logs
                bufsize=0,
                env=processes.scrub_environment(os.environ) | dict(environment or {}),
                start_new_session=True,
                pass_fds=passed,
            )
        except OSError as error:
            self._close_head_pipe()
            raise NodeStartError(f"{python} cannot be run: {error.strerror}", "") from error
        finally:
            if hear_head is not None:
                os.close(hear_head)
        assert self._keeper.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended already: what it printed says why
                self._keeper.stdin.write(self._config.to_json().encode() + b"\n")
            if not isinstance(config.tie, StdinTie):
                self._keeper.stdin.close()
        except BaseException:  # a Ctrl-C
            self.give_up()
            raise

    def tell_head(self, address: str) -> None:
        """Where the head is. Once, when it was TOLD_LATER."""
        assert self._tell_head is not None
        with contextlib.suppress(BrokenPipeError):  # the keeper has ended: `ready` says why
            os.write(self._tell_head, address.encode() + b"\n")
        self._close_head_pipe()

    def ready(self, timeout: float | None = None) -> StartedNode:
        """Wait until the node has joined its head.

        Args:
            timeout: seconds; None: the setting `start_limit_s`.

        Raises:
            NodeStartError: it failed, or was not ready in time; its processes have been ended.
        """
        keeper = self._keeper
        assert keeper.stdout is not None
        timeout = self._config.settings.start_limit_s if timeout is None else timeout
        deadline = time.monotonic() + timeout
        try:
            facts, printed = _hear(keeper.stdout, deadline)
        except BaseException:  # a Ctrl-C while we wait
            self.give_up()
            raise
        if facts is None or not facts["ready"]:
            if facts is not None:
                self.give_up()
                raise NodeStartError(facts["why"], facts.get("log", ""), facts.get("refused", False))
            late = time.monotonic() >= deadline
            self.give_up()
            ended = not late and keeper.returncode is not None and keeper.returncode >= 0
            why = "its keeper ended at once" if ended else f"it was not ready within {timeout:g} s"
            raise NodeStartError(why, printed[-_SHOWN_CHARACTERS:])
        keeper.stdout.close()
        config = replace(self._config, head_address=facts["head_address"], head_from=None)
        if config.curve_public is None:
            public, secret = (bytes.fromhex(facts[name]) for name in ("curve_public", "curve_secret"))
            config = replace(config, curve_public=public, curve_secret=secret)
        return StartedNode(keeper, config, facts)

    def give_up(self) -> None:
        """End what there is of it. Nothing is left when this returns."""
        self._close_head_pipe()
        _give_up(self._keeper)

    def _close_head_pipe(self) -> None:
        if self._tell_head is not None:
            os.close(self._tell_head)
            self._tell_head = None


def start_node(
    config: NodeConfig,
    python: str = sys.executable,
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> StartedNode:
    """Start a node and wait until it has joined its head.

    Args:
        python: the interpreter of the node's processes.
        timeout: seconds; None: the setting `start_limit_s`.
        environment: variables of the node's processes, beyond our own.

    Raises:
        NodeStartError: it failed, or was not ready in time; its processes have been ended.
    """
    return StartingNode(config, python, environment).ready(timeout)


def _hear(stdout: IO[bytes], deadline: float) -> tuple[dict[str, Any] | None, str]:
    """The keeper's one line, or None when it closed or time is up; and whatever else was printed."""
    text = b""
    poll = select.poll()  # not select: a driver may have more than 1,024 descriptors
    poll.register(stdout, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if not poll.poll(left * 1000):
            break
        more = os.read(stdout.fileno(), 1 << 16)
        text += more
        for line in text.splitlines(keepends=True):
            if line.startswith(b'{"ready":') and line.endswith(b"\n"):
                return json.loads(line), text.decode(errors="replace")
        if not more:
            break
    return None, text.decode(errors="replace").strip()


def _give_up(keeper: subprocess.Popen[bytes]) -> None:
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    keeper.stdin.close()
    try:
        keeper.wait(timeout=0.2)  # it may be ending by itself, and then tells by its exit code how
    except subprocess.TimeoutExpired:
        keeper.terminate()
        try:
            keeper.wait(timeout=STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()
    keeper.stdout.close()
