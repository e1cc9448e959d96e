"""What YARN or Kubernetes gives an executor, and what of it is there for sparkray. Arithmetic only, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparkray_core.settings import size_in_bytes

_MIB = 1 << 20
_JVM_SHARE, _JVM_LEAST = 0.1, 384 * _MIB  # of the heap, beside it: Spark's own default of the overhead
LEAST_STORE = 64 * _MIB  # where a container has no room at all: its pages are taken only when they are written to
_STORE_SHARE = 0.5  # of the room; the other half is for workers
PROCESS_BYTES = 1 << 30  # of address space, beside the store: Python, numpy, pyarrow, their threads' stacks


@dataclass(frozen=True, slots=True)
class Container:
    """Bytes that Spark asks for, per executor. If more than the sum is used, all of it is killed, the JVM too."""

    heap: int
    overhead: int  # spark.executor.memoryOverhead: for all that is not the JVM's heap
    python: int = 0  # spark.executor.pyspark.memory
    off_heap: int = 0

    @property
    def total(self) -> int:
        return self.heap + self.overhead + self.python + self.off_heap

    @property
    def jvm(self) -> int:
        """What the JVM itself needs of the overhead: stacks, code, buffers."""
        return min(max(int(self.heap * _JVM_SHARE), _JVM_LEAST), self.overhead)

    @property
    def room(self) -> int:
        """For sparkray: its store and its workers."""
        return self.overhead - self.jvm

    @property
    def store(self) -> int:
        """The size of a store, where none was asked for."""
        return max(int(self.room * _STORE_SHARE), LEAST_STORE)

    def store_for(self, asked: int | None) -> int:
        """Of a node that asked for so much, but shall not have more than its container."""
        return self.store if asked is None else min(asked, max(self.room, LEAST_STORE))

    def overhead_for(self, store: int) -> int:
        """That leaves room for a store, and as much again for workers."""
        return self.jvm + 2 * store


def container_of(master: str, settings: Mapping[str, str]) -> Container | None:
    """None where nothing limits an executor but its host.

    Raises:
        ValueError: a size that Spark would not read either.
    """
    if not master.startswith(("yarn", "k8s")):
        return None
    heap = _bytes(settings, "spark.executor.memory", "1g")
    factor = settings.get("spark.executor.memoryOverheadFactor")
    if factor is None and master.startswith("k8s"):
        factor = settings.get("spark.kubernetes.memoryOverheadFactor")
    least = _bytes(settings, "spark.executor.minMemoryOverhead", "384m")
    overhead = max(int(heap * float(factor or 0.1)), least)
    if "spark.executor.memoryOverhead" in settings:
        overhead = _bytes(settings, "spark.executor.memoryOverhead", "0")
    off_heap = 0
    if settings.get("spark.memory.offHeap.enabled", "").strip().lower() == "true":
        off_heap = _bytes(settings, "spark.memory.offHeap.size", "0")
    return Container(heap, overhead, _bytes(settings, "spark.executor.pyspark.memory", "0"), off_heap)


def driver_container_of(master: str, settings: Mapping[str, str]) -> Container | None:
    """That of a driver which YARN runs (cluster mode). None: the driver is not in one, or a cgroup says its limit.

    Raises:
        ValueError: a size that Spark would not read either.
    """
    if master != "yarn" or settings.get("spark.submit.deployMode") != "cluster":
        return None
    heap = _bytes(settings, "spark.driver.memory", "1g")
    least = _bytes(settings, "spark.driver.minMemoryOverhead", "384m")
    overhead = max(int(heap * float(settings.get("spark.driver.memoryOverheadFactor", "0.1"))), least)
    if "spark.driver.memoryOverhead" in settings:
        overhead = _bytes(settings, "spark.driver.memoryOverhead", "0")
    return Container(heap, overhead)


def python_limit(settings: Mapping[str, str], cores: int | None) -> int | None:
    """The address space that Spark allows each of its Python workers and all that they start; None: no limit."""
    whole = _bytes(settings, "spark.executor.pyspark.memory", "0")
    return whole // (cores or 1) or None


def _bytes(settings: Mapping[str, str], name: str, default: str) -> int:
    """Spark takes MiB where a number of these settings has no unit."""
    text = settings.get(name, default).strip()
    size = int(text) * _MIB if text.isdigit() else size_in_bytes(text)
    if size is None:
        raise ValueError(f"{name} is {text!r}, which is no size")
    return size
