"""Who holds which object, and what follows when nobody does. One half of the owner's model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Protocol

from sparkray_core.ids import (
    HEAD,
    NodeId,
    ObjectId,
    ProcessId,
    count_of,
    index_of,
    node_of,
    owner_of,
    raylet_of,
)
from sparkray_core.messages import (
    FAILED,
    HOLDS,
    STORED,
    AddBorrowers,
    AdoptObject,
    AskObjects,
    BorrowedCounts,
    CheckBorrowed,
    CopyMade,
    DropBorrowers,
    EndActor,
    FreeObjects,
    ObjectMissing,
    ObjectMoved,
    ObjectReady,
    Value,
)
from sparkray_core.model.bounded import Recent
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import ACTOR_INDEX as ACTOR_INDEX
from sparkray_core.model.entries import NOT_GIVEN, Entry, bare, is_failure, is_stored, place
from sparkray_core.model.legacy import Legacy
from sparkray_core.model.recount import Recount, counts_of
from sparkray_core.model.strays import Strays

if TYPE_CHECKING:
    from sparkray_core.model.lineage import Lineage

_REMEMBERED = 10_000  # as in limits.py: word of older deaths does not cross anybody's path any more


class Shares(Protocol):
    """Somebody who tells the GCS of own objects that others borrow: `Sharing`, or a raylet's `Recorded`."""

    @property
    def has_news(self) -> bool: ...
    def lent(self, entry: Entry) -> None: ...
    def changed(self, entry: Entry) -> None: ...
    def freed(self, entry: Entry) -> None: ...
    def flush(self, effects: list[Effect]) -> None: ...


