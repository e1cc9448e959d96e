"""The RayManager: parent of a node's processes, and the one that ends them all when any of them, or its tie, goes.

    python -m sparkray_core.run.keeper < one line of NodeConfig as JSON; with a StdinTie, stdin then stays open

It forks, in a session of its own (a Ctrl-C in a notebook does not reach it), zygote, head (on one node) and raylet;
prints one JSON line, {"ready": true, ...} or {"ready": false, "why": ...}; and waits for the first of: end of the
tie, end of a child, SIGTERM. But when the head was killed, or failed, it forks another, which goes on in its place. A
child that hangs it kills (`pulse`). A keeper killed by SIGKILL is noticed by its children: they hold the lifeline, a
pipe of which it alone has the other end, and have PR_SET_PDEATHSIG.

It imports what the children need before it forks them, and has no thread and no zmq context, so that forking is safe.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from sparkray_core.run import child, folders, processes, published, zygote
from sparkray_core.run.child import Parent
from sparkray_core.run.config import BadConfig, NodeConfig
from sparkray_core.run.following import Follower
from sparkray_core.run.keeping import NOTHING_TO_GO_ON_FROM, TOLD_TO_END, Watch, read_order, say
from sparkray_core.run.limits import shards_of
from sparkray_core.run.pulse import LOOK_S, Pulse, Watchdog
from sparkray_core.run.tie import Tie

GRACE_S = 1.0  # from SIGTERM to SIGKILL
HEAD_START_S = 10.0  # the head has only to bind a port
HEAD_LIVES, HEAD_LIVES_S = 5, 60.0  # it, or a shard, may end so often within so many seconds, then the session ends
SCHEDULER_LIVES = 5  # likewise, of all schedulers together and for each: then the session goes on with fewer
RAYLET_PATIENCE = 4  # times what a node may be silent for: by then the head has buried the node of one that hangs
JOIN_S = 30.0  # the raylet has to reach the head, which on another machine may be up a little later


class Ended(Exception):
    """Something without which the node cannot, or need not, go on. `meant`: nothing failed."""

    def __init__(self, why: str, meant: bool = False, refused: bool = False) -> None:
        super().__init__(why, meant, refused)
        self.why, self.meant = why, meant
        self.refused = refused  # by the head, for its key


def main() -> int:
    """Exit code: 0 when the node was told to end or its session ended, 1 when something failed, 2 for a bad config."""
    started = time.monotonic()
    with contextlib.suppress(PermissionError):  # the leader of a group cannot: its launcher has seen to it
        os.setsid()
    processes.set_title("keeper", "sparkray-keeper")
    gc.disable()  # what imports leave is no garbage, and collecting it would unshare its pages
    try:
        config = NodeConfig.from_json(read_order())
        if config.curve_public is None and not config.is_head:
            raise BadConfig("curve keys are made on the head's node only; another node must be given them")
        tie = Tie(config.tie)
        folder = folders.make_node_folder(config.base_folder, config.session, os.path.basename(config.folder))
    except (BadConfig, OSError) as error:
        say({"ready": False, "why": str(error)})
        return 2
    keeper = Keeper(config, tie, started)
    try:
        return keeper.run()
    finally:
        keeper.end_children()
        folders.remove_node_folder(folder, config.settings.keep_logs)


class Keeper:
    """The children of this process, and the one place where it waits."""

    def __init__(self, config: NodeConfig, tie: Tie, started: float) -> None:
        self._config = config
        self._watch = Watch(tie)
        self._lap_began = started
        self._laps: dict[str, float] = {}  # seconds of each phase of the start, for the ready line
        self._children: dict[int, str] = {}
        self._fork_again: dict[str, Callable[[], int]] = {}  # of head and shards; not there: it may not end
        self._ends: dict[str, list[float]] = {}  # of these, of late
        self._fork_scheduler: Callable[[], int] | None = None
        self._scheduler_ends: list[float] = []  # of late
        self._follower: Follower | None = None
        self._watchdog = Watchdog()
        self._hung: set[int] = set()  # children that were killed for it
        self._lifeline, self._lifeline_end = os.pipe()  # children watch the first; nobody writes to the second
        self._not_for_children = {self._lifeline_end, *self._watch.descriptors}

    def run(self) -> int:
        self._watch.catch_signals()
        processes.adopt_orphans()
        ready = False
        try:
            facts = self._start()
            say({"ready": True, "pid": os.getpid(), "folder": self._config.folder, "seconds": self._laps, **facts})
            ready = True
            processes.redirect_output(self._config.new_log("keeper"))
            folders.sweep(self._config.base_folder, self._config.settings.keep_logs)
            self._go_on()
        except Ended as end:
            if not ready:
                log = folders.log_tail(self._config.folder)
                say({"ready": False, "why": end.why, "log": log, "refused": end.refused})
            elif not end.meant:
                child.leave_word(self._config, end.why)
            return 0 if end.meant else 1

    def end_children(self) -> None:
        processes.end_tree(self._children, GRACE_S)
        if self._follower is not None:
            self._follower.close()

    def _go_on(self) -> NoReturn:
        """Wait for the end, and show the logs meanwhile, where that is asked for.

        Raises:
            Ended: it is over.
        """
        place = self._config.shown_at
        if place is not None:
            try:
                self._follower = Follower(os.path.join(self._config.folder, "logs"), place)
            except OSError as error:
                sys.stderr.write(f"the logs are not shown at {place}: {error}\n")
        while True:
            self._wait(LOOK_S)
            if self._follower is not None:
                self._follower.follow()
            for pid in self._watchdog.look(time.monotonic()):
                self._end_hanging(pid)

    # ------------------------------------------------------------------------------ the start
    def _start(self) -> dict[str, Any]:
        """Fork all children and wait until the node has joined; what the ready line tells of it comes back.

        Raises:
            Ended: a child or the tie did not live that long.
        """
        me = processes.identify(os.getpid())
        assert me is not None
        if self._config.head_from is not None:
            self._not_for_children.add(self._config.head_from)
        lock = folders.mark_folder(self._config.folder, me)  # head and raylet inherit it, and so hold it with us
        self._lap("config")
        to_zygote, to_raylet = socket.socketpair()
        self._not_for_children.add(to_zygote.fileno())  # else who waits for its end would hold it open
        zygote_pid = self._fork(
            "zygote",
            zygote.main,
            self._config.without_secrets(),
            to_raylet,
            self._lifeline,
            os.getpid(),
            close=(lock,),
        )
        to_raylet.close()
        self._lap("fork zygote")
        # After the zygote, which needs neither, and makes its own imports on another core meanwhile.
        from sparkray_core.run import head_main, raylet_main

        self._lap("imports")
        facts: dict[str, Any] = {}
        port = 0
        config = self._config
        if config.curve_public is None:
            from sparkray_core.wire.zmq_transport import new_session_keys

            public, secret = new_session_keys()
            config = replace(config, curve_public=public, curve_secret=secret)
            facts |= {"curve_public": public.hex(), "curve_secret": secret.hex()}
        if config.is_head:
            said = self._fork_and_hear("head", HEAD_START_S, head_main.main, config)
            config = replace(config, head_address=said["address"])
            port = int(said["address"].rpartition(":")[2])
            self._lap("head")
        elif config.head_from is not None:
            config = replace(config, head_address=self._hear_of_head(config.head_from))
            self._lap("head")
        zygote_identity = processes.identify(zygote_pid)
        self._not_for_children.discard(to_zygote.fileno())
        said = self._fork_and_hear(
            "raylet",
            JOIN_S,
            raylet_main.main,
            config.without_storage(),
            to_zygote,
            zygote_identity,
        )
        to_zygote.close()
        self._lap("raylet")
        gc.enable()
        if config.is_head:
            again = replace(config, port=port)
            self._fork_again["head"] = partial(self._fork_watched, "head", head_main.main, again, tell=None)
            self._start_shards(replace(config, port=0))
            self._start_schedulers(config.without_storage())
        published.publish(config, time.time())
        return facts | {"address": said["address"], "head_address": config.head_address}

    def _start_shards(self, config: NodeConfig) -> None:
        """What is for them waits in the raylets until they are there."""
        shards = shards_of(config.settings)
        if not shards:
            return
        from sparkray_core.run import shard_main

        def fork(number: int, config: NodeConfig, tell: int | None = None, close: Collection[int] = ()) -> int:
            return self._fork_watched(
                shard_main.name_of(number), shard_main.main, config, number, tell=tell, close=close
            )

        pipes = []
        for number in range(shards):
            hear, tell = os.pipe()
            self._not_for_children.add(hear)
            pipes.append((number, fork(number, config, tell), hear))
            os.close(tell)
        for number, pid, hear in pipes:
            name = shard_main.name_of(number)
            said = self._heard(name, pid, hear, HEAD_START_S)
            self._not_for_children.discard(hear)
            again = replace(config, port=int(said["address"].rpartition(":")[2]))
            self._fork_again[name] = partial(fork, number, again)
        self._lap("shards")

    def _start_schedulers(self, config: NodeConfig) -> None:
        """Nobody waits for them: the head does their work until they are there."""
        if not config.settings.global_schedulers:
            return
        from sparkray_core.run import scheduler_main

        def fork() -> int:
            return self._fork_watched("scheduler", scheduler_main.main, config)

        for _ in range(config.settings.global_schedulers):
            fork()
        self._fork_scheduler = fork

    def _fork_and_hear(self, name: str, limit: float, main: Callable[..., object], *args: Any) -> dict[str, Any]:
        """Fork a child that gets, as `tell`, a pipe to write one JSON line to; and return that line."""
        hear, tell = os.pipe()
        pid = self._fork_watched(name, main, *args, tell=tell, close=(hear,))
        os.close(tell)
        return self._heard(name, pid, hear, limit)

    def _heard(self, name: str, pid: int, descriptor: int, limit: float) -> dict[str, Any]:
        """The line that this child writes there once it is ready."""
        line = self._hear_line(descriptor, limit)
        if line is None:
            raise Ended(f"the {name} was not ready after {limit:.0f} s")
        said: dict[str, Any] = json.loads(line)
        if "failed" in said:
            raise Ended(f"the {name} (pid {pid}) cannot start: {said['failed']}", refused=said.get("refused", False))
        return said

    def _hear_of_head(self, descriptor: int) -> str:
        """Where the head is, from our launcher, which is on its way to know it. All else has been done meanwhile."""
        line = self._hear_line(descriptor, None, at_end="our launcher gave up before it knew where the head is")
        self._not_for_children.discard(descriptor)
        assert line is not None
        return line.decode().strip()

    def _hear_line(self, descriptor: int, limit: float | None, at_end: str | None = None) -> bytes | None:
        """Read one line, and close the descriptor; None when it did not come within `limit` seconds.

        Args:
            at_end: raised when the other end closes; None: a child has it, whose own end will be heard of.
        """
        deadline = None if limit is None else time.monotonic() + limit
        line = b""
        self._watch.poll.register(descriptor, select.POLLIN)
        try:
            while not line.endswith(b"\n"):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                if descriptor in self._wait(left):
                    more = os.read(descriptor, 1 << 16)
                    line += more
                    if not more and at_end is not None:
                        raise Ended(at_end, meant=True)
                    if not more:  # it is ending; the signal says how
                        self._watch.poll.unregister(descriptor)
                        self._wait(left)
        except Ended:  # who says why it fails ends right after that
            if select.select([descriptor], [], [], 0)[0]:
                line += os.read(descriptor, 1 << 16)
            if not (line.endswith(b"\n") and b'"failed"' in line):
                raise
        finally:
            with contextlib.suppress(KeyError):
                self._watch.poll.unregister(descriptor)
            os.close(descriptor)
        return line

    def _fork_watched(
        self, name: str, main: Callable[..., object], *args: Any, close: Collection[int] = (), **more: Any
    ) -> int:
        """A child that runs a loop, and is killed if that hangs."""
        pulse = Pulse()
        parent = Parent(os.getpid(), self._lifeline, pulse)
        pid = self._fork(name, partial(main, **more), *args, parent, close=close)
        limit = self._config.settings.node_timeout_s
        self._watchdog.watch(pid, pulse, limit * RAYLET_PATIENCE if name == "raylet" else limit)
        return pid

    def _fork(self, name: str, main: Callable[..., object], *args: Any, close: Collection[int] = ()) -> int:
        pid = processes.fork(main, *args, close=(*self._not_for_children, *close))
        self._children[pid] = name
        self._hung.discard(pid)  # of an earlier one with this pid
        return pid

    def _lap(self, name: str) -> None:
        now = time.monotonic()
        self._laps[name] = round(now - self._lap_began, 4)
        self._lap_began = now

    # ------------------------------------------------------------------------------ waiting
    def _wait(self, limit: float | None = None) -> set[int]:
        """Wait until something happens; which of the descriptors that others registered have something to read.

        Raises:
            Ended: the tie, a child, or a signal says that it is over.
        """
        readable = self._watch.wait(limit)
        if self._watch.signals:
            raise Ended(f"the keeper got {self._watch.signals[0]}", meant=True)
        # All that were reaped are forgotten before the first is told of: their pids may be others' from now on.
        ended = [(self._children.pop(pid, None), pid, code) for pid, code in processes.reap()]
        for _, pid, _ in ended:
            self._watchdog.forget(pid)
        for name, pid, code in ended:
            if name in self._fork_again and code != 0:
                self._begin_again(name, pid, code)
            elif name == "scheduler":
                self._scheduler_ended(pid, code)
            elif name in self._fork_again and name != "head":
                pass  # a shard heard of the session's end before this node's raylet
            elif name is not None:  # not an adopted orphan
                raise Ended(f"the {name} (pid {pid}) ended: {self._how_ended(pid, code)}", meant=code == 0)
        why = self._watch.tie.why_gone(readable)
        if why is not None:
            raise Ended(why, meant=True)
        return readable

    def _end_hanging(self, pid: int) -> None:
        name = self._children[pid]
        sys.stderr.write(f"the {name} (pid {pid}) hangs, and is killed\n")
        self._hung.add(pid)
        if name == "raylet":  # its processes see its end before we do
            child.leave_word(self._config, f"the raylet (pid {pid}) hung, and was killed")
        os.kill(pid, signal.SIGKILL)

    def _how_ended(self, pid: int, code: int) -> str:
        return "it hung, and was killed" if pid in self._hung else processes.exit_in_words(code)

    def _scheduler_ended(self, pid: int, code: int) -> None:
        """Another takes its place, unless it was told that the session ends."""
        if code == 0 or self._fork_scheduler is None:
            return
        what = f"the scheduler (pid {pid}) ended: {self._how_ended(pid, code)}"
        now = time.monotonic()
        self._scheduler_ends = [at for at in self._scheduler_ends if at > now - HEAD_LIVES_S] + [now]
        if len(self._scheduler_ends) >= SCHEDULER_LIVES * self._config.settings.global_schedulers:
            sys.stderr.write(f"{what}. Too many did within {HEAD_LIVES_S:.0f} s, so none takes its place\n")
            return
        sys.stderr.write(f"{what}. Another, pid {self._fork_scheduler()}, takes its place\n")

    def _begin_again(self, name: str, pid: int, code: int) -> None:
        """The head or a shard of the GCS was killed, or failed: another goes on.

        Raises:
            Ended: that would lead nowhere.
        """
        what = f"the {name} (pid {pid}) ended: {self._how_ended(pid, code)}"
        if code == TOLD_TO_END:
            raise Ended(f"{what}. It was told to", meant=True)
        if code == NOTHING_TO_GO_ON_FROM:
            raise Ended(f"{what}. The one before it was lost, and so was what it had written down: see {name}.log")
        now = time.monotonic()
        ends = self._ends[name] = [at for at in self._ends.get(name, ()) if at > now - HEAD_LIVES_S] + [now]
        if len(ends) >= HEAD_LIVES:
            raise Ended(f"{what}. It ended {HEAD_LIVES} times within {HEAD_LIVES_S:.0f} s: see {name}.log")
        pid = self._fork_again[name]()
        sys.stderr.write(f"{what}. Another, pid {pid}, goes on in its place\n")


if __name__ == "__main__":
    sys.exit(main())
