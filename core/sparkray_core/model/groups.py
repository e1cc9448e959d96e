"""The head's record of placement groups: from the asking for bundles to their giving back.

    PENDING ----> CREATED <---> RESCHEDULING
       |             |               |
       +-------------+---------------+-----> REMOVED

PENDING: not all bundles are there, so none is. RESCHEDULING: some were lost with their node; the others stay, and so
does what runs in them. Either way the missing ones are placed in two phases: the nodes chosen set them aside
(`ReserveBundles`), and only when all of them have are they put on offer (`CommitBundles`). When one has no room after
all, or dies meanwhile, the others give back what they set aside, and later it is tried again.

The link between two nodes delivers exactly once and in order while both live, and a dead node holds nothing. So of an
attempt that ended, each node has either heard to give back, or will before it hears of the next one; only its answers
may come late, and carry the attempt's number.

A group for which there is no room right now, but would be if owners gave back the leases of their tasks, is placed by
what actors and other groups leave, and its nodes save up for it (`node_savings`): each sets aside what comes free, and
answers when it has all. What is promised to one group is not promised to another, so no two wait for each other; and
nodes that wait for the slowest of them do so for a limited time, then rest as long, and may take twice as long next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Any

from sparkray_core.ids import GROUP_ID_BYTES, ActorId, GroupId, NodeId, ProcessId, node_of, owner_of, raylet_of
from sparkray_core.messages import (
    Answer,
    BundlesReserved,
    CommitBundles,
    CreateGroup,
    GroupChanged,
    ReleaseBundles,
    ReserveBundles,
    Resources,
)
from sparkray_core.model import gangs, where
from sparkray_core.model.bounded import Recent
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.gangs import Site, Wanted
from sparkray_core.model.head_nodes import NodeRecord, Nodes
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.moves import IllegalMove
from sparkray_core.model.node_savings import PATIENCE
from sparkray_core.model.resources import minus, plus, show


class GroupState(Enum):
    PENDING = "PENDING"
    CREATED = "CREATED"
    RESCHEDULING = "RESCHEDULING"
    REMOVED = "REMOVED"


MOVES: Mapping[GroupState, frozenset[GroupState]] = {
    GroupState.PENDING: frozenset({GroupState.CREATED, GroupState.REMOVED}),
    GroupState.CREATED: frozenset({GroupState.RESCHEDULING, GroupState.REMOVED}),
    GroupState.RESCHEDULING: frozenset({GroupState.CREATED, GroupState.REMOVED}),
    GroupState.REMOVED: frozenset(),
}


@dataclass(slots=True)
class Attempt:
    places: dict[int, NodeId]  # of the bundles that were missing
    open: set[NodeId]  # that have not answered
    until: float = inf  # the nodes save up for it; not for longer

    def shares(self) -> dict[NodeId, list[int]]:
        shares: dict[NodeId, list[int]] = {}
        for index, node in self.places.items():
            shares.setdefault(node, []).append(index)
        return shares


@dataclass(slots=True)
class Group:
    id: GroupId
    key: str  # namespace and name
    bundles: list[Resources]
    strategy: str
    labels: list[where.Choice]  # of each bundle; empty: none has any
    detached: bool
    job: str
    creator: ActorId | None
    since: float
    story: deque[str]
    state: GroupState = GroupState.PENDING
    places: dict[int, NodeId] = field(default_factory=dict)  # of the bundles that are on offer
    attempt: Attempt | None = None
    attempts: int = 0
    due: float = 0.0  # not to be tried before
    refused: bool = False  # a node had no room for what seemed to fit: next time it saves up
    gather_s: float = 0.0  # nodes may save up for so long next time
    rests_until: float = 0.0  # nodes are not to save up for it before
    why: str = ""  # it is not there (yet, or any more)
    watchers: dict[ProcessId, None] = field(default_factory=dict)  # a set that keeps its order

    def missing(self) -> list[Wanted]:
        labels = self.labels or [()] * len(self.bundles)
        listed = enumerate(zip(self.bundles, labels, strict=True))
        return [Wanted(index, *facts) for index, facts in listed if index not in self.places]

    def move(self, to: GroupState, why: str) -> None:
        if to not in MOVES[self.state]:
            raise IllegalMove(f"placement group {self.id.hex()}", self.state.value, to.value, self.story)
        self.story.append(f"{self.state.value} -> {to.value}: {why}")
        self.state, self.why = to, why

    def changed(self) -> GroupChanged:
        return GroupChanged(self.id, self.state.value, self.why)


class Groups:
    def __init__(self, nodes: Nodes, limits: HeadLimits, out: list[Effect]) -> None:
        self.nodes = nodes
        self.limits = limits
        self.out = out
        self.all: dict[GroupId, Group] = {}  # not removed
        self.removed: Recent[GroupId, Group | None] = Recent(limits.remembered)  # None: before it was created
        self.by_key: dict[str, GroupId] = {}
        self.unplaced: dict[GroupId, Group] = {}  # bundles are missing. The oldest first
        self.watched: dict[ProcessId, dict[GroupId, None]] = {}
        self.early: Recent[GroupId, dict[ProcessId, None]] = Recent(limits.remembered)  # watch what will come
        self.news = False  # something changed since all were tried: there may be room
        self.fresh: list[Group] = []  # that were never tried. To try all each time would be n * n tries for n that wait
        self.retry_at: float | None = None  # one that a node had no room for is tried again
        self.changed = False  # a group was created or removed: who waits for it is to be looked at
        self.on_removed: Callable[[Group], None] = lambda group: None  # set by head.py, as all below
        self.on_event: Callable[[str, str], None] = lambda severity, sentence: None
        self.before_placing: Callable[[], None] = lambda: None

    # ------------------------------------------------------------------ what processes say
    def create(self, message: CreateGroup, sender: ProcessId, now: float) -> None:
        if not _is_sound(message):
            raise ValueError(f"{message} is no placement group")
        taken = bool(message.key) and message.key in self.by_key
        if message.key:
            self.out.append(Send(sender, Answer(message.request, not taken)))
        if taken or message.group in self.all or message.group in self.removed:
            return
        story: deque[str] = deque(["created"], maxlen=self.limits.story_lines)
        group = Group(
            message.group,
            message.key,
            message.bundles,
            message.strategy,
            list(message.where[1]) if message.where else [],
            message.detached,
            message.job,
            message.creator,
            now,
            story,
            due=now,
        )
        self.all[group.id] = self.unplaced[group.id] = group
        if group.key:
            self.by_key[group.key] = group.id
        for watcher in {sender: None, **(self.early.get(group.id) or {})}:
            self._add_watcher(group, watcher)
        self.early.forget(group.id)
        self.fresh.append(group)

    def watch(self, some: GroupId, watcher: ProcessId, owner_lives: bool) -> None:
        group = self.all.get(some) or self.removed.get(some)
        if group is not None:
            self.out.append(Send(watcher, group.changed()))
            if group.state is not GroupState.REMOVED:
                self._add_watcher(group, watcher)
        elif some in self.removed or not owner_lives:
            why = "it was removed, or the process that was to create it is gone"
            self.out.append(Send(watcher, GroupChanged(some, GroupState.REMOVED.value, why)))
        else:
            early = self.early.get(some) or {}
            self.early.remember(some, {**early, watcher: None})

    def remove(self, some: GroupId, why: str) -> None:
        """Give everything back. What never was, and what was removed before, is none of our business."""
        group = self.all.get(some)
        if group is None:
            if some not in self.removed:
                self.removed.remember(some, None)
                self.changed = True
            return
        self._give_up_attempt(group, why)
        shares: dict[NodeId, list[int]] = {}
        for index, node in group.places.items():
            shares.setdefault(node, []).append(index)
        for node, indexes in shares.items():
            self._release(group, node, indexes, why)
        group.places.clear()
        self._tell(group, GroupState.REMOVED, why)
        for watcher in group.watchers:
            of_watcher = self.watched.get(watcher, {})
            of_watcher.pop(group.id, None)
            if not of_watcher:
                self.watched.pop(watcher, None)
        group.watchers.clear()
        del self.all[group.id]
        self.unplaced.pop(group.id, None)
        if group.key:
            del self.by_key[group.key]
        self.removed.remember(group.id, group)
        self.on_event("INFO", f"placement group {group.id.hex()} is removed: {why}")
        self.on_removed(group)

    def forget_process(self, process: ProcessId) -> None:
        for some in self.watched.pop(process, {}):
            self.all[some].watchers.pop(process, None)

    def unwanted(self, is_over: Callable[[Group], bool], why: str) -> None:
        """Remove those whose creators are gone."""
        for group in list(self.all.values()):
            if not group.detached and is_over(group):
                self.remove(group.id, why)

    # ------------------------------------------------------------------ what nodes say, and their ends
    def reserved(self, node: NodeId, message: BundlesReserved, now: float) -> None:
        group = self.all.get(message.group)
        attempt = group.attempt if group is not None else None
        if group is None or attempt is None or message.attempt != group.attempts or node not in attempt.open:
            return  # it has been told since to give them back
        attempt.open.discard(node)
        if not message.done:
            for index in attempt.shares()[node]:
                del attempt.places[index]
            self._give_up_attempt(group, "a node had no room any more")
            group.refused = True
            # It has reported what it has by the time of the next beat; before that the same would come of it.
            group.due = now + self.limits.gang_retry_s
            self._retry(group.due)
        elif not attempt.open:
            self._commit(group, attempt)

    def node_gone(self, node: NodeId, why: str) -> None:
        for group in list(self.all.values()):
            if group.attempt is not None and node in group.attempt.places.values():
                places = group.attempt.places
                group.attempt.places = {index: place for index, place in places.items() if place != node}
                self._give_up_attempt(group, f"a node died: {why}")
            lost = [index for index, place in group.places.items() if place == node]
            for index in lost:
                del group.places[index]
            if lost:
                self.unplaced[group.id] = group
                if group.state is GroupState.CREATED:
                    self._tell(group, GroupState.RESCHEDULING, f"a node with {len(lost)} of its bundles died: {why}")
        self.news = True

    # ------------------------------------------------------------------ time
    def settle(self, now: float) -> None:
        """Once after each event: try those for which there may be room now."""
        if self.retry_at is not None and now >= self.retry_at:
            self.news, self.retry_at = True, None
            self._end_attempts(now)
        tried, self.fresh = (self.unplaced.values() if self.news else self.fresh), []
        self.news = False
        for group in list(tried):
            if group.attempt is not None or group.id not in self.unplaced:
                continue
            if now >= group.due:
                self._try(group, now)
            else:
                self._retry(group.due)

    def _retry(self, at: float) -> None:
        self.retry_at = at if self.retry_at is None else min(self.retry_at, at)

    def _end_attempts(self, now: float) -> None:
        """Of those whose nodes have saved up for too long, while CPUs idled."""
        for group in self.unplaced.values():
            if group.attempt is None:
                continue
            if now >= group.attempt.until:
                self._give_up_attempt(group, "some nodes had saved up for long, and others lacked something still")
                group.rests_until = now + group.gather_s
                group.gather_s *= 2
                self._retry(group.rests_until)
            elif group.attempt.until < inf:
                self._retry(group.attempt.until)

    def _try(self, group: Group, now: float) -> None:
        missing = group.missing()
        chosen = gangs.place(missing, self._sites(group, lambda record: record.load().available), group.strategy)
        saves = group.refused or chosen is None
        if saves and now < group.rests_until:
            self._retry(group.rests_until)
            return
        if chosen is None:
            chosen = gangs.place(missing, self._sites(group, _beside_what_lasts), group.strategy)
        if chosen is None:
            return
        self.before_placing()
        group.attempts += 1
        group.refused = False
        group.attempt = attempt = Attempt(chosen, set(chosen.values()))
        group.story.append(f"attempt {group.attempts}: {len(chosen)} bundles on {len(attempt.open)} nodes")
        if saves:
            slowest = max(self.nodes.all[node].task_s for node in attempt.open)
            group.gather_s = max(group.gather_s, self.limits.gather_s, PATIENCE * slowest)
            attempt.until = now + group.gather_s
            self._retry(attempt.until)
            group.story.append(f"they have up to {group.gather_s:g} s to save up for it")
        for node, indexes in attempt.shares().items():
            bundles = [(index, group.bundles[index]) for index in indexes]
            total: Resources = {}
            for _, resources in bundles:
                total = plus(total, resources)
            self.nodes.all[node].place(total)
            self.out.append(Send(raylet_of(node), ReserveBundles(group.id, group.attempts, bundles, saves)))

    def _sites(self, group: Group, free: Callable[[Any], Resources]) -> list[Site]:
        counts: dict[NodeId, int] = {}
        for node in group.places.values():
            counts[node] = counts.get(node, 0) + 1
        return [
            Site(record.info.node, record.joined, free(record), record.info.labels, counts.get(record.info.node, 0))
            for record in self.nodes.hosts()
        ]

    def why_not(self, group: Group) -> str:
        """Why bundles are missing, for whoever asks."""
        missing = group.missing()
        if not missing or group.state is GroupState.REMOVED:
            return ""
        if group.attempt is not None:
            asked = f"{len(group.attempt.open)} nodes have not answered yet"
            saves = ": they save up what tasks give back as they end" if group.attempt.until < inf else ""
            return asked + saves
        wanted = "; ".join(f"{{{show(bundle.resources)}}}" for bundle in missing[:5])
        wanted += f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        if gangs.place(missing, self._sites(group, lambda record: record.info.resources), group.strategy) is None:
            offers = sorted({show(record.info.resources) for record in self.nodes.hosts()})
            return (
                f"the session's nodes could never hold {wanted} by {group.strategy}: they have {'; '.join(offers)}. It "
                f"waits for nodes to join; remove it and ask for less, or add nodes"
            )
        free = sorted(f"node {r.info.node.hex()} has {show(where.plain(r.reported))}" for r in self.nodes.hosts())
        return f"there is no room for {wanted} by {group.strategy} just now: {'; '.join(free[:5])} free"

    # ------------------------------------------------------------------ steps
    def _commit(self, group: Group, attempt: Attempt) -> None:
        for node, indexes in attempt.shares().items():
            self.nodes.all[node].offer(where.offered(group.id, [(index, group.bundles[index]) for index in indexes]))
            self.out.append(Send(raylet_of(node), CommitBundles(group.id, indexes)))
        group.places |= attempt.places
        group.attempt, group.gather_s, group.rests_until = None, 0.0, 0.0
        del self.unplaced[group.id]
        self._tell(group, GroupState.CREATED, f"on {len(set(group.places.values()))} nodes")

    def _give_up_attempt(self, group: Group, why: str) -> None:
        """Those that were asked and live give back; so do those whose answer is still to come."""
        attempt, group.attempt = group.attempt, None
        if attempt is None:
            return
        group.story.append(f"attempt {group.attempts} ended: {why}")
        for node, indexes in attempt.shares().items():
            self.out.append(Send(raylet_of(node), ReleaseBundles(group.id, indexes, why)))

    def _release(self, group: Group, node: NodeId, indexes: list[int], why: str) -> None:
        named = where.offered(group.id, [(index, group.bundles[index]) for index in indexes])
        self.nodes.all[node].withdraw(named)
        sentence = f"placement group {group.id.hex()} was removed: {why}"
        self.out.append(Send(raylet_of(node), ReleaseBundles(group.id, indexes, sentence)))

    def _tell(self, group: Group, to: GroupState, why: str) -> None:
        group.move(to, why)
        self.changed = True
        message = group.changed()
        self.out.extend(Send(watcher, message) for watcher in group.watchers)

    def _add_watcher(self, group: Group, watcher: ProcessId) -> None:
        group.watchers[watcher] = None
        self.watched.setdefault(watcher, {})[group.id] = None

    # ------------------------------------------------------------------ for those who look
    def describe(self, wanted: list[GroupId], key: str, now: float) -> list[dict[str, Any]]:
        if key:
            wanted = [self.by_key[key]] if key in self.by_key else []
        elif not wanted:
            wanted = [*(some for some, group in self.removed.items() if group is not None), *self.all]
        found = [self.all.get(some) or self.removed.get(some) for some in wanted]
        return [self._facts(group, now) for group in found if group is not None]

    def _facts(self, group: Group, now: float) -> dict[str, Any]:
        namespace, _, name = group.key.partition("\0")
        return {
            "group": group.id,
            "name": name,
            "namespace": namespace,
            "state": group.state.value,
            "strategy": group.strategy,
            "bundles": list(group.bundles),
            "labels": list(group.labels),
            "places": dict(group.places),
            "why": self.why_not(group) or group.why,
            "detached": group.detached,
            "job": group.job,
            "creator": group.creator,
            "owner": owner_of(group.id),
            "owner_node": node_of(owner_of(group.id)),
            "attempts": group.attempts,
            "for_s": now - group.since,
            "story": list(group.story),
        }


def _beside_what_lasts(record: NodeRecord) -> Resources:
    """What tasks hold there would come back."""
    return minus(record.info.resources, record.bound)


def _is_sound(message: CreateGroup) -> bool:
    """Whether a user could have asked for it. The API refuses all else before it leaves the process."""
    amounts = [amount for bundle in message.bundles for amount in bundle.values()]
    labels = message.where[1] if message.where else ()
    return (
        message.strategy in gangs.STRATEGIES
        and len(message.group) == GROUP_ID_BYTES
        and bool(message.bundles)
        and all(message.bundles)
        and min(amounts) > 0
        and len(labels) in (0, len(message.bundles))
    )
