"""Objects that this node owns, or that its processes do, of which other nodes are to keep copies: `put(x, replicas=2)`.

    wanted -> other nodes are asked, those on other hosts first (TakeObject) -> they have it, and keep it
                     ^                                                              |
                     +--- too few nodes: when one joins; one of them died ----------+

What the raylet owns of that is recorded in the GCS (`Recorded`), so that another raylet owns it when this node dies.
That one keeps it, too, and fetches it first where it has none, or one that was pulled to be read and may go:

    inherited -> fetched, once more with each change of nodes until it is here -> wanted, of those first who have it
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
        self.inherited: dict[ObjectId, tuple[NodeId, ...]] = {}  # who had it then
        self.fetched: set[ObjectId] = set()  # of these: here, to stay
        self.news = False  # there are more to be had, perhaps
        self.nodes: Callable[[], Iterable[NodeInfo]] = list  # that live and stay, this one left out; node.py knows
        self.is_here: Callable[[ObjectId], bool] = lambda some: False
        self.is_owned: Callable[[ObjectId], bool] = lambda some: False  # by this raylet

    def want(self, some: ObjectId, copies: int) -> None:
        self.copies[some] = copies
        self.at[some] = {}
        self.news = True

    def inherit(self, some: ObjectId, there: tuple[NodeId, ...], stays: bool) -> None:
        """Its owner's node died. In the place of what that had another copy is wanted.

        Args:
            stays: it is here, in memory or on disk, and is no copy that may go.
        """
        self.want(some, len(there) + 1)
        self.inherited[some] = there
        if stays:
            self.fetched.add(some)

    def forget(self, some: ObjectId) -> None:
        if self.copies.pop(some, None) is not None:
            del self.at[some]
            self.inherited.pop(some, None)
            self.fetched.discard(some)

    def settle(self) -> list[tuple[ObjectId, tuple[NodeId, ...]]]:
        """Returns what is to be fetched, and from where. How that ended is told to `taken`, as of this node."""
        if not self.news:
            return []
        self.news = False
        for some in [some for some in self.copies if not (self._is_coming(some) or self.is_here(some))]:
            self.forget(some)
        if not self.copies:
            return []
        # Nodes that read each other's memory are on one host, and may die together.
        nodes = sorted(self.nodes(), key=lambda info: (info.host == self.me.host, info.node))
        for turn, (some, copies) in enumerate(self.copies.items()):
            asked = self.at[some]
            missing = 0 if self._is_coming(some) else copies - 1 - len(asked)
            if missing > 0:
                able = [info for info in nodes if info.node not in asked]
                far = [info for info in able if info.host != self.me.host]
                first = turn % len(far) if far else 0
                turns = [*far[first:], *far[:first], *able[len(far) :]]
                if some in self.inherited:
                    turns.sort(key=lambda info: info.node not in self.inherited[some])
                for info in turns[:missing]:
                    asked[info.node] = None
                    self.out.append(Send(raylet_of(info.node), TakeObject(some)))
        return [(some, there) for some, there in self.inherited.items() if self._is_coming(some)]

    def _is_coming(self, some: ObjectId) -> bool:
        return some in self.inherited and some not in self.fetched and self.is_owned(some)

    def taken(self, node: NodeId, message: ObjectTaken) -> None:
        """One that could not is asked again with the next change of nodes."""
        if node == self.me.node and message.done and message.object in self.inherited:
            self.fetched.add(message.object)
            self.news = True
        elif not message.done and message.object in self.at:
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
