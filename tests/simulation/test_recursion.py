"""Recursion in the simulator: right values in few processes, and right values whoever dies meanwhile."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node import Node
from sparkray_core.model.owner import Owner
from sparkray_core.testing.builders import node_info, process_id
from sparkray_core.testing.network import PERFECT
from sparkray_core.testing.sim_core import Code
from sparkray_core.testing.sim_driver import Oracle, SimDriver
from sparkray_core.testing.sim_programs import Program, expect
from sparkray_core.testing.simulation import Simulation


def chain(levels: int) -> Program:
    return Program(levels, children=(chain(levels - 1),) if levels else ())


def fib(n: int) -> Program:
    return Program(n, children=(fib(n - 1), fib(n - 2)) if n > 1 else ())


@pytest.fixture
def nested(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tasks that workers ran on top of others."""
    found: list[int] = []
    original = Owner.ran_own

    def ran(owner: Owner, result: Any, now: float) -> Any:
        found.append(result[0])
        return original(owner, result, now)

    monkeypatch.setattr(Owner, "ran_own", ran)
    return found


def run(program: Program, seed: int, waiting: int, nodes: str = "a", kills: int = 0) -> tuple[str, int]:
    """The driver's outcome, and how many workers one node had at most."""
    sim = Simulation(seed, PERFECT, NodeLimits(waiting_workers=waiting))
    hosts = [sim.add_node(node_info(letter, CPU=2)) for letter in nodes]
    sim.run(1.0)
    driver = SimDriver(
        process_id(node_info("a").node, "driver"), hosts[0].segment, sim.ledger, Oracle(sim.ledger), Random(seed), False
    )
    sim.add_process(driver)
    outcomes: list[str] = []
    most = 0

    def code() -> Code[None]:
        (got,) = yield from driver.get(driver.submit(program))
        outcomes.append(got.outcome)

    def look() -> bool:
        nonlocal most
        for host in hosts:
            assert isinstance(host.model, Node)
            most = max(most, len(host.model.workers.all))
        return bool(outcomes)

    def kill() -> None:
        workers = [process.id for process in hosts[0].processes.values() if process.role == "worker"]
        if workers:
            sim.kill_process(hosts[0], sim.dice.choice(workers))

    driver.at(sim.now, lambda: driver.advance(code()))
    for number in range(kills):
        sim.at(1.05 + 0.03 * number, kill)
    sim.at(sim.now, lambda: sim._process_tick(hosts[0], driver))
    assert sim.run(sim.now + 300.0, look), "it never ended"
    return outcomes[0], most


@pytest.mark.parametrize("seed", range(3))
def test_a_chain_takes_as_many_workers_as_may_wait(seed: int, nested: list[int]) -> None:
    program = chain(40)

    outcome, workers = run(program, seed, waiting=3)

    assert outcome == expect(program, [], [])[0].outcome
    assert workers <= 3 + 2 + 1  # and one that idles
    assert len(nested) >= 30


@pytest.mark.parametrize("nodes", ["a", "ab"])
def test_a_tree_takes_few_workers_more(nodes: str, nested: list[int]) -> None:
    program = fib(11)

    outcome, workers = run(program, 1, waiting=3, nodes=nodes)

    assert outcome == expect(program, [], [])[0].outcome
    assert workers <= 3 + 2 + 5
    assert len(nested) >= 50


@pytest.mark.parametrize("seed", range(6))
def test_what_dies_is_run_again(seed: int) -> None:
    program = fib(7)

    outcome, _ = run(program, seed, waiting=1, kills=2)

    assert outcome == expect(program, [], [])[0].outcome
