"""The work of the stress benchmark, the same for every system: i x j x k in parts, and what its answer must be.

Imported by every system's processes, so from the standard library alone.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

CUBE, TRIANGLE = "cube", "triangle"


class Answer(NamedTuple):
    """Of a part or of all: a part that is lost or done twice changes both numbers."""

    operations: int
    checksum: int  # the sum of i * j * k


def part(shape: str, n: int, i: int) -> tuple[int, int, float]:
    """All j and k of one i: n * n operations of the cube, i * (i + 1) / 2 of the triangle (j <= i, k <= j).

    Returns:
        The numbers of an `Answer`, and seconds of the processor; as a plain tuple, which no system has to look up a
        class for.
    """
    began = time.thread_time()
    operations = checksum = 0
    for j in range(1, (n if shape == CUBE else i) + 1):
        for k in range(1, (n if shape == CUBE else j) + 1):
            operations += 1
            checksum += i * j * k
    return operations, checksum, time.thread_time() - began


def cost(shape: str, n: int, i: int) -> int:
    return n * n if shape == CUBE else i * (i + 1) // 2


def total(answers: Iterable[tuple[int, int, float]]) -> tuple[Answer, float]:
    """Of all, and the seconds of the processor that they took."""
    operations = checksum = 0
    seconds = 0.0
    for some, their, took in answers:
        operations += some
        checksum += their
        seconds += took
    return Answer(operations, checksum), seconds


def expected(shape: str, n: int) -> Answer:
    """By formula, not by the loops that are measured."""
    if shape == CUBE:
        return Answer(n**3, (n * (n + 1) // 2) ** 3)
    below = 0  # the sum of j * k over the j and k of this i
    checksum = 0
    for i in range(1, n + 1):
        below += i * (i * (i + 1) // 2)
        checksum += i * below
    return Answer(n * (n + 1) * (n + 2) // 6, checksum)


class Leaf(NamedTuple):
    i: int
    j: int
    k: int


# Formats, not Struct objects, which do not travel.
RECORD = "<IIII"  # i, j, k and the process that ran it
HASHED = "<IIIQ"  # i, j, k, seed


def leaves(count: int) -> Iterator[Leaf]:
    """The first `count` of the smallest cube that has as many, in order."""
    side = edge(count)
    return (Leaf(at // side**2, at // side % side, at % side) for at in range(count))


def edge(count: int) -> int:
    side = 1
    while side**3 < count:
        side += 1
    return side


def value(leaf: tuple[int, int, int], seed: int) -> int:
    return zlib.crc32(struct.pack(HASHED, *leaf, seed))


def run_leaf(leaf: tuple[int, int, int], seed: int, journal: str) -> int:
    """Its value. That it ran is written down first: one write to a file opened to append is never torn or lost."""
    file = os.open(journal, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, struct.pack(RECORD, *leaf, os.getpid()))
    finally:
        os.close(file)
    return value(leaf, seed)
