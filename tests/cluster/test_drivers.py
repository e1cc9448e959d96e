"""Several drivers in one session: what each has for itself, what they share, and what the end of one leaves."""

from __future__ import annotations

import signal
from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import Any

import psutil
import pytest

import sparkray
from sparkray.node_command import started_nodes
from sparkray_core.ids import HEAD, raylet_of
from sparkray_core.run.processes import is_alive
from tests.cluster.conftest import Driver, program
from tests.waiting import wait_until

LIMIT_S = 10.0  # for what a dead driver leaves


def status() -> dict[str, Any]:
    """Of the node that this process is on."""
    core = sparkray.session.core()
    found: dict[str, Any] = core.ask(raylet_of(core.node), "status")
    return found


FACTS = """
    @ray.remote
    def facts():
        context = ray.get_runtime_context()
        return context.get_job_id(), context.namespace
    context = ray.get_runtime_context()
    result = [context.get_job_id(), context.namespace, *ray.get(facts.remote())]
"""


def test_each_driver_is_a_job_with_a_namespace_of_its_own(head: str, drivers: Callable[..., Driver]) -> None:
    first, second = drivers(), drivers()
    first.do("ray.init()")
    second.do("ray.init(namespace='named')")

    one, two = first.do(FACTS), second.do(FACTS)

    assert one[0] == one[2] == "01000000"
    assert two[0] == two[2] == "02000000"
    assert one[1] == one[3]
    assert one[1].startswith("anonymous-")
    assert two[1] == two[3] == "named"


def test_actors_are_found_by_namespace_and_detached_ones_outlive_their_driver(
    head: str, drivers: Callable[..., Driver]
) -> None:
    first, second = drivers(), drivers()
    first.do("""
        ray.init()
        class Counter:
            def __init__(self):
                self.count = 0
            def add(self):
                self.count += 1
                return self.count
            def job(self):
                @ray.remote
                def job():
                    return ray.get_runtime_context().get_job_id()
                return ray.get(job.remote())
        own = ray.remote(Counter).options(name="own", num_cpus=0).remote()
        shared = ray.remote(Counter).options(name="shared", namespace="team", num_cpus=0).remote()
        kept = ray.remote(Counter).options(name="kept", namespace="team", num_cpus=0, lifetime="detached").remote()
        ray.get([own.add.remote(), shared.add.remote(), kept.add.remote()])
    """)
    second.do("ray.init()")

    assert "Failed to look up" in second.attempt("ray.get_actor('own')")["error"]
    assert second.do("result = ray.get(ray.get_actor('shared', namespace='team').add.remote())") == 2
    assert second.do("kept = ray.get_actor('kept', namespace='team'); result = ray.get(kept.add.remote())") == 2

    first.do("ray.shutdown()")

    wait_until(
        lambda: "Failed to look up" in second.attempt("ray.get_actor('shared', namespace='team')").get("error", ""),
        "the actor of the driver that left is gone",
        limit=LIMIT_S,
    )
    assert second.do("result = ray.get(kept.add.remote())") == 3
    assert second.do("result = ray.get(kept.job.remote())") == "01000000"  # it works on for its own job
    assert program("""
        import sparkray as ray
        ray.init(namespace="team")
        kept = ray.get_actor("kept")
        print(ray.get(kept.add.remote()))
        ray.kill(kept)
    """) == ["4"]


@pytest.mark.slow
def test_a_detached_actor_outlives_its_driver_and_then_the_gcs(head: str) -> None:
    program("""
        import sparkray as ray
        ray.init(namespace="team")
        class Counter:
            def __init__(self):
                self.count = 0
            def add(self):
                self.count += 1
                return self.count
        kept = ray.remote(Counter).options(name="kept", num_cpus=0, lifetime="detached").remote()
        assert ray.get(kept.add.remote()) == 1
    """)
    (node,) = started_nodes()

    def heads() -> list[psutil.Process]:
        return [one for one in psutil.Process(node.keeper.pid).children() if one.name() == "sparkray-head"]

    (first,) = heads()
    first.kill()
    wait_until(lambda: heads() not in ([], [first]), "another follows it", limit=LIMIT_S)

    found = """
        import sparkray as ray
        ray.init(namespace="team")
        print(ray.get(ray.get_actor("kept").add.remote()))
    """
    assert [program(found), program(found)] == [["2"], ["3"]]


def test_a_detached_actor_that_nobody_else_could_find_is_warned_of(head: str, caplog: pytest.LogCaptureFixture) -> None:
    @sparkray.remote
    class Actor:
        pass

    sparkray.init()
    kept = Actor.options(name="a", lifetime="detached", num_cpus=0).remote()  # type: ignore[attr-defined]
    assert "no other driver will find it" in caplog.text
    sparkray.kill(kept)


def test_modules_of_one_name_do_not_meet(head: str, drivers: Callable[..., Driver], tmp_path: Path) -> None:
    first, second = drivers(), drivers()
    for index, driver in enumerate((first, second)):
        (tmp_path / f"driver{index}" / "helper.py").write_text(f"def who():\n    return {index}\n")
        driver.do("ray.init(); import helper; who = ray.remote(helper.who)")

    for _ in range(3):  # workers are used again
        assert first.do("result = ray.get([who.remote() for _ in range(4)])") == [0] * 4
        assert second.do("result = ray.get([who.remote() for _ in range(4)])") == [1] * 4
    where = "import os; result = ray.get(ray.remote(os.getcwd).remote())"
    assert [Path(driver.do(where)).name for driver in (first, second)] == ["driver0", "driver1"]


