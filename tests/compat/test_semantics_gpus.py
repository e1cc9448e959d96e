"""GPUs, as programs written for Ray expect them (lines 59 and 60). None is needed: CUDA is not asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sparkray
from sparkray_core.run import gpus

VARIABLE = "CUDA_VISIBLE_DEVICES"


def seen() -> tuple[list[Any], str | None, int]:
    return sparkray.get_gpu_ids(), os.environ.get(VARIABLE), os.getpid()


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """sparkray with a session of four CPUs and two GPUs that have no names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(VARIABLE, raising=False)
        sparkray.init(num_cpus=4, num_gpus=2, object_store_memory=64 << 20)
        yield sparkray
        sparkray.shutdown()


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Starts a session with the variable set in the driver's environment."""
    if sparkray.is_initialized():
        sparkray.shutdown()

    def start(visible: str, **arguments: Any) -> Any:
        monkeypatch.setenv(VARIABLE, visible)
        sparkray.init(num_cpus=2, object_store_memory=64 << 20, **arguments)
        return sparkray

    yield start
    sparkray.shutdown()


def test_a_worker_of_a_gpu_task_is_not_used_again(ray: Any) -> None:
    """Line 59."""
    one = ray.remote(num_gpus=1)(seen)

    pids = [ray.get(one.remote())[2] for _ in range(3)]

    assert len(set(pids)) == 3


def test_a_worker_of_a_gpu_task_is_used_again_if_max_calls_says_so(ray: Any) -> None:
    """Line 59."""
    often = ray.remote(num_gpus=2, max_calls=0)(seen)
    twice = ray.remote(num_gpus=2, max_calls=2)(seen)

    assert len({ray.get(often.remote())[2] for _ in range(4)}) == 1
    assert len({ray.get(twice.remote())[2] for _ in range(4)}) == 2


def test_tasks_see_the_gpus_that_they_were_given(ray: Any) -> None:
    """Line 60."""
    assert ray.get(ray.remote(num_gpus=1)(seen).remote())[:2] == ([0], "0")
    assert ray.get(ray.remote(num_gpus=2)(seen).remote())[:2] == ([0, 1], "0,1")
    assert ray.get(ray.remote(num_gpus=0.3)(seen).remote())[:2] == ([0], "0")
    assert ray.get(ray.remote(seen).remote())[:2] == ([], None)
    assert ray.get_gpu_ids() == []


def test_the_variable_is_set_before_the_task_is_unpickled(ray: Any) -> None:
    """Line 60."""

    class Looks:
        def __reduce__(self) -> Any:
            return os.getenv, (VARIABLE,)

    looks = Looks()

    @ray.remote(num_gpus=1)
    def unpickled() -> Any:
        return looks

    assert ray.get(unpickled.remote()) == "0"


def test_actors_share_a_gpu_by_halves_and_have_whole_ones_to_themselves(ray: Any) -> None:
    """Line 60."""

    class Holder:
        def seen(self) -> Any:
            return seen()[:2], sparkray.get_runtime_context().get_accelerator_ids()

    halves = [ray.remote(num_gpus=0.5)(Holder).remote() for _ in range(2)]
    assert ray.get([half.seen.remote() for half in halves], timeout=30) == [(([0], "0"), {"GPU": ["0"]})] * 2
    whole = ray.remote(num_gpus=1)(Holder).remote()
    assert ray.get(whole.seen.remote(), timeout=30) == (([1], "1"), {"GPU": ["1"]})
    none = ray.remote(Holder).remote()
    assert ray.get(none.seen.remote(), timeout=30) == (([], None), {"GPU": []})

    ready, _ = ray.wait([ray.remote(num_gpus=0.1)(seen).remote()], timeout=0.3)
    assert ready == []  # all are given out
    for actor in halves:
        ray.kill(actor)


def test_the_variable_is_put_back_for_who_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line 60."""
    for before in (None, "4,5"):
        if before is None:
            monkeypatch.delenv(VARIABLE, raising=False)
        else:
            monkeypatch.setenv(VARIABLE, before)
        gpus.begin()
        gpus.give([1])
        assert os.environ[VARIABLE] == ("5" if before else "1")
        gpus.give([0, 1])
        gpus.give([])
        assert os.environ.get(VARIABLE) == before


def test_where_the_variable_was_set_its_names_are_the_ids(session: Any) -> None:
    """Line 60."""
    ray = session("5,GPU-b")

    assert ray.cluster_resources()["GPU"] == 2
    assert ray.get(ray.remote(num_gpus=2)(seen).remote())[:2] == (["5", "GPU-b"], "5,GPU-b")
    assert ray.get(ray.remote(num_gpus=1)(seen).remote())[:2] == (["5"], "5")
    assert ray.get(ray.remote(seen).remote())[:2] == ([], "5,GPU-b")  # not blanked
    chosen = ray.remote(runtime_env={"env_vars": {VARIABLE: "7"}})(seen)
    assert ray.get(chosen.remote())[:2] == ([], "7")
    assert ray.get(chosen.options(num_gpus=1).remote())[:2] == (["5"], "5")

    blanked = ray.remote(runtime_env={"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}})(seen)
    assert ray.get(blanked.remote())[:2] == ([], "")
    left_alone = ray.remote(runtime_env={"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}})(seen)
    assert ray.get(left_alone.options(num_gpus=1).remote())[:2] == (["5"], "5,GPU-b")


def test_more_than_the_variable_names_are_refused(session: Any) -> None:
    with pytest.raises(ValueError, match="num_gpus=3, but CUDA_VISIBLE_DEVICES='0,1' names 2"):
        session("0,1", num_gpus=3)


@pytest.mark.parametrize(
    ("value", "count"), [("", 0), ("0", 1), ("1, GPU-c", 2), ("-1", 0), ("0,-1,1", 1), ("NoDevFiles", 0)]
)
def test_what_the_variable_names_is_counted(monkeypatch: pytest.MonkeyPatch, value: str, count: int) -> None:
    monkeypatch.setenv(VARIABLE, value)

    assert gpus.count() == count


def test_without_the_variable_the_machine_s_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(gpus, "_PROC", str(tmp_path / "gpus"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.count() == 0

    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: T4 (UUID: GPU-1)'\necho 'GPU 1: T4 (UUID: GPU-2)'\n")
    program.chmod(0o755)
    assert gpus.count() == 2

    program.write_text("#!/bin/sh\nexit 9\n")
    assert gpus.count() == 0

    for folder in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (tmp_path / "gpus" / folder).mkdir(parents=True)
    assert gpus.count() == 3
