"""A standalone Spark of one's own: who keeps the daemons, and that none outlives its driver. The daemons are played."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparkray
from sparkray import standalone
from sparkray.spark_session import SparkNotStarted
from sparkray.standalone import Shape, Standalone
from sparkray_core.run.config import default_base_folder
from sparkray_core.run.folders import sweep
from sparkray_core.run.processes import children_of, identify
from tests.waiting import wait_until

PLAYED = """\
#!/bin/sh
echo "$@" >> {calls}
case "$1" in
*Master) {master}; echo "INFO Master: Starting Spark master at spark://127.0.0.1:7"
         echo "INFO MasterWebUI: Bound MasterWebUI to 127.0.0.1, and started at http://localhost:8" ;;
*Worker) {worker}; echo "INFO Worker: Successfully registered with master spark://127.0.0.1:7" ;;
esac
exec sleep 1000
"""


class Played:
    """A Spark whose daemons say what real ones say, and sleep."""

    def __init__(self, home: Path) -> None:
        self._home = home
        (home / "bin").mkdir()
        self.write()

    def write(self, master: str = ":", worker: str = ":") -> None:
        script = self._home / "bin" / "spark-class"
        script.write_text(PLAYED.format(calls=self._home / "calls", master=master, worker=worker))
        script.chmod(0o700)

    @property
    def calls(self) -> list[str]:
        return (self._home / "calls").read_text().splitlines()


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    monkeypatch.setattr("pyspark.find_spark_home._find_spark_home", lambda: str(tmp_path))
    yield Played(tmp_path)
    standalone.stop_spark_standalone()


def folders() -> list[str]:
    return [path.name for path in Path(default_base_folder()).glob("*/*")]


def test_a_master_and_its_workers_are_started_and_ended(played: Played) -> None:
    started = Standalone.start(Shape(workers=2, cores=3, memory_mib=700, numa=False))
    try:
        assert (started.master, started.web_page) == ("spark://127.0.0.1:7", "http://localhost:8")
        daemons = children_of(started.pid)
        assert len(daemons) == 3
        master, *workers = played.calls
        assert master.endswith("Master --host 127.0.0.1 --webui-port 0 --port 0")
        assert len(workers) == 2
        assert all(
            "--cores 3 --memory 700m" in worker and worker.endswith(" spark://127.0.0.1:7") for worker in workers
        )
        settings = Path(started.folder, "conf", "spark-defaults.conf")
        assert "spark.authenticate.secret " in settings.read_text()
        assert settings.stat().st_mode & 0o077 == 0
    finally:
        started.stop()
    assert not any(identify(pid) for pid in daemons)
    assert not os.path.exists(started.folder)


def test_a_daemon_that_ends_at_its_start_is_told_with_its_log(played: Played) -> None:
    played.write(worker="echo no memory here; exit 3")
    with pytest.raises(SparkNotStarted, match=r"the worker-\d .* ended: exit code 3[\s\S]*no memory here"):
        Standalone.start(Shape(2, 1, 700, False))
    assert folders() == []


def test_daemons_that_say_nothing_are_given_up(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    played.write(master="sleep 1000")
    monkeypatch.setattr(standalone, "START_LIMIT_S", 0.3)
    with pytest.raises(SparkNotStarted, match=r"the master of a standalone Spark was not up after 0\.3 s"):
        Standalone.start(Shape(1, 1, 700, False))
    assert folders() == []


def test_all_ends_with_the_master_but_not_with_one_worker(played: Played) -> None:
    started = Standalone.start(Shape(2, 1, 700, False))
    master, worker, other = sorted(children_of(started.pid))
    os.kill(worker, signal.SIGKILL)
    log = Path(started.folder, "logs", "keeper.log")
    wait_until(lambda: log.exists() and "the others go on" in log.read_text(), "the worker's end is noticed")
    assert started.is_up
    os.kill(master, signal.SIGKILL)
    wait_until(lambda: not started.is_up, "the keeper ends with the master")
    assert identify(other) is None
    assert not os.path.exists(started.folder)
    started.stop()


DRIVER = """
import sys, time
import pyspark.find_spark_home
pyspark.find_spark_home._find_spark_home = lambda: sys.argv[1]
from sparkray.standalone import Shape, Standalone
started = Standalone.start(Shape(2, 1, 700, False))
print(started.pid, started.folder, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["driver", "keeper"])
def test_nothing_outlives_a_killed_driver_or_keeper(played: Played, tmp_path: Path, victim: str) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    try:
        pid, folder = driver.stdout.readline().split()
        everyone = [int(pid), *children_of(int(pid))]
        assert len(everyone) == 4
        os.kill(driver.pid if victim == "driver" else int(pid), signal.SIGKILL)
        wait_until(lambda: not any(identify(one) for one in everyone), "keeper and daemons are gone")
        sweep(default_base_folder())  # as the next start does; a killed keeper has left its folder
        assert not os.path.exists(folder)
    finally:
        driver.kill()
        driver.wait()
        driver.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_executors": 0}, "num_executors must be"),
        ({"executor_cores": True}, "executor_cores must be"),
        ({"driver_cores": "4"}, "driver_cores must be"),
        ({"executor_memory": "much"}, "executor_memory"),
        ({"extra_executor_memory_for_ray": "-1g"}, "extra_executor_memory_for_ray"),
        ({"master": "yarn"}, "master must be like \"spark://host:7077\", not 'yarn'"),
        ({"master": "spark://h:1", "enable_numa_binding": True}, "leave master out"),
    ],
)
def test_wrong_arguments_are_told_before_anything_starts(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        sparkray.init_spark_standalone(**{"num_executors": 1, "executor_cores": 1, **arguments})  # type: ignore[arg-type]


def test_a_master_that_nobody_is_at_is_told_at_once() -> None:
    with pytest.raises(SparkNotStarted, match=r"nobody listens at spark://127\.0\.0\.1:1 .* leave master out"):
        sparkray.init_spark_standalone(1, 1, master="spark://127.0.0.1:1")


def test_numa_binding_needs_numactl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node0").mkdir()
    (tmp_path / "node1").mkdir()
    monkeypatch.setattr(standalone, "_NUMA_NODES", tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert [words[1:] for words in standalone._numa_words(3)] == [
        ["--cpunodebind=0", "--membind=0"],
        ["--cpunodebind=1", "--membind=1"],
        ["--cpunodebind=0", "--membind=0"],
    ]
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match="numactl is not installed"):
        standalone._numa_words(1)


def test_stopping_what_was_never_started_does_nothing() -> None:
    sparkray.stop_spark_standalone()
