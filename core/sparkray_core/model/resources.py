"""Exact arithmetic on amounts of CPU, GPU, memory and whatever a node offers.

Amounts are whole thousandths, so that a node that gave out and got back a million shares ends with what it began
with. A name that is absent and one of amount zero mean the same; results leave zeros out, except that `minus` keeps a
name that went below zero (only a worker that unblocks can do that, see `node_claims`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sparkray_core.messages import Resources

UNIT = 1000
CPU = "CPU"
_IN_BYTES = frozenset({"memory", "object_store_memory"})


def from_floats(amounts: Mapping[str, float]) -> Resources:
    """What the user wrote, in thousandths. Anything finer is rounded up: a share is never smaller than was asked.

    Raises:
        ValueError: an amount is negative, infinite or not a number; the sentence names it.
    """
    exact: Resources = {}
    for name, amount in amounts.items():
        if not math.isfinite(amount) or amount < 0:
            raise ValueError(f"{name}={amount!r}: an amount of a resource is a number of at least 0")
        thousandths = int(amount) * UNIT if amount == int(amount) else _of_fraction(amount)
        if thousandths:
            exact[name] = thousandths
    return exact


def _of_fraction(amount: float) -> int:
    """By way of the decimal text: 0.29 * 1000 is 290.00000000000006 somewhere, and would round up to 291."""
    from fractions import Fraction  # 3 ms of `import sparkray`, and few use it

    return math.ceil(Fraction(repr(float(amount))) * UNIT)


def is_cpu(name: str) -> bool:
    """Of the node, or of a placement group's bundle (see `where`)."""
    return name == CPU or name.startswith("CPU_group_")


def fits(wanted: Resources, free: Resources) -> bool:
    """Whether all of it is there. Nothing fits into anything, even where amounts are below zero."""
    for name, amount in wanted.items():  # noqa: SIM110 - it is asked very often, and a generator takes twice as long
        if amount > 0 and amount > free.get(name, 0):
            return False
    return True


def plus(some: Resources, more: Resources) -> Resources:
    total = dict(some)
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount
    return _without_zeros(total)


def minus(some: Resources, less: Resources) -> Resources:
    left = dict(some)
    for name, amount in less.items():
        left[name] = left.get(name, 0) - amount
    return _without_zeros(left)


def _without_zeros(amounts: Resources) -> Resources:
    return {name: amount for name, amount in amounts.items() if amount} if 0 in amounts.values() else amounts


def larger(some: Resources, other: Resources) -> Resources:
    """Of each name the larger amount."""
    return {name: max(some.get(name, 0), other.get(name, 0)) for name in {**some, **other}}


def short_of(wanted: Resources, free: Resources) -> list[str]:
    """The names of which there is not enough."""
    return [name for name, amount in wanted.items() if amount > 0 and amount > free.get(name, 0)]


def times(wanted: Resources, free: Resources) -> int | None:
    """How often it fits; None for without end, because nothing is wanted."""
    least: int | None = None
    for name, amount in wanted.items():
        if amount > 0:
            count = free.get(name, 0) // amount
            if least is None or count < least:
                least = count
    return least if least is None or least > 0 else 0


def show(amounts: Resources) -> str:
    """In words, for errors and status: "1.5 CPU, 4 GiB memory"; "nothing" for none."""
    return ", ".join(_show(name, amount) for name, amount in sorted(amounts.items()) if amount) or "nothing"


def _show(name: str, amount: int) -> str:
    if name in _IN_BYTES:
        return f"{show_bytes(amount // UNIT)} {name}"
    whole, rest = divmod(abs(amount), UNIT)
    sign = "-" if amount < 0 else ""
    return f"{sign}{whole}{f'.{rest:03}'.rstrip('0') if rest else ''} {name}"


def show_bytes(size: int) -> str:
    """In the largest unit that leaves a number of at least 1: "512 B", "1.5 GiB"."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:.4g} TiB"
