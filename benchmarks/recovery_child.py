"""One case of `recovery.py` on one system, in a process of its own. Lines on stdout as `micro_child` writes them.

python recovery_child.py SYSTEM CASE TIMES SIZE TIMEOUT

What it finds are `counts`, by names that say the unit: the medians of TIMES.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from micro_child import _error, lines_to_parent

AT_ONCE = 4  # tasks that a node runs when it is lost
START_S = 120  # for Ray's processes on a busy machine: its own limit is 30
LONG_S = 150.0  # for as long as they would take there
STORE = 900 << 20
GCS_S = 1.5  # of a loop, before the kill and after it
Facts = dict[str, float]


def main(system: str, case: str, times: str, size: str, timeout: str) -> None:
    tell = lines_to_parent(float(timeout))
    module = system.partition("-")[0]
    ray = importlib.import_module(module)
    utils = importlib.import_module(f"{module}.cluster_utils")
    tell({"version": ray.__version__, "python": platform.python_version()})
    measure, head = CASES[case]
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", str(START_S))
    try:
        cluster = utils.Cluster(initialize_head=True, head_node_args={**head, "wait": False})
    except Exception as failure:  # noqa: BLE001 - as below
        tell(_error(failure))
        return
    try:
        cluster.wait_for_nodes(START_S)
        ray.init(address=cluster.address, log_to_driver=False)
        found = [measure(Given(ray, cluster, system, int(size), turn)) for turn in range(int(times))]
        tell({"counts": {name: round(statistics.median(one[name] for one in found)) for name in found[0]}})
    except Exception as failure:  # noqa: BLE001 - the system under test is user code here
        tell(_error(failure))
    ray.shutdown()
    cluster.shutdown()
    tell({"ended": True})


class Given:
    """What a case works on."""

    def __init__(self, ray: Any, cluster: Any, system: str, size: int, turn: int) -> None:
        self.ray = ray
        self.cluster = cluster
        self.network = system.endswith("-network")
        self.size = size
        self.turn = turn


def microseconds(since: float) -> float:
    return 1e6 * (time.perf_counter() - since)


def until(holds: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit_s:g} s: {holds}")
        time.sleep(0.001)


# ---------------------------------------------------------------------- a killed worker
def worker(given: Given) -> Facts:
    """Two CPUs. A task whose worker is killed while it runs; then passes, with such a kill and without."""
    ray = given.ray

    @ray.remote(max_retries=-1)  # type: ignore[untyped-decorator]
    def step() -> int:
        time.sleep(0.005)
        return os.getpid()

    @ray.remote(max_retries=-1)  # type: ignore[untyped-decorator]
    def again(path: str) -> None:
        if first_there(path):
            time.sleep(LONG_S)

    def one_pass(kill: bool) -> float:
        begun = time.perf_counter()
        refs = [step.remote() for _ in range(given.size)]
        done, _ = ray.wait(refs, num_returns=given.size // 2, timeout=60)  # as one comes, the next is pushed
        pid = ray.get(done[-1])
        if kill:
            os.kill(pid, signal.SIGKILL)  # it has a next one
        ray.get(refs)
        return microseconds(begun)

    one_pass(kill=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pid")
        ref = again.remote(str(path))
        until(lambda: path.exists() and bool(path.read_text()))
        killed = time.perf_counter()
        os.kill(int(path.read_text()), signal.SIGKILL)
        ray.get(ref)
        alone = microseconds(killed)
    one_pass(kill=False)
    undisturbed, disturbed = one_pass(kill=False), one_pass(kill=True)
    return {
        "task us": alone,
        "pass us": undisturbed,
        "pass with a kill us": disturbed,
        "extra us": disturbed - undisturbed,
    }


def first_there(path: str) -> bool:
    """Whether nobody was here before; whoever is first leaves its pid."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(str(os.getpid()))
    return True


# ---------------------------------------------------------------------- a lost node
def node(given: Given) -> Facts:
    """kill -9 to all processes of a node."""
    return lose(given, signal.SIGKILL)


def silent(given: Given) -> Facts:
    """All of them are stopped: no connection breaks."""
    return lose(given, signal.SIGSTOP)


