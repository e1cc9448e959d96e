"""Processes: who they are, whether they live, how they are forked, tied to each other and ended.

Linux has a means for each (pidfd, PR_SET_PDEATHSIG, subreaper, /proc); where one is missing, the function says so
in its result, and the caller polls or relies on the closed pipe that every process of ours watches as well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

from sparkray_core.system import LINUX as LINUX  # others ask this module

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
_LONGEST_TITLE = 200  # characters; there is no room for more where the arguments of the keeper were
_write_title: Callable[[str], object] | None = None
_REAP_POLL_S = 0.005  # between two looks at children that were told to end


# ------------------------------------------------------------------------------------------ who, and alive?
class Identity(NamedTuple):
    """A process that no other can be taken for: pids are used again, a pid with its start time is not."""

    pid: int
    start: float  # clock ticks since boot on Linux, seconds since 1970 elsewhere


def identify(pid: int) -> Identity | None:
    """The process that has this pid now; None when there is none, or only its unreaped remains."""
    if LINUX:
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()  # the name, field 2, may hold anything
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in (b"Z", b"X") else Identity(pid, float(fields[19]))
    return _identify_by_psutil(pid)


def _identify_by_psutil(pid: int) -> Identity | None:
    import psutil  # only where there is no /proc: it costs 10 ms

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else Identity(pid, process.create_time())
    except psutil.NoSuchProcess:
        return None


def is_alive(identity: Identity) -> bool:
    return identify(identity.pid) == identity


def watch(identity: Identity) -> int | None:
    """A descriptor that becomes readable when the process ends; None where the system has none: poll `is_alive`.

    Raises:
        ProcessLookupError: it has ended already.
    """
    open_pidfd = getattr(os, "pidfd_open", None) if LINUX else None
    descriptor: int | None = None
    if open_pidfd is not None:
        try:
            descriptor = open_pidfd(identity.pid)
        except OSError as error:  # an old kernel, or a seccomp filter that does not know the call
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.ESRCH):
                raise
    if not is_alive(identity):  # looked at after the open: the descriptor is of this process, not of its successor
        if descriptor is not None:
            os.close(descriptor)
        raise ProcessLookupError(f"process {identity.pid} has ended")
    return descriptor


# ------------------------------------------------------------------------------------------ ties
def _prctl(option: int, argument: int | bytes) -> bool:
    if not LINUX:
        return False
    import ctypes  # 5 ms, and a driver has no use for it

    value = ctypes.c_ulong(argument) if isinstance(argument, int) else ctypes.c_char_p(argument)
    return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)


def die_with_parent(how: signal.Signals, parent: int) -> bool:
    """Have the system send `how` to this process when `parent` dies; False where no system call does that.

    `parent` is the pid that the forking process had: if it died before this call, the signal is sent here and now.
    """
    known = _prctl(_PR_SET_PDEATHSIG, int(how))
    if os.getppid() != parent:
        os.kill(os.getpid(), how)
    return known


def adopt_orphans() -> bool:
    """Become the parent of descendants whose own parent dies, so that `end_tree` finds them; False off Linux."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_name(name: str) -> None:
    """What `ps` and `top` show, cut to 15 characters. Nothing happens off Linux."""
    _prctl(_PR_SET_NAME, name.encode()[:15])


def set_title(title: str, name: str) -> None:
    """What `ps aux` shows, after "sparkray: "; and `set_name`, which the writing of a title undoes.

    It takes some 5 us, with two system calls.
    """
    global _write_title
    if _write_title is None:
        _write_title = _title_writer()
    _write_title(f"sparkray: {title[:_LONGEST_TITLE]}".replace("\0", "?"))
    set_name(name)


def _title_writer() -> Callable[[str], object]:
    try:
        import setproctitle  # here, because the user's own process, which imports this module, keeps its title
    except ImportError:  # an executor's Python that lacks it: nothing but a name is missing then
        return lambda title: None
    # Told otherwise, it writes over the environment, too, in which one sees what a process was started with. It looks
    # for this variable once, so that no process of the user has to inherit it.
    before = os.environ.get("SPT_NOENV")
    os.environ["SPT_NOENV"] = "1"
    setproctitle.getproctitle()
    if before is None:
        del os.environ["SPT_NOENV"]
    else:
        os.environ["SPT_NOENV"] = before
    return setproctitle.setproctitle


