"""The zygote: has the heavy imports done, forks workers in milliseconds, reaps them and says how each ended.

It is single-threaded, so that forking is safe, and holds no socket but the one to its raylet. Requests and reports
are records of one size each:

    raylet -> zygote    FORK or KILL, ProcessId
    zygote -> raylet    STARTED, ProcessId, pid | EXITED, ProcessId, code (-9: SIGKILL) | NOT_FORKED, ProcessId, errno
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable

from sparkray_core.ids import ProcessId
from sparkray_core.run import child, processes, threads
from sparkray_core.run.config import NodeConfig
from sparkray_core.system import LINUX

FORK, KILL = 1, 2
STARTED, EXITED, NOT_FORKED = 1, 2, 3
REQUEST = struct.Struct(">B16s")
REPORT = struct.Struct(">B16si")

# Done before the first fork, although a worker that needs none of it could then start some 100 ms earlier: the zygote
# does them while head and raylet come up on another core, and workers forked ahead of them would each import, and
# hold in memory of their own, what all others share.
#
# Forking is safe after them: OpenBLAS has no thread yet (`threads.begin`; a worker with more CPUs gets more by
# threadpoolctl), and the one of Arrow's jemalloc is restarted by jemalloc's own handler. 300 of 300 forks could use
# both.
HEAVY_IMPORTS = ("cloudpickle", "numpy", "pyarrow")
_GRACE_S = 0.5  # from SIGTERM to SIGKILL; below the keeper's own grace, which ends the zygote

log = logging.getLogger(__name__)


def main(config: NodeConfig, raylet: socket.socket, lifeline: int, keeper: int) -> None:
    """The zygote's life, right after the keeper forked it.

    Args:
        raylet: our end of the pair; its end of file ends us and all workers.
        lifeline: a pipe that the keeper holds open; its end of file does the same.
        keeper: our parent's pid.
    """
    wake, wake_write = os.pipe()
    for end in (wake, wake_write):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    told_to_end: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told_to_end.append(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child.begin("zygote", config, keeper)

    run_worker = _import_ahead(config) if LINUX else None
    zygote = Zygote(config, raylet, close=(wake, wake_write, lifeline), run_worker=run_worker)
    poll = select.poll()
    for descriptor in (raylet.fileno(), wake, lifeline):
        poll.register(descriptor, select.POLLIN)
    try:
        while not told_to_end:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
                zygote.report_ended()
            if lifeline in ready or (raylet.fileno() in ready and not zygote.answer()):
                break
    finally:
        zygote.end_workers()


def _import_ahead(config: NodeConfig) -> Callable[[NodeConfig, ProcessId], None]:
    """Import what workers will need, from where the driver would import it, and return a worker's main function."""
    sys.path[:] = [*config.sys_path, *(entry for entry in sys.path if entry not in config.sys_path)]
    if config.cwd is not None:
        try:
            os.chdir(config.cwd)
        except OSError as error:
            log.warning("workers start in %s, not in the driver's folder [%s]", os.getcwd(), error)
    threads.begin()
    gc.disable()  # nothing that an import leaves is garbage
    for name in HEAVY_IMPORTS:
        _import_if_there(name)
    from sparkray_core.run import worker_main  # here, because only this process and its workers need it
    from sparkray_core.wire import checking

    checking.know_all()

    gc.freeze()  # or the first collection in a worker would write to, and so copy, every page that it shares
    return worker_main.main


