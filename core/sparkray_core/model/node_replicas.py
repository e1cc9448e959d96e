"""Objects that this node owns, or that its processes do, of which other nodes are to keep copies: `put(x, replicas=2)`.

    wanted -> other nodes are asked, those on other hosts first (TakeObject) -> they have it, and keep it
                     ^                                                              |
                     +--- too few nodes: when one joins; one of them died ----------+

What the raylet owns of that is recorded in the GCS (`Recorded`), so that another raylet owns it when this node dies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sparkray_core.ids import HEAD, RECORDS, NodeId, ObjectId, ProcessId, raylet_of
from sparkray_core.messages import ForgetRecords, ObjectTaken, RecordObjects, TakeObject
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import Entry
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.records import inside_value
from sparkray_core.model.references import References


class Replicas:
    """Of the objects in this node's store."""

    def __init__(self, me: NodeInfo, out: list[Effect]) -> None:
        self.me = me
        self.out = out
        self.copies: dict[ObjectId, int] = {}  # wanted of each, this node's included
        self.at: dict[ObjectId, dict[NodeId, None]] = {}  # who has it, or was asked to
        self.news = False  # there are more to be had, perhaps
        self.nodes: Callable[[], Iterable[NodeInfo]] = list  # that live and stay, this one left out; node.py knows
        self.is_here: Callable[[ObjectId], bool] = lambda some: False

    def want(self, some: ObjectId, copies: int, there: Iterable[NodeId] = ()) -> None:
        self.copies[some] = copies
        self.at[some] = dict.fromkeys(node for node in there if node != self.me.node)
        self.news = True

    def forget(self, some: ObjectId) -> None:
        if self.copies.pop(some, None) is not None:
            del self.at[some]

    def settle(self) -> None:
        if not self.news:
            return
        self.news = False
        for some in [some for some in self.copies if not self.is_here(some)]:
            self.forget(some)
        if not self.copies:
            return
        # Nodes that read each other's memory are on one host, and may die together.
        nodes = sorted(self.nodes(), key=lambda info: (info.host == self.me.host, info.node))
        for turn, (some, copies) in enumerate(self.copies.items()):
            asked = self.at[some]
            able = [info for info in nodes if info.node not in asked]
            far = [info for info in able if info.host != self.me.host]
            first = turn % len(far) if far else 0
            for info in [*far[first:], *far[:first], *able[len(far) :]][: max(0, copies - 1 - len(asked))]:
                asked[info.node] = None
                self.out.append(Send(raylet_of(info.node), TakeObject(some)))

    def taken(self, node: NodeId, message: ObjectTaken) -> None:
        """One that could not is asked again with the next change of nodes."""
        if not message.done and message.object in self.at:
            self.at[message.object].pop(node, None)

    def node_gone(self, node: NodeId) -> None:
        for asked in self.at.values():
            if node in asked:
                del asked[node]
                self.news = True


class Recorded:
    """What a raylet records in the GCS of the objects that it owns: those with copies elsewhere. As `Sharing` does."""

    def __init__(self, refs: References) -> None:
        self.refs = refs
        self.driver = ProcessId(b"")
        self.keeper: Callable[[], ProcessId] = lambda: RECORDS  # where it is kept; node.py knows
        self.shared: dict[ObjectId, Entry] = {}
        self._news: dict[ObjectId, Entry] = {}
        self._freed: list[ObjectId] = []
        refs.sharing = self

    def begin(self, entry: Entry) -> None:
        self.shared[entry.id] = self._news[entry.id] = entry

    def lent(self, entry: Entry) -> None:
        """That alone is no reason to record it."""

    def changed(self, entry: Entry) -> None:
        if entry.id in self.shared:
            self._news[entry.id] = entry

    def freed(self, entry: Entry) -> None:
        if self.shared.pop(entry.id, None) is not None:
            self._news.pop(entry.id, None)
            self._freed.append(entry.id)

    @property
    def has_news(self) -> bool:
        return bool(self._news or self._freed)

    def flush(self, effects: list[Effect]) -> None:
        if self._news:
            news, self._news = self._news, {}
            objects = [(some, entry.value, "") for some, entry in news.items() if entry.value is not None]
            inside = [one for _, value, _ in objects for one in inside_value(value)]
            self.refs.count_in_all(inside, HEAD, effects)
            effects.append(Send(self.keeper(), RecordObjects(self.driver, [], [], list(objects))))
        if self._freed:
            freed, self._freed = self._freed, []
            effects.append(Send(self.keeper(), ForgetRecords(freed)))
