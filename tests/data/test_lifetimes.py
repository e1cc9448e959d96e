"""What a DataFrame of Spark reads is held, and made again when it is lost: the driver's half, without Spark."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sparkray import session
from sparkray.data import lifetimes
from sparkray_core.ids import NodeId
from sparkray_core.messages import STORED, NodeGone
from sparkray_core.run.core import Core
from sparkray_core.run.object_ref import ObjectRef
from tests.waiting import wait_until

ELSEWHERE = NodeId(b"elsewher")
_counts = itertools.count(1 << 63 | 1 << 62)


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """The DataFrames that the JVM has collected."""
    collected: list[object] = []
    monkeypatch.setattr(lifetimes, "_watch", lambda frame: lambda: frame in collected)
    monkeypatch.setattr(lifetimes, "_is_worth_it", lambda frame: True)
    yield collected
    monkeypatch.setattr(lifetimes, "_kept", [])


def delivered(core: Core, asked: list[int]) -> ObjectRef[Any]:
    """A block on a node elsewhere; should it be made again, its number is noted."""
    (ref,) = core.deliver(next(_counts), "from_spark", [(STORED, 1000, (ELSEWHERE,))], asked.append)
    return ref


def lose_it(core: Core) -> None:
    with core.lock:
        core.handlers[NodeGone](core.raylet_id, NodeGone(ELSEWHERE, "a test says so"))


def made_again(core: Core, *counts: int) -> None:
    for count in counts:
        core.made_again(count, ("MAKER_FAILED", "this is a test"), [])


def test_lost_blocks_of_a_dataframe_are_made_again_though_nobody_asks_for_them(ray: Any, gone: list[object]) -> None:
    core, asked = session.core(), list[int]()
    read, other = delivered(core, asked), delivered(core, asked)
    lifetimes.keep_alive("frame", [read])  # type: ignore[arg-type]
    lose_it(core)

    wait_until(lambda: asked == [read._entry.count], f"only the one that is read is made again, not {asked}")
    assert other._entry.value is None
    made_again(core, *asked)


def test_those_of_a_dataframe_that_is_gone_are_not(ray: Any, gone: list[object]) -> None:
    core, asked = session.core(), list[int]()
    first, second = delivered(core, asked), delivered(core, asked)
    lifetimes.keep_alive("kept", [second])  # type: ignore[arg-type]
    lifetimes.keep_alive("gone", [first])  # type: ignore[arg-type]
    gone.append("gone")
    lose_it(core)

    wait_until(lambda: asked == [second._entry.count], f"only the one that may be read is made again, not {asked}")
    made_again(core, *asked)


def spark(settings: dict[str, str]) -> Any:
    return SimpleNamespace(sparkContext=SimpleNamespace(getConf=lambda: settings))


@pytest.mark.parametrize(
    ("frame", "at_once"),
    [
        (SimpleNamespace(_jdf=None, sparkSession=spark({})), True),
        (SimpleNamespace(_jdf=None, sparkSession=spark({"spark.dynamicAllocation.enabled": "true"})), False),
    ],
)
def test_nothing_is_made_again_at_once_where_nobody_may_want_it(frame: Any, at_once: bool) -> None:
    assert lifetimes._is_worth_it(frame) == at_once


def test_nor_where_nobody_can_tell_whether_the_dataframe_is_there(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark Connect's; its blocks are held to the session's end."""
    monkeypatch.setattr(lifetimes, "_kept", [])
    frame: Any = SimpleNamespace(sparkSession=None)
    core, asked = session.core(), list[int]()
    lifetimes.keep_alive(frame, [delivered(core, asked)])
    lifetimes.let_go()
    (kept,) = lifetimes._kept
    assert not kept.at_once
    assert not kept.is_gone()
