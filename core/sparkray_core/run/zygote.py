"""The zygote: has the heavy imports done, forks workers in milliseconds, reaps them and says how each ended.

It is single-threaded, so that forking is safe, and holds no socket but the one to its raylet. Requests and reports
are records of one size each:

    raylet -> zygote    FORK or KILL, ProcessId
    zygote -> raylet    STARTED, ProcessId, pid | EXITED, ProcessId, code (-9: SIGKILL) | NOT_FORKED, ProcessId, errno

One worker is forked ahead, the spare one, and begins as far as it can before anybody wants it: two thirds of what it
takes until a worker can be given work. Nobody but the zygote knows of it until then. Its id is a guess, since it has to
begin as somebody: the raylet counts its workers, so the next one's id is one more than the last one's. A wrong guess,
or a spare worker that died, costs no more than a fork.
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
from typing import NamedTuple

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
# After the last worker that was asked for: it has begun by then, and whoever waited for it has the CPUs.
_SPARE_S = 0.25
WorkerMain = Callable[[NodeConfig, ProcessId, Callable[[], None]], None]

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
            ready = {descriptor for descriptor, _ in poll.poll(zygote.idle_ms)}
            if not ready:
                zygote.fork_spare()
            if wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
                zygote.report_ended()
            if lifeline in ready or (raylet.fileno() in ready and not zygote.answer()):
                break
    finally:
        zygote.end_workers()


def _import_ahead(config: NodeConfig) -> WorkerMain:
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
        run_worker: WorkerMain | None,
    ) -> None:
        """`run_worker`: what a forked worker runs; None where forking is not safe: then each is a fresh interpreter."""
        self._config = config
        self._raylet = raylet
        self._close = (*close, raylet.fileno())
        self._run_worker = run_worker
        self._pids: dict[ProcessId, int] = {}
        self._received = b""
        self._next: ProcessId | None = None  # whom to fork ahead, once nothing else is to do
        self._spare: _Spare | None = None

    @property
    def idle_ms(self) -> float | None:
        """After so long without anything to do, `fork_spare` is due."""
        return None if self._next is None else 1000 * _SPARE_S

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
            if self._spare is not None and self._spare.pid == pid:
                self._drop_spare()  # and no other, until one is asked for: what ended it might end that, too
                continue
            worker = next((worker for worker, its_pid in self._pids.items() if its_pid == pid), None)
            if worker is not None:
                del self._pids[worker]
                self._report(EXITED, worker, code)

    def end_workers(self) -> None:
        spare = [] if self._spare is None else [self._spare.pid]
        processes.end_tree([*self._pids.values(), *spare], _GRACE_S, groups=True)

    def fork_spare(self) -> None:
        """The worker that will be asked for next, if one has been since the last spare one."""
        worker, self._next = self._next, None
        if worker is None:
            return
        read, write = os.pipe()
        try:
            pid = self._begin(worker, (read, write))
        except OSError as error:
            log.info("no worker is forked ahead: %s", error)
            os.close(write)
            return
        finally:
            os.close(read)
        self._lead_group(pid)
        self._spare = _Spare(worker, pid, write)

    def _fork(self, worker: ProcessId) -> None:
        try:
            pid = self._take_spare(worker) or self._begin(worker)
        except OSError as error:  # no more processes, no more memory
            self._report(NOT_FORKED, worker, error.errno or 0)
            return
        self._lead_group(pid)
        self._pids[worker] = pid
        self._report(STARTED, worker, pid)
        if self._spare is None and self._run_worker is not None:
            self._next = _one_more(worker)

    @staticmethod
    def _lead_group(pid: int) -> None:
        with contextlib.suppress(OSError):  # it does the same; whoever is first. It may even have ended.
            os.setpgid(pid, pid)

    def _take_spare(self, worker: ProcessId) -> int:
        """The pid of the one forked ahead, which is this worker from now on; 0: there is none."""
        spare = self._spare
        if spare is None:
            return 0
        wanted = False
        if spare.worker == worker:
            with contextlib.suppress(BrokenPipeError):  # it has ended; the signal is on its way
                wanted = os.write(spare.tell, b"1") == 1
        if not wanted:
            with contextlib.suppress(ProcessLookupError):
                os.kill(spare.pid, signal.SIGKILL)
        self._drop_spare()
        return spare.pid if wanted else 0

    def _drop_spare(self) -> None:
        assert self._spare is not None
        os.close(self._spare.tell)
        self._spare = None

    def _begin(self, worker: ProcessId, wanted: tuple[int, int] | None = None) -> int:
        """`wanted`: the ends of a pipe that says when it is, if it is forked ahead."""
        run_worker = self._run_worker
        if run_worker is None:
            return _spawn(self._config, worker)
        close = [*self._close, *(() if self._spare is None else (self._spare.tell,))]
        if wanted is not None:
            close.append(wanted[1])
        return processes.fork(
            _be_worker,
            self._config,
            worker,
            os.getpid(),
            run_worker,
            None if wanted is None else wanted[0],
            close=close,
            threads_are_known_harmless=True,
        )

    def _report(self, kind: int, worker: ProcessId, number: int) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next read says so
            self._raylet.sendall(REPORT.pack(kind, worker, number))


class _Spare(NamedTuple):
    """A worker that nobody has asked for yet."""

    worker: ProcessId
    pid: int
    tell: int  # a byte written here tells it that it is wanted


def _one_more(worker: ProcessId) -> ProcessId:
    """Of the same node."""
    return ProcessId(worker[:8] + ((int.from_bytes(worker[8:], "big") + 1) % (1 << 64)).to_bytes(8, "big"))


def _be_worker(
    config: NodeConfig, worker: ProcessId, zygote: int, run_worker: WorkerMain, wanted: int | None = None
) -> None:
    """`wanted`: a pipe that has a byte when it is, or ends when it never will be; None: it is."""
    processes.die_with_parent(signal.SIGKILL, zygote)
    os.setpgid(0, 0)
    if wanted is not None:
        processes.set_title("spare worker", "sparkray-spare")
    logging.getLogger().handlers.clear()
    gc.enable()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:  # older numpy imports it itself: all workers would draw the same numbers
        numpy_random.seed()

    def be_wanted() -> None:
        """Returns when it is. What it has done until then must not show outside: no file, no socket, no output."""
        if wanted is not None:
            if not os.read(wanted, 1):
                os._exit(0)
            os.close(wanted)
        processes.set_title("worker", "sparkray-worker")
        processes.redirect_output(config.new_log(f"worker-{worker[8:].hex()}"))

    run_worker(config, worker, be_wanted)


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
