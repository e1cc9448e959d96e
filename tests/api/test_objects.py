"""Objects in shared memory through the public API: zero-copy reads, lifetimes, limits."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sparkray.exceptions import ObjectStoreFullError

LOCAL_MODE_TOO = True


MIB = 1 << 20


def stored_bytes(ray: Any) -> int:
    from sparkray_core.run import object_ref

    core = object_ref.core()
    core.kick()
    return int(core.ask(core.raylet_id, "status")["store_used"])


def wait_until_stored(ray: Any, expected: int, limit: float = 10.0) -> None:
    deadline = time.monotonic() + limit
    while (seen := stored_bytes(ray)) != expected:
        assert time.monotonic() < deadline, f"{seen} bytes are in the store, not {expected}"
        time.sleep(0.01)


def test_an_array_is_read_in_place_and_read_only(ray: Any) -> None:
    array = np.arange(4 * MIB, dtype=np.uint8)
    ref = ray.put(array)
    first, second = ray.get(ref), ray.get(ref)

    assert np.array_equal(first, array)
    assert first is not second
    assert np.shares_memory(first, second)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_a_small_array_is_read_only_too(ray: Any) -> None:
    with pytest.raises(ValueError, match="read-only"):
        ray.get(ray.put(np.zeros(3)))[0] = 1


def test_large_arguments_and_results_go_through_shared_memory(ray: Any) -> None:
    @ray.remote
    def double(x: Any) -> Any:
        return x * 2

    array = np.arange(MIB, dtype=np.int64)
    assert np.array_equal(ray.get(double.remote(array)), array * 2)
    assert np.array_equal(ray.get(double.remote(double.remote(ray.put(array)))), array * 4)


def test_arrow_and_pandas_come_back_as_they_were(ray: Any) -> None:
    table = pa.table({"a": pa.array(range(200_000)), "s": [f"row {i}" for i in range(200_000)]})
    frame = pd.DataFrame({"x": np.arange(100_000), "y": np.arange(100_000) * 0.5})

    assert ray.get(ray.put(table)).equals(table)
    assert ray.get(ray.put(table.slice(10, 5))).equals(table.slice(10, 5))
    pd.testing.assert_frame_equal(ray.get(ray.put(frame)), frame)


@pytest.mark.needs_workers
def test_memory_is_freed_when_the_last_reference_and_the_last_view_are_gone(ray: Any) -> None:
    gc.collect()
    before = stored_bytes(ray)
    ref = ray.put(np.ones(8 * MIB, dtype=np.uint8))
    value = ray.get(ref)
    assert stored_bytes(ray) >= before + 8 * MIB

    del ref
    assert value.sum() == 8 * MIB  # the view holds it
    assert stored_bytes(ray) >= before + 8 * MIB
    del value
    gc.collect()
    wait_until_stored(ray, before)


@pytest.mark.needs_workers
def test_results_that_nobody_wants_are_freed(ray: Any) -> None:
    @ray.remote
    def make() -> Any:
        return np.ones(MIB, dtype=np.uint8)

    gc.collect()
    before = stored_bytes(ray)
    for _ in range(20):
        make.remote()
    ref = make.remote()
    assert ray.get(ref).sum() == MIB
    del ref
    gc.collect()
    wait_until_stored(ray, before)


def test_far_more_than_the_store_passes_through_it(ray: Any) -> None:
    @ray.remote
    def total(x: Any) -> int:
        return int(x.sum())

    array = np.ones(64 * MIB, dtype=np.uint8)
    for _ in range(20):
        assert ray.get(total.remote(array)) == 64 * MIB


@pytest.mark.needs_workers
def test_a_large_argument_s_object_lives_until_the_call_is_handed_in(ray: Any) -> None:
    from sparkray_core.run import object_ref
    from sparkray_core.run.pack import pack

    core = object_ref.core()
    _, refs, _, made = pack(core, (np.ones(MIB, dtype=np.uint8),), {})
    core.kick()  # as another thread may do at any time: the object was freed here, its reference being gone
    assert refs is not None
    assert refs[0][1].held
    del made


@pytest.mark.needs_workers
def test_what_can_never_fit_is_refused_with_sizes(ray: Any) -> None:
    array = np.zeros(600 * MIB, dtype=np.uint8)
    with pytest.raises(ObjectStoreFullError, match="600 MiB can never fit"):
        ray.put(array)
    assert ray.get(ray.put(1)) == 1


def test_a_reference_put_by_a_task_outlives_the_task(ray: Any) -> None:
    @ray.remote
    def make() -> list[Any]:
        return [ray.put(np.full(MIB, 7, dtype=np.uint8))]

    (ref,) = ray.get(make.remote())
    assert ray.get(ref)[0] == 7


@pytest.mark.needs_workers
@pytest.mark.parametrize("back", [False, True])
def test_what_a_task_lends_on_outlives_it_and_its_caller_s_reference(ray: Any, back: bool) -> None:
    """The task has it from its caller, an actor from the task; with `back` the task has it from the actor, too."""

    @ray.remote
    class Keeper:
        def keep(self, refs: Any) -> Any:
            self.refs = refs
            return refs if back else None

        def total(self) -> int:
            return int(sum(ray.get(ref).sum() for ref in self.refs))

    @ray.remote
    def lends_on(refs: Any, keeper: Any) -> int:
        again = ray.get(keeper.keep.remote(refs)) or []
        return int(sum(ray.get(ref).sum() for ref in again))

    keeper = Keeper.remote()  # type: ignore[attr-defined]
    before = stored_bytes(ray)
    refs = [ray.put(np.ones(MIB, dtype=np.uint8)) for _ in range(2)]

    assert ray.get(lends_on.remote(refs, keeper)) == (2 * MIB if back else 0)
    del refs
    gc.collect()
    assert ray.get(keeper.total.remote()) == 2 * MIB
    ray.get(keeper.keep.remote([]))
    wait_until_stored(ray, before)


def test_the_same_reference_comes_back_as_the_same_object(ray: Any) -> None:
    ref = ray.put("x")

    @ray.remote
    def echo(items: list[Any]) -> list[Any]:
        return items

    (again,) = ray.get(echo.remote([ref]))
    assert again is ref
    assert again == ref
    assert len(ref.hex()) == 56
    assert repr(ref) == f"ObjectRef({ref.hex()})"


def test_a_future_and_await_give_the_value_or_raise(ray: Any) -> None:
    import asyncio

    @ray.remote
    def answer(x: int) -> int:
        time.sleep(0.02)
        return 42 // x

    async def both() -> list[Any]:
        return list(await asyncio.gather(answer.remote(1), answer.remote(2)))

    assert answer.remote(1).future().result(timeout=30) == 42
    assert asyncio.run(both()) == [42, 21]
    with pytest.raises(ZeroDivisionError):
        answer.remote(0).future().result(timeout=30)
