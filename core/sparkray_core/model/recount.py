"""An owner's borrowers that were counted in by somebody else, who died before the value that this was for was sent.

Who sends a reference inside a value counts the receiver in first, by a message of its own to the owner. If its process
or node dies between the two, the owner has a borrower that knows nothing of it, and would never let go. So after such a
death the owner asks each borrower of what the dead one has lent how often it was counted in, and believes it:

    lender dies -> until `handover_s` later, when nothing that it sent is on its way any more -> CheckBorrowed
                                                                                                      |
    counts go down to what the borrower says, but where it was counted in meanwhile: asked again <----+

The other way round, a borrower may let go before the word comes by which it was counted in: then it counts below zero
until then. If that word was its sender's last and is lost with it, that would be for ever; so what counts below zero
for `handover_s` counts as nothing. (It has let go of all that it had, or it would not have said so.)

Of what the owner itself lends there is no need: it dies with it. Nor of what a dead owner had: see `legacy`. The GCS,
which may have been counted in for what an owner was recording as its node died, is asked like any borrower. If it has
shards, head and shards answer each for itself, on the way on which each says what it lets go of; and their sum counts,
unless the GCS let go of some between the first answer and the last: then it is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from sparkray_core.ids import HEAD, SHARDS, NodeId, ObjectId, ProcessId, node_of
from sparkray_core.messages import BorrowedCounts, CheckBorrowed
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import Entry

_Pair = tuple[ObjectId, ProcessId]


class Recount:
    """Of one table of references."""

    def __init__(self, exported: Mapping[ObjectId, Entry]) -> None:
        self.exported = exported
        self.lenders: dict[ObjectId, set[ProcessId]] = {}  # others than owner and borrower; of what is lent still
        # Those to be asked, or that were: whether they were counted in again since the round began.
        self.pairs: dict[_Pair, bool] = {}
        self.shares: dict[ProcessId, BorrowedCounts] = {}  # of the GCS's answer, by head and shards, until it is whole
        self.at: float | None = None  # when they are; 0.0: a round is to begin
        self._round = 0
        # Those that count below zero: until when, the earliest first; 0.0, at the end, for those since `settle`.
        self.below: dict[_Pair, float] = {}

    # ------------------------------------------------------------------ what happens to own objects
    def lent(self, some: ObjectId, lender: ProcessId) -> None:
        self.lenders.setdefault(some, set()).add(lender)

    def counted(self, some: ObjectId, borrower: ProcessId, by: int) -> None:
        """In, or (below zero) out."""
        if (some, borrower) in self.pairs and (by > 0 or (borrower == HEAD and self.shares)):
            self.pairs[some, borrower] = True

    def counts(self, some: ObjectId, borrower: ProcessId, count: int) -> None:
        """So often now."""
        if count < 0:
            self.below.setdefault((some, borrower), 0.0)
        else:
            self.below.pop((some, borrower), None)

    def process_gone(self, process: ProcessId) -> None:
        self._gone(lambda lender: lender == process)

    def node_gone(self, node: NodeId) -> None:
        self._gone(lambda lender: node_of(lender) == node)

    def _gone(self, is_gone: Callable[[ProcessId], bool]) -> None:
        for some, lenders in list(self.lenders.items()):
            gone = {lender for lender in lenders if is_gone(lender)}
            if not gone:
                continue
            lenders -= gone
            if not lenders:
                del self.lenders[some]
            entry = self.exported.get(some)
            for borrower in (entry and entry.borrowers) or ():
                self.pairs[some, borrower] = False
                self.at = 0.0

    # ------------------------------------------------------------------ asking
    def next_wake(self) -> float | None:
        below = next(iter(self.below.values()), None)
        return min((at for at in (self.at, below) if at is not None), default=None)

    def settle(self, now: float, handover_s: float, effects: list[Effect]) -> list[tuple[_Pair, int]]:
        """Begin a round, or ask.

        Returns:
            Those that have counted below zero for too long, and how often each is to be counted in for that.
        """
        if self.at == 0.0:
            self._begin(now + handover_s)
        elif self.at is not None and self.at <= now:
            self.at = None
            asked: dict[ProcessId, list[ObjectId]] = {}
            for some, borrower in self.pairs:
                asked.setdefault(borrower, []).append(some)
            effects += [Send(borrower, CheckBorrowed(self._round, some)) for borrower, some in asked.items()]
        return self._settle_below(now, now + handover_s) if self.below else []

    def _settle_below(self, now: float, until: float) -> list[tuple[_Pair, int]]:
        for pair in reversed(self.below):
            if self.below[pair]:
                break
            self.below[pair] = until
        late: list[tuple[_Pair, int]] = []
        for pair, at in self.below.items():
            if at > now:
                break
            late.append((pair, -self._count(pair)))
        for pair, _ in late:
            del self.below[pair]
        return [(pair, by) for pair, by in late if by > 0]

    def _begin(self, at: float) -> None:
        """For all that are left: who was asked before may have answered before the last death."""
        self._round += 1
        self.shares.clear()
        self.pairs = dict.fromkeys((pair for pair in self.pairs if self._count(pair)), False)
        self.at = at if self.pairs else None

    def _count(self, pair: _Pair) -> int:
        entry = self.exported.get(pair[0])
        return entry.borrowers.get(pair[1], 0) if entry is not None and entry.borrowers else 0

    def answered(self, sender: ProcessId, message: BorrowedCounts) -> list[tuple[_Pair, int]]:
        """Returns who is counted in too often, and how often."""
        if message.round != self._round:
            return []
        borrower, counts = sender, message.counts
        if sender == HEAD or node_of(sender).startswith(SHARDS):
            borrower, counts = HEAD, self._of_the_gcs(sender, message)
        too_many: list[tuple[_Pair, int]] = []
        for some, count in counts:
            pair = some, borrower
            again = self.pairs.get(pair)
            if again:
                self.at = 0.0  # what it was counted in for may be on its way
            elif again is not None:
                del self.pairs[pair]
                if (by := self._count(pair) - count) > 0:
                    too_many.append((pair, by))
        return too_many

    def _of_the_gcs(self, sender: ProcessId, message: BorrowedCounts) -> list[tuple[ObjectId, int]]:
        """The sums, once all of its processes have answered."""
        self.shares[sender] = message
        head = self.shares.get(HEAD)
        if head is None or any(other not in self.shares for other in head.others):
            return []
        sums = dict(head.counts)
        for other in head.others:
            for some, count in self.shares[other].counts:
                sums[some] = sums.get(some, 0) + count
        self.shares.clear()
        return list(sums.items())


def counts_of(
    exported: Mapping[ObjectId, Entry], owner: ProcessId, objects: Iterable[ObjectId]
) -> list[tuple[ObjectId, int]]:
    """How often this process was counted in by the owner of these."""
    found = [(some, exported.get(some)) for some in objects]
    return [(some, max(0, it.registered) if it is not None and it.owner == owner else 0) for some, it in found]
