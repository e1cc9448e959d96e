"""Many random sessions (see `storm`), in several processes.

    python -m sparkray_core.testing.storm --seeds 0 5000 --mixed --jobs 2 --into stories
    python -m sparkray_core.testing.storm --seeds 17 18 --deadly

Each failure comes with the command that runs its session again, in the same way. Ctrl-C ends it; what has run until
then is summed up as ever. The exit code is 0 if none failed.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from sparkray_core.testing.storm import Storm, failure, told_again
from sparkray_core.testing.weather import KINDS, SAYS

PROGRESS = 100  # sessions from one word of it to the next
MOST_OF_A_LINE = 4000  # characters of a story's line in a file


@dataclass(frozen=True, slots=True)
class Outcome:
    kind: str
    seed: int
    cpu_s: float
    steps: int = 0
    judged: int = 0  # values that were looked at
    error: str = ""
    story: str = ""  # its end, if it failed

    @property
    def command(self) -> str:
        """That runs it again."""
        return f"python -m sparkray_core.testing.storm --seeds {self.seed} {self.seed + 1} --{self.kind}"


def run_one(kind: str, seed: int) -> Outcome:
    began = time.process_time()
    storm = Storm(seed, KINDS[kind])
    error = failure(storm)
    spent = time.process_time() - began
    done = Outcome(kind, seed, spent, storm.sim.steps, storm.oracle.judged)
    if error is None:
        return done
    try:
        story = "\n".join(line[:MOST_OF_A_LINE] for line in told_again(storm, error))
    except AssertionError as otherwise:
        story = str(otherwise)
    return Outcome(kind, seed, spent, storm.sim.steps, storm.oracle.judged, f"{type(error).__name__}: {error}", story)


def _work(mine: Connection, parents: Sequence[Connection]) -> None:
    """One process: a session after the other, until nobody asks for more."""
    for other in parents:  # else this process would hold them open, and the others outlive a parent that was killed
        other.close()
    try:
        while True:
            kind, seed = mine.recv()
            mine.send(run_one(kind, seed))
    except (EOFError, OSError):
        return


@dataclass(slots=True)
class _Process:
    process: BaseProcess
    pipe: Connection
    task: tuple[str, int] | None = None


def run_many(tasks: Iterator[tuple[str, int]], jobs: int) -> Iterator[Outcome]:
    """As they end. Whoever closes this early ends the processes."""
    if jobs == 1:
        yield from (run_one(kind, seed) for kind, seed in tasks)
        return
    forks = multiprocessing.get_context("fork")
    parts: list[_Process] = []

    def start() -> _Process:
        pipe, theirs = forks.Pipe()
        ours = [part.pipe for part in parts] + [pipe]
        part = _Process(forks.Process(target=_work, args=(theirs, ours), daemon=True), pipe)
        # An interrupt finds this process with all that it has started. Those never hear of it: this one ends them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        part.process.start()
        parts.append(part)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return part

    def give(part: _Process) -> None:
        part.task = next(tasks, None)
        if part.task is not None:
            part.pipe.send(part.task)

    try:
        for _ in range(jobs):
            give(start())
        while busy := {part.pipe: part for part in parts if part.task is not None}:
            for pipe in wait(list(busy)):
                part = busy[pipe]  # type: ignore[index]
                try:
                    done = part.pipe.recv()
                except (EOFError, OSError):  # it was killed, for its memory perhaps: another takes its place
                    assert part.task is not None
                    part.process.join()
                    done = Outcome(*part.task, 0.0, error=f"its process ended with {part.process.exitcode}")
                    part.pipe.close()
                    parts.remove(part)
                    part = start()
                give(part)
                yield done
    finally:
        for part in parts:
            part.pipe.close()
            part.process.terminate()
        for part in parts:
            part.process.join()


@dataclass(slots=True)
class Tally:
    done: dict[str, list[Outcome]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, outcome: Outcome) -> None:
        self.done[outcome.kind].append(outcome)

    @property
    def all(self) -> list[Outcome]:
        return [one for some in self.done.values() for one in some]

    @property
    def failed(self) -> list[Outcome]:
        return [one for one in self.all if one.error]

    def __str__(self) -> str:
        lines = [f"{'kind':20} {'sessions':>8} {'failed':>6} {'steps':>9} {'values':>8} {'CPU s each':>10}"]
        for kind, some in [*self.done.items(), ("all", self.all)]:
            if some:
                failed = sum(bool(one.error) for one in some)
                steps, judged = (sum(getattr(one, name) for one in some) for name in ("steps", "judged"))
                mean = sum(one.cpu_s for one in some) / len(some)
                lines.append(f"{kind:20} {len(some):8} {failed:6} {steps:9} {judged:8} {mean:10.2f}")
        lines += [f"failed: {one.command}\n    {one.error[:300]}" for one in self.failed]
        return "\n".join(lines)


def _keep(outcome: Outcome, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{outcome.command}\n\n{outcome.error}\n\nThe last it did:\n{outcome.story}\n"
    (folder / f"{outcome.kind}-{outcome.seed}.txt").write_text(text, encoding="utf-8", errors="backslashreplace")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sparkray_core.testing.storm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", nargs=2, type=int, metavar=("FIRST", "BEHIND"), required=True)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (one)")
    parser.add_argument("--into", type=Path, metavar="DIR", help="the stories of those that fail go there, too")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--mixed", action="store_true", help="all kinds below in turn, from one seed to the next")
    for kind, says in SAYS.items():
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=says)
    given = parser.parse_args(words)
    names = list(KINDS) if given.mixed else [given.kind or "rough"]
    tasks = ((names[seed % len(names)], seed) for seed in range(*given.seeds))
    tally, count = Tally(), 0
    gc.collect()
    gc.freeze()  # what is there now stays: it need not be looked at again in each process
    outcomes = run_many(tasks, max(1, given.jobs))
    stopped = False
    try:
        sys.stdout.write(f"{given.jobs} processes run {', '.join(names)}\n")
        sys.stdout.flush()
        for outcome in outcomes:
            tally.add(outcome)
            count += 1
            if outcome.error:
                sys.stdout.write(f"failed: {outcome.command}\n    {outcome.error[:1000]}\n")
                if given.into is not None:
                    _keep(outcome, given.into)
                else:
                    sys.stderr.write(f"{outcome.story}\n")
            if count % PROGRESS == 0:
                sys.stdout.write(f"{count} sessions, {len(tally.failed)} failed\n")
            sys.stdout.flush()
    except KeyboardInterrupt:
        stopped = True
    finally:
        outcomes.close()  # type: ignore[attr-defined]
    sys.stdout.write(f"{tally}\n")
    return 1 if tally.failed else 130 if stopped else 0
