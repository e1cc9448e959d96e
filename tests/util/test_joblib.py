"""joblib's backend "ray"."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from sparkray.util.joblib import register_ray

joblib = pytest.importorskip("joblib")
pytestmark = pytest.mark.usefixtures("ray")


@pytest.fixture(autouse=True)
def backend(ray: Any) -> Iterator[None]:
    register_ray()
    with joblib.parallel_config("ray", n_jobs=2):
        yield


@pytest.fixture
def square() -> Callable[[int], Any]:
    """The square of its argument, and who says so."""
    return joblib.delayed(lambda value: (value * value, os.getpid()))  # type: ignore[no-any-return]


def test_calls_run_in_order_in_other_processes(square: Any) -> None:
    results = joblib.Parallel()(square(value) for value in range(200))
    assert [value for value, _ in results] == [value * value for value in range(200)]
    pids = {pid for _, pid in results}
    assert len(pids) == 2
    assert os.getpid() not in pids


@pytest.mark.parametrize(("n_jobs", "processes"), [(1, 1), (3, 3), (-1, 4), (-2, 3), (-100, 1)])
def test_n_jobs(n_jobs: int, processes: int) -> None:
    def nap() -> int:
        time.sleep(0.02)
        return os.getpid()

    pids = set(joblib.Parallel(n_jobs=n_jobs, batch_size=1)(joblib.delayed(nap)() for _ in range(20)))
    assert len(pids) == processes
    assert (os.getpid() in pids) == (processes == 1)  # one needs no other process
    assert joblib.Parallel(n_jobs=n_jobs)([]) == []


def test_sizes_that_cannot_be_are_refused(square: Any) -> None:
    with pytest.raises(ValueError, match="n_jobs == 0"):
        joblib.Parallel(n_jobs=0)([square(1)])
    with pytest.raises(ValueError, match="4 CPUs"):
        joblib.Parallel(n_jobs=64)([square(1)])


def test_what_a_call_raises_is_raised_and_the_backend_goes_on(square: Any) -> None:
    def inverse(value: int) -> float:
        return 1 / value

    parallel = joblib.Parallel()
    with pytest.raises(ZeroDivisionError):
        parallel(joblib.delayed(inverse)(value) for value in (1, 2, 0, 4))
    assert [value for value, _ in parallel(square(value) for value in range(3))] == [0, 1, 4]
    with parallel, pytest.raises(ZeroDivisionError):
        parallel(joblib.delayed(inverse)(value) for value in (1, 0))


def test_the_death_of_a_process_is_an_error_and_not_a_hang(square: Any) -> None:
    from sparkray.exceptions import ActorDiedError

    with pytest.raises(ActorDiedError):
        joblib.Parallel()(joblib.delayed(os._exit)(1) for _ in range(4))
    assert joblib.Parallel()([square(3)])[0][0] == 9


def test_results_can_be_had_one_by_one(square: Any) -> None:
    results = joblib.Parallel(return_as="generator")(square(value) for value in range(10))
    assert [value for value, _ in results] == [value * value for value in range(10)]
    unordered = joblib.Parallel(return_as="generator_unordered")(square(value) for value in range(10))
    assert sorted(value for value, _ in unordered) == [value * value for value in range(10)]


def test_calls_can_be_nested() -> None:
    def outer(value: int) -> list[int]:
        return joblib.Parallel(n_jobs=2)(joblib.delayed(pow)(value, power) for power in range(3))  # type: ignore[no-any-return]

    assert joblib.Parallel()(joblib.delayed(outer)(value) for value in (2, 3)) == [[1, 2, 4], [1, 3, 9]]


def test_processes_are_kept_for_the_next_call(square: Any) -> None:
    def pids() -> set[int]:
        return {pid for _, pid in joblib.Parallel()(square(value) for value in range(50))}

    assert pids() == pids()


def test_options_of_the_actors(ray: Any, square: Any) -> None:
    with joblib.parallel_config("ray", n_jobs=2, ray_remote_args={"num_cpus": 2}):
        assert [value for value, _ in joblib.Parallel()(square(value) for value in range(3))] == [0, 1, 4]
    with (
        joblib.parallel_config("ray", n_jobs=2, ray_remote_args={"nonsense": 2}),
        pytest.raises(ValueError, match="nonsense"),
    ):
        joblib.Parallel()([square(1)])


def test_a_large_argument_is_stored_once(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[Any] = []

    def put(value: Any) -> Any:
        stored.append(id(value))
        return ray.put(value)

    monkeypatch.setattr("sparkray.util.joblib.batch.put", put)
    table = np.arange(100_000.0)
    small = np.arange(3.0)

    def pick(table: Any, place: int, *, small: Any) -> float:
        return float(table[place] + small[0])

    calls = [joblib.delayed(pick)(table, place, small=small) for place in range(50)]
    assert joblib.Parallel(batch_size=1)(calls) == [float(place) for place in range(50)]
    assert stored == [id(table)]

    table += 1  # between two calls it may change
    with joblib.Parallel() as parallel:
        assert parallel([joblib.delayed(pick)(table, 1, small=small)]) == [2.0]
        table += 1
        assert parallel([joblib.delayed(pick)(table, 1, small=small)]) == [3.0]


def test_a_reference_of_the_users_stays_a_reference(ray: Any) -> None:
    assert joblib.Parallel()([joblib.delayed(lambda ref: ray.get(ref))(ray.put("stored"))]) == ["stored"]


def test_arguments_that_cannot_be_sent_are_told() -> None:
    with pytest.raises(TypeError, match="lock"):
        joblib.Parallel()(joblib.delayed(str)(threading.Lock()) for _ in range(3))


@pytest.mark.slow
def test_scikit_learn_runs_on_it() -> None:
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_iris
    from sklearn.model_selection import cross_val_score
    from sklearn.tree import DecisionTreeClassifier

    scores = cross_val_score(DecisionTreeClassifier(random_state=0), *load_iris(return_X_y=True), cv=3)
    assert len(scores) == 3
    assert min(scores) > 0.8
