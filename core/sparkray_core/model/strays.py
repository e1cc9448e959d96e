"""Where results may lie that are still to come: what was stored by a run that was given up, and copies that were made
before their owner has heard that there is anything to copy.

    a run is given up:        what it may have left on its node is noted, as another run may write the same there now
    a copy is told of early:  kept; once the result is there, it is a copy of that if its source is one of the places
    the task ends:            what was noted, or kept until then, and is no place of a result goes

Of a task that has ended, and that may be made again, such a place goes with its record (`Record.strays`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sparkray_core.ids import NodeId, count_of, index_of, owner_of
from sparkray_core.messages import CopyMade, ObjectMoved, Value
from sparkray_core.model.entries import Entry, is_stored, place

if TYPE_CHECKING:
    from sparkray_core.model.references import References


class Strays:
    """Of the tasks of one owner that are under way, by their counters."""

    def __init__(self, refs: References) -> None:
        self.refs = refs
        self.places: dict[int, list[tuple[NodeId, int]]] = {}  # with the index of the result
        self.early: dict[int, list[CopyMade | ObjectMoved]] = {}

    def late(self, count: int, first: int, values: Iterable[Value]) -> None:
        """Results of a run that was given up, or of a task that was settled otherwise; they follow the one with this
        index. Their bytes may have come after the word to free them."""
        for index, value in enumerate(values, first + 1):
            self.refs.decline(value)
            if is_stored(value):
                self.note(count, index, place(value)[1])

    def note(self, count: int, index: int, nodes: Iterable[NodeId]) -> None:
        """It may lie there, and is not counted on."""
        lineage = self.refs.lineage
        assert lineage is not None
        places = [(node, index) for node in nodes]
        if lineage.comes(count):
            self.places.setdefault(count, []).extend(places)
        elif count in lineage.records:
            strays = lineage.records[count].strays
            strays += [(node, index) for node, index in places if not lineage.is_there(count, index, node)]
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
        if task is None and count not in refs.lineage.deliveries.making:
            return False
        if index and task is not None and task.stream is not None and index <= task.stream.position:
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
        words = [word for word in words if index_of(word.object) == entry.index]
        assert entry.value is not None
        have = {*place(entry.value)[1]}  # as it is now: those whose copies are that, too
        while joining := [word for word in words if _source(word) in have]:
            for word in joining:
                if isinstance(word, ObjectMoved):
                    have.add(word.to)
                    self.refs.copied(CopyMade(word.object, word.to, word.node))
                    self.refs.moved(word)
                else:
                    have.add(word.node)
                    self.refs.copied(word)
            words = [word for word in words if word not in joining]
        for word in words:
            self._doubt(entry.count, word)

    def _doubt(self, count: int, word: CopyMade | ObjectMoved) -> None:
        self.note(count, index_of(word.object), _nodes(word))

    def forget(self, count: int, index: int) -> list[NodeId]:
        """Nobody will read this result. Where it was said to be."""
        words = [word for word in self.early.get(count, ()) if index_of(word.object) == index]
        if words:
            self.early[count] = [word for word in self.early[count] if word not in words]
        return [node for word in words for node in _nodes(word)]

    def end(self, count: int) -> None:
        """The task has ended."""
        for word in self.early.pop(count, ()):
            self._doubt(count, word)
        places = dict.fromkeys(self.places.pop(count, ()))
        lineage = self.refs.lineage
        if places and lineage is not None:
            if count in lineage.records:
                lineage.records[count].strays += places  # `finished` frees them, unless it runs again at once
            else:
                lineage.free_unless_there(count, places)


def _nodes(word: CopyMade | ObjectMoved) -> tuple[NodeId, ...]:
    return (word.node, word.to) if isinstance(word, ObjectMoved) else (word.node,)


def _source(word: CopyMade | ObjectMoved) -> NodeId:
    return word.node if isinstance(word, ObjectMoved) else word.source
