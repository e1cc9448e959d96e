"""When an actor's state is taken and sent, and when its answers leave."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sparkray_core.model.checkpoints import Checkpoints, Save


def call(policy: Checkpoints, answer: Any, state: Any, now: float = 0.0) -> Save | None:
    """A call ends, and the state is taken if it is time."""
    policy.ended(answer)
    return policy.taken(policy.take(now), state) if policy.due(now) else None


def test_an_answer_leaves_once_the_state_that_has_it_is_saved() -> None:
    policy = Checkpoints(0.0)
    assert call(policy, "a", "state 1") == Save(1, "state 1")
    assert policy.leaving() == []
    assert policy.saved(1) is None
    assert policy.leaving() == ["a"]
    assert policy.due_at is None


def test_states_taken_while_one_is_under_way_take_each_other_s_place() -> None:
    policy = Checkpoints(0.0)
    assert call(policy, "a", "state 1") == Save(1, "state 1")
    assert [call(policy, answer, f"state {n}") for n, answer in ((2, "b"), (3, "c"))] == [None, None]
    assert policy.saved(1) == Save(3, "state 3")
    assert policy.leaving() == ["a"]
    assert policy.saved(3) is None
    assert policy.leaving() == ["b", "c"]


def test_a_state_that_did_not_change_is_not_sent_and_its_answers_wait_for_the_one_under_way() -> None:
    policy = Checkpoints(0.0)
    call(policy, "a", "state 1")
    assert call(policy, "b", None) is None
    assert policy.leaving() == []
    policy.saved(1)
    assert policy.leaving() == ["a", "b"]
    assert call(policy, "c", None) is None
    assert policy.leaving() == ["c"]


def test_what_ended_after_the_state_was_taken_waits_for_the_next_one() -> None:
    policy = Checkpoints(0.0)
    policy.ended("a")
    covered = policy.take(0.0)
    policy.ended("b")  # in another thread
    assert policy.taken(covered, "state 1") == Save(1, "state 1")
    assert policy.due(0.0)
    policy.saved(1)
    assert policy.leaving() == ["a"]


def test_a_state_that_cannot_be_taken_leaves_the_next_one_due_after_the_next_call() -> None:
    policy = Checkpoints(0.0)
    policy.ended("a")
    policy.failed([f"{answer}, not saved" for answer in policy.take(0.0)])
    assert policy.leaving() == ["a, not saved"]
    assert policy.due_at is None
    assert call(policy, "b", "state 1") == Save(1, "state 1")


def test_with_a_pace_answers_leave_at_once_and_the_last_state_is_due_in_the_end() -> None:
    policy = Checkpoints(5.0)
    assert call(policy, "a", "state 1", now=100.0) == Save(1, "state 1")
    assert policy.leaving() == ["a"]
    assert call(policy, "b", "state 2", now=101.0) is None
    assert policy.leaving() == ["b"]
    assert policy.due_at == 105.0
    assert not policy.due(104.9)
    assert policy.due(105.0)


def test_after_the_last_life_was_told_to_end_nothing_waits() -> None:
    policy = Checkpoints(0.0)
    call(policy, "a", "state 1")
    call(policy, "b", "state 2")
    policy.ended("c")
    policy.stop()
    assert policy.leaving() == ["a", "b", "c"]
    assert call(policy, "d", "state 3") is None
    assert policy.leaving() == ["d"]
    assert policy.saved(1) is None


@pytest.mark.parametrize("seed", range(40))
def test_whatever_was_told_is_in_what_is_saved(seed: int) -> None:
    """By dice: calls end in several threads, states are taken, sent and saved; the state is the set of ended calls."""
    dice = random.Random(seed)
    policy = Checkpoints(0.0)
    ended: set[int] = set()
    taking: list[tuple[list[Any], frozenset[int]]] = []
    wire: list[Save] = []
    saved: frozenset[int] = frozenset()
    told: list[int] = []
    for step in range(200):
        sent = None
        match dice.randrange(4):
            case 0:
                ended.add(step)
                policy.ended(step)
            case 1 if not taking and policy.due(0.0):
                taking.append((policy.take(0.0), frozenset(ended)))
            case 2 if taking:
                covered, state = taking.pop()
                if dice.random() < 0.1:
                    policy.failed([])
                else:
                    sent = policy.taken(covered, state)
            case 3 if wire:
                save = wire.pop(0)
                saved = save.state
                sent = policy.saved(save.number)
        wire += [sent] if sent is not None else []
        assert len(wire) <= 1
        told += policy.leaving()
        assert set(told) <= saved
    while wire or taking or policy.due(0.0):
        if not taking and policy.due(0.0):
            taking.append((policy.take(0.0), frozenset(ended)))
        sent = policy.taken(*taking.pop()) if taking else None
        wire += [sent] if sent is not None else []
        if wire:
            save = wire.pop(0)
            saved = save.state
            sent = policy.saved(save.number)
            wire += [sent] if sent is not None else []
        told += policy.leaving()
    assert set(told) <= saved
    assert told == sorted(told)
