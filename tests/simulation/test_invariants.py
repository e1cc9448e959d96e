"""Each belief about the models is looked at after each step: what is changed in any part of any model is named at once.

A session runs; every few milliseconds one thing is changed in some model that has such a thing, the model is checked,
and the change is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from sparkray_core.model.actors import ActorState
from sparkray_core.model.entries import NOT_GIVEN
from sparkray_core.model.groups import GroupState
from sparkray_core.model.head import Head
from sparkray_core.model.invariants import check
from sparkray_core.model.node import Node
from sparkray_core.model.node_claims import ClaimState
from sparkray_core.model.node_spills import Where
from sparkray_core.model.node_workers import WorkerState
from sparkray_core.model.owner import Owner
from sparkray_core.model.scheduler import Scheduler
from sparkray_core.testing.sim_core import SimCore
from sparkray_core.testing.storm import Storm
from sparkray_core.testing.weather import CALM, COPIES, SCHEDULERS, Weather

LOOK_S = 0.002
# What is changed: something's attribute, to another value; or an item of a dictionary, to another or to none.
Change = tuple[Any, Any, Any]
GONE = object()


@contextmanager
def changed(thing: Any, name: Any, value: Any) -> Iterator[None]:
    if isinstance(thing, dict):
        before = dict(thing)
        if value is GONE:
            del thing[name]
        else:
            thing[name] = value
        yield
        thing.clear()
        thing.update(before)
    else:
        kept = getattr(thing, name)
        setattr(thing, name, value)
        yield
        setattr(thing, name, kept)


def first(some: Any, fits: Callable[[Any], Any] = lambda one: True) -> Any:
    return next((one for one in (some.values() if isinstance(some, dict) else some) if fits(one)), None)


def claim(node: Node, state: ClaimState) -> Any:
    return first(node.claims.all, lambda one: one.state is state)


def worker(node: Node, state: WorkerState) -> Any:
    return first(node.workers.all, lambda one: one.state is state)


def in_memory(node: Node) -> list[Any]:
    return [one for one in node.store.stored.values() if one.in_memory]


def leases(owner: Owner) -> Any:
    return [queue.leases for shape in owner.leasing.shapes.values() for queue in shape.queues.values()]


def of(thing: Any, name: str, value: Callable[[Any], Any]) -> Change | None:
    """A change of an attribute, if there is the thing."""
    return (thing, name, value(getattr(thing, name))) if thing is not None else None


def more(number: Any) -> Any:
    return number + 1


def without(some: dict[Any, Any]) -> Change | None:
    """One item less, if there is any."""
    return (some, next(iter(some)), GONE) if some else None


NODE: dict[str, tuple[Callable[[Node], Change | None], str]] = {
    "a stray": (lambda it: (it, "strays", 1), "1 messages reached a model that has no use"),
    "what is available": (lambda it: (it.claims.available, "CPU", it.claims.available.get("CPU", 0) - 1), "not all"),
    "a waiting claim": (
        lambda it: of(claim(it, ClaimState.WAITING), "state", lambda _: ClaimState.RUNNING),
        "disagree",
    ),
    "a running claim": (lambda it: of(claim(it, ClaimState.RUNNING), "worker", lambda _: None), "worker disagree"),
    "a claim's worker": (lambda it: of(worker(it, WorkerState.BUSY), "claim", lambda _: b"x"), "runs on a worker that"),
    "a claim's share": (lambda it: of(claim(it, ClaimState.RUNNING), "taken", lambda _: {"CPU": 7}), "are not all"),
    "who is reserved": (lambda it: without(it.claims.reserved), "the reserved disagree"),
    "who saves": (lambda it: without(it.claims.savings.waiting), "who saves disagree"),
    "what is set aside": (lambda it: (it.claims, "aside", {"CPU": 3}), "thought to be set aside"),
    "a queue": (lambda it: (it.claims.waiting, "nobody's", {}), "an empty queue is kept"),
    "leases in the crowd": (lambda it: of(it.claims.crowd, "leased", more), "leases are counted"),
    "who waits in the crowd": (lambda it: without(it.claims.crowd.waiting), "is thought to wait"),
    "a node's GPU": (lambda it: of(it.claims.gpus, "free", lambda free: [*free, 5]), "is left of the GPUs"),
    "a claim's GPU": (lambda it: of(first(it.claims.all), "gpus", lambda _: {0: 5}), "GPUs disagree"),
    "what is on offer": (lambda it: (it.bundles, "all", {}) if it.bundles.all else None, "are not all"),
    "a bundle's state": (lambda it: of(first(it.bundles.all), "committed", lambda was: not was), "committed"),
    "workers that start": (lambda it: of(it.workers, "starting", more), "are thought to"),
    "who idles": (lambda it: without(it.workers.idle), "is idle, and nobody knows"),
    "who is busy": (lambda it: of(worker(it, WorkerState.BUSY), "state", lambda _: WorkerState.IDLE), "idle"),
    "what is set up": (lambda it: (it.workers.preparing, "green", 1), "being set up is counted wrongly"),
    "an object's pins": (lambda it: of(first(it.store.stored), "pins", more), "pins of .* do not add up"),
    "a reader's pins": (lambda it: without(it.store.pins), "do not add up"),
    "where an object lies": (
        lambda it: of(first(in_memory(it)[1:]), "offset", lambda _: in_memory(it)[0].offset),
        "two objects lie at one offset",
    ),
    "what is allocated": (lambda it: of(it.store.allocator, "used", more), "are allocated"),
    "that it is on disk": (
        lambda it: of(first(in_memory(it)), "where", lambda _: Where.DISK),
        "and its file|is read, or gone",
    ),
    "what may be evicted": (lambda it: without(it.store.evictable), "eviction disagree"),
    "what may be written": (lambda it: without(it.store.spills.dirty), "may be written out, and nobody knows"),
    "what may leave memory": (lambda it: without(it.store.spills.clean), "may leave memory, and nobody knows"),
    "the bytes of that": (lambda it: of(it.store.spills, "clean_bytes", more), "are counted wrongly"),
    "a file": (
        lambda it: of(first(it.store.spills.files), "written", lambda was: not was),
        "disagree|is written, and not",
    ),
    "what is in a file": (
        lambda it: of(first(it.store.spills.files, lambda one: one.members), "members", lambda _: {}),
        "does not know that it has",
    ),
    "a block's writer": (lambda it: of(first(it.store.unsealed), "writer", lambda _: b"x" * 16), "written by nobody"),
    "who reads": (lambda it: (it.store.readers, b"x" * 28, [1]), "wait for nothing"),
    "bytes under way": (lambda it: of(it.pulls, "under_way", more), "bytes are under way"),
    "a transfer": (lambda it: of(first(it.serves.transfers), "pinned", lambda was: not was), "which it pins"),
}

HEAD: dict[str, tuple[Callable[[Head], Change | None], str]] = {
    "a stray": (lambda it: (it, "strays", 1), "1 messages reached a model that has no use"),
    "what is free": (
        lambda it: of(first(it.nodes.all, lambda r: r.sums), "sums", lambda _: ({"CPU": 1}, 77)),
        "is thought to have",
    ),
    "that a node leaves": (
        lambda it: of(
            first(it.nodes.all, lambda r: r.info.alive) if it.choosing.rankings._known else None,
            "info",
            lambda was: replace(was, draining="it leaves"),
        ),
        "is ranked by what it was",
    ),
    "who is placed": (
        lambda it: (it.leases.placed_at, b"x" * 28, first(it.nodes.all).info.node) if it.nodes.all else None,
        "was not sent there",
    ),
    "a group's bundles": (
        lambda it: of(first(it.groups.all, lambda g: g.places), "places", lambda _: {}),
        "disagree|other bundles",
    ),
    "a group's state": (
        lambda it: of(first(it.groups.all, lambda g: g.places), "state", lambda _: GroupState.PENDING),
        "disagree|there in part",
    ),
    "a node's bundles": (
        lambda it: of(first(it.nodes.all, lambda r: r.info.alive), "totals", lambda was: {**was, "x": 1}),
        "has other bundles|is ranked by",
    ),
    "an actor's place": (lambda it: of(first(it.actors.all, lambda a: a.node), "node", lambda _: None), "to be placed"),
    "an actor's state": (
        lambda it: of(first(it.actors.all, lambda a: a.worker), "state", lambda _: ActorState.RESTARTING),
        "its worker disagree",
    ),
    "whom one watches": (lambda it: (it.actors.watched, b"x" * 16, {}), "an empty list of watched"),
}

SCHEDULER: dict[str, tuple[Callable[[Scheduler], Change | None], str]] = {
    "a stray": (lambda it: (it, "strays", 1), "1 messages reached a model that has no use"),
    "what is free": (
        lambda it: of(first(it.nodes.all, lambda r: r.sums), "sums", lambda _: ({"CPU": 1}, 77)),
        "is thought to have",
    ),
    "who is placed": (
        lambda it: of(first(it.nodes.all, lambda r: r.unsettled and it.placed), "unsettled", lambda _: {}),
        "was not sent there",
    ),
}

OWNER: dict[str, tuple[Callable[[Owner], Change | None], str]] = {
    "a lease": (lambda it: without(it.leasing.leases), "a lease that is gone"),
    "a lease's worker": (lambda it: without(it.leasing.by_worker), "its worker disagree"),
    "a request": (lambda it: without(it.leasing.requests), "requests and their queues disagree"),
    "what a lease has": (
        lambda it: of(first(it.leasing.leases, lambda one: one.inflight), "inflight", lambda _: {}),
        "out of date|noted|miscounted",
    ),
    "busy leases": (lambda it: of(first(leases(it)), "busy", more), "busy leases are miscounted"),
    "open leases": (lambda it: of(first(leases(it)), "open", more), "open leases are miscounted"),
    "who is hungry": (
        lambda it: of(
            first(it.leasing.shapes, lambda s: s.hungry and not any(q.leases or q.requests for q in s.queues.values())),
            "hungry",
            lambda _: False,
        ),
        "not hungry",
    ),
    "a queued task": (
        lambda it: of(
            first([q for s in it.leasing.shapes.values() for q in s.queues.values()], lambda q: q.tasks),
            "tasks",
            lambda tasks: type(tasks)([*tasks][:-1]),
        ),
        "is in 0 places",
    ),
    "a task in two places": (
        lambda it: of(first(it.book.tasks, lambda t: not t.missing and t.actor is None), "missing", lambda _: 1),
        "is in 2 places",
    ),
    "an unanswered task": (lambda it: without(it.book.tasks), "answered"),
    "an entry's pins": (lambda it: of(first(it.refs.exported), "pins", more), "pins, not"),
    "an entry that nobody holds": (
        lambda it: of(
            first(it.refs.exported, lambda e: e.held and not e.pins and not e.borrowers and e.value is not None),
            "held",
            lambda _: False,
        ),
        "and nobody holds it",
    ),
    "a borrower": (
        lambda it: of(first(it.refs.exported, lambda e: e.owner == it.me), "borrowers", lambda _: {it.me: 1}),
        "is borrowed by its owner",
    ),
    "a borrower counted zero times": (
        lambda it: of(first(it.refs.exported, lambda e: e.owner == it.me), "borrowers", lambda _: {b"x" * 16: 0}),
        "counted zero times",
    ),
    "what is stored": (
        lambda it: (
            (it.refs.stored, some, GONE)
            if (some := next((s for s, e in it.refs.stored.items() if e.held and e.registered != NOT_GIVEN), None))
            else None
        ),
        "is stored, and not listed|thought to be held",
    ),
    "the bytes of lineage": (lambda it: of(it.lineage, "bytes", more), "the records of tasks have"),
    "who depends on a task": (lambda it: of(first(it.lineage.records), "dependents", more), "arguments come from task"),
    "what of a task lives": (
        lambda it: of(
            first(it.lineage.records, lambda r: r.alive and r.closed and r.task and not r.task.stream),
            "alive",
            lambda was: {*was, 99},
        ),
        "thought to be held",
    ),
    "what runs again": (lambda it: of(it.lineage, "again", lambda was: [*was, None]), "nobody submits it"),
}


class AllDone(Exception):
    """The rest of the session need not be run."""


class Planter:
    """Tries each change once, as soon as some model has what is to be changed."""

    def __init__(self, storm: Storm, left: dict[tuple[type, str], Any]) -> None:
        self.storm = storm
        self.left = left

    def look(self) -> None:
        sim = self.storm.sim
        for (kind, name), (find, says) in list(self.left.items()):
            for model, looks in self._models(kind):
                change = find(model)
                if change is None:
                    continue
                del self.left[kind, name]
                with changed(*change), pytest.raises(AssertionError, match=says):
                    looks()
                if isinstance(model, Head | Scheduler):
                    for record in model.nodes.all.values():
                        record.sums = None  # they were summed up anew meanwhile
                looks()
                break
        if not self.left:
            raise AllDone
        sim.at(sim.now + LOOK_S, self.look)

    def _models(self, kind: type) -> list[tuple[Any, Callable[[], None]]]:
        hosts = [host for host in self.storm.sim.hosts.values() if not host.stopped]
        if kind is Owner:
            cores = [process for host in hosts for process in host.processes.values()]
            return [(core.owner, core.check) for core in cores if isinstance(core, SimCore)]
        return [(host.model, lambda m=host.model: check(m)) for host in hosts if isinstance(host.model, kind)]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "plants", "sessions"),
    [
        (Node, NODE, [(3, CALM), (1, COPIES)]),
        (Head, HEAD, [(3, CALM), (5, CALM)]),
        (Scheduler, SCHEDULER, [(4, SCHEDULERS)]),
        (Owner, OWNER, [(3, CALM)]),
    ],
    ids=["node", "head", "scheduler", "owner"],
)
def test_whatever_is_changed_in_a_model_is_named(
    kind: type, plants: dict[str, Any], sessions: list[tuple[int, Weather]]
) -> None:
    left = {(kind, name): plant for name, plant in plants.items()}
    for seed, weather in sessions:
        storm = Storm(seed, weather)
        storm.sim.at(1.0, Planter(storm, left).look)
        with suppress(AllDone):
            storm.run()
            continue
        break
    assert not left, "no model had any of these"