def _import_if_there(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        log.warning("workers start without %s [%s]", name, error)


class Zygote:
    """The workers of this node, by pid and by id, and the conversation with the raylet about them."""

    def __init__(
        self,
        config: NodeConfig,
        raylet: socket.socket,
        close: tuple[int, ...],
        run_worker: Callable[[NodeConfig, ProcessId], None] | None,
    ) -> None:
        """`run_worker`: what a forked worker runs; None where forking is not safe: then each is a fresh interpreter."""
        self._config = config
        self._raylet = raylet
        self._close = (*close, raylet.fileno())
        self._run_worker = run_worker
        self._pids: dict[ProcessId, int] = {}
        self._received = b""

    def answer(self) -> bool:
        """Carry out what the raylet asked for; False when it is gone."""
        try:
            arrived = self._raylet.recv(1 << 16)
        except ConnectionResetError:
            return False
        self._received += arrived
        whole = len(self._received) - len(self._received) % REQUEST.size
        requests, self._received = self._received[:whole], self._received[whole:]
        for kind, worker in REQUEST.iter_unpack(requests):
            if kind == FORK:
                self._fork(ProcessId(worker))
            elif worker in self._pids:  # ended meanwhile: the report is on its way
                os.kill(self._pids[worker], signal.SIGKILL)  # not reaped, so the number is still its own
        return bool(arrived)

    def report_ended(self) -> None:
        """Reap what has ended, with the processes that it started and left in its group."""
        for pid, code in processes.reap(groups=True):
            worker = next((worker for worker, its_pid in self._pids.items() if its_pid == pid), None)
            if worker is not None:
                del self._pids[worker]
                self._report(EXITED, worker, code)

    def end_workers(self) -> None:
        processes.end_tree(self._pids.values(), _GRACE_S, groups=True)

    def _fork(self, worker: ProcessId) -> None:
        try:
            pid = self._begin(worker)
        except OSError as error:  # no more processes, no more memory
            self._report(NOT_FORKED, worker, error.errno or 0)
            return
        with contextlib.suppress(OSError):  # it does the same; whoever is first. It may even have ended.
            os.setpgid(pid, pid)
        self._pids[worker] = pid
        self._report(STARTED, worker, pid)

    def _begin(self, worker: ProcessId) -> int:
        run_worker = self._run_worker
        if run_worker is None:
            return _spawn(self._config, worker)
        return processes.fork(
            _be_worker,
            self._config,
            worker,
            os.getpid(),
            run_worker,
            close=self._close,
            threads_are_known_harmless=True,
        )

    def _report(self, kind: int, worker: ProcessId, number: int) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next read says so
            self._raylet.sendall(REPORT.pack(kind, worker, number))


def _be_worker(
    config: NodeConfig, worker: ProcessId, zygote: int, run_worker: Callable[[NodeConfig, ProcessId], None]
) -> None:
    processes.die_with_parent(signal.SIGKILL, zygote)
    os.setpgid(0, 0)
    processes.set_title("worker", "sparkray-worker")
    processes.redirect_output(config.new_log(f"worker-{worker[8:].hex()}"))
    logging.getLogger().handlers.clear()
    gc.enable()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:  # older numpy imports it itself: all workers would draw the same numbers
        numpy_random.seed()
    run_worker(config, worker)


# ------------------------------------------------------------------------------------------ without fork
_BOOTSTRAP = """\
import sys
path = [entry for entry in sys.path if entry]
path.insert(next((i for i, entry in enumerate(path) if entry.endswith("-packages")), len(path)), sys.argv.pop(1))
sys.path[:] = path
from sparkray_core.run.zygote import spawned
spawned()
"""


def _spawn(config: NodeConfig, worker: ProcessId) -> int:
    """A worker as a fresh interpreter: on macOS a fork of a process that has loaded frameworks may crash.

    It costs some 300 ms and shares no memory with others. What it is told comes by its stdin, as with the keeper.
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    arguments = [sys.executable, "-c", _BOOTSTRAP, root, worker.hex(), str(os.getpid())]
    read, write = os.pipe()
    try:
        pid = os.posix_spawn(
            sys.executable,
            arguments,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, read, 0)],
            setpgroup=0,
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGCHLD],
        )
        os.write(write, config.to_json().encode() + b"\n")  # the pipe takes 64 KiB without a reader
    finally:
        os.close(read)
        os.close(write)
    return pid


def spawned() -> None:
    """The life of a worker that `_spawn` started."""
    worker, zygote = ProcessId(bytes.fromhex(sys.argv[1])), int(sys.argv[2])
    config = NodeConfig.from_json(sys.stdin.readline())
    _be_worker(config, worker, zygote, _import_ahead(config))
