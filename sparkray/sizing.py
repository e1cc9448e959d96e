"""How many nodes, and how large: Spark's settings and facts about hosts in, a plan out. Arithmetic only, no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparkray.containers import LEAST_STORE, PROCESS_BYTES, Container, container_of, python_limit
from sparkray_core.errors import RaySystemError
from sparkray_core.settings import Settings, size_in_bytes

_YARN_K8S_INSTANCES = 2  # Spark's default of spark.executor.instances there
_LOCAL = re.compile(r"local(?:\[\s*(\d+|\*)\s*(?:,\s*\d+\s*)?\])?")
_LOOPBACK = re.compile(r"127(?:\.\d+){3}")
_LOCAL_CLUSTER = re.compile(r"local-cluster\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]")


class UnfitSpark(RaySystemError):
    """This SparkContext cannot host the nodes that were asked for. The sentence names the setting to change."""


class NoExecutorYet(UnfitSpark):
    """The number of nodes is to be that of the executors, and that is not known yet. Later it may be."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user said. None: not said."""

    nodes: int | None = None
    cores: int | None = None  # of each node
    store_bytes: int | None = None  # of each node


@dataclass(frozen=True, slots=True)
class Spark:
    """What the SparkContext says of itself."""

    master: str
    settings: Mapping[str, str]
    executors: int = 0  # registered now, the driver not counted
    slots: int = 0  # of all registered executors, busy ones too
    is_remote: bool = False  # over Spark Connect: its JVM is not this process's
    same_machine: bool | None = None  # as the driver; None: the settings tell


@dataclass(frozen=True, slots=True)
class Host:
    """The machine or container of one process."""

    cpus: int  # that the process may use
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class NodePlan:
    in_driver: bool  # local mode: one JVM, so one node, and the driver starts it itself
    same_machine: bool  # the executors run where the driver does
    nodes: int
    executors: int  # that Spark will have, of which `nodes` get a node
    cores: int | None  # CPUs that each node hands out; None: those of its host
    slots_each: int | None  # tasks that one executor runs at a time; None: not known before they are there
    store_bytes: int | None  # of each node; None: by `store_bytes_on`
    container: Container | None = None  # of each executor; None: its host is the only limit
    notes: tuple[str, ...] = ()  # what may go wrong later, and what to set against it
    barrier: bool = True  # one stage starts all nodes; else they join as Spark has executors for them

    def tasks_for_all_slots(self, slots: int) -> int:
        """Tasks of a barrier stage that must reach every executor, because no slot is left out."""
        return max(slots, self.nodes)


def is_local(master: str) -> bool:
    """One JVM is driver and executor. `local-cluster` is a cluster."""
    return _LOCAL.fullmatch(master.strip()) is not None


def local_slots(master: str) -> int | None:
    """Those of `local[n]`; None of `local[*]`, whose host knows."""
    found = _LOCAL.fullmatch(master.strip())
    assert found is not None
    return None if found.group(1) == "*" else int(found.group(1) or 1)


