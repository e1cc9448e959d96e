"""What a row is, how a rate is measured, and how a feature that is not there yet is told from one that is broken."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

PROBE_TIMEOUT = 30.0  # seconds; starting one actor on a busy two-core machine takes up to 5


class Absent(Exception):
    """The system refuses a feature that the row is about. (A feature that is accepted and then fails is an error.)"""


class Feature(Enum):
    ASYNC_ACTORS = "async actors"
    THREADED_ACTORS = "max_concurrency"
    PLACEMENT_GROUPS = "placement groups"


class Stopwatch:
    """Measures for about `seconds`, after warming up for a quarter of that."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def rate(self, call: Callable[[], object], amount: float = 1.0, warm_calls: int = 1) -> float:
        """Operations per second, where one `call` does `amount` of them, after at least `warm_calls` that do not count.

        A call is never cut short: one that takes longer than `seconds` is made once to warm up, and once to measure.
        The clock is read about a hundred times in all, so that reading it costs a fast call nothing.
        """
        warm, begun = 0, time.perf_counter()
        while warm < warm_calls or time.perf_counter() - begun < self.seconds / 4:
            call()
            warm += 1
        batch = warm // 25 + 1 if warm > warm_calls else 1

        calls, begun = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begun) < self.seconds:
            for _ in range(batch):
                call()
            calls += batch
        return amount * calls / elapsed

    def rate_of_timed_part(self, call: Callable[[], float], amount: float) -> float:
        """As `rate`, for a call that times itself and returns its seconds: what it does around that is not counted."""
        call()
        calls, spent, begun = 0, 0.0, time.perf_counter()
        while calls == 0 or time.perf_counter() - begun < self.seconds:
            spent += call()
            calls += 1
        return amount * calls / spent


Measure = Callable[[Any, Stopwatch], float]  # (the module `ray` or `sparkray`, the watch) -> a number in the row's unit


@dataclass(frozen=True)
class Row:
    name: str  # what --rows takes
    title: str  # Ray's own name for it, where Ray has it
    measure: Measure
    unit: str = "/s"
    needs: tuple[Feature, ...] = ()
    extra: bool = False  # not in Ray's microbenchmark: kept out of the mean that is comparable to Ray's
    starts_session: bool = False  # the row calls init itself, because that is what it measures
    unlike: str = ""  # why the same call is not like work on both; there is a mean without such rows

    @property
    def smaller_is_better(self) -> bool:
        return self.unit == "s"


def check(ray: Any, feature: Feature) -> None:
    """Use the feature once, and make sure that it does what it is for.

    Raises:
        Absent: the system said no: NotImplementedError, a missing name, or an option or class that it does not take.
        Exception: anything else. The system took it and then failed, hung, or ran the calls one by one.
    """
    probe = {
        Feature.ASYNC_ACTORS: _probe_async_actor,
        Feature.THREADED_ACTORS: _probe_threaded_actor,
        Feature.PLACEMENT_GROUPS: _probe_placement_group,
    }[feature]
    try:
        probe(ray)
    except (NotImplementedError, AttributeError, TypeError, ValueError) as refusal:
        raise Absent(f"{feature.value}: {type(refusal).__name__}: {refusal}") from refusal


def _probe_async_actor(ray: Any) -> None:
    class Meeting:
        def __init__(self) -> None:
            self.opened = asyncio.Event()

        async def wait_open(self) -> str:
            await self.opened.wait()
            return "met"

        async def open(self) -> str:
            self.opened.set()
            return "met"

    _expect_meeting(ray, ray.remote(num_cpus=0)(Meeting).remote(), ("wait_open", "open"))


def _probe_threaded_actor(ray: Any) -> None:
    class Meeting:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(2)

        def meet(self) -> str:
            self.barrier.wait(PROBE_TIMEOUT)
            return "met"

    actor = ray.remote(num_cpus=0)(Meeting).options(max_concurrency=2).remote()
    _expect_meeting(ray, actor, ("meet", "meet"))


def _expect_meeting(ray: Any, actor: Any, methods: tuple[str, str]) -> None:
    """Two calls that can only finish together: a system that runs them one after the other times out here."""
    answers = ray.get([getattr(actor, method).remote() for method in methods], timeout=PROBE_TIMEOUT)
    if answers != ["met", "met"]:
        raise RuntimeError(f"expected two calls to meet, got {answers!r}")
    ray.kill(actor)


def _probe_placement_group(ray: Any) -> None:
    group = ray.util.placement_group(bundles=[{"CPU": 0.001}])
    if not group.wait(timeout_seconds=PROBE_TIMEOUT):
        raise RuntimeError("a placement group of a thousandth of a CPU was not placed")
    ray.util.remove_placement_group(group)