def lose(given: Given, how: int) -> Facts:
    ray, cluster = given.ray, given.cluster

    @ray.remote(max_retries=-1)  # type: ignore[untyped-decorator]
    def again(path: str) -> None:
        if first_there(path):
            time.sleep(LONG_S)

    @ray.remote  # type: ignore[untyped-decorator]
    def warm() -> None:
        time.sleep(0.3)

    def add(name: str) -> Any:
        added = cluster.add_node(wait=False, num_cpus=AT_ONCE, resources={"work": AT_ONCE, name: AT_ONCE})
        cluster.wait_for_nodes(START_S)
        ray.get([warm.options(resources={name: 1}).remote() for _ in range(AT_ONCE)])  # it has its workers
        return added

    lost = add(f"lost-{given.turn}")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(number)) for number in range(AT_ONCE)]
        refs = [again.options(resources={"work": 1}).remote(str(path)) for path in paths]
        until(lambda: all(path.exists() for path in paths))
        other = add(f"other-{given.turn}")
        noticed: list[float] = []
        begun = time.perf_counter()
        pids = send(lost, how)
        watch = threading.Thread(target=lambda: noticed.append(seen_dead(ray, node_id(lost), begun)))
        watch.start()
        ray.get(refs)
        answered = microseconds(begun)
        watch.join()
    if how != signal.SIGKILL and hasattr(lost, "send_signal"):
        lost.kill()  # and waits for that: a node that is ending cannot be removed
    elif how != signal.SIGKILL:
        kill(pids)
    for gone in (lost, other):
        cluster.remove_node(gone, allow_graceful=gone is other)
    return {"dead in nodes() us": noticed[0], "answered us": answered}


def node_id(one: Any) -> str:
    return str(one.node_id)


def seen_dead(ray: Any, node: str, begun: float) -> float:
    until(lambda: not any(one["Alive"] for one in ray.nodes() if one["NodeID"] == node), LONG_S)
    return microseconds(begun)


def send(lost: Any, how: int) -> list[int]:
    """The signal to all processes of a node, at once."""
    if hasattr(lost, "send_signal"):
        return list(lost.send_signal(how))
    psutil = importlib.import_module("psutil")  # that Ray brings along
    own = [info.process.pid for infos in lost.all_processes.values() for info in infos]
    pids = [*own, *(child.pid for pid in own for child in psutil.Process(pid).children(recursive=True))]
    kill(pids, how)
    return pids


def kill(pids: Iterable[int], how: int = signal.SIGKILL) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)


# ---------------------------------------------------------------------- a killed GCS
def gcs(given: Given) -> Facts:
    """The longest pause of three loops, each an answer after the other, while the head's process is killed."""
    ray, cluster = given.ray, given.cluster

    @ray.remote  # type: ignore[untyped-decorator]
    def nothing() -> None:
        pass

    class Actor:
        def nothing(self) -> None:
            pass

    def task(_: int) -> None:
        ray.get(nothing.remote())

    def leased(turn: int) -> None:  # each needs a worker of its own kind, so the head's leave or the raylet's
        ray.get(nothing.options(num_cpus=1 - turn % 100 / 1000).remote())

    def actor(_: int) -> None:
        made = ray.remote(num_cpus=0)(Actor).remote()
        ray.get(made.nothing.remote())
        ray.kill(made)

    facts: Facts = {}
    for name, call in {"tasks": task, "tasks of changing sizes": leased, "actors": actor}.items():
        loop(call, GCS_S / 3)
        facts[f"{name}, undisturbed us"] = loop(call, GCS_S)
        head = cluster.head_node.pids("head")
        killer = threading.Timer(GCS_S / 3, cluster.kill, (cluster.head_node, "head"))
        killer.start()
        facts[f"{name} us"] = loop(call, 2 * GCS_S)
        killer.join()
        until(lambda head=head: cluster.head_node.pids("head") not in ([], head))  # type: ignore[misc]
    return facts


def loop(call: Callable[[int], None], seconds: float) -> float:
    """The longest pause between two answers."""
    last = begun = time.perf_counter()
    longest, turn = 0.0, 0
    while last < begun + seconds:
        call(turn)
        now = time.perf_counter()
        longest, last, turn = max(longest, now - last), now, turn + 1
    return 1e6 * longest