def plan(spark: Spark, host: Host, wishes: Wishes) -> NodePlan:
    """
    Args:
        host: the driver's.

    Raises:
        UnfitSpark: more was asked for than Spark will ever have, or a setting is in the way.
        NoExecutorYet: ask again when there is one.
        ValueError: a wish is no positive number.
    """
    for name, wish in (("num_ray_nodes", wishes.nodes), ("ray_node_cpu_cores", wishes.cores)):
        if wish is not None and (isinstance(wish, bool) or not isinstance(wish, int) or wish < 1):
            raise ValueError(f"{name} must be a whole number above 0, not {wish!r}")
    local = _LOCAL.fullmatch(spark.master.strip())
    if local is not None:
        return _plan_local(spark, local.group(1), host, wishes)
    dynamic = _is_true(spark.settings.get("spark.dynamicAllocation.enabled"))
    local_cluster = _LOCAL_CLUSTER.fullmatch(spark.master.strip())
    task_cpus = _whole(spark.settings, "spark.task.cpus") or 1
    cores = _whole(spark.settings, "spark.executor.cores")
    if local_cluster is not None and cores is None:
        cores = int(local_cluster.group(2))
    executors, because = _dynamic(spark) if dynamic else _executors(spark, local_cluster, cores)
    nodes = executors if wishes.nodes is None else wishes.nodes
    if dynamic and wishes.nodes is None:
        nodes = _at_first(spark)
    if because and nodes > executors:
        raise UnfitSpark(
            f"{nodes} nodes were asked for (num_ray_nodes), one to an executor, and Spark has {executors} executors: "
            f"{because}. Ask for fewer nodes, or for more executors there"
        )
    if nodes < 1:
        raise NoExecutorYet(
            "Spark has no executor yet, and no setting says how many there will be: set num_ray_nodes, or "
            "spark.cores.max and spark.executor.cores"
        )
    if cores is None and spark.executors:
        cores = spark.slots * task_cpus // spark.executors or None
    container = container_of(spark.master, spark.settings)
    notes = _fit(container, wishes.store_bytes)
    store = wishes.store_bytes if wishes.store_bytes or container is None else container.store
    _fit_python(spark.settings, cores, store)
    return NodePlan(
        in_driver=False,
        same_machine=_is_same_machine(spark) if spark.same_machine is None else spark.same_machine,
        nodes=nodes,
        executors=max(executors, nodes),
        cores=wishes.cores or cores,
        slots_each=None if cores is None else max(cores // task_cpus, 1),
        store_bytes=store,
        container=container,
        notes=notes,
        barrier=not dynamic,
    )


def _fit(container: Container | None, store: int | None) -> tuple[str, ...]:
    """What to say of a store in a container.

    Raises:
        UnfitSpark: it is larger than all that the container has beside the heap.
    """
    if container is None:
        return ()
    wanted = store or container.store
    needed = -(-container.overhead_for(wanted) // (1 << 20))
    there = (
        f"an executor's container has {show_bytes(container.overhead)} beside the JVM's heap "
        "(spark.executor.memoryOverhead), some of which the JVM needs, too"
    )
    what_to_do = f"Set spark.executor.memoryOverhead={needed}m before the SparkContext is made"
    if store is not None and store > container.overhead:
        raise UnfitSpark(
            f"object_store_memory is {show_bytes(store)} for each node, and {there}: it would be killed. {what_to_do}, "
            "or ask for less"
        )
    if 2 * wanted > container.room:
        return (f"a store of {show_bytes(wanted)} may not fit, with the workers: {there}. {what_to_do}",)
    return ()


def _fit_python(settings: Mapping[str, str], cores: int | None, store: int | None) -> None:
    """
    Raises:
        UnfitSpark: what Spark's Python workers start may not have as much address space as we need.
    """
    limit, needed = python_limit(settings, cores), PROCESS_BYTES + (store or LEAST_STORE)
    if limit is not None and limit < needed:
        raise UnfitSpark(python_limit_told(limit, needed))


def python_limit_told(limit: int, needed: int) -> str:
    return (
        f"Spark's Python workers may use {show_bytes(limit)} of address space, and all that they start inherits that "
        f"limit; sparkray's processes need {show_bytes(needed)} each. Unset "
        "spark.executor.pyspark.memory, or raise it: the executor's cores share it"
    )


def _plan_local(spark: Spark, cores: str | None, host: Host, wishes: Wishes) -> NodePlan:
    if wishes.nodes is not None and wishes.nodes > 1:
        raise UnfitSpark(
            f"{wishes.nodes} nodes were asked for (num_ray_nodes), and with the master {spark.master} there is one "
            f"executor, so one node. For more nodes on one machine use the master "
            f"local-cluster[{wishes.nodes},cores,MiB]"
        )
    slots = host.cpus if cores == "*" else int(cores or 1)
    if spark.is_remote:  # its host may be another, and its "*" that one's
        known = None if cores == "*" else slots
        return NodePlan(
            in_driver=False,
            same_machine=bool(spark.same_machine),
            nodes=1,
            executors=1,
            cores=wishes.cores or known,
            slots_each=known,
            store_bytes=wishes.store_bytes,
        )
    return NodePlan(
        in_driver=True,
        same_machine=True,
        nodes=1,
        executors=1,
        cores=wishes.cores or slots,
        slots_each=slots,
        store_bytes=wishes.store_bytes,
    )


def _executors(spark: Spark, local_cluster: re.Match[str] | None, cores: int | None) -> tuple[int, str]:
    """How many there will be, and which setting says so; "" when it is only a count of those that are there."""
    settings = spark.settings
    most = _whole(settings, "spark.cores.max")
    limit = most // cores if most is not None and cores else None
    if local_cluster is not None:
        workers, worker_cores = int(local_cluster.group(1)), int(local_cluster.group(2))
        each = max(worker_cores // cores, 1) if cores else 1
        there = workers * each if limit is None else min(workers * each, limit)
        return there, f"so says the master, {spark.master}" + (
            "" if limit is None else f", with spark.cores.max={most}"
        )
    instances = _whole(settings, "spark.executor.instances")
    if instances is not None:
        return instances, f"spark.executor.instances={instances}"
    if spark.master.startswith(("yarn", "k8s")):
        return _YARN_K8S_INSTANCES, f"spark.executor.instances is not set, and {_YARN_K8S_INSTANCES} is its default"
    if limit is not None:
        return limit, f"spark.cores.max={most} and spark.executor.cores={cores}"
    return spark.executors, ""


def _dynamic(spark: Spark) -> tuple[int, str]:
    """As `_executors`, with dynamic allocation: how many there can be."""
    most = _whole(spark.settings, "spark.dynamicAllocation.maxExecutors")
    return (0, "") if most is None else (most, f"spark.dynamicAllocation.maxExecutors={most}")


def _at_first(spark: Spark) -> int:
    """With dynamic allocation: the executors that Spark has, or would begin with; one at least, which it can get."""
    names = ("spark.dynamicAllocation.initialExecutors", "spark.dynamicAllocation.minExecutors")
    said = [_whole(spark.settings, name) or 0 for name in (*names, "spark.executor.instances")]
    return max(spark.executors, 1, *said)


def store_bytes_on(host: Host, stores: int, wished: int | None, share: float = Settings.object_store_share) -> int:
    """The size of each of the stores that share a host.

    Memory is taken as it is written to, so a large store costs nothing by itself.

    Args:
        share: of the host's memory, for all of them, if nothing was wished.

    Raises:
        UnfitSpark: `wished` for each is more than the host has for all.
    """
    if wished is None:
        return max(int(host.memory_bytes * share) // max(stores, 1), 1 << 20)
    if wished * stores > host.memory_bytes:
        raise UnfitSpark(
            f"object_store_memory is {show_bytes(wished)} for each node, and {stores} of them share a host or "
            f"container with {show_bytes(host.memory_bytes)} of memory: ask for less"
        )
    return wished


def elect(addresses: Sequence[str], nodes: int) -> list[int]:
    """Which tasks of a barrier stage start a node: the first on each executor.

    Args:
        addresses: of each task's executor, by partition. "host:port"; the port is the executor's own, so two equal
            addresses are one executor, and two executors on one host are two.

    Returns:
        `nodes` partitions on as many executors; none when the tasks are on fewer executors than that.
    """
    first: dict[str, int] = {}
    for partition, address in enumerate(addresses):
        first.setdefault(address, partition)
    chosen = list(first.values())[:nodes]
    return chosen if len(chosen) == nodes else []


def host_of(address: str) -> str:
    """The host of "host:port"; that of an IPv6 address without its brackets."""
    return address.rpartition(":")[0].strip("[]")


def memory_bytes(given: int | str | None, name: str = "object_store_memory") -> int | None:
    """Bytes, from a number of bytes or a size as Spark writes it: "512m", "4g". The units are binary: 1k is 1024.

    Raises:
        ValueError: neither, or not above 0.
    """
    if given is None:
        return None
    size = size_in_bytes(given) if isinstance(given, str) else given
    if not isinstance(size, int) or isinstance(size, bool):
        raise ValueError(f'{name} must be a number of bytes, or a size like "512m" or "4g", not {given!r}')
    if size < 1:
        raise ValueError(f"{name} must be above 0, not {given!r}")
    return size


def show_bytes(size: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):.4g} {unit}"
    return f"{size} bytes"


def _whole(settings: Mapping[str, str], name: str) -> int | None:
    value = settings.get(name)
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        raise UnfitSpark(f"{name} is {value!r}, which is no whole number") from None


def _is_same_machine(spark: Spark) -> bool:
    """Executors that have to reach the driver on loopback are on its machine."""
    return _LOCAL_CLUSTER.fullmatch(spark.master.strip()) is not None or is_loopback(
        spark.settings.get("spark.driver.host", "")
    )


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1", "[::1]") or _LOOPBACK.fullmatch(host) is not None


def _is_true(value: str | None) -> bool:
    return value is not None and value.strip().lower() == "true"
