"""A driver of the simulator begins as a real one does."""

from __future__ import annotations

from random import Random

from sparkray_core.ids import HEAD_NODE, object_id, task_id
from sparkray_core.model.entries import Entry
from sparkray_core.testing.builders import node_info, process_id
from sparkray_core.testing.network import PERFECT
from sparkray_core.testing.sim_core import Got, Ref
from sparkray_core.testing.sim_driver import Known, Oracle, SimDriver
from sparkray_core.testing.sim_programs import Expected
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


def test_only_what_the_gcs_was_not_told_of_before_its_node_died_may_be_without_an_owner() -> None:
    sim = Simulation(1, PERFECT)
    oracle = Oracle(sim.ledger)
    host = sim.add_node(node_info("a", CPU=2))
    driver = SimDriver(process_id(host.node, "driver"), host.segment, sim.ledger, oracle, Random(1), False)
    told, untold = (object_id(task_id(driver.me, number)) for number in (1, 2))
    oracle.unrecorded.add(untold.hex())
    known = Known(Ref(driver, Entry(driver.me, 3)), Expected("value 1"), "a test")

    oracle.judge(known, Got(f"system OwnerDiedError: object {untold.hex()}: the process that owned it is gone"))
    assert not oracle.wrong
    oracle.judge(known, Got(f"system ObjectLostError: object {untold.hex()} was already freed by its owner"))
    oracle.judge(known, Got(f"system OwnerDiedError: object {told.hex()}: the process that owned it is gone"))
    assert len(oracle.wrong) == 2
