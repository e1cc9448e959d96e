"""Blocks live as long as a Spark DataFrame that reads them, although Spark knows nothing of references or of losses.

A DataFrame is computed whenever Spark likes, and so are those that are derived from it, after Python has forgotten the
first one. What all of them have in common is, in the JVM, the function that reads the blocks. A weak reference there
tells when the JVM's collector has taken that function away; then the blocks may go too.

Those that are lost are made again at once, not when a task of Spark's wants them: it would wait in a slot, and the job
that makes them needs one. A job that comes later is behind that one in Spark's queue.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkray_core.errors import RayError
from sparkray_core.run import object_ref
from sparkray_core.run.core import Core
from sparkray_core.run.object_ref import ObjectRef

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True, slots=True)
class _Kept:
    core: Core
    refs: Sequence[ObjectRef[Any]]
    is_gone: Callable[[], bool]
    at_once: bool  # what is lost is made again


_kept: list[_Kept] = []
_lock = threading.Lock()


def keep_alive(frame: DataFrame, refs: Sequence[ObjectRef[Any]]) -> None:
    """Hold the references until no DataFrame made of this one, the result of `mapInArrow`, can be computed any more.

    Where the JVM cannot be asked (Spark Connect, and services that let nobody), until the session ends.
    """
    let_go()
    core = object_ref.core()
    core.on_node_gone = lambda: _on_node_gone(core)
    is_gone = _watch(frame)
    with _lock:
        _kept.append(_Kept(core, refs, is_gone or _nobody_knows, is_gone is not None and _is_worth_it(frame)))


def let_go() -> None:
    """Drop the references of DataFrames that are gone, and those of sessions that have ended."""
    with _lock:
        here = object_ref.current
        _kept[:] = [kept for kept in _kept if kept.core is here and not kept.is_gone()]


def _on_node_gone(core: Core) -> None:
    """With the core's lock held; the JVM, which `let_go` asks, may take long."""
    threading.Thread(target=_make_again, args=(core,), daemon=True, name="sparkray-lost").start()


def _make_again(core: Core) -> None:
    let_go()
    with _lock:
        entries = [ref._entry for kept in _kept if kept.core is core and kept.at_once for ref in kept.refs]
    with contextlib.suppress(RayError):  # the session ends
        core.wait(entries, len(entries), 0)  # which has lost ones made again


def _is_worth_it(frame: DataFrame) -> bool:
    """Not with dynamic allocation: Spark takes executors away because nobody uses them, and would have to start one
    again for this, over and over."""
    return frame.sparkSession.sparkContext.getConf().get("spark.dynamicAllocation.enabled", "false") != "true"


def _nobody_knows() -> bool:
    return False


def _watch(frame: DataFrame) -> Callable[[], bool] | None:
    """Tells when it is gone. None where nobody can tell: then what is lost is not made again unasked, either."""
    from py4j.protocol import Py4JError

    jdf, session = getattr(frame, "_jdf", None), frame.sparkSession
    jvm = getattr(session, "_jvm", None)
    if jdf is None or jvm is None:
        return None
    weak: Any = None
    for name in ("functionExpr", "func"):  # Spark 4, Spark 3
        with contextlib.suppress(Py4JError):
            function = getattr(jdf.queryExecution().analyzed(), name)().func()
            weak = jvm.java.lang.ref.WeakReference(function, jvm.java.lang.ref.ReferenceQueue())
            break
    if weak is None:
        return None

    def is_gone() -> bool:
        try:
            return bool(weak.isEnqueued())  # not get(): what it returns is held by the gateway for a while
        except (Py4JError, OSError):  # the SparkContext was stopped, or the JVM has ended
            return True

    return is_gone
