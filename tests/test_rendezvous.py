"""The driver and the tasks meet; nobody else gets a word in."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkray.rendezvous import LONGEST_LINE, NONCE, Left, Lines, Meeting, MeetingEnded, Refused, Rendezvous, Said

TOKEN = b"t" * 32
FACTS = {"kind": "here", "numbers": [1, 2.5], "nothing": None, "text": "ä\n"}


@pytest.fixture
def rendezvous() -> Iterator[Rendezvous]:
    with Rendezvous("127.0.0.1", TOKEN) as made:
        yield made


def pair(driver_token: bytes = TOKEN, task_token: bytes = TOKEN) -> tuple[Lines, Lines]:
    driver, task = Lines(driver_token, is_driver=True), Lines(task_token, is_driver=False)
    assert driver.read(task.greeting()) == task.read(driver.greeting()) == []
    return driver, task


def wait_for(rendezvous: Rendezvous, count: int, limit: float = 5.0) -> list[Said | Left]:
    events: list[Said | Left] = []
    deadline = time.monotonic() + limit
    while len(events) < count:
        assert time.monotonic() < deadline, f"only {events} within {limit} s"
        events += rendezvous.wait(0.05)
    return events


def join(rendezvous: Rendezvous, token: bytes = TOKEN) -> Meeting:
    """The driver's greeting is sent when it accepts, so it has to wait meanwhile."""
    joined: list[Meeting | Exception] = []

    def run() -> None:
        try:
            joined.append(Meeting.join(("127.0.0.1", rendezvous.port), token))
        except MeetingEnded as error:
            joined.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        assert rendezvous.wait(0.01) == []
    thread.join()
    assert isinstance(joined[0], Meeting)
    return joined[0]


def test_facts_arrive_in_both_directions() -> None:
    driver, task = pair()

    assert driver.read(task.write(FACTS) + task.write({})) == [FACTS, {}]
    assert task.read(driver.write(FACTS)) == [FACTS]


@given(st.lists(st.integers(1, 200), max_size=20))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts: list[int]) -> None:
    driver, task = Lines(TOKEN, is_driver=True), Lines(TOKEN, is_driver=False)
    task.read(driver.greeting())
    stream = task.greeting() + task.write(FACTS) + task.write({"n": 2})
    heard = []
    for cut in [*cuts, len(stream)]:
        heard += driver.read(stream[:cut])
        stream = stream[cut:]

    assert heard == [FACTS, {"n": 2}]


def test_another_token_is_refused() -> None:
    driver, task = pair(task_token=b"x" * 32)

    with pytest.raises(Refused, match="not made with this session's token"):
        driver.read(task.write(FACTS))


def test_a_line_cannot_be_said_twice_nor_changed_nor_turned_around() -> None:
    for spoil in (
        lambda line: line + line,
        lambda line: line.replace(b"2.5", b"2.6"),
        lambda line: b"\n",
        lambda line: line[:70] + b"\n",
    ):
        driver, task = pair()
        with pytest.raises(Refused):
            driver.read(spoil(task.write(FACTS)))
    driver, task = pair()
    with pytest.raises(Refused):
        task.read(task.write(FACTS))


def test_a_line_of_an_earlier_connection_is_refused() -> None:
    _, earlier = pair()
    recorded = earlier.write(FACTS)
    driver, _ = pair()

    with pytest.raises(Refused):
        driver.read(recorded)


def test_what_is_no_greeting_is_refused() -> None:
    with pytest.raises(Refused, match="does not speak"):
        Lines(TOKEN, is_driver=True).read(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n")


def test_nothing_is_parsed_before_it_was_authenticated(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, task = pair(task_token=b"x" * 32)
    line = task.write(FACTS)
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("parsed"))

    with pytest.raises(Refused):
        driver.read(line)


def test_an_endless_line_is_refused() -> None:
    driver, _ = pair()
    assert driver.read(b"x" * LONGEST_LINE) == []
    with pytest.raises(Refused, match="longer than"):
        driver.read(b"x")


def test_driver_and_task_talk(rendezvous: Rendezvous) -> None:
    with join(rendezvous) as meeting:
        meeting.say(FACTS)
        (said,) = wait_for(rendezvous, 1)
        assert isinstance(said, Said)
        assert said.facts == FACTS
        rendezvous.say(said.guest, {"kind": "start"})
        assert meeting.hear(5) == {"kind": "start"}
    assert wait_for(rendezvous, 1) == [Left(said.guest)]


def test_several_tasks_are_told_apart(rendezvous: Rendezvous) -> None:
    with join(rendezvous) as first, join(rendezvous) as second:
        first.say({"n": 1})
        second.say({"n": 2})
        for said in wait_for(rendezvous, 2):
            assert isinstance(said, Said)
            rendezvous.say(said.guest, {"you": said.facts["n"]})
        assert (first.hear(5), second.hear(5)) == ({"you": 1}, {"you": 2})


def test_a_stranger_is_sent_away_and_the_others_go_on(rendezvous: Rendezvous, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", rendezvous.port)) as stranger, join(rendezvous) as friend:
        stranger.sendall(b"0" * (2 * NONCE) + b"\n" + b"0" * 64 + b' {"kind": "ready"}\n')
        friend.say(FACTS)
        (said,) = wait_for(rendezvous, 1)
        assert isinstance(said, Said)
        assert said.facts == FACTS
        while rendezvous.wait(0.05):
            pass
        stranger.settimeout(5)
        with pytest.raises(ConnectionError):  # noqa: PT012 - the nonce comes first
            while stranger.recv(100):
                pass
            raise ConnectionResetError
    assert "was refused" in caplog.text


def test_a_task_hears_that_the_driver_is_gone() -> None:
    with Rendezvous("127.0.0.1", TOKEN) as rendezvous:
        meeting = join(rendezvous)
    with meeting, pytest.raises(MeetingEnded):
        meeting.hear(5)


def test_a_task_does_not_wait_for_ever(rendezvous: Rendezvous) -> None:
    with join(rendezvous) as meeting, pytest.raises(MeetingEnded, match="said nothing in time"):
        meeting.hear(0.05)


def test_a_task_that_cannot_reach_the_driver_says_what_to_look_at() -> None:
    with Rendezvous("127.0.0.1", TOKEN) as gone:
        port = gone.port
    with pytest.raises(MeetingEnded, match=r"spark\.driver\.host"):
        Meeting.join(("127.0.0.1", port), TOKEN)


def test_another_thread_can_wake_the_driver(rendezvous: Rendezvous) -> None:
    rendezvous.wake()
    assert rendezvous.wait(3600) == []
