"""The placement groups that a process has handles of: who waits for one, and which are gone."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparkray_core.ids import HEAD, GroupId
from sparkray_core.messages import FAILED, CreateGroup, GroupChanged, RemoveGroup, Value, WatchGroup
from sparkray_core.model.book import Book
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import Entry
from sparkray_core.model.leasing import Leasing


@dataclass(slots=True)
class KnownGroup:
    created: bool = False
    waiting: list[tuple[Entry, Value]] = field(default_factory=list)  # what is to have which value once it is created


class KnownGroups:
    def __init__(self, book: Book, leasing: Leasing) -> None:
        self.book = book
        self.leasing = leasing
        self.all: dict[GroupId, KnownGroup] = {}  # the head tells of their changes

    def create(self, message: CreateGroup | None, group: GroupId) -> list[Effect]:
        """
        Args:
            message: None: it is sent by whoever waits for its answer.
        """
        self.all[group] = KnownGroup()
        return [] if message is None else [Send(HEAD, message)]

    def forget(self, group: GroupId) -> None:
        """It was not created after all."""
        del self.all[group]

    def ready(self, group: GroupId, entry: Entry, value: Value, effects: list[Effect]) -> None:
        """Have the entry settled with the value once the group is created, or with why it never will be."""
        failure = self.leasing.removed.get(group)
        if failure is not None:
            self.book.refs.settle(entry, failure, effects)
            return
        known = self.all.get(group)
        if known is None:
            known = self.all[group] = KnownGroup()
            effects.append(Send(HEAD, WatchGroup(group)))
        if known.created:
            self.book.refs.settle(entry, value, effects)
        else:
            known.waiting.append((entry, value))

    def remove(self, group: GroupId, effects: list[Effect]) -> None:
        """It is gone for this process from now on: what it sends there later fails at once, whatever is faster."""
        effects.append(Send(HEAD, RemoveGroup(group)))
        self._gone(group, "remove_placement_group() was called", effects)

    def changed(self, message: GroupChanged, effects: list[Effect]) -> None:
        if message.state == "REMOVED":
            self._gone(message.group, message.why, effects)
            return
        known = self.all.get(message.group)
        if known is None:
            return
        known.created = message.state == "CREATED"
        if known.created:
            waiting, known.waiting = known.waiting, []
            for entry, value in waiting:
                self.book.refs.settle(entry, value, effects)

    def end(self, failure: Value, effects: list[Effect]) -> None:
        """The session is over."""
        for known in self.all.values():
            for entry, _ in known.waiting:
                if entry.value is None:
                    self.book.refs.settle(entry, failure, effects)
        self.all.clear()

    def _gone(self, group: GroupId, why: str, effects: list[Effect]) -> None:
        known = self.all.pop(group, None)
        sentence = f"placement group {group.hex()} was removed: {why}"
        failure: Value = (FAILED, "TaskPlacementGroupRemoved", sentence)
        for entry, _ in known.waiting if known is not None else ():
            self.book.refs.settle(entry, failure, effects)
        self.leasing.group_removed(group, failure)
