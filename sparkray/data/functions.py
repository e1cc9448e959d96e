"""Steps of a user's functions: how they are called, and what they may return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparkray.data import batches, tables
from sparkray.data.stages import Step

if TYPE_CHECKING:
    import pyarrow as pa

Given = tuple[Any, Sequence[Any], Mapping[str, Any], Sequence[Any], Mapping[str, Any]]


def name_of(fn: Any) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


class Called:
    """A user's function or class, with the arguments that it is called or made with."""

    def __init__(
        self,
        fn: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        constructor_args: Sequence[Any] | None = None,
        constructor_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises `TypeError` if it cannot be called, `ValueError` for constructor's arguments of a function."""
        if not callable(fn) or (isinstance(fn, type) and "__call__" not in dir_of(fn)):
            raise TypeError(f"{fn!r} cannot be called: give a function, or a class with a method __call__")
        if not isinstance(fn, type) and (constructor_args or constructor_kwargs):
            raise ValueError(
                f"fn_constructor_args and fn_constructor_kwargs are for classes, and {name_of(fn)} is none"
            )
        self.fn = fn
        self._args, self._kwargs = tuple(args or ()), dict(kwargs or {})
        self._made_with = tuple(constructor_args or ()), dict(constructor_kwargs or {})

    @property
    def name(self) -> str:
        return name_of(self.fn)

    def make(self) -> Callable[[Any], Any]:
        """Called where the work is done."""
        fn, args, kwargs = self.fn, self._args, self._kwargs
        if isinstance(fn, type):
            fn = fn(*self._made_with[0], **self._made_with[1])
        call = fn.__call__ if not inspect.isfunction(fn) and not inspect.ismethod(fn) else fn
        if inspect.iscoroutinefunction(call):
            return _awaiting(fn, args, kwargs)
        if not args and not kwargs:
            return fn  # type: ignore[no-any-return]
        return lambda value: fn(value, *args, **kwargs)


def dir_of(cls: type) -> set[str]:
    """Names of a class's own and inherited attributes, without those that every class has for being called."""
    return {name for base in cls.__mro__ for name in vars(base)}


def _awaiting(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Any], Any]:
    import asyncio

    loop = asyncio.new_event_loop()
    return lambda value: loop.run_until_complete(fn(value, *args, **kwargs))


def batch_step(called: Called, batch_format: str | None, batch_size: int | None, zero_copy: bool) -> Step:
    def make() -> Callable[[pa.Table], pa.Table]:
        call, name = called.make(), called.name
        return lambda table: batches.apply(call, table, batch_format, batch_size, zero_copy, name)

    return Step(f"map_batches({called.name})", make)


def row_step(called: Called) -> Step:
    def make() -> Callable[[pa.Table], pa.Table]:
        call = called.make()

        def apply(table: pa.Table) -> pa.Table:
            return tables.from_rows([_row(call(row), called.name, "a dict") for row in tables.to_rows(table)])

        return apply

    return Step(f"map({called.name})", make)


def rows_step(called: Called) -> Step:
    def make() -> Callable[[pa.Table], pa.Table]:
        call = called.make()

        def several(row: Any) -> Iterator[Mapping[Any, Any]]:
            made = call(row)
            if isinstance(made, Mapping | str | bytes) or not hasattr(made, "__iter__"):
                raise TypeError(f"{called.name} must return a list of dicts, not {type(made).__name__}: flat_map()")
            for one in made:
                yield _row(one, called.name, "a list of dicts")

        def apply(table: pa.Table) -> pa.Table:
            return tables.from_rows([new for row in tables.to_rows(table) for new in several(row)])

        return apply

    return Step(f"flat_map({called.name})", make)


def _row(made: Any, name: str, what: str) -> Mapping[Any, Any]:
    if isinstance(made, Mapping):
        return made
    raise TypeError(f"{name} must return {what}, by column name, and {type(made).__name__} is no row: {made!r:.200}")


def filter_step(called: Called) -> Step:
    def make() -> Callable[[pa.Table], pa.Table]:
        call = called.make()

        def apply(table: pa.Table) -> pa.Table:
            import pyarrow as pa

            if not table.num_rows:
                return table
            return table.filter(pa.array([bool(call(row)) for row in tables.to_rows(table)], pa.bool_()))

        return apply

    return Step(f"filter({called.name})", make, total=True)


def table_step(name: str, apply: Callable[[pa.Table], pa.Table]) -> Step:
    """One of ours: it takes tables without rows, too."""
    return Step(name, lambda: apply, total=True)
