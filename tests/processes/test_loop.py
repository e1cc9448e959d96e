"""The loop calls back who waited, keeps its timers apart, and handles signals between two polls."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from sparkray_core.run.loop import Loop


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_who_waits_is_called_until_the_loop_is_stopped(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    seen: list[str] = []

    def read() -> None:
        seen.append(one.recv(100).decode())
        if seen[-1] == "last":
            loop.stop()
        else:
            other.send(b"last")

    loop.watch(one.fileno(), read)
    other.send(b"first")
    loop.run(after=lambda: seen.append("after"))

    assert seen == ["after", "first", "after", "last", "after"]


def test_writing_is_waited_for_only_when_wanted(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    one, _ = pair
    seen: list[str] = []

    def write() -> None:
        seen.append("writable")
        loop.want_write(one.fileno(), wanted=False)
        loop.timer(loop.stop).wake_at(loop.clock() + 0.01)

    loop.watch(one.fileno(), lambda: seen.append("readable"), write)
    loop.want_write(one.fileno(), wanted=True)
    loop.run(after=lambda: None)

    assert seen == ["writable"]


def test_who_was_closed_in_the_same_turn_is_not_called(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def close_both() -> None:
        called.append(1)
        for ours, _ in pairs:
            loop.forget(ours.fileno())
        loop.stop()

    for ours, theirs in pairs:
        loop.watch(ours.fileno(), close_both)
        theirs.send(b"x")
    loop.run(after=lambda: None)
    for sock in (sock for pair in pairs for sock in pair):
        sock.close()

    assert called == [1]


def test_a_timer_rings_once_at_the_earliest_wish_and_none_rings_for_another(loop: Loop) -> None:
    rung: list[str] = []
    began = loop.clock()
    early, late = loop.timer(lambda: rung.append("early")), loop.timer(loop.stop)
    early.wake_at(began + 10)
    early.wake_at(began + 0.01)
    late.wake_at(began + 0.03)

    loop.run(after=lambda: None)

    assert rung == ["early"]
    assert early.at == float("inf")
    assert 0.03 <= loop.clock() - began < 5


def test_signal_is_handled_in_the_loop(loop: Loop) -> None:
    seen: list[str] = []
    before = signal.getsignal(signal.SIGUSR1)

    def handle() -> None:
        seen.append("handled")
        loop.stop()

    loop.catch({signal.SIGUSR1: handle})
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        seen.append("sent")
        loop.run(after=lambda: None)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert seen == ["sent", "handled"]
