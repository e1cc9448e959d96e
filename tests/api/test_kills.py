"""kill -9 of each process of a local session: nothing of it is left, and a living driver hears why."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import sparkray
from sparkray.exceptions import RaySystemError
from tests.marks import slow
from tests.waiting import wait_until

LIMIT_S = 10.0


@pytest.fixture
def session() -> Iterator[Any]:
    yield sparkray.init(num_cpus=2)
    sparkray.shutdown()


def processes_of(folder: str) -> list[tuple[str, psutil.Process]]:
    """Keeper, raylet, head, zygote and workers of the node whose folder this is (they have its logs open), by title."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and any(
                os.readlink(f"/proc/{process.pid}/fd/{fd}").startswith(folder)
                for fd in os.listdir(f"/proc/{process.pid}/fd")
            ):
                found.append((" ".join(process.cmdline()).rstrip(), process))
    return found


def the_one(title: str, folder: str) -> psutil.Process:
    """What the zygote has just forked is called as it is for a moment, and younger."""
    found = [process for known, process in processes_of(folder) if known == f"sparkray: {title}"]
    return min(found, key=psutil.Process.create_time)


def wait_until_gone(folder: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while (left := [title for title, _ in processes_of(folder)]) or os.path.exists(folder):
        assert time.monotonic() < deadline, f"left after {LIMIT_S:g} s: {left}, folder {os.path.exists(folder)}"
        time.sleep(0.02)


@pytest.mark.parametrize("load", [False, True], ids=["idle", "loaded"])
@pytest.mark.parametrize("title", ["raylet", "keeper", "zygote"])
def test_without_any_one_of_its_processes_the_whole_session_ends(session: Any, title: str, load: bool) -> None:
    @sparkray.remote
    def slow(seconds: float) -> None:
        time.sleep(seconds)

    refs = [slow.remote(0.01) for _ in range(200)] if load else []
    last = slow.remote(60)
    os.kill(the_one(title, session["session_dir"]).pid, signal.SIGKILL)

    with pytest.raises(RaySystemError, match="session ended"):
        sparkray.get([*refs, last], timeout=LIMIT_S)
    with pytest.raises(RaySystemError, match="session ended"):
        sparkray.get(slow.remote(0), timeout=LIMIT_S)
    wait_until_gone(session["session_dir"])
    sparkray.shutdown()
    sparkray.init(num_cpus=1)  # and a new one can be started
    sparkray.get(slow.remote(0), timeout=LIMIT_S)


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count


Counter = sparkray.remote(num_cpus=0)(_Counter)


def kill_gcs(session: Any, *, is_another: int = 0, by: signal.Signals = signal.SIGKILL) -> int:
    """Returns which process it was."""

    def found() -> list[psutil.Process]:
        living = processes_of(session["session_dir"])
        return [process for title, process in living if title == "sparkray: gcs" and process.pid != is_another]

    wait_until(found, "there is a GCS", limit=LIMIT_S)
    (gcs,) = found()
    gcs.send_signal(by)
    return gcs.pid


def test_the_session_outlives_its_gcs(session: Any) -> None:
    @sparkray.remote
    def double(number: int) -> int:
        time.sleep(0.005)
        return 2 * number

    counter = Counter.options(name="counter").remote()
    group = sparkray.util.placement_group([{"CPU": 0.5}])
    assert sparkray.get([counter.add.remote(), group.ready()], timeout=LIMIT_S)[0] == 1
    refs = [double.remote(number) for number in range(200)]
    calls = [counter.add.remote() for _ in range(200)]

    first = kill_gcs(session)
    fresh = Counter.options(name="fresh").remote()
    pending = sparkray.util.placement_group([{"CPU": 0.5}])
    assert sparkray.get(fresh.add.remote(), timeout=LIMIT_S) == 1
    sparkray.get(pending.ready(), timeout=LIMIT_S)
    kill_gcs(session, is_another=first)

    assert sparkray.get(refs, timeout=LIMIT_S) == [2 * number for number in range(200)]
    assert sparkray.get(calls, timeout=LIMIT_S) == list(range(2, 202))
    assert sparkray.get([sparkray.get_actor(name).add.remote() for name in ("counter", "fresh")]) == [202, 2]
    with pytest.raises(ValueError, match="counter"):
        Counter.options(name="counter").remote()
    sparkray.kill(counter)
    sparkray.util.remove_placement_group(group)
    sparkray.util.remove_placement_group(pending)
    wait_until(lambda: sparkray.available_resources().get("CPU") == 2.0, "all is free again", limit=LIMIT_S)
    with pytest.raises(ValueError, match="counter"):
        sparkray.get_actor("counter")


@pytest.mark.slow  # its silence is noticed after some seconds
def test_a_gcs_that_hangs_is_ended_and_another_goes_on(session: Any) -> None:
    counter = Counter.options(name="counter").remote()
    assert sparkray.get(counter.add.remote(), timeout=LIMIT_S) == 1

    first = kill_gcs(session, by=signal.SIGSTOP)

    assert sparkray.get(Counter.options(name="fresh").remote().add.remote(), timeout=LIMIT_S) == 1
    assert sparkray.get(sparkray.get_actor("counter").add.remote(), timeout=LIMIT_S) == 2
    assert not psutil.pid_exists(first)


@pytest.mark.slow  # likewise, four times as many
def test_without_a_raylet_that_answers_the_session_ends(session: Any) -> None:
    raylet = the_one("raylet", session["session_dir"])
    raylet.suspend()

    with pytest.raises(RaySystemError, match="hung, and was killed"):
        sparkray.get(Counter.remote().add.remote(), timeout=3 * LIMIT_S)
    wait_until_gone(session["session_dir"])


def test_a_gcs_that_dies_again_and_again_ends_the_session(session: Any) -> None:
    last = 0
    for _ in range(5):
        last = kill_gcs(session, is_another=last)

    with pytest.raises(RaySystemError, match="It ended 5 times within 60 s"):
        sparkray.get(Counter.remote().add.remote(), timeout=LIMIT_S)
    wait_until_gone(session["session_dir"])


def test_a_gcs_of_which_nothing_is_left_ends_the_session(session: Any) -> None:
    counter = Counter.remote()
    sparkray.get(counter.add.remote(), timeout=LIMIT_S)
    for path in Path(session["session_dir"]).glob("gcs.sqlite*"):
        path.unlink()
    kill_gcs(session)

    with pytest.raises(RaySystemError, match="what it had written down"):
        sparkray.get(Counter.remote().add.remote(), timeout=LIMIT_S)
    wait_until_gone(session["session_dir"])


@pytest.mark.parametrize(
    ("end", "load"),
    [
        ("kill", False),
        ("kill", True),
        ("exit", False),
        ("exception", True),
        *slow(("exit", True), ("exception", False)),
    ],
)
def test_nothing_is_left_when_the_driver_ends_in_whatever_way(tmp_path: Path, end: str, load: bool) -> None:
    script = tmp_path / "driver.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, sys, time
            import numpy as np
            import sparkray as ray

            session = ray.init(num_cpus=2)

            @ray.remote
            class Holder:
                def hold(self, x):
                    self.x = x
                    return os.getpid()

            @ray.remote
            def work(x):
                time.sleep(0.01)
                return x

            holder = Holder.remote()
            ray.get(holder.hold.remote(np.ones(1 << 20)))
            refs = [work.remote(np.ones(1 << 17)) for _ in range({200 if load else 1})]
            if not {load}:
                ray.get(refs)
            print(session["session_dir"], flush=True)
            if {end!r} == "kill":
                os.kill(os.getpid(), 9)
            if {end!r} == "exception":
                raise SystemExit(3)
            """
        )
    )
    driver = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    folder = driver.stdout.strip()

    assert folder, driver.stderr
    assert driver.returncode == {"kill": -9, "exit": 0, "exception": 3}[end], driver.stderr
    wait_until_gone(folder)


def test_ctrl_c_interrupts_a_get_and_the_session_goes_on(session: Any) -> None:
    import threading

    @sparkray.remote
    def slow(seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    ref = slow.remote(2)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        sparkray.get(ref, timeout=30)
    assert sparkray.get(ref, timeout=30) == "slept"


def test_a_second_init_is_refused_and_shutdown_may_be_repeated(session: Any) -> None:
    with pytest.raises(RuntimeError, match="init\\(\\) twice"):
        sparkray.init()
    assert sparkray.init(ignore_reinit_error=True) is session
    with pytest.raises(RuntimeError, match="nonsense"):
        sparkray.init(nonsense=1)
    ref = sparkray.put(1)
    sparkray.shutdown()
    sparkray.shutdown()
    assert not sparkray.is_initialized()
    assert ref.hex()
    assert not os.path.exists(session["session_dir"])


def test_the_first_remote_call_starts_a_session_by_itself() -> None:
    @sparkray.remote
    def f() -> int:
        return 1

    try:
        assert sparkray.get(f.remote()) == 1
        assert sparkray.is_initialized()
    finally:
        sparkray.shutdown()
