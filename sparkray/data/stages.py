"""What is still to be done to each block: steps, one after the other, in stages that a task or an actor carries out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from sparkray.data import tables
from sparkray.data.blocks import Facts, facts_of
from sparkray.options import Options

if TYPE_CHECKING:
    import pyarrow as pa

    Apply = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True, slots=True)
class Step:
    """One function over the rows of a block.

    `make` is called once in the process that is to do the work, and returns what is called with each table that has
    rows. (A class is made an instance of there.)
    """

    name: str
    make: Callable[[], Apply]
    total: bool = False  # tables without rows are for it, too: it is one of ours, and they tell the columns


@dataclass(frozen=True, slots=True)
class TaskPoolStrategy:
    """Ray's: tasks do the work.

    Args:
        size: how many at once; None: as many as there is room for.
    """

    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1 task, not {self.size}")


class ActorPoolStrategy:
    """Ray's: actors do the work, each with an instance of its own.

    Args:
        size: how many; or else
        min_size, max_size: so many at first (1), and up to so many (None: as there is room for) while all are busy.
        initial_size: accepted for Ray's sake.
        max_tasks_in_flight_per_actor: blocks that wait at an actor, the one that it works on included; 2 if not given.
    """

    def __init__(
        self,
        *,
        size: int | None = None,
        min_size: int | None = None,
        max_size: int | None = None,
        initial_size: int | None = None,
        max_tasks_in_flight_per_actor: int | None = None,
    ) -> None:
        if size is not None and (min_size is not None or max_size is not None):
            raise ValueError("give either size, or min_size and max_size")
        self.min_size = size if size is not None else 1 if min_size is None else min_size
        self.max_size = size if size is not None else max_size
        self.max_tasks_in_flight_per_actor = max_tasks_in_flight_per_actor or 2
        if self.min_size < 1 or (self.max_size is not None and self.max_size < self.min_size):
            raise ValueError(
                f"a pool has at least 1 actor, and no fewer at most: not {self.min_size} to {self.max_size}"
            )

    def __repr__(self) -> str:
        return f"ActorPoolStrategy(min_size={self.min_size}, max_size={self.max_size})"


Compute = TaskPoolStrategy | ActorPoolStrategy


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps that are done in one go, by tasks or by the actors of a pool."""

    steps: tuple[Step, ...]
    options: Mapping[str, Any] = field(default_factory=dict)  # as in `@remote`, that the user gave
    compute: Compute = TaskPoolStrategy()

    @property
    def name(self) -> str:
        return "->".join(step.name for step in self.steps) or "read"

    @property
    def plain(self) -> bool:
        return not self.options and self.compute == TaskPoolStrategy()


def added(stages: tuple[Stage, ...], stage: Stage) -> tuple[Stage, ...]:
    """The stages with one more, in as few as it goes: what lies between two functions is stored nowhere then.

    What nothing was asked for is done by whoever does the steps before it, or after it.
    """
    if stages:
        last = stages[-1]
        steps = last.steps + stage.steps
        if stage.plain or (stage.options == last.options and stage.compute == last.compute):
            return (*stages[:-1], replace(last, steps=steps))
        if last.plain:
            return (*stages[:-1], replace(stage, steps=steps))
    return (*stages, stage)


def chosen(fn: Any, compute: Any, concurrency: Any) -> Compute:
    """By Ray's two keywords; a class is for actors, a function for tasks.

    Raises:
        TypeError, ValueError: what cannot be.
    """
    is_class = isinstance(fn, type)
    if compute is not None and concurrency is not None:
        raise ValueError("give either compute or concurrency")
    if compute is None:
        compute = _of_concurrency(concurrency, is_class)
    if isinstance(compute, str):
        compute = {"tasks": TaskPoolStrategy(), "actors": ActorPoolStrategy()}.get(compute, compute)
    if not isinstance(compute, (TaskPoolStrategy, ActorPoolStrategy)):
        raise TypeError(f"compute must be a TaskPoolStrategy or an ActorPoolStrategy, not {compute!r}")
    if is_class != isinstance(compute, ActorPoolStrategy):
        raise ValueError(
            f"{fn.__name__} is a class, and only actors can have an instance of it: use ActorPoolStrategy"
            if is_class
            else f"{getattr(fn, '__name__', fn)} is a function: tasks call it; give a class with __call__ for actors"
        )
    return compute


def _of_concurrency(given: Any, is_class: bool) -> Any:
    if isinstance(given, tuple) and is_class and len(given) in (2, 3):
        return ActorPoolStrategy(min_size=given[0], max_size=given[1])
    if given is not None and (not isinstance(given, int) or isinstance(given, bool)):
        raise ValueError(f"concurrency must be a number, or for a class (least, most) as well, not {given!r}")
    if given is not None and given < 1:
        raise ValueError(f"concurrency must be at least 1, not {given}")
    if is_class:
        return ActorPoolStrategy() if given is None else ActorPoolStrategy(size=given)
    return TaskPoolStrategy(given)


def check_options(stage: Stage) -> None:
    """Raises `ValueError` or `TypeError` for an option that tasks or actors do not have."""
    if "num_returns" in stage.options:
        raise ValueError("num_returns is not there for the functions of a dataset: each makes one block of one")
    Options().updated(stage.options, "actor" if isinstance(stage.compute, ActorPoolStrategy) else "task")


def made(stage: Stage) -> Callable[[Any, int, int | None], tuple[pa.Table, Facts]]:
    """What a task calls with a stored table, or with what reads one, and with the rows that are meant."""

    def run(source: Any, start: int, rows: int | None) -> tuple[pa.Table, Facts]:
        return Steps(stage.steps).run(source, start, rows)

    return run


@runtime_checkable
class Reader(Protocol):
    """Makes a table where the first task of a block runs."""

    def read(self) -> pa.Table: ...


class Steps:
    """The steps of a stage, made ready in the process that carries them out."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self._ready = [(step.make(), step.total) for step in steps]

    def run(self, source: Any, start: int, rows: int | None) -> tuple[pa.Table, Facts]:
        import pyarrow as pa

        if not isinstance(source, pa.Table):
            if not isinstance(source, Reader):
                raise TypeError(f"a block is a pyarrow.Table, not {type(source).__name__}")
            source = source.read()
        table: pa.Table = source
        if start or rows is not None:
            table = tables.cut(table, start, rows)
        for apply, total in self._ready:
            # A user's function is not called for no rows, and then nobody knows the columns.
            table = apply(table) if table.num_rows or (total and table.num_columns) else table.select([])
        return table, facts_of(table)
