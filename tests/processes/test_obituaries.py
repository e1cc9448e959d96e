"""What a driver knows of nodes that are gone, and how errors come to say it."""

from __future__ import annotations

import logging

from sparkray_core.messages import FAILED
from sparkray_core.run.obituaries import KEPT_LINES, MOST_LINES_A_SECOND, Obituaries, Words
from sparkray_core.testing.builders import node_id

A, B = node_id("a"), node_id("b")


def test_an_error_that_names_a_dead_node_says_what_is_known_of_its_end() -> None:
    known = Obituaries()
    heard: list[tuple[bytes, str]] = []
    known.on_gone = lambda node, why: heard.append((node, why))
    text = f"the worker that ran f() ended before it answered (its node {A.hex()} died: silent), and no retry is left."
    known.said(A, ["10:00:00 WARNING memory: 590 of 600 MiB are in use", "10:00:01 WARNING one\nof two lines"])
    assert known.completed(text) == text  # it lives: another node's error may name it

    known.gone(A, "silent")
    known.gone(A, "silent, told twice")
    words = (
        f"\n  The last that node {A.hex()} has warned of:"
        "\n    10:00:00 WARNING memory: 590 of 600 MiB are in use\n    10:00:01 WARNING one\n    of two lines"
    )
    assert known.completed(text) == text + words
    known.explain(A, "Spark says of executor 1: Command exited with code 137")
    known.explain(B, "lives")
    assert known.completed(text) == f"{text}\n  Spark says of executor 1: Command exited with code 137{words}"
    assert known.completed(f"node {B.hex()} died") == f"node {B.hex()} died"
    assert heard == [(A, "silent")]


def test_of_the_values_of_objects_only_failures_are_completed() -> None:
    known = Obituaries()
    failure = (FAILED, "ActorDiedError", f"its node {A.hex()} died: silent", "id", False)
    assert known.completed_failure(failure) == failure
    known.gone(A, "silent")
    known.explain(A, "Spark says so")

    completed = known.completed_failure(failure)

    assert completed == (FAILED, "ActorDiedError", f"its node {A.hex()} died: silent\n  Spark says so", "id", False)
    assert known.completed_failure(b"value") == b"value"


def test_the_end_of_a_session_is_put_down_to_its_head_s_node_if_that_is_why() -> None:
    for why in (f"the head was on node {A.hex()}: ended", "the master is gone: it has not answered for 10.0 s"):
        known = Obituaries()
        known.head = A
        known.session_ended(why)
        known.explain(A, "Spark says so")
        assert known.completed("the sparkray session ended: x") == "the sparkray session ended: x\n  Spark says so"
    known = Obituaries()
    known.head = A
    known.session_ended("RayContext.stop() was called")
    known.explain(A, "Spark says so")
    assert known.completed("the sparkray session ended: x") == "the sparkray session ended: x"


def test_few_words_are_kept_and_few_are_sent() -> None:
    now = [0.5]
    words = Words(lambda: now[0])
    log = logging.Logger("a process's")
    log.addHandler(words)
    log.info("no warning")
    for number in range(2 * MOST_LINES_A_SECOND):
        log.warning("line %d", number)
    first = words.fetch()
    now[0] = 1.5
    log.error("%s", "x" * 5000)
    (last,) = words.fetch()

    assert [line.split(" ", 1)[1] for line in first] == [f"WARNING line {n}" for n in range(MOST_LINES_A_SECOND)]
    assert len(last) == 1000
    assert words.fetch() == []
    known = Obituaries()
    known.said(A, first)
    known.said(A, ["the last"])
    assert known.last_words(A) == [*first[-KEPT_LINES + 1 :], "the last"]