# ------------------------------------------------------------------------------------------ fork
def fork(
    main: Callable[..., object], *args: Any, close: Iterable[int] = (), threads_are_known_harmless: bool = False
) -> int:
    """Run `main(*args)` in a child; its pid comes back here, and the child never returns from this call.

    The child starts with default signal handlers (SIGPIPE stays ignored, as Python has it) and without the
    descriptors in `close`. It exits with 0, with the code of a SystemExit, or with 1 after printing the traceback.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal that came between the fork and the reset would run the parent's handler in the child.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with warnings.catch_warnings():
            if threads_are_known_harmless:  # Python 3.12+ warns at any fork with threads
                warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _run_child(main, args, close, unblocked)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    return pid


def _run_child(
    main: Callable[..., object], args: tuple[Any, ...], close: Iterable[int], unblocked: set[int | signal.Signals]
) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGPIPE}:
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        for descriptor in close:
            os.close(descriptor)
        main(*args)
        code = 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:  # noqa: BLE001 - the end of this process: nobody above could handle it
        traceback.print_exc()
    finally:
        try:
            with contextlib.suppress(OSError, ValueError):  # a full disk, a closed stream
                sys.stdout.flush()
                sys.stderr.flush()
        finally:
            os._exit(code)


def redirect_output(path: str) -> None:
    """Send stdout and stderr to the end of this file, line by line, and read nothing from stdin any more."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    sys.stdout.flush()
    sys.stderr.flush()
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(nothing)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------ the end
def children_of(pid: int) -> list[int]:
    """The living children of a process; unreaped ones are left out."""
    if not LINUX:
        return _children_by_psutil(pid)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{entry}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
                if int(fields[1]) == pid and fields[0] not in (b"Z", b"X"):
                    found.append(int(entry))
    return found


def _children_by_psutil(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def reap(groups: bool = False) -> list[tuple[int, int]]:
    """(pid, exit code, negative for a signal) of every child that has ended and was not waited for yet.

    With `groups`, each was the leader of its process group, and what is left of the group is killed.
    """
    ended = []
    with contextlib.suppress(ChildProcessError):
        while True:
            if groups and hasattr(os, "waitid"):  # not on macOS: there the group is killed after its leader's burial
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is not None:
                    kill_group(found.si_pid)  # while the number cannot be another's
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if groups and not hasattr(os, "waitid"):
                kill_group(pid)
            ended.append((pid, os.waitstatus_to_exitcode(status)))
    return ended


def end_tree(children: Iterable[int], grace: float, groups: bool = False) -> None:
    """End children of this process (and whom it adopts meanwhile): SIGTERM, then SIGKILL after `grace` seconds.

    All are reaped when this returns. `children` must not have been waited for yet. `groups` as for `reap`.
    """
    left = set(children)
    for pid in left:
        _send(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while left and time.monotonic() < deadline:
        left -= {pid for pid, _ in reap(groups)}
        if left:
            time.sleep(_REAP_POLL_S)
    while left := {pid for pid in left if identify(pid) is not None} | set(children_of(os.getpid())):
        for pid in left:
            _send(pid, signal.SIGKILL)
        time.sleep(_REAP_POLL_S)
        reap(groups)
    reap(groups)


def kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM when only zombies are left in it
        os.killpg(leader, signal.SIGKILL)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def exit_in_words(code: int) -> str:
    """ "exit code 1", or "killed by SIGKILL" for -9."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"killed by signal {-code}"


# ------------------------------------------------------------------------------------------ environment
_SPARK_WORKER_MARKS = ("PYTHON_WORKER_FACTORY_", "SPARK_REUSE_WORKER", "SPARK_PYTHON_RUNTIME")
_SPARK_PREFIXES = ("SPARK_", "_SPARK_", "PYSPARK_")
_SECRET_WORDS = ("SECRET", "TOKEN", "PASSWORD")


def scrub_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what Spark put in for its own workers: its secrets, and OMP_NUM_THREADS; and without the
    password of the GCS's server, which only the head gets, by other ways.

    Spark sets OMP_NUM_THREADS to `spark.task.cpus` in its Python workers, whose children would inherit it and do
    linear algebra on one core. Outside of such a worker the variable is the user's own, and stays.
    """
    in_spark_worker = any(name.startswith(_SPARK_WORKER_MARKS) for name in environment)
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(("PYTHON_WORKER_FACTORY_", "PYSPARK_GATEWAY_"))
        and not (name.startswith(_SPARK_PREFIXES) and any(word in name for word in _SECRET_WORDS))
        and not (name == "OMP_NUM_THREADS" and in_spark_worker)
        and name != "SPARKRAY_GCS_STORAGE"
    }
