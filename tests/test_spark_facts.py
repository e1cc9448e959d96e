"""What Spark's errors mean."""

from __future__ import annotations

import pytest

from sparkray.spark_facts import ctrl_c_is_told


def break_a_call() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise OSError("Gateway must be connected to send cancel cmd.")  # noqa: B904 - as py4j does


def test_a_ctrl_c_that_broke_a_call_to_the_jvm_is_a_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), ctrl_c_is_told():
        break_a_call()
    with pytest.raises(OSError, match="no JVM"), ctrl_c_is_told():
        raise OSError("no JVM")
