"""A random session from a seed: nodes, drivers and their wishes, and what goes wrong meanwhile. Then the questions.

did every wish end?      and did it end well, if nothing went wrong?
did anything leak?       all resources back, no pins, no objects, no claims, no actors, no requests
does the session end?    every node stops
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from sparkray_core.ids import HEAD, HEAD_NODE, NodeId, ProcessId
from sparkray_core.messages import EndSession, Resources
from sparkray_core.model.limits import HeadLimits, NodeLimits
from sparkray_core.model.node import Node
from sparkray_core.model.resources import from_floats
from sparkray_core.testing.builders import node_id, node_info, process_id
from sparkray_core.testing.network import PERFECT, Conditions
from sparkray_core.testing.sim_owner import ActorJob, Job, PutJob, SimOwner, TaskJob
from sparkray_core.testing.sim_processes import SimWorker, Work
from sparkray_core.testing.simulation import Host, Simulation

WISHES_S = 6.0  # within which wishes come up and things go wrong
PATIENCE_S = 300.0  # for everything to end, after that
SETTLE_S = 25.0  # for the last messages to arrive, idle leases to go back, and the last dead to be noticed
STORE_BYTES = 256 << 10
NODE_LIMITS = NodeLimits(
    chunk_bytes=3000, chunks_ahead=3, room_s=1.0, punch_bytes=16 << 10, punch_s=0.7, transfer_s=4.0
)
HEAD_LIMITS = HeadLimits(infeasible_grace_s=2.0)


@dataclass(frozen=True, slots=True)
class Weather:
    conditions: Conditions
    faults: int  # things that go wrong: a worker or node killed, a link cut
    bad_starts: float = 0.0


CALM = Weather(PERFECT, 0)
ROUGH = Weather(Conditions(), 6, bad_starts=0.05)


class Storm:
    def __init__(self, seed: int, weather: Weather) -> None:
        self.dice = Random(seed)
        self.weather = weather
        self.sim = Simulation(seed, weather.conditions, NODE_LIMITS, HEAD_LIMITS, weather.bad_starts)
        self.harmed = False
        self.nodes = [self._node(letter) for letter in "abcdef"[: self.dice.randint(1, 5)]]
        self.owners: list[SimOwner] = []

    def run(self) -> None:
        sim = self.sim
        sim.run(1.0)
        names = [process_id(self.dice.choice(self.nodes), f"drv{n}") for n in range(self.dice.randint(1, 3))]
        for name in names:
            host = sim.hosts[_node_of(name)]
            others = [other for other in names if other != name]
            owner = SimOwner(name, host.segment, self._wishes(others))
            self.owners.append(owner)
            sim.add_process(owner)
        for _ in range(self.weather.faults):
            sim.at(1.0 + self.dice.uniform(0.2, WISHES_S), self._fault)
        sim.run(1.0 + WISHES_S)
        assert sim.run(sim.now + PATIENCE_S, self._all_ended), f"these wishes never ended: {self._open()}"
        sim.run(sim.now + SETTLE_S)
        assert self._all_ended()
        if not self.harmed and not self.weather.bad_starts:
            self._all_went_well()
        self._nothing_leaked()
        self._end()

    # ------------------------------------------------------------------ setting up
    def _node(self, letter: str) -> NodeId:
        resources = {"CPU": float(self.dice.randint(1, 4))}
        if self.dice.random() < 0.4:
            resources["GPU"] = 1.0
        info = node_info(letter, store_bytes=STORE_BYTES, **resources)
        self.sim.add_node(info)
        return info.node

    def _wishes(self, others: list[ProcessId]) -> list[tuple[float, list[Job]]]:
        wishes: list[tuple[float, list[Job]]] = []
        for _ in range(self.dice.randint(3, 14)):
            at = 1.0 + self.dice.uniform(0.0, WISHES_S)
            kind = self.dice.random()
            if kind < 0.55:
                wishes.append((at, self._tasks()))
            elif kind < 0.8:
                wishes.append((at, [self._actor()]))
            else:
                readers = [other for other in others if self.dice.random() < 0.7]
                wishes.append((at, [PutJob(size=self._size(), read_s=self.dice.uniform(0, 1), readers=readers)]))
        return wishes

    def _tasks(self) -> list[Job]:
        dice = self.dice
        resources = self._resources()
        blocked = dice.uniform(0.01, 0.5) if dice.random() < 0.2 else 0.0
        work = Work(dice.choice([0.001, 0.05, 0.5, 2.0]), blocked, self._size() if dice.random() < 0.3 else 0)
        count = dice.choice([1, 2, 5, 12])
        linger = dice.choice([0.0, 0.25, 20.0 if count == 1 else 0.5])
        prefer = [dice.choice(self.nodes)] if dice.random() < 0.2 else []
        return [
            TaskJob(resources=resources, work=work, linger_s=linger, read_s=dice.uniform(0, 0.5), prefer=prefer)
            for _ in range(count)
        ]

    def _actor(self) -> Job:
        dice = self.dice
        return ActorJob(
            resources={} if dice.random() < 0.5 else self._resources(),
            placement=from_floats({"CPU": 1}),
            constructor=Work(dice.uniform(0.01, 0.3), -1.0 if dice.random() < 0.1 else 0.0),
            life_s=dice.uniform(0.05, 2.0),
            gently=dice.random() < 0.5,
            kill_and_restart=dice.random() < 0.3,
            max_restarts=dice.choice([0, 0, 1, -1]),
        )

    def _resources(self) -> Resources:
        wanted: dict[str, float] = self.dice.choice(
            [{"CPU": 1}, {"CPU": 1}, {"CPU": 1}, {"CPU": 0.5}, {"CPU": 2}, {"CPU": 1, "GPU": 1}, {}]
        )
        if self.dice.random() < 0.04:
            wanted = {"CPU": 99.0}
        return from_floats(wanted)

    def _size(self) -> int:
        return self.dice.choice([0, 10, 5000, 40_000, 90_000]) if self.dice.random() < 0.97 else 2 * STORE_BYTES

    # ------------------------------------------------------------------ what goes wrong
    def _fault(self) -> None:
        self.harmed = True
        sim, dice = self.sim, self.dice
        hosts = sim.live_nodes()
        if not hosts:
            return
        kind = dice.random()
        host = dice.choice(hosts)
        if kind < 0.5:
            workers = [process.id for process in host.processes.values() if isinstance(process, SimWorker)]
            if workers:
                victim = dice.choice(workers)
                sim.note(host, f"fault: worker {victim.hex()} is killed")
                sim.kill_process(host, victim)
        elif kind < 0.6:
            drivers = [process.id for process in host.processes.values() if isinstance(process, SimOwner)]
            if drivers:
                sim.note(host, f"fault: driver {drivers[0].hex()} is killed")
                sim.kill_process(host, drivers[0])
        elif kind < 0.75 and len(hosts) > 1:
            sim.note(host, "fault: the node is killed")
            sim.kill_host(host)
        else:
            everyone = [*hosts, sim.hosts[HEAD_NODE]]
            other = dice.choice([one for one in everyone if one is not host])
            sim.cut(host, other, dice.choice([0.2, 1.5, 1.5, 8.0]))

    # ------------------------------------------------------------------ the questions
    def _living(self) -> list[SimOwner]:
        return [
            owner
            for owner in self.owners
            if owner.id in (host := self.sim.hosts[_node_of(owner.id)]).processes and not host.stopped
        ]

    def _all_ended(self) -> bool:
        return not self._open()

    def _open(self) -> list[Job]:
        return [job for owner in self._living() for job in owner.unfinished()]

    def _all_went_well(self) -> None:
        for owner in self.owners:
            for complaint in owner.complaints:
                assert complaint.startswith("gone: no room"), f"nothing died, and yet: {complaint}"
            for job in owner.jobs:
                allowed = ("done", "refused", "failed: an object", "failed: no room", "gone: no room", "dead")
                assert job.outcome.startswith(allowed), f"nothing died, and yet: {job}"

    def _nothing_leaked(self) -> None:
        for host in self.sim.live_nodes():
            node = host.model
            assert isinstance(node, Node)
            assert node.claims.available == node.claims.totals, f"{host.name} has {node.claims.available} available"
            assert not node.claims.all, f"{host.name} keeps claims: {list(node.claims.all.values())}"
            assert not node.store.pins, f"{host.name} keeps pins: {node.store.pins}"
            assert not node.store.stored, f"{host.name} keeps objects: {list(node.store.stored.values())}"
            assert not node.store.unsealed, f"{host.name} keeps blocks: {list(node.store.unsealed.values())}"
            assert not node.store.room, f"{host.name} still makes room: {node.store.room}"
            assert not node.pulls.pulls, f"{host.name} still pulls: {list(node.pulls.pulls.values())}"
            assert not node.pulls.transfers, f"{host.name} still serves: {node.pulls.transfers}"
            assert len(host.processes) == len(node.processes), f"{host.name} has lost count of its processes"
        head = self.sim.head
        if head.ended is None:
            assert not head.hopeless
            assert not head.placed_at, f"the head thinks that these wait: {head.placed_at}"
            assert not head.actors.all, f"actors outlived their ends: {list(head.actors.all.values())}"
            assert not head.actors.watched
            assert not head.actors.owned

    def _end(self) -> None:
        sim = self.sim
        head = sim.hosts[HEAD_NODE]
        owners = self._living()
        if owners and self.dice.random() < 0.7:
            driver = owners[0]
            host = sim.hosts[_node_of(driver.id)]
            sim._relay(host, driver.id, HEAD, EndSession("the driver is done"))
        else:
            sim.kill_host(head)
        sim.run(sim.now + 30.0)
        assert head.stopped
        assert not sim.live_nodes(), f"these nodes went on: {[host.name for host in sim.live_nodes()]}"


def _node_of(process: ProcessId) -> NodeId:
    return NodeId(process[:8])


def run_storm(seed: int, weather: Weather, trace: list[str] | None = None) -> Storm:
    storm = Storm(seed, weather)
    storm.sim.trace = trace
    storm.run()
    return storm


__all__ = ["CALM", "ROUGH", "Host", "Storm", "Weather", "node_id", "run_storm"]
