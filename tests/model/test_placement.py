from __future__ import annotations

from collections import Counter
from dataclasses import replace

from sparkray_core.messages import Resources
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.placement import NodeLoad, choose_nodes
from sparkray_core.testing.builders import node_id

LIMITS = HeadLimits()
ONE = {"CPU": 1000}
A, B, C = node_id("a"), node_id("b"), node_id("c")


def load(letter: str, cpus: int, free: int, queued: int = 0, task_s: float = 1.0, **more: int) -> NodeLoad:
    totals: Resources = {"CPU": cpus * 1000, **more}
    return NodeLoad(node_id(letter), ord(letter), totals, {**totals, "CPU": free * 1000}, queued, task_s)


def test_requests_of_one_message_spread_by_what_is_free() -> None:
    nodes = [load("a", 4, 4), load("b", 4, 2), load("c", 4, 0)]

    assert Counter(choose_nodes(nodes, ONE, 6, None, LIMITS)) == {A: 4, B: 2}


def test_when_all_are_full_the_shortest_wait_wins() -> None:
    nodes = [load("a", 2, 0, queued=3), load("b", 4, 0, queued=3), load("c", 2, 0, queued=3, task_s=0.1)]

    assert choose_nodes(nodes, ONE, 1, None, LIMITS) == [C]


def test_a_queue_that_grows_sends_the_next_one_elsewhere() -> None:
    nodes = [load("a", 2, 0), load("b", 2, 0)]

    assert Counter(choose_nodes(nodes, ONE, 10, None, LIMITS)) == {A: 5, B: 5}


def test_node_with_the_arguments_wins_unless_others_are_much_quicker() -> None:
    nodes = [load("a", 2, 2), load("b", 2, 1), load("c", 2, 0, task_s=60.0)]

    assert choose_nodes(nodes, ONE, 1, {B: 0.001}, LIMITS) == [B]
    assert choose_nodes(nodes, ONE, 1, {C: 29.0, B: 0.001}, LIMITS) == [B]
    assert choose_nodes(nodes, ONE, 1, {C: 29.0}, LIMITS) == [A]
    assert choose_nodes(nodes, ONE, 1, {C: 31.0, B: 0.5}, LIMITS) == [C]  # it waits there for 30 s: 60 s, 2 CPUs


def test_node_that_could_never_hold_it_is_not_chosen() -> None:
    nodes = [load("a", 8, 8), load("b", 1, 0, GPU=1000)]

    assert choose_nodes(nodes, {"CPU": 1000, "GPU": 1000}, 2, {A: 1.0}, LIMITS) == [B, B]
    assert choose_nodes(nodes, {"TPU": 1000}, 1, None, LIMITS) == []


def test_what_asks_for_nothing_goes_where_cpus_are_free() -> None:
    nodes = [load("a", 0, 0), load("b", 4, 1), load("c", 4, 3)]

    assert Counter(choose_nodes(nodes, {}, 4, None, LIMITS)) == {C: 3, B: 1}


def test_actors_that_hold_nothing_are_told_apart_by_how_many_of_them_are_there() -> None:
    nodes = [replace(load("a", 4, 4), residents=3), replace(load("b", 8, 8), residents=2), load("c", 0, 0)]

    assert Counter(choose_nodes(nodes, {}, 7, None, LIMITS)) == {A: 1, B: 6}
