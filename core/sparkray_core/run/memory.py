"""How much memory is in use, of how much: by the container's cgroup or the machine, whichever is nearer to its limit.

A YARN or Kubernetes container is killed by its own limit while the machine has plenty. Of a cgroup's usage, cached
files do not count: the system takes those back by itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from sparkray_core.ids import ProcessId
from sparkray_core.model.events import Event, MemoryRead
from sparkray_core.model.node import Node
from sparkray_core.run.loop import Loop
from sparkray_core.run.processes import LINUX, children_of
from sparkray_core.settings import Settings

LOW_MARK = 0.75  # of the threshold: below it, it is looked at so many times less often:
SELDOM = 4
WARN_AGAIN_S = 5.0
LISTED = 3  # of a container's processes
_NO_LIMIT = 1 << 60  # cgroup v1 writes a number above this where there is none
_PAGE = os.sysconf("SC_PAGE_SIZE")

log = logging.getLogger(__name__)


class Usage(NamedTuple):
    used: int  # bytes
    limit: int

    @property
    def share(self) -> float:
        return self.used / self.limit


class Source(Protocol):
    def read(self) -> Usage | None:
        """None: it sets no limit, or cannot be read."""


class Machine:
    """All memory, less what is free or can be had at once."""

    def read(self) -> Usage | None:
        if not LINUX:
            import psutil

            memory = psutil.virtual_memory()
            return Usage(memory.total - memory.available, memory.total)
        facts = _numbers("/proc/meminfo", ("MemTotal:", "MemAvailable:"))
        if len(facts) < 2:
            return None
        total = facts["MemTotal:"] << 10
        return Usage(total - (facts["MemAvailable:"] << 10), total)


class Cgroup:
    """One cgroup. Limits may be changed while we run, so both numbers are read anew each time."""

    def __init__(self, folder: str, used: str, limit: str, cached: tuple[str, ...], events: str) -> None:
        """
        Args:
            cached: keys of memory.stat that are cached files.
            events: the file that counts the processes that the system has killed for memory.
        """
        self.folder, self._used, self._limit, self._cached, self._events = folder, used, limit, cached, events

    def kills(self) -> int:
        """So many processes of it the system has killed because its memory ran out."""
        return _numbers(os.path.join(self.folder, self._events), ("oom_kill",)).get("oom_kill", 0)

    def read(self) -> Usage | None:
        limit = _number(os.path.join(self.folder, self._limit))
        if limit is None or not 0 < limit < _NO_LIMIT:
            return None
        used = _number(os.path.join(self.folder, self._used))
        if used is None:
            return None
        cached = sum(_numbers(os.path.join(self.folder, "memory.stat"), self._cached).values())
        return Usage(max(0, used - cached), limit)


def cgroups(proc: str = "/proc/self/cgroup", mounted: str = "/sys/fs/cgroup") -> list[Cgroup]:
    """Those that this process is in, version 1 or 2, with all above them. (The folders of a container are its own.)"""
    found: dict[str, Cgroup] = {}
    with contextlib.suppress(OSError), open(proc) as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controllers == "":
                for root in (mounted, os.path.join(mounted, "unified")):
                    for folder in _up(root, path, "memory.max"):
                        cached = ("inactive_file", "active_file")
                        found[folder] = Cgroup(folder, "memory.current", "memory.max", cached, "memory.events")
            elif "memory" in controllers.split(","):
                for folder in _up(os.path.join(mounted, "memory"), path, "memory.limit_in_bytes"):
                    cached = ("total_inactive_file", "total_active_file")
                    names = "memory.usage_in_bytes", "memory.limit_in_bytes", cached, "memory.oom_control"
                    found[folder] = Cgroup(folder, *names)
    return list(found.values())


def _up(root: str, path: str, file: str) -> Iterator[str]:
    parts = [part for part in path.split("/") if part]
    for count in range(len(parts), -1, -1):
        folder = os.path.join(root, *parts[:count])
        if os.path.exists(os.path.join(folder, file)):
            yield folder


class WatchedContainer:
    """A container without a cgroup, whose limit somebody outside keeps an eye on (YARN): the sum over its processes.

    That eye loses sight of what is re-parented to init, as our keeper may be; we count it all the same. And it counts
    what processes share by mapping it, libraries and our store, once for each of them: with a dozen Pythons that is a
    quarter of a GiB more than there is. It ends the container by its own count, so the larger of the two is ours.
    """

    def __init__(self, limit: int, roots: Iterable[int], shared: Callable[[], int]) -> None:
        """
        Args:
            roots: processes that belong to it with all below them; whoever watches from outside looks below the first.
            shared: bytes that several of them map, to be counted once.
        """
        self._limit, self._roots, self._shared = limit, tuple(roots), shared

    def read(self) -> Usage:
        ours = self._shared() + sum(map(own_bytes, with_descendants(self._roots)))
        theirs = sum(map(resident_bytes, with_descendants(self._roots[:1])))
        return Usage(max(ours, theirs), self._limit)

    def largest(self) -> str:
        """Its largest processes, in words."""
        used = sorted(((resident_bytes(pid), pid) for pid in with_descendants(self._roots)), reverse=True)
        return ", ".join(f"{_name(pid)} (pid {pid}) {size >> 20} MiB" for size, pid in used[:LISTED])


def with_descendants(roots: Iterable[int]) -> set[int]:
    """The processes and all below them; the roots alone where the system does not keep a list of children (Linux, some
    kernels): a look at all processes is too dear, several times a second."""
    found: set[int] = set()
    todo = list(roots)
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += _children(pid)
    return found


def _children(pid: int) -> list[int]:
    if not LINUX:
        return children_of(pid)
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(FileNotFoundError, ProcessLookupError),
                open(f"/proc/{pid}/task/{thread}/children", "rb") as file,
            ):
                found += map(int, file.read().split())
    return found


def nearest(sources: Iterable[Source]) -> Usage | None:
    """Of all that set a limit the one that is nearest to it."""
    usages = [usage for source in sources if (usage := source.read()) is not None]
    return max(usages, key=lambda usage: usage.share, default=None)


def own_bytes(pid: int) -> int:
    """What a process has in memory that no other shares by mapping it; 0: it is gone.

    Pages that it shares with the zygote, copy on write, are counted: telling them apart takes the system milliseconds.
    """
    resident, shared = _resident(pid)
    return resident - shared


def resident_bytes(pid: int) -> int:
    """What a process has in memory, shared or not; 0: it is gone."""
    return _resident(pid)[0]


def _resident(pid: int) -> tuple[int, int]:
    """And how much of it is shared, as far as the system says."""
    if not LINUX:
        import psutil

        try:
            return int(psutil.Process(pid).memory_info().rss), 0
        except psutil.Error:
            return 0, 0
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = file.read().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    return int(resident) * _PAGE, int(shared) * _PAGE


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:  # it has ended, or this is not Linux
        return "a process"


def _number(path: str) -> int | None:
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):  # "max"
        return None


def _numbers(path: str, keys: tuple[str, ...]) -> dict[str, int]:
    """Of a file of lines "key number"."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError), open(path) as file:
        for line in file:
            key, _, rest = line.partition(" ")
            if key in keys:
                found[key] = int(rest.split()[0])
                if len(found) == len(keys):
                    break
    return found


