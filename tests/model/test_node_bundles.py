"""Random sequences of what a node is told of placement groups: it never gives out what it does not have, and keeps
nothing of groups that are gone."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sparkray_core.ids import HEAD, GroupId, ProcessId
from sparkray_core.messages import (
    BundlesReserved,
    CommitBundles,
    LeaseGranted,
    LeaseLost,
    LeaseRefused,
    Message,
    RegisterProcess,
    ReleaseBundles,
    RequestLeases,
    ReserveBundles,
    ReturnLeases,
    WorkerBlocked,
    WorkerUnblocked,
)
from sparkray_core.model.effects import KillWorker, Send, StartWorker
from sparkray_core.model.events import Received, WorkerExited
from sparkray_core.model.invariants import check
from sparkray_core.model.resources import is_cpu
from sparkray_core.testing.builders import a_node, lease_id, node_id, process_id

OWNER = process_id(node_id("a"), "driver")
GROUPS = [GroupId(lease_id(OWNER, 1000 + n)) for n in range(3)]
AMOUNTS = st.sampled_from([500, 1000, 2000])


class NodeWithGroups(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.node = a_node("a", CPU=4, GPU=2)
        self.now = 0.0
        self.count = 0
        self.attempts: dict[GroupId, int] = {}
        self.reserved: dict[GroupId, list[int]] = {}  # that the node said it set aside, and the head has not given up
        self.there: set[GroupId] = set()  # of these, all of which is set aside
        self.committed: set[GroupId] = set()
        self.granted: dict[bytes, ProcessId] = {}
        self.dying: list[ProcessId] = []
        self.see(self.node.start(0.0))
        self.hear(OWNER, RegisterProcess("driver", 1))

    def hear(self, sender: ProcessId, message: Message) -> None:
        self.event(Received(sender, message))

    def event(self, event: Any) -> None:
        self.now += 0.01
        self.see(self.node.handle(event, self.now))

    def see(self, effects: list[Any]) -> None:
        for effect in effects:
            message = getattr(effect, "message", None)
            if isinstance(effect, StartWorker):
                self.hear(effect.worker, RegisterProcess("worker", 1))
            elif isinstance(effect, KillWorker):
                self.dying.append(effect.worker)
            elif isinstance(effect, Send) and isinstance(message, LeaseGranted):
                self.granted[message.lease] = message.worker
            elif isinstance(effect, Send) and isinstance(message, LeaseLost | LeaseRefused):
                self.granted.pop(message.lease, None)
            elif isinstance(effect, Send) and isinstance(message, BundlesReserved) and not message.done:
                del self.reserved[message.group]
            elif isinstance(effect, Send) and isinstance(message, BundlesReserved):
                self.there.add(message.group)

    @rule(number=st.sampled_from(GROUPS), sizes=st.lists(AMOUNTS, min_size=1, max_size=3), waits=st.booleans())
    def reserve(self, number: GroupId, sizes: list[int], waits: bool) -> None:
        if number in self.reserved:
            return  # a head asks once
        attempt = self.attempts[number] = self.attempts.get(number, 0) + 1
        self.reserved[number] = list(range(len(sizes)))
        self.hear(
            HEAD,
            ReserveBundles(
                number, attempt, [(n, {"CPU": size, "GPU": size // 2}) for n, size in enumerate(sizes)], waits
            ),
        )

    @rule(number=st.sampled_from(GROUPS))
    def commit(self, number: GroupId) -> None:
        if number in self.there:
            self.committed.add(number)
            self.hear(HEAD, CommitBundles(number, self.reserved[number]))

    @rule(number=st.sampled_from(GROUPS))
    def release(self, number: GroupId) -> None:
        self.committed.discard(number)
        self.there.discard(number)
        self.hear(HEAD, ReleaseBundles(number, self.reserved.pop(number, [0, 1, 2]), "removed"))

    @rule(number=st.sampled_from([None, *GROUPS]), index=st.integers(-1, 2), amount=AMOUNTS, placed=st.booleans())
    def request(self, number: GroupId | None, index: int, amount: int, placed: bool) -> None:
        self.count += 1
        where = () if number is None else ("group", number, index, False)
        wanted = {"CPU": amount, "GPU": amount // 2} if amount < 2000 else {"CPU": amount}
        self.hear(OWNER, RequestLeases([lease_id(OWNER, self.count)], wanted, [], placed, where=where))

    @rule(pick=st.integers(0, 100))
    def give_back(self, pick: int) -> None:
        if self.granted:
            lease = sorted(self.granted)[pick % len(self.granted)]
            del self.granted[lease]
            self.hear(OWNER, ReturnLeases([lease]))  # type: ignore[list-item]

    @rule(pick=st.integers(0, 100), blocked=st.booleans())
    def lend(self, pick: int, blocked: bool) -> None:
        if self.granted:
            worker = sorted(self.granted.values())[pick % len(self.granted)]
            self.hear(worker, WorkerBlocked() if blocked else WorkerUnblocked())

    @rule(pick=st.integers(0, 100))
    def worker_ends(self, pick: int) -> None:
        if self.dying:
            self.event(WorkerExited(self.dying.pop(pick % len(self.dying)), "killed by SIGKILL"))

    @invariant()
    def nothing_is_given_out_twice(self) -> None:
        check(self.node)
        claims, bundles = self.node.claims, self.node.bundles
        held = sum(claim.taken.get("CPU", 0) for claim in claims.all.values())
        assert held + bundles.held().get("CPU", 0) <= 4000 or claims.oversubscribed
        kept = {group for group, _ in bundles.all}
        assert kept <= {*self.reserved, *bundles.leaving}, "something is reserved that nobody knows of"

    def teardown(self) -> None:
        for number in GROUPS:
            self.release(number)
        while self.dying:
            self.worker_ends(0)
        check(self.node)
        assert not self.node.bundles.all
        assert not self.node.bundles.leaving
        assert not self.node.bundles.gathering
        assert self.node.claims.totals == {"CPU": 4000, "GPU": 2000}
        assert not self.node.claims.group_gpus
        assert all(name == "CPU" for name in self.node.claims.available if is_cpu(name))


NodeWithGroups.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
test_a_node_never_gives_out_too_much_and_keeps_nothing_of_groups_that_are_gone = NodeWithGroups.TestCase
