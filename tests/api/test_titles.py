"""What `ps` shows of a session's processes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sparkray
from sparkray_core.run.output import LOOK_S
from sparkray_core.run.processes import LINUX

pytestmark = pytest.mark.skipif(not LINUX, reason="reads /proc")
LIMIT_S = 10.0


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def wait_for_title(pid: int, expected: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while (seen := title(pid)) != expected:
        assert time.monotonic() < deadline, seen
        time.sleep(0.01)


def test_each_part_of_the_engine_has_its_title_and_its_short_name(
    ray: Any, descendants: Callable[[int], list[int]]
) -> None:
    expected = {
        "sparkray: keeper": "sparkray-keeper",
        "sparkray: zygote": "sparkray-zygote",
        "sparkray: raylet": "sparkray-raylet",
        "sparkray: gcs": "sparkray-head",
        "sparkray: worker": "sparkray-worker",
        "sparkray: spare worker": "sparkray-spare",
    }
    deadline = time.monotonic() + LIMIT_S
    found: dict[str, str] = {}
    while found != expected:  # workers are being forked
        assert time.monotonic() < deadline, found
        found = {}
        for pid in descendants(os.getpid()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                if name.startswith("sparkray"):
                    found[title(pid)] = name


def test_a_worker_is_titled_by_what_it_runs_and_only_while_it_does(ray: Any, tmp_path: Path) -> None:
    @sparkray.remote
    def busy(pid_file: str, until: str) -> str:
        Path(pid_file + ".new").write_text(str(os.getpid()))
        os.rename(pid_file + ".new", pid_file)
        while not os.path.exists(until):
            time.sleep(0.01)
        return Path("/proc/self/environ").read_bytes().decode(errors="replace")

    pid_file, until = tmp_path / "pid", tmp_path / "until"
    ref = busy.remote(str(pid_file), str(until))
    deadline = time.monotonic() + LIMIT_S
    while not pid_file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pid = int(pid_file.read_text())

    wait_for_title(pid, "sparkray: worker busy")
    until.touch()
    assert f"HOME={os.environ['HOME']}" in sparkray.get(ref)  # the environment is not written over
    wait_for_title(pid, "sparkray: worker")
    assert Path(f"/proc/{pid}/comm").read_text().strip() == "sparkray-worker"


def test_an_actor_is_titled_by_its_class(ray: Any) -> None:
    class Counter:
        def pid(self) -> tuple[int, str | None]:
            return os.getpid(), os.environ.get("SPT_NOENV")

    counter = ray.remote(Counter).remote()
    pid, variable = sparkray.get(counter.pid.remote())
    assert title(pid) == "sparkray: actor Counter"
    assert variable is None


def test_an_actor_is_titled_by_its_class_while_its_constructor_runs(ray: Any) -> None:
    class Slow:
        def __init__(self) -> None:
            self.seen = set()
            until = time.monotonic() + 3 * LOOK_S  # so often the side thread looks whether the title is right
            while time.monotonic() < until:
                self.seen.add(title(os.getpid()))
                time.sleep(LOOK_S / 10)

        def titles(self) -> set[str]:
            return self.seen

    assert sparkray.get(ray.remote(Slow).remote().titles.remote()) == {"sparkray: actor Slow"}


def test_the_driver_keeps_its_own_title(ray: Any) -> None:
    assert not title(os.getpid()).startswith("sparkray")
