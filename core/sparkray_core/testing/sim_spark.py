"""Spark, as the simulator has it: partitions whose blocks are written on some node, in the name of a driver.

A task of it is a guest on its node. If its node dies, another takes the partition; what it wrote is told to the driver
by a way of its own, so word of a node's death may come before or after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparkray_core.ids import NodeId, ObjectId, ProcessId, node_of, object_id, task_id
from sparkray_core.messages import FAILED, FreeObjects, Value
from sparkray_core.model.deliveries import Delivery
from sparkray_core.model.entries import Entry
from sparkray_core.model.lineage import MAKER_FAILED
from sparkray_core.testing.sim_core import Code, Ledger, Memory, Ref, Signal, SimCore
from sparkray_core.testing.sim_programs import pack

if TYPE_CHECKING:
    from sparkray_core.testing.simulation import Simulation

LOOK_S = 0.5  # how often Spark looks whether a task's executor lives
WAY_S = (0.001, 0.1)  # an answer of a task takes so long
FIRST_NUMBER = 1 << 63  # of partitions; tasks have lower ones
Blocks = Sequence[tuple[ObjectId, bytes, int]]  # id, value and size of each


class SimGuest(SimCore):
    role = "guest"

    def __init__(
        self, me: ProcessId, segment: Memory, ledger: Ledger, blocks: Blocks, tell: Callable[[list[Value]], None]
    ) -> None:
        super().__init__(me, segment, ledger)
        self.at(0.0, lambda: self.advance(self._write(blocks, tell)))

    def _write(self, blocks: Blocks, tell: Callable[[list[Value]], None]) -> Code[None]:
        made: list[Value] = []
        for some, packed, size in blocks:
            made.append((yield from self.store(some, packed, size)))
        if any(value[0] == FAILED for value in made):
            self.send(self.raylet, FreeObjects([some for some, _, _ in blocks]))
        tell(made)
        self.leave("the task is done")


@dataclass(frozen=True, slots=True)
class Partition:
    number: int
    blocks: Blocks


class SimSpark:
    """As one driver sees it."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.repeated: list[int] = []  # partitions that were run again, each time

    def run(self, driver: SimCore, partition: Partition, then: Callable[[list[Value]], None]) -> None:
        """Write it somewhere, and call the driver back with the places."""
        sim = self.sim
        hosts = sim.live_nodes()
        if not hosts or not self._lives(driver):
            return
        host = sim.dice.choice(hosts)
        told: list[list[Value]] = []

        def tell(made: list[Value]) -> None:
            told.append(made)
            sim.at(sim.now + sim.dice.uniform(*WAY_S), lambda: self._call_back(driver, lambda: then(made)))

        guest = SimGuest(ProcessId(host.node + sim.dice.randbytes(8)), host.segment, sim.ledger, partition.blocks, tell)

        def look() -> None:
            if told:
                return
            if host.stopped:
                self.run(driver, partition, then)
            else:
                sim.at(sim.now + LOOK_S, look)

        sim.add_process(guest)
        sim.at(sim.now + LOOK_S, look)

    def _lives(self, driver: SimCore) -> bool:
        return driver.id in self.sim.hosts[node_of(driver.id)].processes

    def _call_back(self, driver: SimCore, do: Callable[[], None]) -> None:
        if self._lives(driver):
            driver.at(self.sim.now, do)
            self.sim._process_tick(self.sim.hosts[node_of(driver.id)], driver)

    def alive(self) -> list[NodeId]:
        return [host.node for host in self.sim.live_nodes()]


def deliver(driver: SimCore, spark: SimSpark, outcomes: Sequence[str], size: int) -> Code[list[Ref]]:
    """Blocks of these values, from a partition of Spark; none if they found no room."""
    number = FIRST_NUMBER | next(driver.counter)
    ids = [object_id(task_id(driver.me, number), index) for index in range(len(outcomes))]
    blocks = [(some, pack(outcome, []), size) for some, outcome in zip(ids, outcomes, strict=True)]
    partition = Partition(number, blocks)
    made: list[Value] = []
    signal = Signal(driver)

    def then(values: list[Value]) -> None:
        made.extend(values)
        signal.entry_ready(None)

    spark.run(driver, partition, then)
    yield signal
    if driver.owner.ended is not None or _failure(made) is not None:
        return []
    entries = [Entry(driver.me, number, index) for index in range(len(made))]

    def again(_: int) -> None:
        spark.repeated.append(number)
        spark.run(driver, partition, answer)

    def answer(values: list[Value]) -> None:
        failure = _failure(values)
        told = values if failure is None else (MAKER_FAILED, failure)
        driver.perform(driver.owner.made_again(number, told, spark.alive(), driver.now))

    driver.perform(driver.owner.deliver(Delivery(number, "spark", entries, again), made))
    return [Ref(driver, entry) for entry in entries]


def _failure(values: Sequence[Value]) -> str | None:
    for value in values:
        if value[0] == FAILED:
            return f"{value[1]!s}: {value[2]!s}"
    return None
