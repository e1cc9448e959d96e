"""Where results may lie that are still to come: what was stored by a run that was given up, and copies that were made
before their owner has heard that there is anything to copy.

    a run is given up:        what it may have left on its node is noted, as another run may write the same there now
    a copy is told of early:  kept; once the result is there, it is a copy of that if its source is one of the places
    the task ends:            what was noted, or kept until then, and is no place of a result goes
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sparkray_core.ids import NodeId, count_of, index_of, owner_of
from sparkray_core.messages import CopyMade, ObjectMoved
from sparkray_core.model.entries import Entry, place

if TYPE_CHECKING:
    from sparkray_core.model.references import References


class Strays:
    """Of the tasks of one owner that are under way, by their counters."""

    def __init__(self, refs: References) -> None:
        self.refs = refs
        self.places: dict[int, list[tuple[NodeId, int]]] = {}  # with the index of the result
        self.early: dict[int, list[CopyMade | ObjectMoved]] = {}

    def note(self, count: int, index: int, nodes: Iterable[NodeId]) -> None:
        lineage = self.refs.lineage
        assert lineage is not None
        places = [(node, index) for node in nodes]
        if count in lineage.tasks:
            self.places.setdefault(count, []).extend(places)
        else:
            lineage.free_unless_there(count, places)

    def is_early(self, word: CopyMade | ObjectMoved) -> bool:
        """Whether it is of a result that is still to come. It is kept until then."""
        some, refs = word.object, self.refs
        if refs.lineage is None:
            return False
        index = index_of(some)
        count = count_of(some) if owner_of(some) == refs.me else refs.legacy.number(some)
        task = refs.lineage.tasks.get(count)
        if task is None or (index and task.stream is not None and index <= task.stream.position):
            return False
        words = self.early.setdefault(count, [])
        if word not in words:  # a node that is drained says it again
            words.append(word)
        return True

    def came(self, entry: Entry) -> None:
        """The result is there, in a store."""
        words = self.early.pop(entry.count)
        others = [word for word in words if index_of(word.object) != entry.index]
        if others:
            self.early[entry.count] = others
        for word in words:
            if index_of(word.object) == entry.index and not self._joins(word, entry):
                self._doubt(entry.count, word)

    def _joins(self, word: CopyMade | ObjectMoved, entry: Entry) -> bool:
        """Whether it is a copy of the result as it came. It is a place of that now."""
        assert entry.value is not None
        there = place(entry.value)[1]
        if isinstance(word, ObjectMoved):
            if word.node in there:
                self.refs.moved(word)
                return True
        elif word.source in there:
            self.refs.copied(word)
            return True
        return False

    def _doubt(self, count: int, word: CopyMade | ObjectMoved) -> None:
        nodes = (word.node, word.to) if isinstance(word, ObjectMoved) else (word.node,)
        self.note(count, index_of(word.object), nodes)

    def end(self, count: int) -> None:
        """The task has ended."""
        for word in self.early.pop(count, ()):
            self._doubt(count, word)
        places = dict.fromkeys(self.places.pop(count, ()))
        if places and self.refs.lineage is not None:
            self.refs.lineage.free_unless_there(count, places)
