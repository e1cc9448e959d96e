"""Lost blocks that came from Spark are made again: by a job that runs their partitions, and no others.

a block is lost and wanted:   the owner's model calls the `Repeater` of its transfer with the partition's number
its thread, while there are:  one job for all that came meanwhile; each partition's blocks get the ids they had
Spark cannot:                 whoever wants them is told why
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sparkray.data import places
from sparkray.data.repeating import CHANGED, NO_NODE, PROPERTY, Former, as_property
from sparkray.data.spark_job import own_error
from sparkray_core.errors import RayError
from sparkray_core.ids import HEAD, NodeId, ObjectId, count_of, owner_of
from sparkray_core.messages import STORED, Value
from sparkray_core.model.entries import is_failure
from sparkray_core.model.lineage import MAKER_FAILED
from sparkray_core.run.core import Core

if TYPE_CHECKING:
    from pyspark import RDD, SparkContext

log = logging.getLogger(__name__)

# What the driver is told of a block: `object`, `rows`, `bytes` (as Arrow counts them), `size` (in the store), `node`,
# `schema` (an IPC message; None: that of the block before), `partition`, `sample`, `note`. A Row of Spark's, or
# anything that has these.
Answer = Any

# Jobs that one partition takes at most: Spark may give it to an executor without a node, and nodes die.
MOST_JOBS = 20
# Between them: an executor that Spark has just started has a node within seconds, if it gets one. 70 s in all.
FIRST_PAUSE_S, MOST_PAUSE_S = 0.1, 5.0
# Spark's scheduler pool, which counts where it shares fairly: then tasks that wait for blocks, and keep their slots, do
# not keep out those that make them. Between pools with as many tasks the order of names decides; most begin small.
POOL = "Sparkray"
AT_ONCE = 1000  # partitions of one job; bounds what its tasks are told
WHY_CHARACTERS = 2000  # of what Spark says, in an error
# What a Python worker of Spark raised: the line behind a traceback.
_RAISED = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t][^\n]*\n)+(\S[^\n]*)")
# What a reader in an executor raised that would not wait: `sparkray_core.run.guest`.
_AWAITED = re.compile(r"^object ([0-9a-f]{56}) is lost .*, and is being made again, which took more than ")


@dataclass(frozen=True, slots=True)
class Rerun:
    """A job as it was run."""

    sc: SparkContext
    rdd: Callable[[], RDD[Any]]  # of answers; made when it is needed first

    def __call__(self, partitions: Sequence[int], told: str) -> list[Answer]:
        """Run these again. (In a thread of its own, or the property would be seen by other jobs.)"""
        rdd = self.rdd()
        self.sc.setLocalProperty(PROPERTY, told)
        self.sc.setLocalProperty("spark.scheduler.pool", POOL)
        self.sc.setJobDescription(f"sparkray: {len(partitions)} lost partitions are made again")
        answers = self.sc.runJob(rdd, _all_of, list(partitions))
        return [SimpleNamespace(**answer) if isinstance(answer, dict) else answer for answer in answers]


_all_of: Any = iter  # by name, whatever the executors' Python has of sparkray


@dataclass(frozen=True, slots=True)
class _Partition:
    number: int
    former: Former
    samples: tuple[int | None, ...]


def live_nodes(core: Core) -> set[NodeId]:
    try:
        return {NodeId(facts["node"]) for facts in core.ask(HEAD, "nodes") if facts["alive"]}
    except RayError:  # the session has ended, and its stores with it
        return set()


def stored_value(answer: Answer) -> Value:
    return (STORED, answer.size, (NodeId(bytes(answer.node)),))


class Repeater:
    """The partitions of one transfer. It lives, and Spark's plan with it, as long as one of them may be wanted."""

    def __init__(self, core: Core, name: str, transfer: bytes, rerun: Rerun) -> None:
        self._core, self._name, self._transfer, self._rerun = core, name, transfer, rerun
        self._partitions: dict[int, _Partition] = {}  # by the number that its blocks have in their ids
        self._lock = threading.Lock()
        self._wanted: list[int] = []
        self._works = False

    def remember(self, count: int, answers: Sequence[Answer]) -> None:
        """What the partition was stored as."""
        attempt = int.from_bytes(bytes(answers[0].object)[len(self._transfer) : 24], "big")
        former = Former(attempt, tuple(answer.rows for answer in answers))
        samples = tuple(answer.sample for answer in answers)
        self._partitions[count] = _Partition(answers[0].partition, former, samples)

    def __call__(self, count: int) -> None:
        """This partition's blocks are lost, and wanted."""
        with self._lock:
            self._wanted.append(count)
            if not self._works:
                self._works = True
                threading.Thread(target=self._work, daemon=True, name="sparkray-again").start()

    def _work(self) -> None:
        while True:
            with self._lock:
                wanted, self._wanted = self._wanted[:AT_ONCE], self._wanted[AT_ONCE:]
                if not wanted:
                    self._works = False
                    return
            self._make(wanted)

    # ------------------------------------------------------------------ the job
    def _make(self, wanted: Sequence[int]) -> None:
        log.info("%d lost partitions of a %s() are made again", len(wanted), self._name)
        pause = FIRST_PAUSE_S
        for _ in range(MOST_JOBS):
            try:
                answers = self._run(wanted)
            except Exception as error:  # noqa: BLE001 - whatever Spark raises belongs to who waits for the blocks
                if self._awaited(error):
                    continue
                if len(wanted) > 1 and self._is_up():  # it may be the fault of one of them
                    for count in wanted:
                        self._make([count])
                else:
                    self._give_up(wanted, self._why(error))
                return
            wanted = self._take(wanted, answers)
            if not wanted or self._core.owner.ended is not None:
                return
            time.sleep(pause)
            pause = min(2 * pause, MOST_PAUSE_S)
        self._give_up(wanted, f"in {MOST_JOBS} jobs Spark gave it to no executor with a node that lives")

    def _run(self, wanted: Sequence[int]) -> list[Answer]:
        partitions = {self._partitions[count].number: self._partitions[count].former for count in wanted}
        return self._rerun(list(partitions), as_property(self._transfer, places.of(self._core), partitions))

    def _take(self, wanted: Sequence[int], answers: Sequence[Answer]) -> list[int]:
        """Hand on what there is. Returns what is still to be made."""
        by_number: dict[int, list[Answer]] = {}
        for answer in answers:
            by_number.setdefault(answer.partition, []).append(answer)
        alive = live_nodes(self._core)
        left: list[int] = []
        for count in wanted:
            former = self._partitions[count]
            told = by_number.get(former.number, [])
            if any(answer.note == NO_NODE or (not answer.note and _node(answer) not in alive) for answer in told):
                left.append(count)
                continue
            why = self._difference(count, former, told)
            if why is None:
                self._core.made_again(count, [stored_value(answer) for answer in told], alive)
            else:
                self._core.made_again(count, (MAKER_FAILED, why), alive)
        return left

    @staticmethod
    def _difference(count: int, former: _Partition, told: Sequence[Answer]) -> str | None:
        rows = sum(former.former.rows)
        begin = f"partition {former.number} of its Spark job was run again, and gave "
        advice = ": what is random, or depends on time or on what was changed since, should be written down or cached"
        if not told or told[0].note == CHANGED:
            return f"{begin}{told[0].rows if told else 0} rows instead of {rows}{advice}"
        if count_of(ObjectId(bytes(told[0].object))) != count:
            return (
                f"{begin}its blocks other ids, because Spark did not hand on the property {PROPERTY}: unset "
                f"PYSPARK_PIN_THREAD"
            )
        if tuple(answer.sample for answer in told) != former.samples:
            return f"{begin}the same number of rows, but other ones, or in another order{advice}, or sorted"
        return None

    def _give_up(self, wanted: Sequence[int], why: str) -> None:
        alive = live_nodes(self._core)
        for count in wanted:
            self._core.made_again(count, (MAKER_FAILED, why), alive)

    def _awaited(self, error: Exception) -> bool:
        """The job reads another dataset (by `to_spark`), of which a block is lost, too: wait until that is there."""
        found = _AWAITED.search(str(own_error(error)))
        if found is None or not self._is_up():
            return False
        some = ObjectId(bytes.fromhex(found.group(1)))
        if owner_of(some) != self._core.me or self._core.owner.ended is not None:
            return False
        ref = self._core.ref_of(some)
        with contextlib.suppress(RayError):  # the session ends
            self._core.wait([ref._entry], 1, None)
        return ref._entry.value is not None and not is_failure(ref._entry.value)

    def _is_up(self) -> bool:
        return self._rerun.sc._jsc is not None

    def _why(self, error: Exception) -> str:
        if not self._is_up():
            return "the SparkContext that computed it was stopped"
        ours = own_error(error)
        raised = _RAISED.search(str(error))
        if ours is not None:
            told = f"{type(ours).__name__}: {ours}"
        elif raised is not None:  # and not the JVM's stack around it
            told = raised.group(1)
        else:
            told = f"{type(error).__name__}: {error}"
        return f"the Spark job that ran its partition again failed: {told[:WHY_CHARACTERS]}"


def _node(answer: Answer) -> NodeId:
    return NodeId(bytes(answer.node))
