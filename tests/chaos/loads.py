"""What runs while processes are killed. Every answer is checked against what it must be.

All of it may be done again: tasks and calls of actors have no limit of retries, and what a call does twice counts
once. What may be lost by right is left out: values that a task has `put` die with its node.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import sparkray
from sparkray.exceptions import GetTimeoutError

LIMIT_S = 60.0  # for one wait; a node's death and a new one's start take some seconds on a busy machine
FLOATS = 250_000  # 2 MB: it lies in a store
_CROWD = 60  # arrays, half of them in the store of the driver's node
_KEPT = 4  # chains whose objects are kept, and read again when nodes have died since

remote = sparkray.remote(max_retries=-1)


class WrongAnswerError(AssertionError):
    """It came, and it is not what it must be."""


class HangsError(AssertionError):
    """It did not come within the limit."""


@remote
def square(number: int) -> int:
    return number * number


@remote
def tree(depth: int, leaf: int) -> int:
    """The sum of two smaller trees, which are tasks of this one."""
    if not depth:
        return leaf
    return sum(sparkray.get([tree.remote(depth - 1, leaf), tree.remote(depth - 1, leaf + 1)]))


def ramp_from(first: int, count: int) -> Any:
    return np.arange(first, first + count, dtype=np.float64)


@remote
def ramp(first: int, count: int) -> Any:
    return ramp_from(first, count)


@remote
def plus(values: Any, amount: int) -> Any:
    return values + amount


@remote
def total(*arrays: Any) -> float:
    return float(sum(values.sum() for values in arrays))


@remote
def spread_out(first: int, count: int) -> Iterator[int]:
    yield from range(first, first + count)


class _Ledger:
    """Adds numbered amounts. A call that is made again is answered as before, and counts once."""

    def __init__(self) -> None:
        self.sums = {0: 0}

    def add(self, number: int, amount: int) -> int:
        if number not in self.sums:
            self.sums[number] = self.sums[number - 1] + amount
            self.sums.pop(number - 200, None)
        return self.sums[number]

    def __ray_save__(self) -> dict[int, int]:
        return self.sums

    def __ray_restore__(self, state: dict[int, int]) -> None:
        self.sums = state


Ledger = sparkray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)(_Ledger)


class Load:
    """Rounds of one kind of work; each round is done before the next one begins. Used by one thread."""

    name = ""

    def __init__(self, seed: int, floats: int = FLOATS) -> None:
        """
        Args:
            floats: in each array.
        """
        self.floats = floats
        self.dice = random.Random(f"{seed} {self.name}")
        self.rounds = 0
        self.verified = 0  # answers

    def round(self) -> None:
        """
        Raises:
            WrongAnswerError, HangsError: they say which round, and of what.
        """
        raise NotImplementedError

    def _got(self, refs: list[Any]) -> list[Any]:
        _, late = sparkray.wait(refs, num_returns=len(refs), timeout=LIMIT_S)
        if late:
            raise HangsError(
                f"{self.name}, round {self.rounds}: {len(late)} of {len(refs)} not there after {LIMIT_S:g} s; "
                f"the first: {sparkray.explain(late[0])}"
            )
        try:
            return list(sparkray.get(refs, timeout=LIMIT_S))  # it may have been lost since
        except GetTimeoutError as error:
            raise HangsError(f"{self.name}, round {self.rounds}: all were ready, and then: {error}") from error

    def _check(self, got: Sequence[Any], expected: Sequence[Any]) -> None:
        wrong = [(at, one, other) for at, (one, other) in enumerate(zip(got, expected, strict=True)) if one != other]
        if wrong:
            at, one, other = wrong[0]
            raise WrongAnswerError(
                f"{self.name}, round {self.rounds}: {len(wrong)} of {len(got)} are wrong; "
                f"answer {at} is {one!r}, not {other!r}"
            )
        self.verified += len(got)

    def _sum(self, first: int) -> float:
        return float(ramp_from(first, self.floats).sum())


class SmallTasks(Load):
    name = "small tasks"

    def round(self) -> None:
        numbers = [self.dice.randrange(10**6) for _ in range(100)]
        self._check(self._got([square.remote(number) for number in numbers]), [number**2 for number in numbers])


class NestedTasks(Load):
    """Trees of 7 tasks. (One of 15, depth 3, has seven waiting processes at a time: rounds of seconds here.)"""

    name = "nested tasks"

    def round(self) -> None:
        leaf = self.dice.randrange(1000)
        self._check(self._got([tree.remote(2, leaf)]), [4 * leaf + 4])


class Chains(Load):
    """Large objects, each made from the one before. Those of earlier rounds are read again; lost ones come again."""

    name = "chains"

    def __init__(self, seed: int, floats: int = FLOATS) -> None:
        super().__init__(seed, floats)
        self._kept: list[tuple[list[Any], int]] = []

    def round(self) -> None:
        first = self.dice.randrange(1000)
        links = [ramp.remote(first, self.floats)]
        for _ in range(3):
            links.append(plus.remote(links[-1], 1))
        self._kept = [*self._kept[1 - _KEPT :], (links, first)]
        wanted = [(links[3], first + 3)]
        for old, began in self._kept[:-1]:
            link = self.dice.randrange(4)
            wanted.append((old[link], began + link))
        got = self._got([total.remote(ref) for ref, _ in wanted])
        self._check(got, [self._sum(value) for _, value in wanted])
        (here,) = self._got([links[3]])
        self._check([here[0], here[-1]], [first + 3, first + 3 + self.floats - 1])


class Ledgers(Load):
    name = "actors"

    def __init__(self, seed: int, floats: int = FLOATS) -> None:
        super().__init__(seed, floats)
        self._actors = [(Ledger.remote(), [0]) for _ in range(3)]
        self._number = 0

    def round(self) -> None:
        refs, expected = [], []
        for _ in range(10):
            self._number += 1
            for actor, last in self._actors:
                amount = self.dice.randrange(100)
                last[0] += amount
                refs.append(actor.add.remote(self._number, amount))
                expected.append(last[0])
        self._check(self._got(refs), expected)


class Generators(Load):
    name = "generators"

    def round(self) -> None:
        first, count = self.dice.randrange(1000), 30
        items = spread_out.options(num_returns="streaming").remote(first, count)
        refs: list[Any] = []
        with contextlib.suppress(StopIteration):
            while (ref := items._next_sync(LIMIT_S)) is not None:
                refs.append(ref)
            raise HangsError(f"{self.name}, round {self.rounds}: item {len(refs)} not there after {LIMIT_S:g} s")
        self._check([len(refs)], [count])
        self._check(self._got(refs), range(first, first + count))


class Puts(Load):
    """`put`, and `wait` for what comes first."""

    name = "put and wait"

    def round(self) -> None:
        firsts = [self.dice.randrange(1000) for _ in range(3)]
        stored = [sparkray.put(ramp_from(first, self.floats)) for first in firsts]
        pending = {total.remote(ref): self._sum(first) for ref, first in zip(stored, firsts, strict=True)}
        pending[total.remote(*stored)] = sum(map(self._sum, firsts))
        while pending:
            ready, _ = sparkray.wait(list(pending), timeout=LIMIT_S)
            if not ready:
                first_late = sparkray.explain(next(iter(pending)))
                raise HangsError(f"{self.name}, round {self.rounds}: none of {len(pending)} came: {first_late}")
            self._check(self._got(ready), [pending.pop(ref) for ref in ready])


class Crowded(Load):
    """More is kept than stores hold, so it lies on disk, and any of it is read now and then."""

    name = "crowded"

    def __init__(self, seed: int, floats: int = FLOATS) -> None:
        super().__init__(seed, floats)
        self._kept: deque[tuple[Any, int]] = deque(maxlen=_CROWD)

    def round(self) -> None:
        first = self.dice.randrange(1000)
        self._kept.append((sparkray.put(ramp_from(first, self.floats)), first))
        self._kept.append((ramp.remote(first, self.floats), first))
        ref, first = self.dice.choice(self._kept)
        self._check([float(self._got([ref])[0].sum())], [self._sum(first)])


LOADS: Sequence[type[Load]] = (SmallTasks, NestedTasks, Chains, Ledgers, Generators, Puts, Crowded)
