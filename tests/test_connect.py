"""What a Spark that is reached by Spark Connect tells, with a session that only looks like one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sparkray import connect
from sparkray.connect import ConnectSpark
from sparkray.connect_main import machine
from sparkray.launch import StartFailed
from sparkray.sizing import UnfitSpark

Answer = Callable[[], list[SimpleNamespace]]


class Conf:
    def __init__(self, settings: dict[str, str]) -> None:
        self.settings = settings

    @property
    def getAll(self) -> dict[str, str]:
        return self.settings

    def get(self, name: str, default: str | None = None) -> str | None:
        return self.settings.get(name, default)


class Session:
    """Answers each `mapInArrow` with the next of `answers`."""

    is_stopped = False

    def __init__(self, settings: dict[str, str], answers: Any = (), host: str = "127.0.0.1") -> None:
        self.conf = Conf(settings)
        self.client = SimpleNamespace(host=host)
        self.answers = iter(answers)
        self.asked: list[int] = []
        self.shipped: list[str] = []
        self.tags: list[str] = []

    def sql(self, _: str) -> Any:
        plan = "== Physical Plan ==\n*(1) Range (0, 10, step=1, splits=6)\n"
        return SimpleNamespace(collect=lambda: [(plan,)])

    def range(self, _begin: int, _end: int, _step: int, partitions: int) -> Any:
        self.asked.append(partitions)
        answer = next(self.answers)
        return SimpleNamespace(mapInArrow=lambda *_, **__: SimpleNamespace(collect=answer))

    def addTag(self, tag: str) -> None:
        self.tags.append(tag)

    def removeTag(self, tag: str) -> None:
        self.tags.remove(tag)

    def interruptTag(self, tag: str) -> None:
        self.tags.append(f"interrupted {tag}")

    def addArtifacts(self, path: str, *, pyfile: bool) -> None:
        assert pyfile
        self.shipped.append(path)


def seen(*executors: tuple[str, int, int | None]) -> Answer:
    """By (machine, pid, cores)."""
    return lambda: [SimpleNamespace(machine=where, pid=pid, start=1.0, cores=cores) for where, pid, cores in executors]


def failing(said: str) -> Answer:
    def fail() -> list[SimpleNamespace]:
        raise RuntimeError(said)

    return fail


def test_executors_are_counted_by_those_that_tasks_have_seen() -> None:
    spark = Session(
        {"spark.master": "spark://a:1", "spark.task.cpus": "2"}, [seen(("a", 1, 4), ("a", 1, 4), ("b", 1, 3))]
    )
    found = ConnectSpark(spark, 5)
    assert (found.executors(), found.total_slots(), found.same_machine) == (2, 3, False)
    assert found._seen is not None
    found._seen = replace(found._seen, at=0.0)
    assert found.slots("sparkray-a-start-that-is-late").total == 3
    assert spark.asked == [6]  # as many tasks as Spark has cores, and one look for the three questions
    assert spark.tags == []


def test_a_look_is_not_believed_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=2 * connect.FRESH_S)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    found = ConnectSpark(Session({"spark.master": "yarn"}, [seen(("a", 1, 1)), seen(("a", 1, 1), ("b", 2, 1))]), 5)
    assert [found.executors(), found.executors()] == [1, 2]


@pytest.mark.parametrize(
    ("master", "cores", "slots"),
    [("local[3]", None, 3), ("local[*]", None, None), ("yarn", None, None), ("yarn", 2, 2)],
)
def test_slots_are_those_of_the_master_or_of_the_command_lines(
    master: str, cores: int | None, slots: int | None
) -> None:
    found = ConnectSpark(Session({"spark.master": master}, [seen((machine(), 1, cores))]), 5)
    assert found.total_slots() == slots
    assert found.same_machine
    assert found.slots().held is None


def test_sparkray_is_sent_to_executors_that_lack_it_once() -> None:
    missing = failing("sparkray is missing here: no module (python3)<end>")
    spark = Session({"spark.master": "yarn"}, [missing, seen(("a", 1, 1))])
    assert ConnectSpark(spark, 5).executors() == 1
    (path,) = spark.shipped
    assert path.endswith(".zip")

    spark = Session({"spark.master": "yarn"}, [missing, missing, missing])
    found = ConnectSpark(spark, 5)
    for _ in range(2):
        with pytest.raises(StartFailed, match="Install sparkray there"):
            found.executors()
    assert len(spark.shipped) == 1


def test_what_spark_says_of_a_look_is_told() -> None:
    found = ConnectSpark(Session({"spark.master": "yarn"}, [failing('Cannot run program "python9": no')]), 5)
    with pytest.raises(StartFailed, match="the executors cannot run python9"):
        found.executors()


def test_a_look_has_a_limit_and_is_ended_then() -> None:
    import threading

    over = threading.Event()

    def wait() -> list[SimpleNamespace]:
        over.wait(30)
        return []

    spark = Session({"spark.master": "yarn"}, [wait])
    with pytest.raises(UnfitSpark, match=r"did not run a first task within 0\.05 s"):
        ConnectSpark(spark, 0.05).executors()
    assert [tag for tag in spark.tags if tag.startswith("interrupted sparkray-look-")]
    over.set()


def test_executors_reach_the_client_where_it_reaches_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARK_LOCAL_IP", raising=False)
    monkeypatch.setattr(connect, "own_address", lambda host: {"far": "10.1.2.3", "127.0.0.1": "127.0.0.1"}[host])
    assert ConnectSpark(Session({}, host="far"), 5).reached_at(False) == ("10.1.2.3", "10.1.2.3")
    assert ConnectSpark(Session({}, host="far"), 5).reached_at(True) == ("127.0.0.1", "127.0.0.1")
    with pytest.raises(UnfitSpark, match="set SPARK_LOCAL_IP"):
        ConnectSpark(Session({}), 5).reached_at(False)
    monkeypatch.setenv("SPARK_LOCAL_IP", "10.9.9.9")
    assert ConnectSpark(Session({}), 5).reached_at(False) == ("10.9.9.9", "10.9.9.9")


def test_a_session_of_an_older_pyspark_is_refused() -> None:
    with pytest.raises(TypeError, match="from PySpark 4 on"):
        ConnectSpark(SimpleNamespace(conf=SimpleNamespace()), 5)
