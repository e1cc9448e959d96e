"""Filters and limits, the same for all lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from sparkray.session import core as session_core
from sparkray.util.state.schema import State
from sparkray_core.run.core import Core

DEFAULT_LIMIT = 100
MOST_LIMIT = 10_000  # as Ray's
DEFAULT_TIMEOUT_S = 30

Filter = tuple[str, str, Any]
S = TypeVar("S", bound=State)


def reach(address: str | None, limit: int, filters: Sequence[Filter] | None, kind: type[State]) -> Core:
    """Check the arguments that all lists have.

    Raises:
        ValueError: a filter by a column that there is not, or another predicate than "=" and "!="; a limit that is too
            large, or not above 0; the address of another session than this process's.
    """
    if not 0 < limit <= MOST_LIMIT:
        raise ValueError(f"limit must be from 1 to {MOST_LIMIT}; it is {limit}")
    columns = kind.columns()
    for one in filters or ():
        if len(one) != 3:
            raise ValueError(f"a filter is (column, '=' or '!=', value), not {one!r}")
        column, predicate, _ = one
        if predicate not in ("=", "!="):
            raise ValueError(f"Unsupported filter predicate {predicate!r} is given. Available: '=', '!='.")
        if column not in columns:
            raise ValueError(f"cannot filter by {column!r}; a {kind.__name__} has: {', '.join(columns)}")
    return connected(address)


def connected(address: str | None) -> Core:
    """This process's session. Another session's state is told by a process that has joined it.

    Raises:
        ValueError: the address is another session's.
    """
    here = session_core()
    if address not in (None, "auto", "local"):
        from sparkray.session import current as current_session

        session = current_session()
        known = {here.session} | (set(map(str, session.values())) if session is not None else set())
        if address not in known:
            raise ValueError(f"this process has not joined the session at {address!r}; call init(address=...) first")
    return here


def select(found: Iterable[S], filters: Sequence[Filter] | None, limit: int) -> list[S]:
    """Those that pass all filters, so many at most."""
    passed = [state for state in found if all(_passes(state, *one) for one in filters or ())]
    return passed[:limit]


def _passes(state: State, column: str, predicate: str, wanted: Any) -> bool:
    """As with Ray, values are compared without regard to case, and may be given as strings."""
    value = getattr(state, column)
    if isinstance(value, bool):
        same = str(value).lower() == {"1": "true", "0": "false"}.get(str(wanted).lower(), str(wanted).lower())
    elif isinstance(value, (int, float)) and not isinstance(wanted, bool):
        try:
            same = float(value) == float(wanted)
        except (TypeError, ValueError):
            same = False
    else:
        same = str(value).lower() == str(wanted).lower()
    return same == (predicate == "=")