class MemoryMonitor:
    """Looks now and then, and tells the model when it has to know."""

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        node: Node,
        tell: Callable[[Event], None],
        sources: Iterable[Source] | None = None,
        container: WatchedContainer | None = None,
    ) -> None:
        """
        Args:
            sources: other than the system's, for tests.
            container: a further one.
        """
        self._loop = loop
        self._settings = settings
        self._node = node
        self._tell = tell
        self._timer = loop.timer(self._look)
        self._kills = 0
        self._container = container
        self._much_at = float("-inf")  # when much was last in use
        self._sources: list[Source] = [Machine(), *cgroups()] if sources is None else list(sources)
        if container is not None:
            self._sources.append(container)
        if settings.memory_limit_bytes:
            self._sources.append(self)

    def start(self) -> None:
        self._kills = self._count_kills()
        if self._settings.memory_threshold:
            self._look()

    def read(self) -> Usage:
        """As a source: of the limit that was set for this node's workers and store."""
        used = self._node.store.allocator.used + sum(self._of_workers().values())
        return Usage(used, self._settings.memory_limit_bytes)

    def system_has_killed(self) -> bool:
        """Whether the system has killed processes for memory since this was last asked."""
        before, self._kills = self._kills, self._count_kills()
        return self._kills > before

    def in_words(self) -> str:
        limits = [usage.limit for source in self._sources if (usage := source.read()) is not None]
        return f"the limit is {min(limits) >> 20} MiB" if limits else "how much there is cannot be read"

    def _count_kills(self) -> int:
        counts = [source.kills() for source in self._sources if isinstance(source, Cgroup)]
        if LINUX and not any(isinstance(source, Cgroup) and source.read() for source in self._sources):
            counts.append(_numbers("/proc/vmstat", ("oom_kill",)).get("oom_kill", 0))  # of the whole machine
        return sum(counts)

    def _look(self) -> None:
        usage = nearest(self._sources)
        threshold = self._settings.memory_threshold
        share = 0.0 if usage is None else usage.share
        much = share > threshold
        if usage is not None and (much or self._node.claims.short_of_memory):
            before = self._ended_for_memory()
            self._tell(MemoryRead(usage.used, usage.limit, self._of_workers() if much else {}))
            if much:
                self._warn(usage, self._ended_for_memory().items() - before.items())
        often = 1 if share > threshold * LOW_MARK or self._node.claims.short_of_memory else SELDOM
        self._timer.wake_at(self._loop.clock() + self._settings.memory_check_s * often)

    def _ended_for_memory(self) -> dict[ProcessId, str]:
        return {worker.id: worker.killed for worker in self._node.workers.all.values() if worker.for_memory}

    def _warn(self, usage: Usage, ended: set[tuple[ProcessId, str]]) -> None:
        """For the log, and for whoever wants to know what the node said before it was gone."""
        now, before = self._loop.clock(), self._much_at
        self._much_at = now
        if not ended and now - before <= WARN_AGAIN_S:
            return
        largest = "" if self._container is None else f". The container's largest: {self._container.largest()}"
        log.warning("memory: %d of %d MiB are in use%s", usage.used >> 20, usage.limit >> 20, largest)
        for _, why in ended:
            log.warning("%s", why)

    def _of_workers(self) -> dict[ProcessId, int]:
        return {worker.id: own_bytes(worker.pid) for worker in self._node.workers.all.values() if worker.pid}
