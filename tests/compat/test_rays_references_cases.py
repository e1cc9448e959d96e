"""Cases of Ray's test_reference_counting, test_cancel and test_basic: who keeps what alive, who may cancel what."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest

from sparkray_core.run.object_ref import core

MIB = 1 << 20


# ------------------------------------------------------------------ captured references
def _summing(ray: Any, ref: Any) -> Any:
    """A remote function that has captured the reference; nobody else holds either of them."""

    @ray.remote
    def total(_: object = None) -> float:
        return float(ray.get(ref).sum())

    return total


@pytest.mark.parametrize("size", [1, MIB])
def test_a_task_keeps_what_its_function_captured_though_everybody_let_go_of_both(
    ray: Any, new_gate: Callable[[], Any], size: int
) -> None:
    gate = new_gate()
    answer = _summing(ray, ray.put(np.ones(size))).remote(gate.wait.remote())
    gc.collect()
    gate.open.remote()

    assert ray.get(answer) == size


def test_an_actor_keeps_what_its_class_captured_and_a_restarted_one_too(ray: Any) -> None:
    def make(ref: Any) -> Any:
        @ray.remote(max_restarts=1, max_task_retries=1)
        class Holder:
            def total(self) -> float:
                return float(ray.get(ref).sum())

        return Holder.remote()

    holder = make(ray.put(np.ones(MIB)))
    gc.collect()
    assert ray.get(holder.total.remote()) == MIB

    ray.kill(holder, no_restart=False)
    assert ray.get(holder.total.remote()) == MIB


def test_what_a_function_captured_goes_with_it_and_with_its_last_call(ray: Any, wait_until: Any) -> None:
    wait_until(lambda: _used() == 0)
    total = _summing(ray, ray.put(np.ones(MIB)))
    assert ray.get(total.remote()) == MIB
    assert _used() >= 8 * MIB
    del total
    gc.collect()
    wait_until(lambda: _used() == 0)


# ------------------------------------------------------------------ references as Python objects
def test_copies_of_a_reference_are_the_reference(ray: Any, wait_until: Any) -> None:
    wait_until(lambda: _used() == 0)
    ref = ray.put(np.ones(MIB))

    assert copy.copy(ref) is ref
    assert copy.deepcopy([ref])[0] is ref
    assert _used() > 0
    del ref
    gc.collect()
    wait_until(lambda: _used() == 0)


def _used() -> int:
    return int(core().ask(core().raylet_id, "status")["store_used"])


def test_an_object_may_resolve_itself_while_it_is_unpickled(ray: Any) -> None:
    class Resolving:
        def __init__(self, ref: Any) -> None:
            self.ref = ref

        def __reduce__(self) -> Any:
            return ray.get, (self.ref,)

    ref = ray.put(42)
    for _ in range(10):
        ref = ray.put(Resolving(ref))

    assert ray.get(ref, timeout=20) == 42


def test_an_object_may_hold_a_reference_and_a_method_that_names_the_object(ray: Any) -> None:
    class Holder:
        def __init__(self) -> None:
            self.ref = ray.put(7)

        def again(self) -> Any:
            return holder

    holder = Holder()

    assert ray.get(ray.get(ray.put(holder)).ref) == 7


def test_a_borrowed_reference_goes_down_a_chain_of_tasks(ray: Any, new_gate: Callable[[], Any]) -> None:
    gate = new_gate()

    @ray.remote
    def further(held: list[Any], gate: Any, depth: int) -> Any:
        if depth == 0:
            ray.get(gate.wait.remote())
            return float(ray.get(held[0]).sum())
        return further.remote(held, gate, depth - 1)

    tail = further.remote([ray.put(np.ones(MIB))], gate, 4)
    for _ in range(4):
        tail = ray.get(tail)
    gate.open.remote()

    assert ray.get(tail) == MIB


# ------------------------------------------------------------------ cancelling across processes
@pytest.mark.parametrize("force", [False, True])
def test_who_was_given_a_reference_may_cancel_its_task(ray: Any, new_gate: Callable[[], Any], force: bool) -> None:
    gate = new_gate()

    @ray.remote
    def inner(held: list[Any]) -> Any:
        return ray.get(held[0])

    @ray.remote
    def outer(held: list[Any]) -> list[Any]:
        return [inner.remote(held)]

    (given,) = ray.get(outer.remote([gate.wait.remote()]))
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(given, timeout=0.2)

    ray.cancel(given, force=force)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(given, timeout=30)


def test_a_task_cancels_what_the_driver_gave_it(ray: Any, new_gate: Callable[[], Any]) -> None:
    gate = new_gate()

    @ray.remote
    def inner(held: list[Any]) -> Any:
        return ray.get(held[0])

    @ray.remote
    def cancel(held: list[Any]) -> None:
        ray.cancel(held[0])

    ref = inner.remote([gate.wait.remote()])
    ray.get(cancel.remote([ref]))

    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=30)


def test_cancelling_what_somebody_put_or_what_has_ended_elsewhere_changes_nothing(ray: Any) -> None:
    @ray.remote
    def make() -> list[Any]:
        @ray.remote
        def inner() -> int:
            return 5

        ended = inner.remote()
        ray.get(ended)
        return [ray.put(np.ones(MIB)), ray.put(3), ended]

    made = ray.get(make.remote())
    for ref in made:
        ray.cancel(ref)

    assert [ray.get(ref) if index else ray.get(ref).sum() for index, ref in enumerate(made)] == [MIB, 3, 5]


@pytest.mark.parametrize("force", [False, True])
def test_a_chain_of_tasks_ends_where_it_is_cancelled_and_not_before(
    ray: Any, new_gate: Callable[[], Any], force: bool
) -> None:
    gate = new_gate()

    @ray.remote
    def after(held: list[Any]) -> Any:
        return ray.get(held[0])

    chain = [gate.wait.remote()]
    for _ in range(4):
        chain.append(after.remote([chain[-1]]))
    assert ray.wait(chain, timeout=0.2)[0] == []

    ray.cancel(chain[3], force=force)
    for ref in chain[3:]:
        with pytest.raises(ray.exceptions.TaskCancelledError):
            ray.get(ref, timeout=30)
    assert ray.wait(chain[:3], timeout=0)[0] == []

    gate.open.remote()
    ray.get(chain[:3], timeout=30)


def test_many_quick_tasks_of_which_some_are_cancelled_all_end(ray: Any, new_gate: Callable[[], Any]) -> None:
    gate = new_gate()

    @ray.remote
    def same(value: object) -> object:
        return value

    at_once = [same.remote(1) for _ in range(100)]
    for ref in at_once:
        ray.cancel(ref)
    later = [same.remote(gate.wait.remote()) for _ in range(300)]
    for ref in later[::7]:
        ray.cancel(ref)
    gate.open.remote()

    for index, ref in enumerate(later):
        if index % 7:
            assert ray.get(ref, timeout=30) is None
        else:
            with pytest.raises(ray.exceptions.TaskCancelledError):
                ray.get(ref, timeout=30)
    for ref in at_once:
        with contextlib.suppress(ray.exceptions.TaskCancelledError):  # unless it had ended
            assert ray.get(ref, timeout=30) == 1


# ------------------------------------------------------------------ pickled by hand: kept for good, so these come last
@pytest.mark.parametrize("size", [1, MIB])
@pytest.mark.parametrize("pickling", [pickle, cloudpickle])
def test_a_reference_pickled_by_the_user_can_be_read_again_though_all_others_went(
    ray: Any, pickling: Any, size: int
) -> None:
    @ray.remote
    def read(pickled: bytes) -> float:
        return float(ray.get(pickling.loads(pickled)).sum())

    @ray.remote
    class Maker:
        def make(self) -> bytes:
            return bytes(pickling.dumps(ray.put(np.ones(size))))

    maker = Maker.remote()
    for pickled in (pickling.dumps([ray.put(np.ones(size))][0]), ray.get(maker.make.remote())):
        gc.collect()
        assert ray.get(read.remote(pickled)) == size
        assert ray.get(pickling.loads(pickled)).sum() == size
