"""Blocks through stages: whole, or a few at a time so that neither memory nor store fills with what nobody has read."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparkray.actor_class import ActorClass, method
from sparkray.actor_handle import ActorHandle
from sparkray.api import get, wait
from sparkray.data.blocks import Block, Facts, Piece, Promised, Source
from sparkray.data.progress import Bar
from sparkray.data.stages import ActorPoolStrategy, Stage, Steps, TaskPoolStrategy, made
from sparkray.options import Options
from sparkray.remote_function import RemoteFunction
from sparkray.session import core
from sparkray_core.ids import HEAD
from sparkray_core.run.object_ref import ObjectRef

if TYPE_CHECKING:
    import pyarrow as pa

STORE_SHARE = 4  # of the stores' memory, what was computed ahead of its reader takes 1/4 at most
AHEAD_PER_CPU = 2  # blocks that are computed ahead, if they are small


def started(pieces: Sequence[Piece], stages: Sequence[Stage]) -> list[Block | Promised]:
    """Every piece through all stages; returns when the last was handed to a task, or to an actor that has room."""
    groups = _groups(stages)
    for group in groups[:-1]:
        pieces = _finished(pieces, group)
    with _Run(groups[-1]) as run:
        return [run.submit(piece) for piece in pieces]


def _finished(pieces: Sequence[Piece], group: Sequence[Stage]) -> list[Block | Promised]:
    """Every piece through stages that others must wait for: these would take the CPUs, and wait for the pieces."""
    with _Run(group) as run:
        several = [run.submit(piece) for piece in pieces]
    facts = [piece.facts for piece in several if isinstance(piece, Promised)]
    wait(facts, num_returns=len(facts))
    return several


def streamed(
    pieces: Sequence[Piece], stages: Sequence[Stage], what: str, at_first: int | None = None
) -> Iterator[tuple[Block, pa.Schema | None]]:
    """The blocks that come out of all stages, in order, each with its schema if it was just made.

    Only so many are made ahead of whoever reads that they fill a part of the store. Let go of each before the next.

    Args:
        at_first: how many are begun at once; twice as many whenever one was read. None: as many as there may be.
    """
    groups = _groups(stages)
    for group in groups[:-1]:
        pieces = _finished(pieces, group)
    with _Run(groups[-1]) as run, Bar(what, len(pieces)) as bar:
        window = Window(at_first)
        ahead: deque[Block | Promised] = deque()
        for piece in pieces:
            while len(ahead) >= window.blocks():
                yield _awaited(ahead.popleft(), window, bar)
            ahead.append(run.submit(piece))
        while ahead:
            yield _awaited(ahead.popleft(), window, bar)


def _awaited(piece: Block | Promised, window: Window, bar: Bar) -> tuple[Block, pa.Schema | None]:
    block, schema = (piece, None) if isinstance(piece, Block) else piece.block()
    window.note(block.bytes)
    bar.add(1, block.rows)
    return block, schema


class Window:
    """How many blocks may have been begun and not been read: so many that those made so far suggest they fit."""

    def __init__(self, at_first: int | None) -> None:
        cpus, self._bytes = capacity()
        self._most = max(2, math.ceil(cpus) * AHEAD_PER_CPU)
        self._now = self._most if at_first is None else at_first
        self._seen = self._largest = 0

    def note(self, size: int) -> None:
        self._largest = max(size, self._largest)
        self._now = min(self._most, self._now * 2)

    def blocks(self) -> int:
        fit = self._bytes // STORE_SHARE // max(1, self._largest)
        return max(1, min(self._now, fit))


def capacity() -> tuple[float, int]:
    """CPUs and bytes of store of all live nodes."""
    facts = [facts for facts in core().ask(HEAD, "nodes") if facts["alive"]]
    return sum(one["resources"].get("CPU", 0) for one in facts) / 1000, sum(one["store_bytes"] for one in facts)


def _groups(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages that may run side by side: pools that hold all CPUs would starve those before and behind them."""
    pools = [stage for stage in stages if isinstance(stage.compute, ActorPoolStrategy)]
    if len(stages) < 2 or not pools:
        return [list(stages)]
    cpus, _ = capacity()
    groups: list[list[Stage]] = [[]]
    used = 0.0
    for stage in stages:
        need = stage.options.get("num_cpus", 1)
        if isinstance(stage.compute, ActorPoolStrategy):
            need *= stage.compute.min_size if stage.compute.max_size is None else stage.compute.max_size
        if groups[-1] and used + need > cpus:
            groups.append([])
            used = 0.0
        groups[-1].append(stage)
        used += need
    return groups


