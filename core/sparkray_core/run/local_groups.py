"""Placement groups, and where things may run, in local mode: the head's own models, and a node that answers at once."""

from __future__ import annotations

from sparkray_core.ids import GroupId, NodeId, ProcessId
from sparkray_core.messages import (
    BundlesReserved,
    CreateGroup,
    DescribeGroups,
    GroupChanged,
    ReleaseBundles,
    RemoveGroup,
    ReserveBundles,
    Resources,
    WatchGroup,
    Where,
)
from sparkray_core.model.choosing import Choosing, Held, Refusal
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.groups import Groups
from sparkray_core.model.head_nodes import Nodes
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.resources import fits, minus, plus, show
from sparkray_core.run.config import NODE_ID_LABEL
from sparkray_core.run.pump import now


class LocalGroups:
    def __init__(self, node: NodeId, resources: Resources, store_bytes: int) -> None:
        self.info = NodeInfo(node, "", "127.0.0.1", 0, resources, {NODE_ID_LABEL: node.hex()}, store_bytes, "")
        self.removed: list[GroupId] = []  # since somebody took them out of here
        self._out: list[Effect] = []
        self._nodes = Nodes()
        self._nodes.join(self.info, 0.0)
        limits = HeadLimits()
        self._groups = Groups(self._nodes, limits, self._out)
        self._groups.on_removed = lambda group: self.removed.append(group.id)
        self._choosing = Choosing(self._nodes, self._groups, limits)
        self._held: dict[tuple[GroupId, int], Resources] = {}

    def receive(self, me: ProcessId, message: CreateGroup | RemoveGroup | WatchGroup) -> list[GroupChanged]:
        """Returns what is to be told to the process."""
        groups = self._groups
        if isinstance(message, CreateGroup):
            groups.create(message, me, now())
        elif isinstance(message, RemoveGroup):
            groups.remove(message.group, "remove_placement_group() was called")
        else:
            groups.watch(message.group, me, True)
        told: list[GroupChanged] = []
        while True:
            groups.settle(now())
            if not self._out:
                return told
            effects = self._out[:]
            self._out.clear()
            for effect in effects:
                assert isinstance(effect, Send)
                if isinstance(effect.message, GroupChanged):
                    told.append(effect.message)
                else:
                    self._as_node(effect.message)

    def _as_node(self, message: object) -> None:
        record = self._nodes.all[self.info.node]
        if isinstance(message, ReserveBundles):
            wanted: Resources = {}
            for _, resources in message.bundles:
                wanted = plus(wanted, resources)
            done = fits(wanted, record.reported)
            if done:
                self._held |= {(message.group, index): resources for index, resources in message.bundles}
            self._groups.reserved(self.info.node, BundlesReserved(message.group, message.attempt, done), now())
        elif isinstance(message, ReleaseBundles):
            for index in message.bundles:
                self._held.pop((message.group, index), None)
            self._groups.news = True
        record.reported = self.info.resources
        for resources in self._held.values():
            record.reported = minus(record.reported, resources)
        record.on_the_way.clear()
        record.sums = None
        record.unsettled.clear()

    def claim(self, message: CreateGroup) -> bool:
        """Whether its name is free."""
        return not self._groups.describe([], message.key, 0.0)

    def describe(self, message: DescribeGroups) -> object:
        return self._groups.describe(message.groups, message.key, now())

    def why_not(self, wanted: Resources, where: Where) -> Held | Refusal | None:
        """None: it runs. What others use meanwhile means nothing: they run one after the other."""
        chosen = self._choosing.choose(wanted, 1, None, where)
        if isinstance(chosen, Held | Refusal):
            return chosen
        if chosen:
            return None
        why = f"this session has {show(self.info.resources)} in all, and this asks for {show(wanted)}"
        return Refusal("UnschedulableError", why)
