"""SIGKILL while the nodes start: that is told, or the start is through; nothing is left, and the next one works."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyspark import SparkContext

import sparkray
from sparkray import RayContext
from sparkray.exceptions import RaySystemError
from sparkray.spark_facts import wait_for_executors
from sparkray_core.run.config import default_base_folder

from .conftest import START_S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * START_S)]
GONE_S = 10.0


def node_processes() -> list[psutil.Process]:
    """Of all nodes below this run's folder, but the driver's own."""
    own = {child.pid for child in psutil.Process().children()}
    found = []
    for path in Path(default_base_folder()).glob("*/*/keeper.json"):
        # Where a start failed, the file is gone again, or the process is.
        with suppress(FileNotFoundError, psutil.NoSuchProcess):
            pid = json.loads(path.read_text())["pid"]
            if pid not in own:
                keeper = psutil.Process(pid)
                found += [keeper, *keeper.children(recursive=True)]
    return found


def of_executor(sc: SparkContext) -> list[psutil.Process]:
    """Their JVMs: what the driver's started, its launchers left out."""
    java: Any = sc._jvm
    jvm = psutil.Process(int(java.java.lang.ProcessHandle.current().pid()))
    return [one for one in jvm.children(recursive=True) if one.name() == "java"]


def kill_one(victims: Callable[[], list[psutil.Process]], name: str, over: threading.Event) -> None:
    """As soon as there is one."""
    while not over.wait(0.005):
        for one in victims():
            with suppress(psutil.NoSuchProcess):
                if one.name() == name:
                    one.send_signal(signal.SIGKILL)
                    return


@pytest.fixture(autouse=True)
def spark_is_whole(cluster_sc: SparkContext) -> Iterator[None]:
    wait_for_executors(cluster_sc, 2, time.monotonic() + START_S)
    yield
    wait_for_executors(cluster_sc, 2, time.monotonic() + START_S)


@pytest.mark.parametrize("victim", ["sparkray-keeper", "sparkray-raylet", "sparkray-head", "sparkray-zygote", "java"])
def test_a_kill_during_the_start_is_told_and_leaves_nothing(cluster_sc: SparkContext, victim: str) -> None:
    over = threading.Event()
    find = (lambda: of_executor(cluster_sc)) if victim == "java" else node_processes
    killer = threading.Thread(target=kill_one, args=(find, victim, over))
    ctx = RayContext(cluster_sc, object_store_memory="64m", start_timeout=START_S)
    killer.start()
    try:
        # It may be through before the blow falls: then the session ends, or goes on without the node.
        with suppress(RaySystemError):
            ctx.init()
    finally:
        over.set()
        killer.join()
        ctx.stop()
    assert not sparkray.is_initialized()
    deadline = time.monotonic() + GONE_S
    while left := [str(path) for path in Path(default_base_folder()).glob("*/*")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)

    wait_for_executors(cluster_sc, 2, time.monotonic() + START_S)
    with RayContext(cluster_sc, object_store_memory="64m", start_timeout=START_S):
        assert sparkray.get(sparkray.remote(os.getpid).remote(), timeout=START_S)
