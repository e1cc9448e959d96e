"""What simulated user code does and what must come of it: both from one description, so that a wrong value shows.

A value is a number, made from the task's key and the numbers of its arguments, with the references that lie in it.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sparkray_core.ids import ObjectId
from sparkray_core.messages import ERROR, Value

_HEADER = 4  # bytes: the length of the pickle; behind it comes filling that depends on it


@dataclass(frozen=True, slots=True)
class Program:
    """A task, a call, or an actor's constructor. It travels, pickled, in the payload."""

    key: int
    run_s: float = 0.001
    size: int = 0  # bytes of the result in the store; 0: inline
    fails: bool = False
    returns: int = 1
    items: int = 0  # of a stream, if it is called as one; then it only yields them, each with `hands_back`
    retries: int = 3
    again: int = 0  # the retries of a call: it may run in several lives of its actor
    cpus: float = 1.0
    env: str = ""  # that its worker must have; of tasks and constructors
    priority: int = 0
    where: tuple[Any, ...] = ()  # it may run, as in `model.where`; of tasks and constructors
    max_calls: int = 0  # so many of one owner's tasks of this function may run on one worker; 0: any number
    opens: bool = False  # gets what the references inside its arguments refer to
    children: tuple[Program, ...] = ()  # tasks of its own, whose results it gets
    shares: bool = False  # the children get the references that it found in its arguments
    keeps_s: float = 0.0  # it keeps those references so long after its end
    hands_back: bool = False  # they are in its result, and so are those inside what it opened
    gives: Program | None = None  # a task whose reference is in the result, not waited for
    feeds: Program | None = None  # another one, whose result is the argument of the task that it gives
    puts: int = -1  # bytes of an object that it makes and has a reference to in its result; below zero: none
    asks: Program | None = None  # a call to each actor that it found in its arguments


@dataclass(frozen=True, slots=True)
class Expected:
    """What an object must turn out to be, if nothing goes wrong."""

    outcome: str  # "value 7", "error 7", or "actor"
    inside: tuple[Expected, ...] = ()
    weight: int = field(init=False, compare=False)  # values in it, itself included

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", 1 + sum(one.weight for one in self.inside))

    @property
    def good(self) -> bool:
        return self.outcome.startswith("value")


ACTOR = Expected("actor")


def mix(*parts: object) -> int:
    return zlib.crc32(repr(parts).encode())


def expect(program: Program, args: Sequence[Expected], inner: Sequence[Expected]) -> list[Expected]:
    """One for each return."""
    for arg in args:
        if not arg.good:
            return [arg] * program.returns
    found = [*inner, *(one for arg in args for one in arg.inside)]
    seen = [arg.outcome for arg in args]
    if program.opens:
        seen += [one.outcome for one in found if one is not ACTOR]
    if program.asks is not None:
        seen += [expect(program.asks, [], [])[0].outcome for one in found if one is ACTOR]
    for child in program.children:
        seen.append(expect(child, [], found if program.shares else [])[0].outcome)
    for outcome in seen:
        if outcome.startswith("error"):
            return [Expected(outcome)] * program.returns
    if program.fails:
        return [Expected(f"error {mix(program.key, seen)}")] * program.returns
    opened = [deep for one in found if program.opens for deep in one.inside]
    inside = [*found, *opened] if program.hands_back else []
    if program.gives is not None:
        fed = [expect(program.feeds, [], [])[0]] if program.feeds is not None else []
        inside = [*inside, expect(program.gives, fed, [])[0]]
    if program.puts >= 0:
        inside = [*inside, Expected(f"value {mix(program.key, 'put')}")]
    return [
        Expected(f"value {mix(program.key, seen, index)}", tuple(inside) if index == 0 else ())
        for index in range(program.returns)
    ]


def expect_items(program: Program, args: Sequence[Expected], inner: Sequence[Expected]) -> list[Expected]:
    """Of a program that is called as a stream."""
    for arg in args:
        if not arg.good:
            return [arg]
    seen = [arg.outcome for arg in args]
    inside = tuple(one for one in [*inner, *(one for arg in args for one in arg.inside)] if program.hands_back)
    items = [Expected(f"value {mix(program.key, seen, index + 1)}", inside) for index in range(program.items)]
    return [*items, Expected(f"error {mix(program.key, seen)}")] if program.fails else items


# ---------------------------------------------------------------------------------- as bytes
def pack(outcome: str, inside: Sequence[ObjectId]) -> bytes:
    return pickle.dumps((outcome, list(inside)))


def unpack(data: bytes) -> tuple[str, list[ObjectId]]:
    outcome, inside = pickle.loads(data)
    return outcome, inside


def pack_call(program: Program, inner: Sequence[ObjectId]) -> bytes:
    return pickle.dumps((program, list(inner)))


def unpack_call(payload: Value) -> tuple[Program, list[ObjectId]]:
    assert isinstance(payload, bytes)
    program, inner = pickle.loads(payload)
    return program, inner


def error(outcome: str) -> Value:
    return (ERROR, pack(outcome, []))


def stored_bytes(packed: bytes, size: int) -> bytes:
    """As they lie in the segment: `size` bytes, or more if the value needs more."""
    head = len(packed).to_bytes(_HEADER, "big") + packed
    filling = packed * (size // len(packed) + 1)
    return head + filling[: max(0, size - len(head))]


def from_stored(data: bytes) -> tuple[str, list[ObjectId]]:
    """
    Raises:
        AssertionError: these are not the bytes that were written.
    """
    packed = data[_HEADER : _HEADER + int.from_bytes(data[:_HEADER], "big")]
    assert packed, "a stored object's bytes are not what was written"
    assert stored_bytes(packed, len(data)) == data, "a stored object's bytes are not what was written"
    return unpack(packed)