class References:
    """The table of one process's objects, its own and the borrowed ones."""

    def __init__(self, me: ProcessId, keeper: ProcessId | None = None) -> None:
        """
        Args:
            keeper: who is to own what this process puts, once others may learn of it; None: this process itself.
        """
        self.me = me
        self.keeper = keeper
        # Own entries are here once their id was seen outside (lazily: most never are); borrowed ones always.
        self.exported: dict[ObjectId, Entry] = {}
        self.stored: dict[ObjectId, Entry] = {}  # own entries whose value is in shared memory
        self._gone: Recent[bytes, str] = Recent(_REMEMBERED)  # processes and nodes that died
        self.on_actor_freed: Callable[[Entry], None] = lambda entry: None  # calls.py knows
        self.on_unseen_failure: Callable[[Entry], None] = lambda entry: None  # the shell reports it
        # An own value in the store that nobody knows of, its raylet included; the shell is told when that ends.
        self.unsealed: Entry | None = None
        self.on_unsealed: Callable[[Entry], None] = lambda entry: None
        self.lineage: Lineage | None = None  # which sets this itself; a raylet has none
        self.sharing: Shares | None = None  # likewise; of an owner that may die before those who borrow from it
        self.legacy = Legacy(self)
        self.heirs = self.legacy.heirs  # of owners that died: who owns what they had
        self.recount = Recount(self.exported)
        self.strays = Strays(self)
        # Objects that only a caller kept alive, while we counted others in, or others us: see `outlives`.
        self._lent_on: set[ObjectId] = set()
        self._freed: dict[NodeId, list[ObjectId]] = {}
        self._given_away: list[Entry] = []  # to the keeper
        self._late: list[Effect] = []  # what follows from something that is lost: who is told, who makes it again
        self._dropped: dict[ProcessId, list[tuple[ObjectId, ProcessId]]] = {}

    # ------------------------------------------------------------------ looking up
    def find(self, some_object: ObjectId) -> Entry:
        """The entry of an object that came in from outside; a new borrowed one when we did not know it."""
        entry = self.exported.get(some_object)
        if entry is None:
            owner, index = owner_of(some_object), index_of(some_object)
            if index != ACTOR_INDEX:
                owner = self.heirs.get(owner, owner)
            entry = Entry(owner, count_of(some_object), index)
            entry._id = some_object
            entry.held = False
            self.exported[some_object] = entry
            if entry.owner == self.me:
                entry.value = self.unknown(some_object)
        return entry

    def knows(self, entry: Entry) -> bool:
        """Whether it is of this process's session; else it was left over by an earlier one."""
        if entry.owner == self.me or getattr(entry, "registered", 0) == NOT_GIVEN:
            return True
        known = getattr(entry, "_id", None)  # a stream, which is no entry, is always its owner's
        return known is not None and self.exported.get(known) is entry

    def unknown(self, some_object: ObjectId) -> Value | None:
        """What an own object is that is not in the table. None: it will come."""
        if owner_of(some_object) != self.me:
            return self.legacy.not_inherited(some_object)
        return freed(some_object)  # while somebody still named it: an old reference, smuggled out of band

    def export(self, entry: Entry) -> ObjectId:
        """The entry's id, from now on to be found by it."""
        if entry is self.unsealed:
            self.on_unsealed(entry)
        some = entry.id
        self.exported.setdefault(some, entry)
        if entry.registered == NOT_GIVEN:
            self.give_away(entry)
        return some

    def give_away(self, entry: Entry) -> None:
        """The keeper owns it from now on, and has counted us in as its borrower."""
        self.exported.setdefault(entry.id, entry)
        entry.registered = 1
        self._given_away.append(entry)

    # ------------------------------------------------------------------ values
    def settle(self, entry: Entry, value: Value, effects: list[Effect]) -> None:
        """The value (or failure) is there: tell all who wait."""
        if entry.value is not None:
            self._doubled(entry, value)
            return
        if entry.contained:
            value = self._settle_anew(entry, value)
        elif type(value) is tuple and value[0] == HOLDS:
            self._contain(entry, value[2])
        if type(value) is tuple:
            entry.value = value
            if entry.owner == self.me and is_stored(value):
                self.stored[entry.id] = entry
                if self.lineage is not None:
                    self.lineage.stored(entry)
                if entry.count in self.strays.early:
                    self.strays.came(entry)
        else:
            entry.value = value
        if entry.waiters:
            waiters, entry.waiters = entry.waiters, None
            for waiter in waiters:
                waiter.entry_ready(entry)
        if entry.asked:
            for process in entry.asked:
                if not self.is_gone(process):
                    self.tell(entry, process, effects)
            entry.asked = None
        if entry.borrowers:
            if self.sharing is not None:
                self.sharing.changed(entry)
        elif not entry.held and not entry.pins:
            self.free(entry)

    def note_held(self, entries: Iterable[Entry], effects: list[Effect]) -> None:
        """A task ends here, and these of its arguments live on: whoever had it run will count us in, who says so
        itself of what was inherited."""
        for entry in entries:
            if self.heirs and owner_of(entry.id) in self.heirs:
                self.legacy.registers(entry, effects)
            else:
                entry.registered = 1

    def lent_on(self, entries: Iterable[Entry]) -> list[Entry]:
        """Of what came in the arguments of a task that ends: what `outlives` is to be told of. To be asked while it is
        held."""
        return [entry for entry in entries if entry.id in self._lent_on] if self._lent_on else []

    def outlives(
        self, entries: Iterable[Entry], lent_on: Collection[Entry], effects: list[Effect]
    ) -> list[ObjectId] | None:
        """Of what came in the arguments of a task that ends: what its caller is to count us in for, who then lets go of
        it. That is what lives on here and is not counted yet. And what was lent on, to others by us or to us by others
        who had it from us: the caller's word may come to the owner before the words of that. Ours, that we let go of
        it, comes behind them, by the same way.
        """
        held = [entry for entry in entries if entry.owner != self.me and not entry.registered and _lives(entry)]
        self.note_held(held, effects)
        still = [entry.id for entry in held]
        known = set(still) if lent_on else set()
        told: dict[ProcessId, list[tuple[ObjectId, ProcessId]]] = {}
        for entry in lent_on:
            self._lent_on.discard(entry.id)
            if entry.owner == self.me or entry.id in known:
                continue
            still.append(entry.id)
            if entry.registered and self.exported.get(entry.id) is entry:
                entry.registered += 1
            else:
                told.setdefault(entry.owner, []).append((entry.id, self.me))
        effects += [Send(owner, DropBorrowers(pairs)) for owner, pairs in told.items()]
        return still or None

    def settle_failed(self, entry: Entry, failure: Value) -> None:
        """As `settle`, of what is lost for good. Who asked from elsewhere is told with the next `flush`."""
        self.settle(entry, failure, self._late)

    def late(self, effect: Effect) -> None:
        """To be performed with the next `flush`."""
        self._late.append(effect)

    def _doubled(self, entry: Entry, value: Value) -> None:
        """A task that made something lost again made this again, too, and it had not been lost."""
        if type(value) is not tuple:
            return
        if is_stored(value):
            kept = place(entry.value)[1] if entry.value is not None and is_stored(entry.value) else ()
            for node in place(value)[1]:
                if node not in kept:
                    self.free_at(node, entry.id)
                elif value[0] == HOLDS:
                    self._hold_also(entry, value[2])
                    return
        self.decline(value)

    def _settle_anew(self, entry: Entry, value: Value) -> Value:
        """It had a value before, with references inside: as it was told here before, or as it was made before it got
        lost. (Not found by a reader, that is, which may have been late: its bytes may still be where they were.)

        Returns its value now, with what is held for it.
        """
        entry.value = value
        lineage = self.lineage if entry.owner == self.me else None
        if lineage is not None and is_stored(value) and lineage.lies_as_before(entry):
            self._hold_also(entry, value[2] if type(value) is tuple and value[0] == HOLDS else ())
            return entry.value
        former, entry.contained = entry.contained or [], None
        if type(value) is tuple and value[0] == HOLDS:
            self._contain(entry, value[2])
        for inner in former:
            if lineage is not None:
                self.legacy.hold(inner, self._late)  # for those who read it as it was before all of that is freed
            self.unpin(inner)
        return value

    def _hold_also(self, entry: Entry, objects: Iterable[ObjectId]) -> None:
        """What one of its nodes has is as it was made now, or as it was made before: it had kept its copy, or had given
        it up for room. Nobody says which, so that what is inside of either is held."""
        former, entry.contained = entry.contained or [], None
        self._contain(entry, objects)
        assert entry.value is not None
        entry.contained = [*former, *(entry.contained or ())]
        entry.value = (HOLDS, bare(entry.value), tuple(inner.id for inner in entry.contained))
        if self.sharing is not None:
            self.sharing.changed(entry)

    def decline(self, value: Value) -> None:
        """Nobody here takes this value: let go of the references inside, in which its sender has counted us."""
        if type(value) is tuple and value[0] == HOLDS:
            unwanted = Entry(self.me, 0)
            self._contain(unwanted, value[2])
            self.let_go_of_contained(unwanted)

    def _contain(self, entry: Entry, objects: Iterable[ObjectId]) -> None:
        """The value has these references inside; whoever sent it has counted us as a borrower of each."""
        entry.contained = []
        for some_object in objects:
            inner = self.find(some_object)
            covered = (inner.held or inner.pins) and not inner.registered
            inner.pins += 1
            entry.contained.append(inner)
            if self.heirs and owner_of(some_object) in self.heirs:
                self.legacy.registers(inner, self._late)
            elif inner.owner != self.me:
                if covered:
                    self._lent_on.add(some_object)
                # Not told at once that we are counted twice: that could overtake the second count, and the owner would
                # see none while we hold it. What goes below zero on the way is no harm, what goes through zero is.
                inner.registered += 1

    def let_go_of_contained(self, entry: Entry) -> None:
        contained, entry.contained = entry.contained, None
        for inner in contained or ():
            self.unpin(inner)

    def hold_inside(self, entry: Entry, inner: list[Entry]) -> None:
        """Own value with these references inside, made in this process."""
        for held in inner:
            held.pins += 1
            self.export(held)
        entry.contained = inner

    def outgoing(self, value: Value, to: ProcessId, effects: list[Effect]) -> Value:
        """Count the receiver in for each reference inside a value that is about to leave."""
        if type(value) is tuple and value[0] == HOLDS:
            self.lend(value[2], to, effects)
        return value

    def lend(self, objects: Iterable[ObjectId], to: ProcessId, effects: list[Effect]) -> None:
        """`to` becomes a borrower of these, counted in before what it gets has left."""
        self.count_in_all(objects, to, effects)
        if self.sharing is not None and self.sharing.has_news:
            self.sharing.flush(effects)

    def count_in_all(self, objects: Iterable[ObjectId], to: ProcessId, effects: list[Effect]) -> None:
        """`lend`, without a word to the GCS."""
        told: dict[ProcessId, list[tuple[ObjectId, ProcessId]]] = {}
        for some_object in objects:
            owner = owner_of(some_object)
            if owner == to:
                continue  # its own; our pin goes only after the value that we send now
            if owner == self.me:
                self.count_in(self.find(some_object), to)
            elif self.heirs and owner in self.heirs:
                self.legacy.hold(self.find(some_object), effects)
            else:
                told.setdefault(owner, []).append((some_object, to))
                entry = self.exported.get(some_object)
                if entry is not None and not entry.registered:
                    self._lent_on.add(some_object)
        effects += [Send(owner, AddBorrowers(pairs)) for owner, pairs in told.items()]

    def tell(self, entry: Entry, process: ProcessId, effects: list[Effect]) -> None:
        assert entry.value is not None
        if is_failure(entry.value):
            entry.seen = True  # there
        effects.append(Send(process, ObjectReady(entry.id, self.outgoing(entry.value, process, effects))))

    def asked(self, process: ProcessId, objects: Iterable[ObjectId], effects: list[Effect]) -> None:
        """A borrower is to be told of these, now or when they are there."""
        for some_object in objects:
            if some_object[:16] != self.me and self.legacy.is_early(process, AskObjects([some_object]), some_object):
                continue
            entry = self.exported.get(some_object)
            if entry is None:
                value = self.unknown(some_object)
                if value is not None:
                    effects.append(Send(process, ObjectReady(some_object, value)))
                    continue
                entry = self.find(some_object)
            if entry.value is not None:
                self.tell(entry, process, effects)
            elif entry.owner == self.me:
                entry.asked = [*(entry.asked or ()), process]
                self.ask(entry, effects)

    def ask(self, entry: Entry, effects: list[Effect]) -> None:
        """Somebody waits for it. Borrowed and not there: ask its owner, once. Own and lost: have it made again."""
        if entry.value is not None:
            return
        if entry.owner == self.me:
            if self.lineage is not None and entry.count in self.lineage.records:
                self.lineage.wanted(entry)
        elif entry.asked is None:
            entry.asked = []
            effects.append(Send(entry.owner, AskObjects([entry.id])))

    # ------------------------------------------------------------------ lost
    def missed(self, entry: Entry, nodes: Iterable[NodeId], effects: list[Effect]) -> Value | None:
        """A reader here did not find it on these nodes. None: it will come, or is elsewhere; else why it is lost."""
        if entry.value is None or not is_stored(entry.value):
            return None
        if entry.owner == self.me:
            return None if self._not_on(entry, nodes) else self._why_missing(entry, nodes)
        if all(node in nodes for node in place(entry.value)[1]):
            if self.heirs.get(entry.owner) == self.me:  # which had not recorded it: nobody else is left to be asked
                return self.legacy.not_inherited(entry.id)
            entry.value = None
            entry.asked = []
            effects.append(Send(entry.owner, ObjectMissing(entry.id, list(nodes))))
        return None

    def missing_for(self, reader: ProcessId, message: ObjectMissing, why: Value | None, effects: list[Effect]) -> None:
        """
        Args:
            why: a failure for this reader, if what is lost may not be made again for its sake.
        """
        if owner_of(message.object) != self.me and self.legacy.is_early(reader, message, message.object):
            return
        entry = self.exported.get(message.object)
        if entry is None or entry.owner != self.me:
            value = self.unknown(message.object) or freed(message.object)
            effects.append(Send(reader, ObjectReady(message.object, value)))
        elif entry.value is None or not is_stored(entry.value) or self._not_on(entry, message.nodes):
            if why is not None and entry.value is None:
                effects.append(Send(reader, ObjectReady(entry.id, why)))
            else:
                self.asked(reader, [entry.id], effects)
        else:
            effects.append(Send(reader, ObjectReady(entry.id, self._why_missing(entry, message.nodes))))

    def _not_on(self, entry: Entry, nodes: Iterable[NodeId]) -> bool:
        """An own object is not where it was looked for. False: it was nowhere else, and cannot be made again.

        Others may find it there all the same, so one that cannot be made again is not given up for one reader's word,
        and no place of it is: that is only the last to be looked at from now on.
        """
        assert entry.value is not None
        size, there = place(entry.value)
        left = tuple(node for node in there if node not in nodes)
        if left == there:
            return True
        gone = [node for node in there if node not in left]
        if self.lineage is None or not self.lineage.can_rebuild(entry):
            if left:
                self._restore(entry, (STORED, size, (*left, *gone)))
            return bool(left)
        if left:
            self._restore(entry, (STORED, size, left))
        else:
            self.lineage.lose(entry, f"was not found on {_named(gone)}")
        self.lineage.may_lie(entry, [node for node in gone if node not in self._gone])
        return True

    def _why_missing(self, entry: Entry, nodes: Iterable[NodeId]) -> Value:
        where = f"was not found on {_named(nodes)}"
        record = self.lineage.records.get(entry.count) if self.lineage is not None else None
        if self.lineage is not None and record is not None:
            record.story = where
            return self.lineage.failure(record, entry, self.lineage.why_not(record))
        return lost_for_good(entry, where)

    def free_at(self, node: NodeId, some: ObjectId) -> None:
        if node not in self._gone:
            self._freed.setdefault(node, []).append(some)

    # ------------------------------------------------------------------ letting go
    def drop(self, entries: Iterable[Entry]) -> None:
        """The process's ObjectRef of each of these died."""
        for entry in entries:
            if entry.weak is not None and entry.weak() is not None:
                continue  # it came back in the meantime
            if entry.owner is not self.me and not self.knows(entry):
                continue  # of an earlier session
            entry.held = False
            if entry.pins or entry.borrowers:
                continue
            if entry.value is not None or entry.owner != self.me or entry.index == ACTOR_INDEX:
                self.free(entry)
            elif self.lineage is not None and self.lineage.is_lost(entry):
                self.free(entry)  # another own result that is not there yet goes when it comes

    def unpin(self, entry: Entry) -> None:
        entry.pins -= 1
        assert entry.pins >= 0, entry
        if not entry.pins and not entry.held and not entry.borrowers:
            self.free(entry)

    def free(self, entry: Entry) -> None:
        """Nobody here holds it. Own: its bytes go. Borrowed: its owner hears of it."""
        if entry._id is not None:
            self.exported.pop(entry._id, None)
            if self.recount.lenders:
                self.recount.lenders.pop(entry._id, None)
            if self._lent_on:
                self._lent_on.discard(entry._id)
            if self.sharing is not None:
                self.sharing.freed(entry)
        if entry.index == ACTOR_INDEX:
            self.on_actor_freed(entry)
        if entry.owner != self.me:
            if entry.registered > 0:
                self._dropped.setdefault(entry.owner, []).extend([(entry.id, self.me)] * entry.registered)
                entry.registered = 0
        elif entry.index == ACTOR_INDEX:
            self._dropped.setdefault(HEAD, []).append((entry.id, self.me))
        elif type(entry.value) is tuple:
            if entry is self.unsealed:
                self.on_unsealed(entry)
            elif is_stored(entry.value):
                self.stored.pop(entry.id, None)
                for node in place(entry.value)[1]:
                    self._freed.setdefault(node, []).append(entry.id)
                if self.lineage is not None:
                    self.lineage.let_go(entry)
            elif is_failure(entry.value) and not getattr(entry, "seen", False):
                self.on_unseen_failure(entry)
        elif entry.value is None and self.lineage is not None:
            self.lineage.let_go(entry)
        if entry.contained:
            self.let_go_of_contained(entry)

    def flush(self, effects: list[Effect]) -> None:
        """Tell raylets and owners, in one message each, what was let go since the last time."""
        if self.sharing is not None and self.sharing.has_news:
            self.sharing.flush(effects)
        if self._late:
            effects += self._late
            self._late.clear()
        if self._given_away:
            for entry in self._given_away:
                assert entry.value is not None
                value = self.outgoing(entry.value, entry.owner, effects)
                effects.append(Send(entry.owner, AdoptObject(entry.id, value)))
            self._given_away.clear()
        if self._freed:
            for node, objects in self._freed.items():
                effects.append(Send(raylet_of(node), FreeObjects(objects)))
            self._freed.clear()
        if self._dropped:
            for owner, pairs in self._dropped.items():
                if owner == HEAD:
                    for actor, _ in pairs:
                        end = EndActor(actor[:24], "all its handles went out of scope", restart=False, gently=True)  # type: ignore[arg-type]
                        effects.append(Send(HEAD, end))
                else:
                    effects.append(Send(owner, DropBorrowers(pairs)))
            self._dropped.clear()

    # ------------------------------------------------------------------ what others tell us
    def count_in(self, entry: Entry, process: ProcessId, by: int = 1) -> None:
        if self.is_gone(process):
            return  # said by a third before it had heard, or on its way for longer than word of the death
        if entry.borrowers is None:
            entry.borrowers = {}
            if self.sharing is not None:
                self.sharing.lent(entry)
        if self.recount.pairs:
            self.recount.counted(entry.id, process, by)
        count = entry.borrowers[process] = entry.borrowers.get(process, 0) + by
        if count < 0 or self.recount.below:
            self.recount.counts(entry.id, process, count)
        if not count:
            del entry.borrowers[process]
            if not entry.borrowers:
                entry.borrowers = None

    def counted(self, sender: ProcessId, pairs: Iterable[tuple[ObjectId, ProcessId]], by: int) -> None:
        """`AddBorrowers` (by 1) or `DropBorrowers` (below zero)."""
        for some_object, process in pairs:
            if some_object[:16] != self.me:
                early = (AddBorrowers if by > 0 else DropBorrowers)([(some_object, process)])
                if self.legacy.is_early(sender, early, some_object):
                    continue
            entry = self.exported.get(some_object)
            if entry is None:
                if self.unknown(some_object) is not None:
                    continue  # freed before: the borrower's process had died in between
                entry = self.find(some_object)
            if entry.owner != self.me:
                continue  # its owner died, whose heir we are, and its bytes went with it
            self.count_in(entry, process, by)
            if by > 0 and process in self.heirs:
                self.legacy.hold(entry, self._late)  # as of what it had been counted in for when it died
            if by > 0 and sender != process and entry.borrowers:
                self.recount.lent(some_object, sender)
                if self.is_gone(sender):
                    self.recount.process_gone(sender)
            if not entry.borrowers and not entry.held and not entry.pins:
                self.free(entry)

    def check_borrowed(self, owner: ProcessId, message: CheckBorrowed, effects: list[Effect]) -> None:
        self.flush(effects)
        counts = counts_of(self.exported, owner, message.objects)
        effects.append(Send(owner, BorrowedCounts(message.round, counts)))

    def recounted(self, borrower: ProcessId, message: BorrowedCounts) -> None:
        for (some, counted), by in self.recount.answered(borrower, message):
            self.counted(counted, [(some, counted)], -by)

    def settle_counts(self, now: float, effects: list[Effect]) -> None:
        """What time alone does to them."""
        for (some, borrower), by in self.recount.settle(now, self.legacy.handover_s, effects):
            self.counted(borrower, [(some, borrower)], by)

    def copied(self, message: CopyMade) -> None:
        some, node = message.object, message.node
        if node in self._gone:
            return
        if owner_of(some) != self.me and self.legacy.is_early(raylet_of(node), message, some):
            return
        entry = self.stored.get(some)
        if entry is None or entry.value is None:  # freed while the copy was made, or still to come
            if self.strays.is_early(message):
                return
            lost = self.exported.get(some)
            if lost is not None and self.lineage is not None and lost.count in self.lineage.records:
                self.lineage.may_lie(lost, [node])  # later: what is being written there now must not go
            else:
                self.free_at(node, some)
            return
        size, nodes = place(entry.value)
        if node not in nodes:
            self._restore(entry, (STORED, size, (*nodes, node)))

    def moved(self, message: ObjectMoved) -> None:
        """A node that leaves has passed it on."""
        some, node, to = message.object, message.node, message.to
        if to in self._gone:
            return  # the one that leaves still has it
        if owner_of(some) != self.me and self.legacy.is_early(raylet_of(node), message, some):
            return
        entry = self.stored.get(some)
        if entry is not None and entry.value is not None:
            size, nodes = place(entry.value)
            known = node in nodes or to in nodes
            if not known and self.lineage is not None and entry.count in self.lineage.records:
                self.lineage.may_lie(entry, [to])  # it may be of another run of the task
            else:
                left = tuple(other for other in nodes if other not in (node, to))
                self._restore(entry, (STORED, size, (*left, to)))
        elif self.strays.is_early(message):
            return
        else:
            self.copied(CopyMade(some, to, node))
        self.free_at(node, some)

    def _restore(self, entry: Entry, stored: Value) -> None:
        """Exchange the locations inside a value, keeping its wrapper."""
        if type(entry.value) is tuple and entry.value[0] == HOLDS:
            entry.value = (HOLDS, stored, entry.value[2])
        else:
            entry.value = stored
        if self.sharing is not None:
            self.sharing.changed(entry)

    def is_gone(self, process: ProcessId) -> bool:
        return process in self._gone or node_of(process) in self._gone

    def process_gone(self, process: ProcessId, why: str, effects: list[Effect], heir: ProcessId | None = None) -> None:
        """It borrows nothing any more. What it owned is its heir's; without one, what we wait for will not come.

        What it had from here its heir may find inside of that, and will say so. The GCS, which has that, too, may not
        be counted in: so the dead one has said, but the word of its death may come first.
        """
        self._gone.remember(process, why)
        self.recount.process_gone(process)
        if heir is not None:
            self.legacy.passes_to(process, heir, effects)
        else:
            self.legacy.forget(process)
        for entry in list(self.exported.values()):
            if heir is None and entry.owner == process and entry.value is None and entry.index != ACTOR_INDEX:
                entry.registered = 0
                sentence = f"object {entry.id.hex()}: the process that owned it ({process.hex()}) is gone: {why}"
                self.settle(entry, (FAILED, "OwnerDiedError", sentence), effects)
            elif entry.borrowers and process in entry.borrowers:
                if heir is not None:
                    self.legacy.hold(entry, effects)  # it may be inside of what is inherited
                del entry.borrowers[process]
                if not entry.borrowers and not entry.held and not entry.pins:
                    self.free(entry)

    def note_gone(self, process: ProcessId, why: str) -> None:
        self._gone.remember(process, why)

    def why_gone(self, process: ProcessId) -> str:
        return self._gone.get(process) or self._gone.get(node_of(process)) or "it ended"

    def node_gone(self, node: NodeId, why: str, effects: list[Effect]) -> None:
        self._gone.remember(node, why)
        self.recount.node_gone(node)
        there: dict[ProcessId, None] = {}
        for entry in self.exported.values():
            there.update(
                dict.fromkeys(
                    process for process in (entry.owner, *(entry.borrowers or ())) if node_of(process) == node
                )
            )
        for process in there:
            if process not in self.heirs:
                self.process_gone(process, why, effects)
        for entry in list(self.stored.values()):
            if entry.id not in self.stored:
                continue  # it was inside of one before it, and went with that
            assert entry.value is not None
            size, nodes = place(entry.value)
            if node in nodes:
                left = tuple(other for other in nodes if other != node)
                if left:
                    self._restore(entry, (STORED, size, left))
                    continue
                story = f"was only on node {node.hex()}, which died: {why}"
                if self.lineage is not None:
                    self.lineage.lose(entry, story)
                else:
                    del self.stored[entry.id]
                    entry.value = lost_for_good(entry, story)


def _lives(entry: Entry) -> bool:
    return bool(entry.pins) or (entry.weak is not None and entry.weak() is not None)


def lost_for_good(entry: Entry, story: str) -> Value:
    """Of an object that no task has made."""
    sentence = (
        f"object {entry.id.hex()}, which put() had made in a process of node {node_of(entry.owner).hex()} "
        f"({entry.owner[8:].hex()}), {story}. What was put cannot be made again: put it once more, or have a task "
        f"return it."
    )
    return (FAILED, "ObjectLostError", sentence, entry.id.hex())


def _named(nodes: Iterable[NodeId]) -> str:
    return "node " + " or ".join(node.hex() for node in nodes)


def freed(some_object: ObjectId) -> Value:
    """What is told of an object that its owner does not know any more."""
    return (FAILED, "ObjectLostError", f"object {some_object.hex()} was already freed by its owner")
