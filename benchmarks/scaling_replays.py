"""What a task takes each scheduler's process if it has a processor to itself, as in a cluster.

In a simulated session all processes are one: between two steps of the head thousands of raylets have their turn, and
each finds the processor's caches full of the others' data. So a session is simulated once, what each process is told
is written down (the bytes of the messages, and when they came), and then told again to a fresh one, by itself.
Models are pure, so it does the same again; that it sends as many messages is checked. What is timed is all that the
process does but for its sockets: it decodes a message, takes a step, and encodes what it sends.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from scaling_parts import CPUS

from sparkray_core.ids import HEAD_NODE, NodeId, ProcessId
from sparkray_core.model.effects import Effect, Send, SendFrom
from sparkray_core.model.events import ClockTicked, Event, Received
from sparkray_core.model.head import Head
from sparkray_core.model.node import Node
from sparkray_core.model.owner import Owner
from sparkray_core.model.resources import from_floats
from sparkray_core.model.scheduler import Scheduler
from sparkray_core.testing.measured import OwnShare
from sparkray_core.testing.timed import SCHEDULERS, Host, TimedSession
from sparkray_core.testing.timed_processes import TimedDriver, WaitForAll, a_task
from sparkray_core.wire import codec

SAMPLE = 20  # of the raylets that run tasks: they are alike
LEAST_S = 0.5  # of steps, for which a process is told again and again
TURN_S = 0.02
Seconds = defaultdict[str, float]  # by what they were for, as `TimedSession.measured` has it


@dataclass(slots=True)
class Heard:
    """By one process."""

    made: float = 0.0  # when its model was
    steps: list[tuple[str, ProcessId | None, Any, float]] = field(default_factory=list)  # kind, by whom, what, when
    sent: int = 0  # messages

    def check(self, sent: int) -> None:
        if sent != self.sent:
            raise RuntimeError(f"{sent} messages were sent, {self.sent} in the session: it was not told the same")


class RecordedDriver(TimedDriver):
    def _step(self, do: Callable[..., list[Effect]], args: tuple[Any, ...], start: float, cost: float) -> None:
        assert isinstance(self.session, RecordedSession)
        heard, name = self.session.heard[self.me], do.__name__
        if name == "submit":
            heard.steps.append((name, None, [task.count for task in args[0]], start))
        elif name == "handle":
            heard.steps.append((name, args[0], codec.encode(args[1]), start))
        else:
            heard.steps.append((name, None, None, start))

        def counted(*args: Any) -> list[Effect]:
            effects = do(*args)
            heard.sent += _sent(effects)
            return effects

        super()._step(counted, args, start, cost)

    def _get_all(self) -> None:
        assert isinstance(self.session, RecordedSession)
        if self._waits is None and self.submitted == len(self.seconds):
            self.session.heard[self.me].steps.append(("get", None, None, 0.0))
        super()._get_all()


class RecordedSession(TimedSession):
    driver_type = RecordedDriver

    def __init__(self, nodes: int, schedulers: int) -> None:
        self.heard: defaultdict[bytes, Heard] = defaultdict(Heard)  # by node, or by the driver
        super().__init__(nodes, CPUS, drivers_apart=True, schedulers=schedulers)
        self.heard.clear()  # of the start
        self._names = {id(one): name for name, one in self.measured.items()}

    def _model(self, host: Host, now: float) -> Head | Scheduler | Node:
        if host.model is None:
            self.heard[host.node].made = now
        return super()._model(host, now)

    def _handle(self, host: Host, event: Event, now: float, cost: float) -> None:
        sender, what = (event.sender, codec.encode(event.message)) if isinstance(event, Received) else (None, None)
        name = self._names[id(self._measured_of(host, event))]
        self.heard[host.node].steps.append((name, sender, what, max(now, host.free_at)))
        super()._handle(host, event, now, cost)

    def _performed(self, host: Host, effects: Sequence[Effect], now: float) -> None:
        self.heard[host.node].sent += _sent(effects)
        super()._performed(host, effects, now)


def _sent(effects: Sequence[Effect]) -> int:
    return sum(isinstance(effect, Send | SendFrom) for effect in effects)


def _encoded(effects: Sequence[Effect]) -> int:
    """So many were, as each that is sent is."""
    sent = 0
    for effect in effects:
        if isinstance(effect, Send | SendFrom):
            codec.encode(effect.message)
            sent += 1
    return sent


class Recording:
    """Of a session: who heard what."""

    def __init__(self, nodes: int, schedulers: int, per_cpu: int, task_seconds: float, at_once: bool) -> None:
        self.nodes, self.schedulers = nodes, schedulers
        self.tasks = nodes * CPUS * per_cpu
        session = RecordedSession(nodes, schedulers)
        driver = session.add_driver(array("d", [task_seconds]) * self.tasks, window=None if at_once else nodes * CPUS)
        for _ in session.steps():
            pass
        self.seconds = session.now
        self.driver = driver.me
        home, *others = (host.node for host in session.raylets if host.model is not None)
        sample = others[:: max(1, len(others) // SAMPLE)]
        placers = [host.node for host in session.placers]
        named: list[bytes] = [driver.me, *placers, home, *sample]
        self.heard = {name: session.heard[name] for name in named}
        # By component: whose steps are told again, and for how many others each stands.
        alike = len(others) / len(sample)
        self.told: dict[str, list[tuple[bytes, float]]] = {
            "owner": [(driver.me, 1.0)],
            "raylet": [(home, 1.0), *((one, alike) for one in sample)],
            "head": [(HEAD_NODE, 1.0)],
            SCHEDULERS: [(one, 1.0) for one in placers[1:]],
        }

    def costs(self, name: str, share: float, spent: Seconds) -> dict[str, float]:
        """Microseconds: of tasks' messages for a task, of what comes with the clock for a node and second.

        Args:
            share: of these seconds, which counts.
        """
        units = {what: self.tasks if what == name else self.nodes * self.seconds for what in spent}
        return {what: seconds * share / units[what] * 1e6 for what, seconds in spent.items()}

    def messages(self, name: str) -> float:
        """That this component hears for a task, without what the clock brings."""
        kind = "handle" if name == "owner" else name
        heard = ((weight, self.heard[one].steps) for one, weight in self.told[name])
        return sum(weight * sum(what == kind for what, *_ in steps) for weight, steps in heard) / self.tasks

    def replay(self, name: str, spent: Seconds) -> Iterator[None]:
        """All that this component hears, to fresh processes, one after the other; it yields after each step.

        Args:
            name: "owner", "raylet", "head" or "scheduler".
            spent: to which seconds are added, by what they were for.
        """
        if name == "owner":
            yield from self._owner(spent)
            return
        session = TimedSession(self.nodes, CPUS, drivers_apart=True, schedulers=self.schedulers)
        told = [(self.heard[node], weight, node) for node, weight in self.told[name]]
        models = [session.model_of(NodeId(node), heard.made) for heard, _, node in told]
        del session  # and all other models with it
        for model, (heard, weight, _) in zip(models, told, strict=True):
            sent = 0
            for what, sender, body, now in heard.steps:
                began = perf_counter()
                event: Event = ClockTicked() if sender is None else Received(sender, codec.decode(body))
                sent += _encoded(model.handle(event, now))
                spent[what] += (perf_counter() - began) * weight
                yield
            heard.check(sent)

    def _owner(self, spent: Seconds) -> Iterator[None]:
        owner, heard, sent = Owner(self.driver), self.heard[self.driver], 0
        shape = owner.leasing.shape(from_floats({"CPU": 1}), True)
        for what, sender, body, now in heard.steps:
            if what == "get":
                WaitForAll(owner)
                continue
            tasks = [a_task(self.driver, number, shape) for number in body] if what == "submit" else []
            began = perf_counter()
            if what == "submit":
                effects = owner.submit(tasks, now)
            elif sender is not None:
                effects = owner.handle(sender, codec.decode(body), now)
            else:
                effects = owner.tick(now)
            sent += _encoded(effects)
            spent["owner"] += perf_counter() - began
            yield
        heard.check(sent)


class _Turns:
    """A component's replays, some milliseconds at a time."""

    def __init__(self, recording: Recording, name: str) -> None:
        self.recording = recording
        self.name = name
        self.spent: Seconds = defaultdict(float)
        self.rounds = 0
        self._steps: Iterator[None] | None = None

    def run(self, seconds: float) -> None:
        """Or until it has been told all."""
        ends = perf_counter() + seconds
        self._steps = self._steps or self.recording.replay(self.name, self.spent)
        while perf_counter() < ends:
            if next(self._steps, self) is self:
                self.rounds += 1
                self._steps = None
                return

    @property
    def has_enough(self) -> bool:
        return self.rounds > 0 and sum(self.spent.values()) > LEAST_S

    def end(self) -> None:
        """What has begun."""
        if self._steps:
            self.run(float("inf"))


def side_by_side(name: str, *some: Recording) -> list[dict[str, float]]:
    """What a component costs in each, all in the same seconds: each has the processor for some milliseconds, then the
    next. So how fast the machine is just then has little part in how they compare."""
    share, turns = OwnShare(), [_Turns(one, name) for one in some]
    while not all(one.has_enough for one in turns):
        for one in turns:
            one.run(TURN_S)
    for one in turns:
        one.end()
    own = share.so_far()
    return [one.recording.costs(name, own / one.rounds, one.spent) for one in turns]
