"""A random session from a seed: nodes, drivers and what their user code does, what goes wrong, and the questions.

did every get end?       with the value that follows from the arguments, or with the right error
did anything leak?       all resources back; no pins, objects, claims, actors; no owner keeps a lease or an entry
does the session end?    every node stops

Besides, each model is checked after each event (`model.invariants`, as far as `sim_checks` says), and a task that may
run once runs once. What goes wrong is in `weather`; many seeds are run by `storms`.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from sparkray_core.ids import HEAD, HEAD_NODE, NodeId, ObjectId, ProcessId, index_of, owner_of
from sparkray_core.messages import EndSession
from sparkray_core.model.entries import ACTOR_INDEX, is_stored, place
from sparkray_core.model.events import MemoryRead
from sparkray_core.model.head import Head
from sparkray_core.model.limits import HeadLimits, NodeLimits
from sparkray_core.model.node import Node
from sparkray_core.model.node_objects import Store
from sparkray_core.model.records import Records, keeper_of
from sparkray_core.model.resources import CPU, UNIT
from sparkray_core.model.scheduler import Scheduler
from sparkray_core.model.shard import Shard
from sparkray_core.testing.builders import node_info, process_id
from sparkray_core.testing.sim_core import HANDOVER_S, SimCore
from sparkray_core.testing.sim_driver import Oracle, SimDriver
from sparkray_core.testing.sim_spark import SimSpark
from sparkray_core.testing.sim_worker import SimWorker
from sparkray_core.testing.simulation import Host, Simulation
from sparkray_core.testing.weather import Weather

WISHES_S = 6.0  # within which things go wrong; user code begins in its first half
CRASH_LOOKS, CRASH_LOOK_S = 2000, 0.0005  # how often, and after what time, a worker is looked for that has much to do
LOSS_LOOK_S = 0.005  # the same for a node of which all has copies
LOOK_S = 0.1  # after which all references are looked at
STORY_LINES = 200  # told of a session that failed
PATIENCE_S = 300.0  # for everything to end, after that
# For the last messages to arrive, idle leases to go back, the last dead to be noticed and heirs to know who borrows.
SETTLE_S = 25.0
STORE_BYTES = (60_000, 128 << 10, 256 << 10)  # the first are too small for what is stored at a time
NODE_LIMITS = NodeLimits(
    chunk_bytes=3000,
    chunks_ahead=3,
    pull_ahead_bytes=10_000,
    pull_fanout=1,
    room_s=1.0,
    read_room_s=3.0,
    spill_bytes=20_000,
    punch_bytes=16 << 10,
    punch_s=0.7,
    transfer_s=4.0,
    waiting_workers=0,
)
HEAD_LIMITS = HeadLimits(infeasible_grace_s=2.0, handover_s=HANDOVER_S)


class Storm:
    def __init__(self, seed: int, weather: Weather) -> None:
        self.seed = seed
        self.dice = Random(seed)
        self.weather = weather
        limits, mortal = replace(HEAD_LIMITS, shards=weather.shards), weather.head_deaths > 0 or weather.faults > 0
        self.sim = Simulation(
            seed, weather.conditions, NODE_LIMITS, limits, weather.bad_starts, weather.bad_disks, mortal
        )
        self.sim.shared_hosts = weather.shared_hosts
        self.oracle = Oracle(
            self.sim.ledger, harmed=weather.bad_starts > 0, kills=weather.deaths + weather.orphans + weather.losses > 0
        )
        few = 3 if weather.deaths or weather.drains or weather.losses else 1
        self.nodes = [self._node(letter) for letter in "abcdef"[: self.dice.randint(few, 5)]]
        for _ in range(weather.schedulers):
            self.sim.add_scheduler()
        for number in range(weather.shards):
            self.sim.add_shard(number)
        self.drivers: list[SimDriver] = []
        self.lost = 0  # objects whose owners' nodes died
        self._spare = list("uvwxyz")  # names of nodes that come later

    def run(self) -> None:
        sim = self.sim
        sim.run(1.0)
        homes = self.nodes[:1] if self.weather.deaths or self.weather.drains or self.weather.losses else self.nodes
        names = [process_id(self.dice.choice(homes), f"drv{n}") for n in range(self.dice.randint(1, 3))]
        # Without them every value has to be right if nothing goes wrong.
        durable = self.weather.deaths + self.weather.orphans + self.weather.losses > 0
        puts = not self.weather.deaths
        sim.ledger.copies = 2 if self.weather.losses else 1
        actors = self.dice.random() < 0.6 and not durable
        groups = self.dice.random() < 0.5
        for name in names:
            host = sim.hosts[_node_of(name)]
            dice = Random(self.dice.random())
            driver = SimDriver(name, host.segment, sim.ledger, self.oracle, dice, actors, durable, puts)
            driver.cancels, driver.force = self.weather.cancels, self.weather.faults > 0
            assert isinstance(host.model, Node)
            driver.wide = host.model.info.resources.get(CPU, 0) >= 2 * UNIT  # else there may be no node for them
            if self.weather.spark:
                driver.spark = SimSpark(sim)
            if groups:
                driver.nodes = self.nodes
            self.drivers.append(driver)
            sim.add_process(driver)
            for _ in range(self.dice.randint(1, 3)):
                driver.begin(sim.now + self.dice.uniform(0.0, WISHES_S / 2), self.dice.randint(3, 16))
            sim.at(sim.now, lambda host=host, driver=driver: sim._process_tick(host, driver))  # type: ignore[misc]
        for _ in range(self.weather.faults):
            sim.at(1.0 + self.dice.uniform(0.2, WISHES_S), self._fault)
        for _ in range(self.weather.deaths):
            sim.at(1.0 + self.dice.uniform(0.2, WISHES_S), self._death)
        for _ in range(self.weather.crashes):
            sim.at(1.0 + self.dice.uniform(0.0, WISHES_S), self._crash)
        for _ in range(self.weather.orphans):
            sim.at(1.0 + self.dice.uniform(0.0, WISHES_S), self._orphan)
        for _ in range(self.weather.losses):
            sim.at(1.0 + self.dice.uniform(0.0, WISHES_S), self._loss)
        for _ in range(self.weather.head_deaths):
            sim.at(self.dice.uniform(0.0, 1.0 + WISHES_S), self._head_death)
        for _ in range(self.weather.scheduler_deaths):
            sim.at(self.dice.uniform(0.0, 1.0 + WISHES_S), self._scheduler_death)
        for _ in range(self.weather.shard_deaths):
            sim.at(self.dice.uniform(0.0, 1.0 + WISHES_S), self._shard_death)
        for _ in range(self.weather.drains):
            sim.at(1.0 + self.dice.uniform(0.2, WISHES_S), self._drain)
        sim.at(1.0, self._look_at_what_is_held)
        sim.run(1.0 + WISHES_S)
        assert sim.run(sim.now + PATIENCE_S, self._all_ended), f"this never ended: {self._open()}"
        assert not self.oracle.wrong, "; ".join(self.oracle.wrong)
        sim.run(sim.now + SETTLE_S)
        if not (self.weather.faults or self.weather.deaths or self.weather.drains or self.weather.losses):
            gone = set(self.nodes) - {host.node for host in sim.live_nodes()}
            assert not gone, f"nothing happened to nodes {[node.hex() for node in gone]}, and they ended"
        sim.check_all()
        self._owners_are_empty()
        self._nothing_leaked()
        self._end()

    # ------------------------------------------------------------------ setting up
    def _node(self, letter: str) -> NodeId:
        resources = {"CPU": float(self.dice.randint(1, 4))}
        if self.dice.random() < 0.4:
            resources["GPU"] = 1.0
        info = node_info(letter, store_bytes=self.dice.choice(STORE_BYTES), **resources)
        if self.weather.shared_hosts:
            info = replace(info, host=self.dice.choice("xyz"))
        self.sim.add_node(info)
        return info.node

    # ------------------------------------------------------------------ what goes wrong
    def _fault(self) -> None:
        self.oracle.harmed = True
        sim, dice = self.sim, self.dice
        hosts = sim.live_nodes()
        if not hosts:
            return
        kind = dice.random()
        host = dice.choice(hosts)
        if dice.random() < 0.2:
            self._memory(host)
        elif dice.random() < 0.15:
            self._head_death()
        elif kind < 0.5:
            workers = [process.id for process in host.processes.values() if process.role == "worker"]
            if workers:
                victim = dice.choice(workers)
                sim.note(host, f"fault: worker {victim.hex()} is killed")
                sim.kill_process(host, victim)
        elif kind < 0.6:
            drivers = [process.id for process in host.processes.values() if process.role == "driver"]
            if drivers:
                sim.note(host, f"fault: driver {drivers[0].hex()} is killed")
                sim.kill_process(host, drivers[0])
        elif kind < 0.65:
            sim.drain(host, dice.choice([None, 0.0, 0.5, 3.0]))
        elif kind < 0.77 and len(hosts) > 1:
            sim.note(host, "fault: the node is killed")
            sim.kill_host(host, noticed=dice.random() < 0.5)
        else:
            everyone = [*hosts, sim.hosts[HEAD_NODE]]
            other = dice.choice([one for one in everyone if one is not host])
            sim.cut(host, other, dice.choice([0.2, 1.5, 1.5, 8.0]))

    def _without_drivers(self) -> list[Host]:
        hosts = self.sim.live_nodes()
        return [host for host in hosts if all(one.role != "driver" for one in host.processes.values())]

    def _drain(self) -> None:
        """A node leaves, and another comes in its place."""
        if hosts := self._without_drivers():
            self.sim.drain(self.dice.choice(hosts), None)
            if self._spare:
                self._node(self._spare.pop())

    def _death(self) -> None:
        """Of a node, and another comes in its place; or of one of its workers."""
        sim, dice = self.sim, self.dice
        hosts = self._without_drivers()
        if not hosts:
            return
        host = dice.choice(hosts)
        workers = [process.id for process in host.processes.values()]
        if workers and dice.random() < 0.3:
            victim = dice.choice(workers)
            sim.note(host, f"death: worker {victim.hex()} is killed")
            sim.kill_process(host, victim)
            return
        sim.note(host, "death: the node is killed")
        self._kill_node(host)
        if self._spare:
            self._node(self._spare.pop())

    def _crash(self, looks: int = CRASH_LOOKS) -> None:
        """Of a worker with several tasks ahead, as soon as there is one."""
        sim = self.sim
        for host in sim.live_nodes():
            for process in host.processes.values():
                assert isinstance(process, SimCore)
                for lease in process.owner.leasing.leases.values():
                    home = sim.hosts[_node_of(lease.worker)]
                    if len(lease.inflight) > 1 and lease.worker in home.processes:
                        self.oracle.harmed = True
                        sim.note(
                            home, f"crash: worker {lease.worker.hex()} is killed, with {len(lease.inflight)} tasks"
                        )
                        sim.kill_process(home, lease.worker)
                        return
        if looks:
            sim.at(sim.now + CRASH_LOOK_S, lambda: self._crash(looks - 1))

    def _orphan(self, looks: int = CRASH_LOOKS) -> None:
        """The death of a worker that owns what others hold, as soon as there is one."""
        sim = self.sim
        for host in sim.live_nodes():
            for process in host.processes.values():
                assert isinstance(process, SimCore)
                shared = process.owner.sharing.shared if process.owner.sharing is not None else {}
                if shared:
                    sim.note(host, f"orphans: worker {process.id.hex()} is killed, and owned {len(shared)} for others")
                    sim.kill_process(host, process.id)
                    return
        if looks:
            sim.at(sim.now + CRASH_LOOK_S, lambda: self._orphan(looks - 1))

    def _loss(self, looks: int = CRASH_LOOKS) -> None:
        """The death of a node that owns what was put, as soon as there is one of which all has copies elsewhere."""
        sim = self.sim
        live = {host.node: host.model.store for host in sim.live_nodes() if isinstance(host.model, Node)}
        for host in self._without_drivers():
            assert isinstance(host.model, Node)
            kept = [some for some, entry in host.model.kept.refs.exported.items() if entry.owner == host.me]
            there = [some for some in host.model.store.stored if owner_of(some)[8:] == host.me[8:]]  # of any raylet
            if kept and all(self._copies(some, live) > 1 for some in dict.fromkeys([*kept, *there])):
                sim.note(host, f"loss: the node is killed, and owned {len(kept)} objects")
                self._kill_node(host)
                self.lost += len(kept)
                if self._spare:
                    self._node(self._spare.pop())
                return
        if looks:
            sim.at(sim.now + LOSS_LOOK_S, lambda: self._loss(looks - 1))

    def _kill_node(self, host: Host) -> None:
        """What its workers have lent may be known, by then, where the GCS's record of it has not come: the two go by
        different links."""
        for process in host.processes.values():
            assert isinstance(process, SimCore)
            if (sharing := process.owner.sharing) is not None:
                estate = self._records_of(process.id).estates.get(process.id)
                known = estate.objects if estate is not None else {}
                self.oracle.unrecorded |= {some.hex() for some in sharing.shared if some not in known}
        self.sim.kill_host(host, noticed=self.dice.random() < 0.5)

    def _copies(self, some: ObjectId, live: dict[NodeId, Store]) -> int:
        """On living nodes, by the GCS's records: a copy that its owner's heir would not know of is none, nor is one
        that was pulled to be read, and may be evicted."""
        shards = [host.model.records for host in self.sim.live_shards() if isinstance(host.model, Shard)]
        estates = [estate for records in [self.sim.head.records, *shards] for estate in records.estates.values()]
        known = [estate.objects.get(some) for estate in estates]
        places = [place(it[1])[1] for it in known if it is not None and it[1] is not None and is_stored(it[1])]
        stores = {node: store for node, store in live.items() if some in store.stored and not store.stored[some].copy}
        return max((len(stores.keys() & nodes) for nodes in map(set, places)), default=0)

    def _head_death(self) -> None:
        self.sim.kill_for(self.sim.hosts[HEAD_NODE], self.dice.choice([0.01, 0.1, 0.1, 1.0]))

    def _shard_death(self) -> None:
        self.sim.kill_for(self.dice.choice(self.sim.live_shards()), self.dice.choice([0.01, 0.1, 0.1, 1.0]))

    def _records_of(self, owner: ProcessId) -> Records:
        """Where what it records lies."""
        keeper = keeper_of(owner, self.weather.shards)
        model = self.sim.hosts[_node_of(keeper)].model
        assert isinstance(model, Head | Shard)
        return model.records

    def _scheduler_death(self) -> None:
        sim, dice = self.sim, self.dice
        if living := sim.live_schedulers():
            host = dice.choice(living)
            sim.note(host, "fault: the scheduler is killed")
            sim.kill_host(host, noticed=dice.random() < 0.7)

    def _memory(self, host: Host) -> None:
        """It is short for a while: somebody is ended, and what is new waits."""
        sim = self.sim
        workers = [process.id for process in host.processes.values() if process.role == "worker"]
        used = {worker: self.dice.randint(0, 300) for worker in workers}
        for after, share in ((0.0, 970), (0.25, 970), (0.5, 100)):
            sim.at(sim.now + after, lambda share=share: sim._event(host, MemoryRead(share, 1000, used)))  # type: ignore[misc]

    # ------------------------------------------------------------------ the questions
    def _look_at_what_is_held(self) -> None:
        """Now and then: what any process has a reference to, its owner has not freed."""
        if self.oracle.harmed or self.oracle.kills or self._all_ended():
            return
        owners = {process.id: process for host in self.sim.live_nodes() for process in host.processes.values()}
        known = [entry for one in owners.values() if isinstance(one, SimCore) for entry in one.owner.refs.exported]
        handles = {some[:24] for some in known if index_of(some) == ACTOR_INDEX}
        kept = {host.me: host.model.kept.refs for host in self.sim.live_nodes() if isinstance(host.model, Node)}
        for process in owners.values():
            assert isinstance(process, SimCore)
            if isinstance(process, SimWorker) and process.actor is not None and process.actor.actor not in handles:
                continue  # it is about to end, and what its constructor got has been let go of
            for entry in process.living.values():
                owner = owners.get(entry.owner)
                freed = entry.owner in kept and entry.id in kept[entry.owner].freed
                if owner is not process and isinstance(owner, SimCore):
                    refs, first = owner.owner.refs, owner_of(entry.id)
                    has_heard = first == owner.id or refs.heirs.get(first) == owner.id  # else it is to be an heir
                    freed = has_heard and entry.id not in refs.exported
                assert not freed, f"{process.id.hex()} has a reference to {entry.id.hex()}, which was freed"
        self.sim.at(self.sim.now + LOOK_S, self._look_at_what_is_held)

    def _living(self) -> list[SimDriver]:
        return [driver for driver in self.drivers if driver.id in self.sim.hosts[driver.node].processes]

    def _all_ended(self) -> bool:
        return not any(driver.busy for driver in self._living())

    def _open(self) -> list[str]:
        return [f"{driver.busy} of {driver.id.hex()}: {driver.owner.book.tasks}" for driver in self._living()]

    def _owners_are_empty(self) -> None:
        for host in self.sim.live_nodes():
            for process in host.processes.values():
                assert isinstance(process, SimCore)
                owner, name = process.owner, f"{host.name} {process.id[8:].hex()}"
                assert not owner.book.tasks, f"{name} has unanswered tasks: {owner.book.tasks}"
                assert not owner.leasing.leases, f"{name} keeps leases: {list(owner.leasing.leases.values())}"
                assert not owner.leasing.requests, f"{name} still asks for leases"
                kept = [(one, one.held, one.pins, one.borrowers) for one in owner.refs.exported.values()]
                assert not kept, f"{name} keeps entries: {kept}"
                assert not owner.refs.stored, f"{name} keeps objects: {owner.refs.stored}"
                assert not owner.lineage.records, f"{name} keeps lineage: {owner.lineage.records}"

    def _nothing_leaked(self) -> None:
        for host in self.sim.live_nodes():
            node = host.model
            assert isinstance(node, Node)
            drivers = [process for process in host.processes.values() if process.role == "driver"]
            assert drivers or not node.drain.why, f"{host.name} should have left, and has {node.drain.in_words()}"
            assert node.claims.available == node.claims.totals, f"{host.name} has {node.claims.available} available"
            assert not node.bundles.all, f"{host.name} keeps bundles: {list(node.bundles.all.values())}"
            assert not node.claims.all, f"{host.name} keeps claims: {list(node.claims.all.values())}"
            assert not node.store.pins, f"{host.name} keeps pins: {node.store.pins}"
            assert not node.store.stored, f"{host.name} keeps objects: {list(node.store.stored.values())}"
            kept = list(node.kept.refs.exported.values())
            assert not kept, f"{host.name} keeps what its workers have put: {[(e, e.borrowers, e.pins) for e in kept]}"
            assert not host.disk, f"{host.name} keeps files: {list(host.disk)}"
            assert not node.store.unsealed, f"{host.name} keeps blocks: {list(node.store.unsealed.values())}"
            assert not node.store.room, f"{host.name} still makes room: {node.store.room}"
            assert not node.pulls.pulls, f"{host.name} still pulls: {list(node.pulls.pulls.values())}"
            assert not node.pulls.under_way, f"{host.name} waits for {node.pulls.under_way} bytes"
            assert not node.serves.transfers, f"{host.name} still serves: {node.serves.transfers}"
            assert not node.serves.waiting, f"{host.name} lets these wait: {node.serves.waiting}"
            assert not node.serves.waves, f"{host.name} keeps waves: {node.serves.waves}"
            assert len(host.processes) == len(node.processes), f"{host.name} has lost count of its processes"
        for host in self.sim.live_schedulers():
            scheduler = host.model
            assert isinstance(scheduler, Scheduler)
            assert not scheduler.placed, f"{host.name} thinks that these wait: {scheduler.placed}"
        head = self.sim.head
        for host in self.sim.live_shards():
            shard = host.model
            assert isinstance(shard, Shard)
            assert not shard.records.estates, f"{host.name} keeps records: {shard.records.estates}"
            assert not shard.records.closed, f"{host.name} waits for heirs: {shard.records.closed}"
        assert not head.shards.closing, f"these are not buried: {list(head.shards.closing)}"
        if head.ended is None:
            assert not head.leases.hopeless
            assert not head.leases.placed_at, f"the head thinks that these wait: {head.leases.placed_at}"
            assert not head.groups.all, f"groups outlived their ends: {list(head.groups.all.values())}"
            assert not head.groups.watched
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
            for host in [head, *sim.live_shards()]:  # their keeper ends them together
                sim.kill_host(host)
        sim.run(sim.now + 30.0)
        assert head.stopped
        assert not sim.live_schedulers()
        assert not sim.live_shards()
        assert not sim.live_nodes(), f"these nodes went on: {[host.name for host in sim.live_nodes()]}"


def _node_of(process: ProcessId) -> NodeId:
    return NodeId(process[:8])


def run_storm(seed: int, weather: Weather, told: bool = False) -> Storm:
    """Raises what a check of the session raised, after the end of the session's story went to stderr.

    Args:
        told: the story is written, and its digest can be had. Else it is not before it is needed: a session that fails
            is run again for it.
    """
    storm = Storm(seed, weather)
    if told:
        storm.sim.trace = deque(maxlen=STORY_LINES)
    error = failure(storm)
    if error is not None:
        lines = "".join(f"    {line[:400]}\n" for line in storm.sim.trace or told_again(storm, error))
        sys.stderr.write(f"seed {seed} of {weather} went wrong; the last it did:\n{lines}")
        raise error
    return storm


def failure(storm: Storm) -> Exception | None:
    """What went wrong in a session that is run now."""
    try:
        storm.run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what this session is run for
        return error
    return None


def told_again(failed: Storm, error: Exception) -> Sequence[str]:
    """The end of the story of a session that failed so.

    Raises:
        AssertionError: it went otherwise this time, so something that is no part of the seed decides, too.
    """
    storm = Storm(failed.seed, failed.weather)
    story = storm.sim.trace = deque(maxlen=STORY_LINES)
    again = failure(storm)
    same = type(again) is type(error) and storm.sim.steps == failed.sim.steps
    if not same:
        raise AssertionError(
            f"seed {failed.seed} failed after {failed.sim.steps} steps, and run again, after {storm.sim.steps}, with "
            f"{again!r}: something that is no part of the seed decides, too"
        ) from error
    return story


if __name__ == "__main__":
    from sparkray_core.testing.storms import main

    sys.exit(main())
