"""The driver's half of making lost blocks again: which partitions a job is to run, and what is made of its answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from sparkray.data.places import Place, Places
from sparkray.data.repeater import MOST_JOBS, Repeater, Rerun
from sparkray.data.repeating import CHANGED, NO_NODE, PROPERTY, Former, as_property, order_for, sample
from sparkray_core.errors import RaySystemError
from sparkray_core.ids import NodeId, ProcessId, object_id
from sparkray_core.messages import STORED, Value
from sparkray_core.model.entries import Entry
from sparkray_core.run.core import Core
from sparkray_core.run.guest import late
from sparkray_core.run.processes import Identity

ALIVE, DEAD = NodeId(b"node-one"), NodeId(b"node-two")
ME = ProcessId(ALIVE + b"driver..")
TRANSFER = ME + b"\x80\0\7"
LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkray.data.repeater.FIRST_PAUSE_S", 0.0)


def count(attempt: int) -> int:
    return int.from_bytes(TRANSFER[16:] + attempt.to_bytes(5, "big"), "big")


def answer(partition: int, index: int = 0, rows: int = 10, node: NodeId | None = ALIVE, **other: Any) -> Any:
    some = object_id(TRANSFER + (100 + partition).to_bytes(5, "big"), index)
    told = {"object": some, "rows": rows, "size": 1000, "node": node, "partition": partition, "sample": 5, "note": None}
    return SimpleNamespace(**(told | other))


def note(partition: int, text: str, rows: int = 0) -> Any:
    return answer(partition, rows=rows, object=None, node=None, note=text)


class Driver:
    """What a `Repeater` has of the session and of Spark."""

    def __init__(self, run: Callable[[list[int]], Sequence[Any]]) -> None:
        self.me, self.node, self.folder, self.token = ME, ALIVE, "/nowhere", b"secret"
        self.owner = SimpleNamespace(ended=None)
        self.jobs: list[list[int]] = []
        self.told: dict[int, Sequence[Value] | tuple[str, str]] = {}
        self.freed_on: list[set[NodeId]] = []
        self._run = run
        self._changed = threading.Condition()
        self.properties: dict[str, str] = {}
        self._jsc: object | None = object()

    def made_again(self, number: int, made: Sequence[Value] | tuple[str, str], nodes: set[NodeId]) -> None:
        with self._changed:
            self.told[number] = made
            self.freed_on.append(nodes)
            self._changed.notify_all()

    def wait_told(self, numbers: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.told) >= numbers, LIMIT_S), f"only {self.told} is told"

    def ask(self, to: ProcessId, what: str) -> Any:
        return [{"node": ALIVE, "alive": True}, {"node": DEAD, "alive": False}]

    def setLocalProperty(self, name: str, value: str) -> None:
        self.properties[name] = value

    def setJobDescription(self, text: str) -> None:
        pass

    def runJob(self, rdd: Any, function: Any, partitions: list[int]) -> Sequence[Any]:
        self.jobs.append(partitions)
        return self._run(partitions)


def repeater(driver: Driver, partitions: int = 3, blocks: int = 1) -> Repeater:
    made = Repeater(cast("Core", driver), "from_spark", TRANSFER, Rerun(cast("Any", driver), lambda: cast("Any", None)))
    for partition in range(partitions):
        made.remember(count(100 + partition), [answer(partition, index) for index in range(blocks)])
    return made


def why(driver: Driver, partition: int) -> str:
    told = driver.told[count(100 + partition)]
    assert isinstance(told, tuple)
    assert told[0] == "MAKER_FAILED"
    return str(told[1])


def test_only_what_is_wanted_runs_and_its_blocks_are_told() -> None:
    driver = Driver(lambda partitions: [answer(number, index) for number in partitions for index in range(2)])
    repeater(driver, blocks=2)(count(101))
    driver.wait_told(1)

    assert driver.jobs == [[1]]
    assert driver.properties["spark.scheduler.pool"] == "Sparkray"
    assert driver.told == {count(101): [(STORED, 1000, (ALIVE,))] * 2}
    assert driver.freed_on == [{ALIVE}]


def test_what_is_wanted_while_a_job_runs_shares_the_next_one() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def run(partitions: list[int]) -> Sequence[Any]:
        begun.set()
        assert go_on.wait(LIMIT_S)
        return [answer(number) for number in partitions]

    driver = Driver(run)
    again = repeater(driver)
    again(count(100))
    assert begun.wait(LIMIT_S)
    again(count(102))
    again(count(101))
    go_on.set()
    driver.wait_told(3)

    assert driver.jobs == [[0], [2, 1]]


def test_one_that_fails_does_not_take_others_with_it() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def run(partitions: list[int]) -> Sequence[Any]:
        begun.set()
        assert go_on.wait(LIMIT_S)
        if 1 in partitions:
            raise RuntimeError("the file is not there")
        return [answer(number) for number in partitions]

    driver = Driver(run)
    again = repeater(driver)
    again(count(100))
    assert begun.wait(LIMIT_S)
    again(count(101))
    again(count(102))
    go_on.set()
    driver.wait_told(3)

    assert driver.jobs == [[0], [1, 2], [1], [2]]
    assert why(driver, 1).endswith("failed: RuntimeError: the file is not there")
    assert isinstance(driver.told[count(102)], list)


def test_an_executor_without_a_node_and_a_node_that_died_cost_another_job() -> None:
    first = [[note(0, NO_NODE)], [answer(0, node=DEAD)], [answer(0)]]
    driver = Driver(lambda partitions: first[len(driver.jobs) - 1])
    repeater(driver)(count(100))
    driver.wait_told(1)

    assert driver.jobs == [[0]] * 3
    assert isinstance(driver.told[count(100)], list)


def test_where_no_executor_has_a_node_that_is_told_in_the_end() -> None:
    driver = Driver(lambda partitions: [note(number, NO_NODE) for number in partitions])
    repeater(driver)(count(100))
    driver.wait_told(1)

    assert len(driver.jobs) == MOST_JOBS
    assert "no executor with a node that lives" in why(driver, 0)


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ([note(0, CHANGED, rows=7)], "gave 7 rows instead of 10"),
        ([], "gave 0 rows instead of 10"),
        ([answer(0, sample=6)], "other ones, or in another order"),
        ([answer(0, object=object_id(TRANSFER + (555).to_bytes(5, "big")))], "PYSPARK_PIN_THREAD"),
    ],
)
def test_a_partition_that_is_not_what_it_was_is_refused(answers: list[Any], text: str) -> None:
    driver = Driver(lambda partitions: answers)
    repeater(driver)(count(100))
    driver.wait_told(1)

    assert text in why(driver, 0)


def test_a_stopped_spark_context_is_told() -> None:
    def run(partitions: list[int]) -> Sequence[Any]:
        driver._jsc = None
        raise AttributeError("'NoneType' object has no attribute 'sc'")

    driver = Driver(run)
    repeater(driver)(count(100))
    driver.wait_told(1)

    assert why(driver, 0) == "the SparkContext that computed it was stopped"


def test_tasks_are_told_by_a_property_that_has_no_token() -> None:
    nodes = (Place(ALIVE, "/folder", Identity(7, 5.0)), Place(DEAD, "/other", None))
    text = as_property(TRANSFER, Places(nodes, b"secret"), {3: Former(103, (5, 5))})
    assert b"secret".hex() not in text
    assert "secret" not in text

    class Context:
        def getLocalProperty(self, name: str) -> str | None:
            return text if name == PROPERTY else None

        def partitionId(self) -> int:
            return 3

    assert order_for(Context(), TRANSFER, b"secret") == (Places(nodes, b"secret"), Former(103, (5, 5)))
    assert order_for(Context(), TRANSFER[:-1] + b"\x08", b"secret") is None


def test_a_sample_sees_another_order_and_not_what_lies_under_a_null() -> None:
    table = pa.table({"a": pa.array(range(100)), "b": [{"x": [str(n)]} for n in range(100)]})
    assert sample(table) == sample(pa.concat_tables([table.slice(0, 30), table.slice(30)]))
    assert sample(table) != sample(table.sort_by([("a", "descending")]))
    mask = pa.py_buffer(b"\1")
    under = [pa.Array.from_buffers(pa.int64(), 2, [mask, pa.py_buffer(byte * 16)]) for byte in (b"\0", b"\7")]
    ones = [pa.table({"a": array.slice(1)}) for array in under]
    assert ones[0]["a"].to_pylist() == [None]
    assert sample(ones[0]) == sample(ones[1])


def test_nothing_runs_when_the_session_has_ended() -> None:
    driver = Driver(lambda partitions: [])

    def ask(to: ProcessId, what: str) -> Any:
        raise RaySystemError("the session ended")

    driver.ask = ask  # type: ignore[method-assign]
    repeater(driver)(count(100))
    driver.wait_told(1)
    assert driver.freed_on == [set()]


def test_no_more_jobs_run_when_the_session_ends_meanwhile() -> None:
    def run(partitions: list[int]) -> Sequence[Any]:
        driver.owner.ended = "its end"
        return [note(number, NO_NODE) for number in partitions]

    driver = Driver(run)
    repeater(driver)._make([count(100)])
    assert driver.jobs == [[0]]
    assert driver.told == {}


def test_a_block_of_another_dataset_that_its_job_lacks_is_waited_for() -> None:
    other = object_id(ME + (7).to_bytes(8, "big"), 0)
    entry = Entry(ME, 7)
    waited: list[list[Entry]] = []

    def wait(entries: list[Entry], wanted: int, timeout: float | None) -> None:
        waited.append(entries)
        entry.value = (STORED, 1000, (ALIVE,))

    def run(partitions: list[int]) -> Sequence[Any]:
        if not waited:
            raise RuntimeError(f"in a task:\nsparkray_core.errors.ObjectLostError: {late(other, 'its node died', 1.0)}")
        return [answer(number) for number in partitions]

    driver = Driver(run)
    driver.wait, driver.ref_of = wait, lambda some: SimpleNamespace(_entry=entry)  # type: ignore[attr-defined]
    repeater(driver)._make([count(100)])
    assert driver.jobs == [[0], [0]]
    assert waited == [[entry]]
    assert isinstance(driver.told[count(100)], list)