@pytest.mark.parametrize("how", ["kill", "shutdown"])
def test_the_end_of_one_driver_leaves_the_other_alone_and_nothing_of_its_own(
    head: str, drivers: Callable[..., Driver], how: str
) -> None:
    sparkray.init()
    free = sparkray.available_resources()

    class Holder:
        def hold(self, value: Any) -> int:
            self.value = value
            return len(value)

    mine = sparkray.remote(num_cpus=0)(Holder).remote()
    kept = sparkray.put(b"k" * (1 << 20))
    assert sparkray.get(mine.hold.remote([kept])) == 1
    before = status()
    other = drivers()
    pids = other.do("""
        import os, time
        ray.init()
        @ray.remote
        class Actor:
            def hold(self):
                self.refs = [ray.put(b"x" * (1 << 20)) for _ in range(10)]
                return os.getpid()
        @ray.remote(num_cpus=0.5)
        def slow(seconds):
            time.sleep(seconds)
            return os.getpid()
        actor = Actor.remote()
        pids = ray.get([actor.hold.remote(), slow.remote(0)])
        own = ray.put(b"x" * (20 << 20))
        refs = [slow.remote(60) for _ in range(10)]
        time.sleep(0.2)
        result = pids
    """)
    assert status()["store_used"] > before["store_used"] + (30 << 20) - 1
    workers = [psutil.Process(pid) for pid in pids]

    if how == "kill":
        other.end()
    else:
        other.do("ray.shutdown()")

    wait_until(lambda: status()["store_used"] == before["store_used"], "its objects are freed", limit=LIMIT_S)
    wait_until(lambda: not any(worker.is_running() for worker in workers), "its workers are gone", limit=LIMIT_S)
    wait_until(lambda: sparkray.available_resources() == free, "what it held is free", limit=LIMIT_S)
    jobs = {job["job"]: job["ended"] for job in sparkray.session.core().ask(HEAD, "jobs")}
    assert jobs["01000000"] is None
    assert jobs["02000000"] is not None
    assert sparkray.get(mine.hold.remote([kept])) == 1
    assert len(sparkray.get(kept)) == 1 << 20


def test_when_the_head_s_node_dies_every_driver_hears_of_it_and_nothing_is_left(
    head: str, base_folder: Path, drivers: Callable[..., Driver]
) -> None:
    both = [drivers(), drivers()]
    for driver in both:
        driver.do("import time; ray.init(); ref = ray.remote(lambda: time.sleep(60)).remote()")
    (node,) = started_nodes()
    (victim,) = [p for p in psutil.Process(node.keeper.pid).children() if "raylet" in p.name() + " ".join(p.cmdline())]

    victim.send_signal(signal.SIGKILL)

    for driver in both:
        assert "RaySystemError: the sparkray session ended" in driver.attempt("ray.get(ref, timeout=30)")["error"]
    wait_until(lambda: not is_alive(node.keeper) and not list(base_folder.glob("*/*")), "all is gone", limit=LIMIT_S)


def test_a_driver_elsewhere_brings_a_node_that_is_for_it_alone(
    head: str, drivers: Callable[..., Driver], elsewhere: dict[str, str], tmp_path: Path
) -> None:
    (node,) = started_nodes()
    key = tmp_path / "key"
    key.write_text(Path(node.key_file).read_text())
    far = drivers({**elsewhere, "SPARKRAY_KEY_FILE": str(key), "RAY_ADDRESS": head})
    sparkray.init()

    assert far.do("ray.init(); result = ray.cluster_resources()")["CPU"] == 2.0
    assert far.do("""
        import numpy as np
        big = ray.put(np.arange(1 << 18))
        result = int(ray.get(ray.remote(lambda a: np.concatenate([a, a])).remote(big)).sum())
    """) == (1 << 18) * ((1 << 18) - 1)
    base = Path(elsewhere["SPARKRAY_BASE_FOLDER"])
    assert len(list(base.glob("*/*"))) == 1
    assert len([found for found in sparkray.nodes() if found["Alive"]]) == 2

    class Anywhere:
        def node(self) -> str:
            return str(sparkray.get_runtime_context().get_node_id())

    anywhere = sparkray.remote(num_cpus=0)(Anywhere)
    placed = sparkray.get([anywhere.remote().node.remote() for _ in range(4)])
    assert set(placed) == {node.node.hex()}

    far.end()

    wait_until(lambda: not glob(f"{base}/*/*"), "its node is gone", limit=LIMIT_S)
    wait_until(
        lambda: len([found for found in sparkray.nodes() if found["Alive"]]) == 1, "the head knows", limit=LIMIT_S
    )
    assert sparkray.get(anywhere.remote().node.remote()) == node.node.hex()


def test_an_address_is_taken_as_ray_takes_it(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="num_cpus must not be provided"):
        sparkray.init(num_cpus=1)
    with pytest.raises(ValueError, match="num_cpus and resources must not be"):
        sparkray.init(head, num_cpus=1, resources={"x": 1})
    for name in ("SPARKRAY_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.setenv(name, head)
        for address in (None, "auto", head.replace("127.0.0.1", "localhost")):
            with sparkray.init(address) as session:
                assert session["address"].rpartition(":")[2] == head.rpartition(":")[2]
        monkeypatch.setenv(name, "local")
        with sparkray.init(num_cpus=1) as session:
            assert session["address"] != head
        monkeypatch.delenv(name)
    with sparkray.init("local", num_cpus=1) as session:
        assert session["address"] != head
        assert sparkray.cluster_resources()["CPU"] == 1
    with sparkray.init() as session:
        assert session["address"] == head
