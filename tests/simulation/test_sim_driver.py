"""A driver of the simulator begins as a real one does."""

from __future__ import annotations

from random import Random

from sparkray_core.ids import HEAD_NODE
from sparkray_core.testing.builders import node_info, process_id
from sparkray_core.testing.network import PERFECT
from sparkray_core.testing.sim_driver import Oracle, SimDriver
from sparkray_core.testing.simulation import Simulation


def test_user_code_begins_when_the_head_knows_its_driver() -> None:
    sim = Simulation(1, PERFECT)
    host = sim.add_node(node_info("a", CPU=2))
    sim.run(1.0)
    oracle = Oracle(sim.ledger)
    driver = SimDriver(process_id(host.node, "driver"), host.segment, sim.ledger, oracle, Random(1), False)
    sim.kill_for(sim.hosts[HEAD_NODE], 1.0)
    sim.run(1.02)  # it has sent all that it ever will
    sim.add_process(driver)
    driver.begin(sim.now, 16)
    sim.at(sim.now, lambda: sim._process_tick(host, driver))

    sim.run(1.9)
    assert not driver.owner.book.tasks
    assert not driver.submitted
    assert sim.run(60.0, lambda: not driver.busy)
    assert driver.submitted
    assert oracle.judged
    assert not oracle.wrong
