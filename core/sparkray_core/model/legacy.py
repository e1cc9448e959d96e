"""What becomes of objects whose owner died, in each process that refers to them, and in the one that owns them now.

Nobody knows any more who borrows them, so each says so itself: with the word of the death it tells the heir what it
has, and what reaches it later it tells then. Whoever passes such a reference on does not count the receiver in, but
holds the object itself for `HANDOVER_S`, and so does the heir from the start: by then whoever got it has said so. (A
frame that takes longer means that a link is broken, and one of its ends is buried.) So do the owners of what the dead
one had borrowed, since its heir may find that inside of what it inherits.

The entry of such an object has the heir as its owner, under the id that it always had.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from sparkray_core.ids import ObjectId, ProcessId, TaskId, count_of, owner_of, task_id
from sparkray_core.messages import FAILED, AddBorrowers, AskObjects, Message, Value
from sparkray_core.model.effects import Effect, Send, WakeAt
from sparkray_core.model.entries import ACTOR_INDEX, Entry

if TYPE_CHECKING:
    from sparkray_core.model.references import References

HANDOVER_S = 30.0  # ten times what a node may be silent for
# Counters of tasks that were inherited: this bit, which of those who died had submitted it, and its counter there. (The
# bit above it is for what Spark stores.)
_BIT, _COUNT_BITS = 62, 40
INHERITED = 1 << _BIT


class Legacy:
    """Of one table of references."""

    def __init__(self, refs: References) -> None:
        self.refs = refs
        self.handover_s = HANDOVER_S
        self.heirs: dict[ProcessId, ProcessId] = {}  # of owners that died; their heirs may have died since
        self.mine: list[ProcessId] = []  # those whose heir this process is, in the order of their deaths
        self.early: dict[ProcessId, list[tuple[ProcessId, Message]]] = {}  # for whom we will be the heir: what was said
        self._numbers: dict[ProcessId, int] = {}  # places in `mine`
        self.busy = False  # some are held
        self._new: list[Entry] = []  # held since the last `settle`
        self._held: deque[tuple[float, list[Entry]]] = deque()  # until when, earliest first

    # ------------------------------------------------------------------ of somebody else
    def passes_to(self, owner: ProcessId, heir: ProcessId, effects: list[Effect]) -> None:
        """What this owner had is the heir's. (If that is this process, it is told what there is: `begin`.)"""
        if heir == self.refs.me or self.heirs.get(owner) == heir:
            return
        self._note(owner, heir)
        for entry in list(self.refs.exported.values()):
            if entry.owner == owner and entry.index != ACTOR_INDEX:
                entry.owner, entry.registered = heir, 0
                self.registers(entry, effects)
                if entry.value is None and entry.asked is not None:
                    effects.append(Send(heir, AskObjects([entry.id])))

    def _note(self, owner: ProcessId, heir: ProcessId) -> None:
        for former, later in self.heirs.items():
            if later == owner:
                self.heirs[former] = heir
        self.heirs[owner] = heir

    def registers(self, entry: Entry, effects: list[Effect]) -> None:
        """This process has it, and says so to the heir, once."""
        if entry.owner != self.refs.me and not entry.registered:
            entry.registered = 1
            effects.append(Send(entry.owner, AddBorrowers([(entry.id, self.refs.me)])))

    def hold(self, entry: Entry, effects: list[Effect]) -> None:
        """It is on its way to somebody, who will say that it came."""
        entry.pins += 1
        if not self._new and self.refs.lineage is not None:
            effects.append(WakeAt(0.0))  # for `settle`, which has the time. (A raylet does it with each event.)
        self._new.append(entry)
        self.busy = True

    def settle(self, now: float) -> None:
        if self._new:
            self._held.append((now + self.handover_s, self._new))
            self._new = []
        while self._held and self._held[0][0] <= now:
            for entry in self._held.popleft()[1]:
                self.refs.unpin(entry)
        self.busy = bool(self._new or self._held)

    def next_wake(self) -> float | None:
        return self._held[0][0] if self._held else None

    def held(self) -> list[Entry]:
        """One entry per pin."""
        return [*self._new, *(entry for _, entries in self._held for entry in entries)]

    # ------------------------------------------------------------------ as the heir
    def begin(self, owner: ProcessId, why: str) -> None:
        """What this owner had is ours from now on."""
        self.refs.note_gone(owner, why)
        self._note(owner, self.refs.me)
        if owner not in self._numbers:
            self._numbers[owner] = len(self.mine)
            self.mine.append(owner)

    def is_early(self, sender: ProcessId, message: Message, some: ObjectId) -> bool:
        """About an object that is not ours: it will be, the sender has only heard earlier of it."""
        owner = owner_of(some)
        if self.heirs.get(owner) == self.refs.me:
            return False
        self.early.setdefault(owner, []).append((sender, message))
        return True

    def forget(self, owner: ProcessId) -> None:
        """It died, and has no heir."""
        self.early.pop(owner, None)

    def take(self, some: ObjectId) -> Entry:
        """The entry of an inherited object."""
        refs = self.refs
        entry = refs.exported.get(some)
        if entry is None:
            entry = refs.find(some)
            entry.value = None
        entry.owner, entry.registered, entry.count = refs.me, 0, self.number(some)
        return entry

    def number(self, some: bytes) -> int:
        """The counter under which this process knows the task that makes the object."""
        return INHERITED | self._numbers[owner_of(some)] << _COUNT_BITS | count_of(some) & (1 << _COUNT_BITS) - 1

    def task_id(self, count: int) -> TaskId:
        """Of a task of ours, inherited or not."""
        if count >> _BIT != 1:
            return task_id(self.refs.me, count)
        count -= INHERITED
        return task_id(self.mine[count >> _COUNT_BITS], count & (1 << _COUNT_BITS) - 1)

    def not_inherited(self, some: ObjectId, reason: str = "it had not recorded the object in the GCS") -> Value:
        """What is told of what cannot be had any more."""
        owner = owner_of(some)
        sentence = (
            f"object {some.hex()}: the process that owned it ({owner.hex()}) is gone: {self.refs.why_gone(owner)}. "
            f"Others could not take it over: {reason}"
        )
        return (FAILED, "OwnerDiedError", sentence)