class _Run:
    """The stages of one execution, with the actors of their pools, which end with it when their calls have ended."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._crews: list[_Tasks | _Actors] = []

    def __enter__(self) -> _Run:
        for stage in self._stages:
            self._crews.append(_Actors(stage) if isinstance(stage.compute, ActorPoolStrategy) else _Tasks(stage))
        return self

    def __exit__(self, *_: object) -> None:
        self._crews.clear()

    def submit(self, piece: Piece) -> Block | Promised:
        if not self._crews and isinstance(piece, Source):
            self._crews.append(_Tasks(Stage(())))
        for crew in self._crews:
            source: Any = piece.reader if isinstance(piece, Source) else piece.ref
            rows = (0, None) if not isinstance(piece, Block) or piece.whole else (piece.start, piece.rows)
            ref, facts = crew.call(source, *rows)
            piece = Promised(ref, facts)
        assert not isinstance(piece, Source)
        return piece


class _Tasks:
    def __init__(self, stage: Stage) -> None:
        assert isinstance(stage.compute, TaskPoolStrategy)
        self._most = stage.compute.size
        wanted = {"name": stage.name, **stage.options, "num_returns": 2}
        self._task: RemoteFunction[..., Any] = RemoteFunction(made(stage), Options().updated(wanted, "task"))
        self._running: list[ObjectRef[Facts]] = []

    def call(self, source: Any, start: int, rows: int | None) -> list[ObjectRef[Any]]:
        if self._most is not None:
            while len(self._running) >= self._most:
                _, self._running = wait(self._running)
        refs: list[ObjectRef[Any]] = self._task.remote(source, start, rows)
        if self._most is not None:
            self._running.append(refs[1])
        return refs


class Mapper:
    """An actor of a pool."""

    def __init__(self, steps: tuple[Any, ...]) -> None:
        self._steps = Steps(steps)

    @method(num_returns=2)
    def run(self, source: Any, start: int, rows: int | None) -> Any:
        return self._steps.run(source, start, rows)


class _Actors:
    """A pool. An actor gets a block only when it is up and has too little to do: one that finds no room harms none."""

    def __init__(self, stage: Stage) -> None:
        assert isinstance(stage.compute, ActorPoolStrategy)
        self._strategy = stage.compute
        self._steps = stage.steps
        self._options = _pool_options(stage)
        most = self._strategy.max_size
        if most is None:
            cpus, _ = capacity()
            most = max(self._strategy.min_size, int(cpus // (self._options["num_cpus"] or 1)))
        self._most = most
        self._starting: dict[ObjectRef[Any], ActorHandle[Any]] = {}
        self._busy: list[tuple[ActorHandle[Any], list[ObjectRef[Any]]]] = []  # with the calls not known to have ended
        for _ in range(self._strategy.min_size):
            self._start()

    def _start(self) -> None:
        actor = ActorClass(Mapper, Options().updated(self._options, "actor")).remote(self._steps)
        self._starting[actor.__ray_ready__.remote()] = actor

    def call(self, source: Any, start: int, rows: int | None) -> list[ObjectRef[Any]]:
        while True:
            self._look()
            actor, calls = min(self._busy, key=lambda each: len(each[1]), default=(None, []))
            if actor is not None and len(calls) < self._strategy.max_tasks_in_flight_per_actor:
                refs: list[ObjectRef[Any]] = actor.run.remote(source, start, rows)
                calls.append(refs[1])
                return refs
            if not self._starting and len(self._busy) < self._most:
                self._start()
            wait([*self._starting, *(ref for _, calls in self._busy for ref in calls)])

    def _look(self) -> None:
        """Take notice of actors that are up, or have failed, and of calls that have ended."""
        if self._starting:
            up, _ = wait(list(self._starting), num_returns=len(self._starting), timeout=0)
            for ref in up:
                get(ref)  # what its constructor raised
                self._busy.append((self._starting.pop(ref), []))
        for _, calls in self._busy:
            if calls:
                _, calls[:] = wait(calls, num_returns=len(calls), timeout=0)


def _pool_options(stage: Stage) -> Mapping[str, Any]:
    defaults = {"num_cpus": 1, "max_restarts": -1, "max_task_retries": 3}
    if "num_gpus" in stage.options:
        defaults["num_cpus"] = 0
    return {**defaults, **stage.options}
