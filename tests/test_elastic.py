"""Which executor's task starts a node when they come one by one: the roster, without a Spark."""

from __future__ import annotations

from typing import Any

from sparkray.elastic import Roster
from sparkray.versions import versions


def here(host: str, jvm: int, **more: Any) -> dict[str, Any]:
    return {
        "kind": "here",
        "address": f"{host}:{jvm}",
        "host": host,
        "jvm": [jvm, 1.0],
        "versions": versions(),
        **more,
    }


def ready(node: str) -> dict[str, Any]:
    return {"kind": "ready", "node": node}


def start(neighbours: int) -> dict[str, Any]:
    return {"kind": "start", "hosts_head": False, "neighbours": neighbours}


HEAD = {"kind": "head", "address": "tcp://d:1"}


def roster(wanted: int | None = None, same_machine: bool = False) -> Roster:
    return Roster(wanted, "tcp://d:1", same_machine)


def test_the_first_task_on_each_executor_starts_a_node_and_others_keep_their_slots() -> None:
    people = roster()

    assert people.said("a", here("h", 1)) == [("a", start(1)), ("a", HEAD)]
    assert people.said("b", here("h", 1)) == []
    assert people.said("c", here("h", 2)) == [("c", start(2)), ("c", HEAD)]
    assert people.said("d", here("i", 1)) == [("d", start(1)), ("d", HEAD)]
    assert people.said("a", ready("n1")) == []
    assert people.said("e", here("h", 1)) == []
    assert people.let_go() == [("a", {"kind": "done"}), ("b", {"kind": "enough"}), ("e", {"kind": "enough"})]
    assert people.said("d", ready("n2")) == [("d", {"kind": "done"})]
    assert people.said("f", here("h", 2)) == [("f", {"kind": "enough"})]
    assert [facts["node"] for facts in people.joined.values()] == ["n1", "n2"]


def test_no_more_nodes_are_started_than_are_wanted() -> None:
    people = roster(wanted=1, same_machine=True)

    assert people.said("a", here("h", 1)) == [("a", start(1)), ("a", HEAD)]
    assert people.said("b", here("h", 2)) == []


def test_an_executor_whose_node_died_may_have_another() -> None:
    people = roster()
    people.said("a", here("h", 1))
    people.said("a", ready("n1"))
    assert people.let_go() == [("a", {"kind": "done"})]
    people.left("a")
    people.forget_all_but({"n2"})

    assert people.joined == {}
    assert people.failures == []
    assert people.said("b", here("h", 1)) == [("b", start(1)), ("b", HEAD)]


def test_a_task_that_fails_or_leaves_makes_room_and_is_told_of() -> None:
    people = roster(wanted=1)
    people.said("a", here("h", 1))
    people.said("b", here("h", 2))
    people.left("b")
    assert people.held == []
    people.left("a")
    people.said("c", here("h", 2))
    people.said("c", {"kind": "failed", "address": "h:2", "why": "no room"})

    assert people.failures == ["the Spark task on the executor of h ended too early", "on the executor at h:2: no room"]
    assert people.starting == {}


def test_another_version_is_sent_away_and_a_doubtful_one_is_told() -> None:
    people = roster()

    old = {**versions(), "sparkray": "0.0.7"}
    assert people.said("a", here("h", 1, versions=old)) == [("a", {"kind": "abort"})]
    (failure,) = people.failures
    assert "has 0.0.7: install the same version on both" in failure
    assert len(people.said("b", here("h", 2, versions={**versions(), "numpy": "0.1"}))) == 2
    (doubt,) = people.doubts
    assert "numpy 0.1 instead of" in doubt
