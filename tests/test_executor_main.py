"""What a task finds out before it starts a node."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from sparkray import executor_main
from sparkray.executor_main import StartOrder, executor_jvm, measure_host
from sparkray.rendezvous import Rendezvous, numeric_address
from sparkray.sizing import UnfitSpark
from sparkray_core.run.config import TOLD_LATER, ProcessTie
from sparkray_core.run.processes import Identity, identify

ORDER = StartOrder(
    session="s",
    token=b"t" * 32,
    curve_public=b"p" * 40,
    curve_secret=b"s" * 40,
    rendezvous=("127.0.0.1", 1),
    barrier=True,
    driver_node=b"driver..",
    nodes=2,
    cores=3,
    resources={"disk": 500},
    labels={"rack": "r1"},
    store_bytes=1 << 20,
    environment={},
    same_machine=True,
    sys_path=("/modules",),
    python_prefix=sys.prefix,
    container_bytes=0,
    cwd="/somewhere",
    namespace="n",
    base_folder="/tmp/b",
    limit_s=5.0,
    settings={"inline_bytes": 5},
)
JVM = Identity(7, 70.0)


def test_the_order_arrives_as_it_was_sent() -> None:
    assert StartOrder(**ORDER.as_dict()) == ORDER


def test_what_is_spilled_goes_where_spark_puts_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(order: StartOrder = ORDER) -> str | None:
        return executor_main._config(order, True, "h:1", 1, JVM).settings.object_spilling_directory

    monkeypatch.setenv("SPARK_LOCAL_DIRS", f"{tmp_path},/nowhere")
    assert folder() == str(tmp_path)
    assert folder(replace(ORDER, settings={"object_spilling_directory": "/wished"})) == "/wished"
    monkeypatch.setenv("SPARK_LOCAL_DIRS", "/nowhere")
    assert folder() is None


def test_secrets_are_not_shown() -> None:
    assert "tttt" not in repr(ORDER)
    assert "ssss" not in repr(ORDER)


def test_the_node_is_tied_to_the_executor_and_the_session_to_the_driver_s_node() -> None:
    head = executor_main._config(ORDER, True, "h:1", 2, JVM)
    other = executor_main._config(ORDER, False, "h:2", 2, JVM)

    assert (head.is_head, head.lives_for, head.tie) == (True, b"driver..", ProcessTie(7, 70.0))
    assert (other.is_head, other.head_address, other.lives_for) == (False, TOLD_LATER, None)
    assert head.resources == {"CPU": 3000, "disk": 500}
    assert (head.host, head.bind_host, head.sys_path, head.cwd) == (
        "127.0.0.1",
        "127.0.0.1",
        ("/modules",),
        "/somewhere",
    )
    assert head.node != other.node


def test_on_another_machine_the_node_is_reached_where_spark_is(monkeypatch: pytest.MonkeyPatch) -> None:
    order = replace(ORDER, same_machine=False, sys_path=(), cores=None)
    monkeypatch.delenv("SPARK_EXECUTOR_POD_IP", raising=False)
    found = executor_main._config(order, True, "127.0.0.2:7", 1, JVM)

    assert (found.host, found.bind_host) == ("127.0.0.2", "127.0.0.2")
    assert found.resources["CPU"] == measure_host().cpus * 1000
    assert found.sys_path == executor_main.module_path()
    monkeypatch.setenv("SPARK_EXECUTOR_POD_IP", "127.0.0.3")
    assert executor_main._config(order, True, "127.0.0.2:7", 1, JVM).host == "127.0.0.3"


def test_an_inherited_limit_of_the_address_space_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (700 << 20, 700 << 20))
    with pytest.raises(UnfitSpark, match=r"Unset spark\.executor\.pyspark\.memory"):
        executor_main._config(ORDER, True, "h:1", 1, JVM)


class Fake:
    """As much of a `psutil.Process` as is asked for."""

    def __init__(self, name: str, *command: str) -> None:
        self.pid = os.getpid()
        self._name, self._command = name, list(command)

    def name(self) -> str:
        return self._name

    def cmdline(self) -> list[str]:
        return self._command


@pytest.mark.parametrize("above", [[Fake("python", "python", "-m", "pyspark.daemon"), Fake("java")], [Fake("java")]])
def test_the_jvm_is_found_with_and_without_the_daemon(above: list[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "parents", lambda _: above)
    assert executor_jvm() == identify(os.getpid())


def test_a_jvm_by_another_name_is_who_started_spark_s_python(monkeypatch: pytest.MonkeyPatch) -> None:
    above = [Fake("python", "python", "-m", "pyspark.daemon"), Fake("launcher", "/opt/launcher"), Fake("bash")]
    monkeypatch.setattr(above[2], "pid", -1)
    monkeypatch.setattr(psutil.Process, "parents", lambda _: above)
    assert executor_jvm() == identify(os.getpid())


def test_outside_of_an_executor_there_is_no_jvm(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: list[Any] = []
    monkeypatch.setattr(psutil.Process, "parents", lambda _: nothing)
    with pytest.raises(UnfitSpark, match="no JVM among its parents"):
        executor_jvm()


def test_this_host_has_cpus_and_memory() -> None:
    host = measure_host()

    assert host.cpus >= 1
    assert host.memory_bytes > 64 << 20


def test_names_become_addresses_and_unknown_ones_are_told() -> None:
    assert numeric_address("localhost") == "127.0.0.1"
    with pytest.raises(UnfitSpark, match=r"no\.such\.host\.invalid"):
        numeric_address("no.such.host.invalid")
    with pytest.raises(UnfitSpark, match=r"spark\.driver\.host"):
        Rendezvous("192.0.2.77", b"t" * 32)
