"""A session of several nodes in which loads run while its processes are killed."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import sparkray
from sparkray.util import state
from sparkray_core.run import object_ref
from sparkray_core.run.survey import ask_nodes
from tests.chaos.grounds import Ground
from tests.chaos.kills import Kill
from tests.chaos.loads import FLOATS, LIMIT_S, LOADS, Load
from tests.chaos.memory import MemoryWatch

_SAMPLE_S = 1.0
WHOLE_S = 120.0  # for all nodes to be there again: Spark may have to start JVMs first


@dataclass(frozen=True)
class Summary:
    """Of a run in which nothing failed."""

    seed: int
    seconds: float
    kills: Counter[str]
    missed: Counter[str]  # kills for which there was no victim just then, or no time left
    buried: list[str]  # nodes that nobody killed, and that were taken for dead: on a busy machine a pause is long
    verified: dict[str, int]  # answers, by load
    spilled: int  # bytes that the nodes which lived at the end had written to disk
    memory: dict[str, list[int]]
    descriptors: tuple[int, int]  # open ones of this process, when the loads began and after they had ended
    grown: list[str]

    def __str__(self) -> str:
        kills = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.kills.items())) or "none"
        missed = f" (no victim or no time for {sum(self.missed.values())} more)" if self.missed else ""
        buried = f"nodes buried after a pause: {', '.join(self.buried)}\n" if self.buried else ""
        answers = ", ".join(f"{name} {count}" for name, count in self.verified.items())
        memory = "; ".join(
            f"{role} " + ", ".join(f"{size / 2**20:.0f}" for size in sizes) for role, sizes in self.memory.items()
        )
        return (
            f"chaos with seed {self.seed}: {self.seconds:.0f} s\n"
            f"kills: {sum(self.kills.values())}: {kills}{missed}\n{buried}"
            f"answers verified: {sum(self.verified.values())}: {answers}\n"
            f"objects written to disk: {self.spilled / 1e6:.0f} MB\n"
            f"MiB of own memory, medians of each quarter: {memory}; "
            + ("; ".join(self.grown) or "all flat")
            + f"\nopen descriptors of the driver: {self.descriptors[0]} before, {self.descriptors[1]} after"
        )


class Storm:
    """One run, on this ground."""

    def __init__(self, ground: Ground, floats: int = FLOATS) -> None:
        """
        Args:
            floats: in each array of the loads.
        """
        self._ground, self._floats = ground, floats
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._memory = MemoryWatch()
        self._next_sample = 0.0
        self._killed: Counter[str] = Counter()
        self._missed: Counter[str] = Counter()
        self.story: list[str] = []  # what was killed when

    def run(self, seed: int, seconds: float, kills: list[Kill]) -> Summary:
        """
        Raises:
            WrongAnswerError, HangsError: or what else a load has met first. What was killed before is printed.
        """
        loads = [make(seed, self._floats) for make in LOADS]
        descriptors = _descriptors()
        began = time.monotonic()
        try:
            with self._running(loads):
                for kill in kills:
                    if not self._wait(began + kill.at):
                        break
                    self._do(kill, time.monotonic() - began, seconds)
                self._wait(began + seconds)
            took = time.monotonic() - began
            if self._failures:
                raise self._failures[0]
            verified = {load.name: load.verified for load in loads}
            assert all(verified.values()), f"a load that did nothing shows nothing: {verified}"
            self._failures.clear()
            loads.clear()
            spilled = _spilled()
            self._settled()
        except BaseException as error:
            sys.stdout.write("\n  ".join([f"killed, by seed {seed}:", *self.story, ""]))
            raise error
        return Summary(
            seed,
            took,
            self._killed,
            self._missed,
            self._ground.buried(),
            verified,
            spilled,
            self._memory.quarters(),
            (descriptors, _descriptors()),
            self._memory.grown(),
        )

    @contextlib.contextmanager
    def _running(self, loads: list[Load]) -> Iterator[None]:
        threads = [threading.Thread(target=self._drive, args=(load,), name=load.name) for load in loads]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(4 * LIMIT_S)  # each of its waits has a limit
            if late := [thread.name for thread in threads if thread.is_alive()]:
                self._failures.append(AssertionError(f"these loads do not end: {', '.join(late)}"))

    def _drive(self, load: Load) -> None:
        try:
            while not self._stop.is_set():
                load.round()
                load.rounds += 1
        except BaseException as error:  # noqa: BLE001 - the run fails with it
            self._failures.append(error)
            self._stop.set()

    def _wait(self, until: float) -> bool:
        """Until that moment, with a look at memory each second; False if a load has failed before."""
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= self._next_sample:
                self._sample()
                self._next_sample = now + _SAMPLE_S
            if now >= until:
                return True
            self._stop.wait(min(until, self._next_sample) - now)
        return False

    def _sample(self) -> None:
        self._memory.sample({"driver": os.getpid(), **self._ground.lasting()})

    def _do(self, kill: Kill, now: float, seconds: float) -> None:
        victim = self._ground.victim(kill) if now < seconds else None  # on a busy machine the kills are late
        if victim is None:
            self._missed[kill.kind] += 1
            return
        self.story.append(f"{now:6.1f} s: {kill.kind} of {victim.name}")
        self._killed[kill.kind] += 1
        victim.strike()

    def _settled(self) -> None:
        """All that was taken is given back: CPUs, and the objects that nobody refers to any more."""
        self._ground.wait_whole(WHOLE_S)

        settle("resources are taken", _taken)
        settle("objects are left", state.list_objects)


def settle(what: str, left: Callable[[], Collection[object]]) -> None:
    """Wait until nothing is left, and else tell what is."""
    deadline = time.monotonic() + LIMIT_S
    while found := left():
        assert time.monotonic() < deadline, f"{LIMIT_S:g} s after all references have gone, {what}: {found}"
        gc.collect()
        time.sleep(0.05)


def _taken() -> list[str]:
    free = sparkray.available_resources()
    return [
        f"{name}: {free.get(name, 0.0)} of {amount} free"
        for name, amount in sparkray.cluster_resources().items()
        if abs(free.get(name, 0.0) - amount) > 1e-6
    ]


def _spilled() -> int:
    core = object_ref.current
    assert core is not None
    return sum(status["spilled"]["spilled_bytes"] for status in ask_nodes(core, "status").answers.values())


def _descriptors() -> int:
    return len(os.listdir("/dev/fd")) - 1  # the listing's own
