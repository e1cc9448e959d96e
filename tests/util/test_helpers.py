"""`as_completed` and `map_unordered`."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from sparkray.exceptions import RayTaskError
from sparkray.util import as_completed, map_unordered
from sparkray_core.model.owner import Owner


@pytest.fixture
def after(ray: Any) -> Any:
    """A task that returns its argument after as many seconds."""

    @ray.remote(max_retries=0)  # so that none is ever queued behind another
    def after(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    return after


@pytest.fixture
def same(ray: Any) -> Any:
    @ray.remote
    def same(value: Any) -> Any:
        return value

    return same


def test_values_come_in_the_order_in_which_tasks_end(after: Any) -> None:
    refs = [after.remote(seconds) for seconds in (0.6, 0.0, 0.3)]
    assert list(as_completed(refs)) == [0.0, 0.3, 0.6]


@pytest.mark.parametrize("chunk_size", [1, 3, 10, 100])
def test_all_values_come_whatever_the_chunk_size(same: Any, chunk_size: int) -> None:
    refs = [same.remote(value) for value in range(20)]
    assert sorted(as_completed(refs, chunk_size=chunk_size)) == list(range(20))
    assert sorted(map_unordered(same, range(20), chunk_size=chunk_size)) == list(range(20))


def test_what_is_there_already_comes_first_and_in_order(ray: Any, after: Any) -> None:
    late = after.remote(0.2)
    refs = [late, ray.put("a"), ray.put("b")]
    assert list(as_completed(refs)) == ["a", "b", 0.2]


def test_references_can_be_had_instead_of_values(ray: Any, after: Any) -> None:
    slow, quick = after.remote(0.3), after.remote(0.0)
    assert list(as_completed([slow, quick], yield_obj_refs=True)) == [quick, slow]
    refs = list(map_unordered(after, [0.0, 0.1], yield_obj_refs=True))
    assert ray.get(refs) == [0.0, 0.1]


def test_nothing_in_nothing_out(same: Any) -> None:
    assert list(as_completed([])) == []
    assert list(map_unordered(same, [])) == []


def test_an_error_is_raised_in_its_turn_and_others_can_be_gone_past(ray: Any) -> None:
    @ray.remote(max_retries=0)
    def inverse(value: int) -> float:
        time.sleep(0.1 * value)
        return 1 / (value - 1)

    values = as_completed([inverse.remote(value) for value in (0, 1, 2)])
    assert next(values) == -1
    with pytest.raises(ZeroDivisionError) as caught:
        next(values)
    assert isinstance(caught.value, RayTaskError)
    assert list(values) == []

    refs = list(as_completed([inverse.remote(value) for value in (0, 1, 2)], yield_obj_refs=True))
    assert ray.get(refs[2]) == 1


def test_what_makes_no_sense_is_refused_before_anything_is_submitted(ray: Any, same: Any) -> None:
    ref = same.remote(1)
    with pytest.raises(ValueError, match="chunk_size"):
        as_completed([ref], chunk_size=0)
    with pytest.raises(ValueError, match="num_returns"):
        as_completed([ref], num_returns=2)
    with pytest.raises(ValueError, match="duplicates"):
        as_completed([ref, ref])
    with pytest.raises(TypeError, match="takes ObjectRefs"):
        as_completed([ref, 1])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="nonsense"):
        as_completed([ref], nonsense=1)
    with pytest.raises(ValueError, match="backpressure_size"):
        map_unordered(same, [1], backpressure_size=0)
    with pytest.raises(ValueError, match="chunk_size"):
        map_unordered(same, [1], chunk_size=-1)
    with pytest.raises(ValueError, match="num_returns"):
        map_unordered(same, [1], num_returns=1)
    assert list(as_completed([ref], timeout=0, fetch_local=True)) == [1]


@pytest.mark.parametrize("backpressure_size", [1, 5, None])
def test_no_more_items_are_taken_than_backpressure_allows(same: Any, backpressure_size: int | None) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(40):
            taken += 1
            yield item

    got = 0
    most = 0
    for _ in map_unordered(same, items(), backpressure_size=backpressure_size):
        got += 1
        most = max(most, taken - got + 1)

    assert got == 40
    assert most == (backpressure_size or 40)


def test_endless_items_are_served(same: Any) -> None:
    def naturals() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    values = map_unordered(same, naturals(), backpressure_size=10)
    assert len({next(values) for _ in range(100)}) == 100


def test_map_unordered_takes_a_method_of_an_actor_too(ray: Any) -> None:
    class Doubler:
        def double(self, value: int) -> int:
            return 2 * value

    actor = ray.remote(Doubler).remote()
    assert sorted(map_unordered(actor.double, range(5))) == [0, 2, 4, 6, 8]


def test_each_is_asked_for_once(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come one by one; `wait` in a loop asks for all that are left each time."""

    @ray.remote
    def count(before: int) -> int:
        return before + 1

    asked_for = 0
    want = Owner.want

    def counted(owner: Owner, entries: list[Any], now: float) -> Any:
        nonlocal asked_for
        asked_for += len(entries)
        return want(owner, entries, now)

    monkeypatch.setattr(Owner, "want", counted)
    refs = [count.remote(0)]
    for _ in range(99):
        refs.append(count.remote(refs[-1]))
    assert list(as_completed(refs)) == list(range(1, 101))
    assert asked_for <= 100


def test_values_that_were_yielded_are_let_go(same: Any) -> None:
    refs = [same.remote(value) for value in range(3)]
    seen = [weakref.ref(ref) for ref in refs]
    values = as_completed(refs)
    del refs
    next(values)
    gc.collect()
    assert sum(ref() is not None for ref in seen) == 2


def test_an_iterator_that_is_dropped_leaves_no_waiter(same: Any, after: Any) -> None:
    slow = after.remote(0.5)
    values = as_completed([slow, same.remote(1)])
    assert next(values) == 1
    values.close()  # type: ignore[attr-defined]
    assert not slow._entry.waiters


def test_references_of_others_can_be_waited_for(ray: Any, after: Any) -> None:
    @ray.remote
    def children() -> list[Any]:
        @ray.remote(max_retries=0)
        def after(seconds: float) -> float:
            time.sleep(seconds)
            return seconds

        return [after.remote(0.3), after.remote(0.0)]

    assert list(as_completed(ray.get(children.remote()))) == [0.0, 0.3]


def test_within_a_task_the_cpu_is_lent_while_it_waits(ray: Any) -> None:
    @ray.remote
    def leaf(value: int) -> int:
        return value

    @ray.remote(num_cpus=4)  # all that there are
    def parent() -> int:
        return sum(as_completed([leaf.remote(value) for value in range(10)]))

    assert ray.get(parent.remote(), timeout=60) == 45
