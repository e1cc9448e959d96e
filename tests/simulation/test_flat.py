"""What a task costs each scheduler does not grow with the nodes: in lines of code that run, and in messages.

(In time it is seen by `benchmarks/scaling.py`.)
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparkray_core.ids import HEAD
from sparkray_core.messages import (
    Message,
    NodeGone,
    NodeTable,
    RegisterProcess,
    RequestLeases,
)
from sparkray_core.model.effects import SendFrom
from sparkray_core.model.events import Received
from sparkray_core.testing.builders import a_node, lease_id, node_info, process_id
from sparkray_core.testing.measured import Counted, Measured
from sparkray_core.testing.timed import HEAD_BEATS, LOADS, PACED, RAYLET_BEATS, SCHEDULERS, TimedSession

CPUS, PER_CPU = 2, 3


def per_task(nodes: int, schedulers: int) -> dict[str, float]:
    session = TimedSession(nodes, CPUS, drivers_apart=True, schedulers=schedulers, measure=Counted)
    session.measured.update({name: Measured() for name in (RAYLET_BEATS, HEAD_BEATS, LOADS)})  # not of tasks
    tasks = nodes * CPUS * PER_CPU
    session.add_driver([1.0] * tasks, window=nodes * CPUS)
    for _ in session.steps():
        pass
    assert session.started == tasks
    costs = {}
    for name in ("owner", "raylet", SCHEDULERS if schedulers else "head"):
        counted = session.measured[name]
        assert isinstance(counted, Counted)
        costs[name] = counted.lines / tasks
    costs["messages"] = sum(n for kind, n in session.sent.items() if kind not in PACED) / tasks
    return costs


@pytest.mark.parametrize("schedulers", [0, 1])
def test_a_task_costs_each_scheduler_no_more_lines_of_code_where_there_are_more_nodes(schedulers: int) -> None:
    few, many = per_task(10, schedulers), per_task(40, schedulers)

    assert all(few.values()), few
    for name, cost in many.items():
        assert cost < 1.2 * few[name], f"{name}: {few} with 10 nodes, {many} with 40"


def test_what_only_one_node_can_hold_is_asked_for_there_without_a_look_at_all_others() -> None:
    costs = {}
    for others in (5, 200):
        node = a_node("a", special=4)
        node.start(0.0)
        table = [node_info(f"n{number}").as_dict() for number in range(others)]
        node.handle(Received(HEAD, NodeTable(table)), 0.0)
        owner, counted = process_id(node.info.node, "driver"), Counted()
        node.handle(Received(owner, RegisterProcess("driver", 1)), 0.0)
        for count in range(10):
            heard = Received(owner, RequestLeases([lease_id(owner, count)], {"special": 1000}, []))
            if count:
                counted.step(node.handle, heard, 0.0)
            else:  # the first of its kind looks
                node.handle(heard, 0.0)
        assert len(node.claims.all) == 10, "they went elsewhere"
        costs[others] = counted.lines

    assert costs[200] <= costs[5], costs


def test_nodes_that_come_drain_and_go_are_taken_into_account_by_those_that_looked_before() -> None:
    node = a_node("a", special=1)
    node.start(0.0)
    owner = process_id(node.info.node, "driver")
    node.handle(Received(owner, RegisterProcess("driver", 1)), 0.0)
    first, second = node_info("b", special=1), node_info("c", special=1)
    news: list[Message] = [
        NodeTable([node_info("d").as_dict()]),  # it has none
        NodeTable([first.as_dict()]),
        NodeTable([replace(first, draining="it is to go").as_dict()]),
        NodeTable([second.as_dict()]),
        NodeGone(second.node, "its power went"),
    ]
    sent_on = []
    for count, message in enumerate(news):
        node.handle(Received(HEAD, message), 0.0)
        asked = RequestLeases([lease_id(owner, count)], {"special": 1000}, [])
        effects = node.handle(Received(owner, asked), 0.0)
        sent_on.append(any(isinstance(effect, SendFrom) and effect.to == HEAD for effect in effects))

    assert sent_on == [False, True, False, True, False]
