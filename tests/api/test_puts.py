"""`put` of one value after the other in a driver: blocks of the store are used again, and nobody can tell."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from sparkray_core.ids import ProcessId
from sparkray_core.messages import AllocateObject, Message
from sparkray_core.run import object_ref
from tests.waiting import wait_until

MIB = 1 << 20


def an_array(number: int, size: int = MIB) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full(size, number, dtype=np.uint8)


def stored_bytes() -> int:
    core = object_ref.core()
    core.kick()
    return int(core.ask(core.raylet_id, "status")["store_used"])


@pytest.fixture
def sent(ray: Any, monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """What this process sends."""
    core, messages = object_ref.core(), list[Message]()
    send = core._send

    def noted(to: ProcessId, message: Message) -> None:
        messages.append(message)
        send(to, message)

    monkeypatch.setattr(core, "_send", noted)
    return messages


def test_a_value_that_nobody_holds_makes_room_for_the_next_without_a_message(ray: Any, sent: list[Message]) -> None:
    ray.put(an_array(0))
    sent.clear()

    for number in range(20):
        ray.put(an_array(number))

    assert len([one for one in sent if isinstance(one, AllocateObject)]) <= 2  # one, if this took over 50 ms


def test_values_that_are_held_are_not_written_over(ray: Any) -> None:
    held = [ray.put(an_array(number)) for number in range(10)]
    views = []
    for number in range(10, 20):
        views.append(ray.get(ray.put(an_array(number))))
        ray.put(an_array(99))

    assert [int(ray.get(ref).max()) for ref in held] == list(range(10))
    assert [int(view.max()) for view in views] == list(range(10, 20))


def test_no_two_values_have_an_id_that_somebody_saw(ray: Any) -> None:
    assert len({ray.put(an_array(number)).hex() for number in range(5)}) == 5


@pytest.mark.parametrize("way", ["argument", "inside", "value"])
def test_a_worker_reads_what_was_put_last(ray: Any, way: str) -> None:
    @ray.remote
    def top(given: Any) -> int:
        array = ray.get(given[0]) if isinstance(given, list) else given
        return int(array.max())

    for number in range(5):
        ref = ray.put(an_array(number))
        inside = [ray.put([ref])] if way == "value" else [ref]
        given = ray.get(inside[0]) if way == "value" else inside if way == "inside" else ref
        del ref, inside
        result = top.remote(given)
        del given
        ray.put(an_array(99))

        assert ray.get(result) == number


def test_what_is_held_ahead_goes_back_after_a_while(ray: Any) -> None:
    gc.collect()
    before = stored_bytes()
    core = object_ref.core()
    ray.put(an_array(1))
    ref = ray.put(an_array(2))
    refs, entry = core.owner.refs, ref._entry
    assert refs.unsealed == entry

    wait_until(lambda: entry in list(refs.stored.values()), "the value that is held was sealed")
    assert refs.unsealed is None
    del ref
    wait_until(lambda: stored_bytes() == before, "the store is as before")


def test_a_value_of_another_size_gets_a_block_of_its_own(ray: Any) -> None:
    sizes = [MIB, 3 * MIB, MIB // 2, MIB, MIB + 5, MIB - 5, 20 * MIB, MIB]
    refs = []
    for number, size in enumerate(sizes):
        ray.put(an_array(77, size))
        refs.append(ray.put(an_array(number, size)))

    for number, (size, ref) in enumerate(zip(sizes, refs, strict=True)):
        found = ray.get(ref)
        assert (len(found), int(found.min()), int(found.max())) == (size, number, number)


def test_room_that_is_held_ahead_is_there_for_a_large_value(ray: Any) -> None:
    gc.collect()
    wait_until(lambda: stored_bytes() == 0, "the store is empty")
    size = object_ref.core().segment.size
    ray.put(an_array(1, size // 40))

    ref = ray.put(an_array(2, size - MIB))

    assert int(ray.get(ref)[-1]) == 2


def test_a_reference_whose_end_is_heard_of_while_it_ends_is_gone(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waking the side thread lets it run, before the destructor that woke it has returned."""
    gc.collect()
    before = stored_bytes()
    core = object_ref.core()
    ref = ray.put(an_array(1))
    assert ref.binary()  # others can find it now
    with monkeypatch.context() as patched:
        patched.setattr(core.pump, "asleep", True)
        patched.setattr(core.pump, "wake", core.kick)
        del ref

    wait_until(lambda: stored_bytes() == before, "the store is as before", limit=5)


def test_a_value_whose_pickling_fails_half_way_leaves_nothing(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    before = stored_bytes()
    core = object_ref.core()

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(core, "write", stopped)
        with pytest.raises(KeyboardInterrupt):
            ray.put(an_array(1))

    assert stored_bytes() == before
    assert int(ray.get(ray.put(an_array(3))).max()) == 3


@pytest.mark.parametrize("replicas", [0, -1, True, 1.5, "2"])
def test_replicas_are_a_number_of_nodes(ray: Any, replicas: Any) -> None:
    with pytest.raises(ValueError, match="replicas must be an int from 1"):
        ray.put(1, replicas=replicas)


def test_too_few_nodes_for_the_replicas_are_told_once(ray: Any) -> None:
    with pytest.warns(RuntimeWarning, match="has 1 nodes for its copies"):
        ref = ray.put(b"some", replicas=2)
    assert [ray.get(ref), ray.get(ray.put([ref], replicas=3))] == [b"some", [ref]]
