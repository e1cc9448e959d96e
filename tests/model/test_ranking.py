"""What is kept of a choice of nodes until the next one gives the same choice."""

from __future__ import annotations

from random import Random

import pytest

from sparkray_core.ids import ActorId, LeaseId, NodeId
from sparkray_core.messages import NodeBeat, Resources
from sparkray_core.model.head_nodes import Nodes
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.placement import choose_nodes
from sparkray_core.model.ranking import MOST, Ranking, Rankings
from sparkray_core.testing.builders import node_id, node_info

LIMITS = HeadLimits()
KINDS: list[Resources] = [{"CPU": 1000}, {"CPU": 2000}, {"GPU": 1000}, {}, {"CPU": 500, "GPU": 500}]


def change_something(nodes: Nodes, dice: Random, letters: str) -> None:
    letter = dice.choice(letters)
    node = node_id(letter)
    record = nodes.all.get(node)
    if record is None or not record.info.alive:
        info = node_info(letter, CPU=dice.choice([0, 1, 4]), GPU=dice.choice([0, 2]))
        nodes.join(info, 0.0)
        return
    kind = dice.random()
    if kind < 0.5:
        wanted = dice.choice(KINDS)
        lease = LeaseId(b"lease") if dice.random() < 0.8 else None
        record.place(wanted, lease, None if lease else ActorId(b"actor"))
    elif kind < 0.9:
        cpus = record.info.resources.get("CPU", 0)
        free: Resources = {"CPU": dice.randint(0, cpus), "GPU": record.info.resources.get("GPU", 0)}
        bound: Resources = {"CPU": dice.randint(0, cpus)} if dice.random() < 0.3 else {}
        waiting, task_s, placed = dice.randint(0, 3), dice.choice([0.0, 0.1, 2.0]), dice.randint(0, record.placed)
        record.beat(NodeBeat(free, waiting, task_s, placed, 0, bound))
    elif kind < 0.95:
        named: Resources = {"CPU_group": 1000}
        (record.withdraw if "CPU_group" in record.totals else record.offer)(named)
    else:
        nodes.bury(node, "it died")


def test_log_of_changes_stays_bounded_where_nothing_is_placed_by_it() -> None:
    """Only a choice shortened it; a session of actors and placement groups alone makes none, and lives for weeks."""
    nodes = Nodes()
    nodes.join(node_info("a", CPU=4), 0.0)
    for beat in range(10_000):
        nodes.all[node_id("a")].beat(NodeBeat({"CPU": beat % 4}, 0, 0.0, 0))

    assert len(nodes.log) <= nodes.log.most < 10_000


@pytest.mark.parametrize("seed", range(30))
def test_ranked_choice_is_that_of_looking_at_every_node(seed: int) -> None:
    dice = Random(seed)
    nodes = Nodes()
    rankings = Rankings(nodes, LIMITS)
    letters = "abcdefghij"
    for _ in range(300):
        for _ in range(dice.choice([0, 1, 1, 5, 60])):
            change_something(nodes, dice, letters)
        wanted, count = dice.choice(KINDS), dice.choice([1, 1, 2, 20])
        saves = {node_id(dice.choice(letters)): dice.choice([0.0, 0.05, 1.0]) for _ in range(dice.choice([0, 0, 1, 3]))}

        everywhere = choose_nodes((one.load() for one in nodes.hosts()), wanted, count, saves, LIMITS)
        chosen = rankings.choose(wanted, count, saves)

        assert chosen == everywhere
        for node in chosen[: dice.randint(0, count)]:
            nodes.all[node].place(wanted, LeaseId(b"lease"))
        rankings.check()


def test_only_so_many_kinds_of_requests_are_ranked() -> None:
    nodes = Nodes()
    nodes.join(node_info("a", CPU=4), 0.0)
    rankings = Rankings(nodes, LIMITS)

    for cpus in range(1, 3 * MOST):
        assert rankings.choose({"CPU": cpus}, 1, None) == [node_id("a")]

    assert len(rankings._known) == MOST


@pytest.mark.parametrize("size", [10, 1000])
def test_only_nodes_on_which_something_changed_are_looked_at_again(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes()
    for number in range(size):
        nodes.join(node_info(str(number), CPU=4), 0.0)
    rankings = Rankings(nodes, LIMITS)
    (before,) = rankings.choose(KINDS[0], 1, None)
    nodes.all[before].place(KINDS[0], LeaseId(b"lease"))
    looks: list[NodeId] = []
    look = Ranking._rank

    def noted(self: Ranking, node: NodeId) -> None:
        looks.append(node)
        look(self, node)

    monkeypatch.setattr(Ranking, "_rank", noted)

    for _ in range(100):
        for node in rankings.choose(KINDS[0], 1, None):
            nodes.all[node].place(KINDS[0], LeaseId(b"lease"))
    idle = nodes.all[node_id("5")]
    idle.beat(NodeBeat(idle.reported, idle.queued, idle.task_s, 0))
    rankings.choose(KINDS[0], 1, None)
    assert len(looks) == 101

    for record in nodes.all.values():
        record.beat(NodeBeat(*record.free(), record.task_s, record.placed))  # as was counted in already
    rankings.choose(KINDS[0], 1, None)
    assert len(looks) == 102  # the last one was chosen, and nothing placed
