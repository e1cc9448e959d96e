"""More objects than memory: they go to disk and come back; and a disk that is full."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparkray
from sparkray.exceptions import ObjectStoreFullError, OutOfDiskError
from sparkray_core.run import folders, object_ref

MIB = 1 << 20
STORE = 64 * MIB


def status() -> dict[str, Any]:
    core = object_ref.core()
    core.kick()
    found: dict[str, Any] = core.ask(core.raylet_id, "status")
    return found


def wait_until(holds: Callable[[], object], limit: float = 20.0) -> None:
    deadline = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < deadline, f"still not so: {status()}"
        time.sleep(0.02)


def filled(number: int, mib: int = 8) -> Any:
    return np.full(mib * MIB, number, dtype=np.uint8)


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A store of 64 MiB, whose objects are spilled to a folder of ours."""
    place = tmp_path_factory.mktemp("spill")
    sparkray.init(num_cpus=2, object_store_memory=STORE, object_spilling_directory=str(place))
    yield sparkray
    sparkray.shutdown()
    assert not os.listdir(place), "the folder for spilled objects outlived its session"


def spilled_files() -> list[str]:
    return os.listdir(os.path.join(object_ref.core().folder, folders.SPILL))


def test_three_times_the_store_is_kept_and_read_back_by_tasks_too(ray: Any) -> None:
    @ray.remote
    def first_and_last(x: Any) -> list[int]:
        return [int(x[0]), int(x[-1])]

    refs = [ray.put(filled(n)) for n in range(24)]
    seen = status()
    assert seen["spilled"]["bytes"] >= 24 * 8 * MIB - STORE
    assert seen["store_used"] <= STORE
    assert spilled_files()

    assert all((ray.get(ref) == n).all() for n, ref in enumerate(refs))
    assert ray.get([first_and_last.remote(ref) for ref in refs]) == [[n, n] for n in range(24)]
    assert status()["spilled"]["restored_objects"] >= 24

    del refs
    wait_until(lambda: status()["objects"] == 0)
    wait_until(lambda: not spilled_files())


def test_what_is_read_stays_and_the_rest_makes_room(ray: Any) -> None:
    kept = ray.get(ray.put(filled(7, 24)))
    refs = [ray.put(filled(n)) for n in range(10)]
    assert (kept == 7).all()
    assert [int(ray.get(ref)[0]) for ref in refs] == list(range(10))
    assert (kept == 7).all()


def test_large_results_of_tasks_are_spilled_and_restored(ray: Any) -> None:
    @ray.remote
    def make(n: int) -> Any:
        return filled(n)

    refs = [make.remote(n) for n in range(16)]
    assert [int(ray.get(ref).sum()) for ref in refs] == [n * 8 * MIB for n in range(16)]


def test_what_can_never_fit_is_refused(ray: Any) -> None:
    with pytest.raises(ObjectStoreFullError, match="can never fit"):
        ray.put(filled(1, 65))


def test_a_store_full_of_what_is_being_read_says_so(ray: Any) -> None:
    views = [ray.get(ray.put(filled(n, 14))) for n in range(4)]
    with pytest.raises(ObjectStoreFullError, match="is being read"):
        ray.put(filled(9, 14))
    assert [int(view[0]) for view in views] == [0, 1, 2, 3]
    del views
    assert int(ray.get(ray.put(filled(9, 14)))[0]) == 9


_FULL_DISK = """
import sys, numpy as np, sparkray as ray
from sparkray.exceptions import OutOfDiskError
MIB = 1 << 20
ray.init(num_cpus=1, object_store_memory=64 * MIB, object_spilling_directory=sys.argv[1])
refs = []
try:
    for n in range(40):
        refs.append(ray.put(np.full(8 * MIB, n, dtype=np.uint8)))
    sys.exit("it was never full")
except OutOfDiskError as error:
    print("refused after", len(refs), error)
assert 7 <= len(refs) <= 16, len(refs)
for n, ref in enumerate(refs):
    assert (ray.get(ref) == n).all(), n
@ray.remote
def double(x):
    return 2 * x
assert ray.get(double.remote(4)) == 8
del ref, refs[:4]
again = ray.put(np.full(8 * MIB, 77, dtype=np.uint8))
assert (ray.get(again) == 77).all()
ray.shutdown()
print("fine")
"""


def run_on_full_disk(place: Path, before: Callable[[], object] | None = None) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(place)], capture_output=True, text=True, timeout=60, preexec_fn=before
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("fine\n")
    assert "MiB free" in done.stdout


def test_a_full_disk_is_told_and_the_session_goes_on(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(tmp_path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        run_on_full_disk(tmp_path)
        assert not os.listdir(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


_BAD_FOLDER = """
import numpy as np, sparkray as ray
from sparkray.exceptions import ObjectStoreFullError
MIB = 1 << 20
ray.init(num_cpus=1, object_store_memory=64 * MIB, object_spilling_directory="/proc/nothing")
refs = [ray.put(np.full(8 * MIB, n, dtype=np.uint8)) for n in range(7)]
try:
    ray.put(np.zeros(4 * MIB))
    raise SystemExit("it was not full")
except ObjectStoreFullError as error:
    assert "/proc/nothing" in str(error), error
assert [int(ray.get(ref)[0]) for ref in refs] == list(range(7))
ray.shutdown()
"""


def test_a_folder_that_cannot_be_written_to_is_named() -> None:
    done = subprocess.run([sys.executable, "-c", _BAD_FOLDER], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_out_of_disk_is_an_error_of_rays() -> None:
    assert issubclass(OutOfDiskError, sparkray.exceptions.RayError)