# ---------------------------------------------------------------------- locality
def locality(given: Given) -> Facts:
    """Two nodes with inputs on each: tasks over them where the scheduler wants them, then each on the other node.

    A task looks at two of its bytes: what is measured is the way to them.
    """
    ray, cluster = given.ray, given.cluster
    affinity = importlib.import_module(f"{ray.__name__}.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    size = given.size * 1_000_000
    each = max(2, 80 // given.size)
    counted = ray.__name__ != "ray"  # which has no such counter

    @ray.remote  # type: ignore[untyped-decorator]
    def make(seed: int) -> Any:
        return np.full(size, seed, np.uint8)

    @ray.remote  # type: ignore[untyped-decorator]
    def read(value: Any) -> tuple[str, int]:
        return ray.get_runtime_context().get_node_id(), int(value[0]) + int(value[-1]) + len(value)

    @ray.remote  # type: ignore[untyped-decorator]
    def warm() -> None:
        time.sleep(0.3)

    if given.turn == 0:
        added = [
            cluster.add_node(wait=False, num_cpus=2, object_store_memory=STORE, resources={f"n{number}": 1000})
            for number in range(2)
        ]
        cluster.wait_for_nodes(START_S)
        ray.get([warm.options(resources={f"n{number}": 1}).remote() for number in (0, 0, 1, 1)])  # workers are there
        for one in added if given.network else ():  # nobody can connect any more: as between two hosts
            os.rename(one.raylet_socket_name, f"{one.raylet_socket_name}.hidden")
    ids = {name: one["NodeID"] for one in ray.nodes() for name in ("n0", "n1") if name in one["Resources"]}
    facts: Facts = {}
    for where in ("", "elsewhere "):
        for counts in (False, True):  # a pass that does not count: workers, functions
            homes = [f"n{number % 2}" for number in range(2 * each)]
            refs = [make.options(resources={home: 1}).remote(seed) for seed, home in enumerate(homes)]
            ray.wait(refs, num_returns=len(refs), timeout=60, fetch_local=False)
            before = pulled(ray) if counted else 0
            others = [ids["n1" if home == "n0" else "n0"] for home in homes]
            begun = time.perf_counter()
            answers = ray.get(
                [
                    (read.options(scheduling_strategy=affinity(other, soft=True)) if where else read).remote(ref)
                    for ref, other in zip(refs, others, strict=True)
                ]
            )
            took = microseconds(begun)
            if [total for _, total in answers] != [2 * seed + size for seed in range(len(refs))]:
                raise AssertionError("other bytes arrived")
            away = sum(place != ids[home] for home, (place, _) in zip(homes, answers, strict=True))
            if counts:
                facts |= {f"{where}us": took, f"{where}away %": 100 * away / len(refs)}
            if counts and counted:
                facts[f"{where}pulled, bytes of 10,000"] = 1e4 * (pulled(ray) - before) / (size * len(refs))
            del refs
            time.sleep(0.5)  # for the stores to free them
    return facts


def pulled(ray: Any) -> float:
    """Bytes that raylets got from others, ever."""
    ids = importlib.import_module("sparkray_core.ids")
    core = ray.session.core()
    raylets = [ids.raylet_of(ids.NodeId(bytes.fromhex(one["NodeID"]))) for one in ray.nodes() if one["Alive"]]
    return float(sum(core.ask(raylet, "status")["pulled"]["bytes"] for raylet in raylets))


# ---------------------------------------------------------------------- nodes
def single(given: Given) -> Facts:
    """Eight CPUs of one node."""
    return throughput(given)


def eight(given: Given) -> Facts:
    """Of eight nodes."""
    if given.turn == 0:
        for _ in range(7):
            given.cluster.add_node(wait=False, num_cpus=1)
        given.cluster.wait_for_nodes(START_S)
    return throughput(given)


def throughput(given: Given) -> Facts:
    ray = given.ray

    @ray.remote  # type: ignore[untyped-decorator]
    def nothing() -> None:
        pass

    @ray.remote  # type: ignore[untyped-decorator]
    def short() -> None:
        end = time.thread_time() + 0.001
        while time.thread_time() < end:
            pass

    @ray.remote  # type: ignore[untyped-decorator]
    def hold(seconds: float) -> str:
        time.sleep(seconds)
        return str(ray.get_runtime_context().get_worker_id())

    seconds = 0.5  # as long as the workers take that are still being started
    while len(set(ray.get([hold.remote(seconds) for _ in range(8)]))) != 8:
        seconds *= 2
        if seconds > START_S / 2:
            raise AssertionError("eight tasks did not get eight workers")
    facts: Facts = {}
    for name, task, share in (("nothing", nothing, 1), ("1 ms", short, 16)):  # half a second and more, each
        count = given.size // share
        ray.get([task.remote() for _ in range(count // 4)])
        begun = time.perf_counter()
        ray.get([task.remote() for _ in range(count)])
        facts[f"{name}, tasks/s"] = 1e6 * count / microseconds(begun)
    return facts


CASES: dict[str, tuple[Callable[[Given], Facts], dict[str, Any]]] = {  # and what the first node gets
    "worker": (worker, {"num_cpus": 2}),
    "node": (node, {"num_cpus": 0}),
    "silent": (silent, {"num_cpus": 0}),
    "gcs": (gcs, {"num_cpus": 2}),
    "locality": (locality, {"num_cpus": 0}),
    "single": (single, {"num_cpus": 8}),
    "eight": (eight, {"num_cpus": 1}),
}

if __name__ == "__main__":
    main(*sys.argv[1:])
