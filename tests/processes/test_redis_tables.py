"""The head's tables in a real Redis server: what holds of the file holds of it, and what a server can do besides."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparkray_core.run import journal as journals
from sparkray_core.run import redis_tables
from sparkray_core.run.journal import Journal
from sparkray_core.run.redis_tables import RedisTables, TakenOver, without_password
from sparkray_core.run.tables import JOURNAL, LIFE, SNAPSHOT, MemoryTables, TablesBroken
from tests.marks import slow
from tests.processes.test_journal import World, always, live
from tests.redis_server import PASSWORD, RedisServer, redis_server
from tests.waiting import wait_until

_sessions = (f"session-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as made:
        yield made


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """To be stopped."""
    with redis_server() as made:
        yield made


def opener(server: RedisServer, folder: Path) -> Callable[[], RedisTables]:
    session = next(_sessions)
    return lambda: RedisTables(server.url, session, str(folder))


def test_tables_give_back_what_was_put_there_by_key(server: RedisServer, tmp_path: Path) -> None:
    open_tables = opener(server, tmp_path)
    tables = open_tables()
    tables.commit([(JOURNAL, 2, b"two")])
    tables.commit([(JOURNAL, 1, b"one"), (SNAPSHOT, 1, b"all"), (JOURNAL, 2, b"other"), (LIFE, 0, b"")])
    for again in (tables, open_tables()):
        assert again.load(JOURNAL) == [(1, b"one"), (2, b"other")]
        assert again.load(LIFE) == [(0, b"")]
        last = again

    last.commit([(SNAPSHOT, 7, bytes(range(256)))], {JOURNAL: 2, SNAPSHOT: 7})
    for again in (last, open_tables()):
        assert again.load(JOURNAL) == [(2, b"other")]
        assert again.load(SNAPSHOT) == [(7, bytes(range(256)))]
        newest = again

    newest.destroy()
    for each in (tables, last):
        each.close()
    assert server.keys() == []
    assert os.listdir(tmp_path) == []


def test_sessions_share_a_server_and_each_takes_away_only_its_own(server: RedisServer, tmp_path: Path) -> None:
    one, other = opener(server, tmp_path)(), opener(server, tmp_path)()
    one.commit([(JOURNAL, 1, b"one")])
    other.commit([(JOURNAL, 1, b"other")])
    one.destroy()
    assert other.load(JOURNAL) == [(1, b"other")]
    other.destroy()
    assert server.keys() == []


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_the_head_may_die_at_any_write(server: RedisServer, tmp_path: Path, before: bool) -> None:
    undisturbed = World(always(MemoryTables()))
    expected = live(undisturbed)
    for deadly in range(2, undisturbed.tables.writes + 1):
        world = World(opener(server, tmp_path), lambda write, deadly=deadly: write == deadly, before)  # type: ignore[misc]
        assert live(world) == expected, f"it died at write {deadly}"
        assert world.deaths == 1
        world.tables.tables.destroy()
    assert server.keys() == []


def test_no_life_need_last_longer_than_two_writes(server: RedisServer, tmp_path: Path) -> None:
    world = World(opener(server, tmp_path), lambda write: write % 2 == 0, before=False)
    assert live(world) == live(World(always(MemoryTables())))
    assert world.deaths > 5
    world.tables.tables.destroy()


@pytest.mark.parametrize("before", [*slow(True), False], ids=["before", "after"])
def test_the_head_may_die_while_each_turn_writes_a_snapshot(
    server: RedisServer, tmp_path: Path, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SNAPSHOT_BYTES", 0)
    monkeypatch.setattr(journals, "SNAPSHOT_FACTOR", 0)
    monkeypatch.setattr(journals, "PART_BYTES", 1000)
    world = World(opener(server, tmp_path), lambda write: write % 3 == 0, before)
    assert live(world) == live(World(always(MemoryTables())))
    assert world.deaths > 5
    tables = world.tables.tables
    assert len(tables.load(SNAPSHOT)) > 1
    assert tables.load(JOURNAL) == []
    tables.destroy()


def test_rows_survive_the_kill_of_who_wrote_them(server: RedisServer, tmp_path: Path) -> None:
    writes = textwrap.dedent(
        f"""
        import os, signal, sys
        from sparkray_core.run.redis_tables import RedisTables
        tables = RedisTables(sys.stdin.read(), "killed", {str(tmp_path)!r})
        for number in range(100):
            tables.commit([("journal", number, b"%d" % number * 500)], {{"journal": number - 50}})
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    path = ":".join(filter(None, sys.path))
    done = subprocess.run([sys.executable, "-c", writes], input=server.url.encode(), env={"PYTHONPATH": path})
    assert done.returncode == -signal.SIGKILL

    tables = RedisTables(server.url, "killed", str(tmp_path))
    assert tables.load(JOURNAL) == [(number, b"%d" % number * 500) for number in range(49, 100)]
    tables.destroy()


def test_what_a_head_had_sent_before_another_took_over_is_not_written_any_more(
    server: RedisServer, tmp_path: Path
) -> None:
    open_tables = opener(server, tmp_path)
    before = open_tables()
    before.commit([(JOURNAL, 1, b"one")])
    after = open_tables()
    with pytest.raises(TakenOver):
        before.commit([(JOURNAL, 2, b"two")])
    assert open_tables().load(JOURNAL) == [(1, b"one")]
    before.destroy()
    assert open_tables().load(JOURNAL) == [(1, b"one")]
    after.close()
    open_tables().destroy()


def test_what_nobody_takes_away_goes_by_itself(server: RedisServer, tmp_path: Path) -> None:
    tables = opener(server, tmp_path)()
    tables.commit([(JOURNAL, 1, b"one")])
    (key,) = server.keys()
    assert 0 < tables._redis.ttl(key) <= redis_tables.KEPT_S  # type: ignore[operator,unused-ignore]
    tables._redis.expire(key, 100)
    for turn in range(redis_tables._EXTEND_AFTER):
        tables.commit([(JOURNAL, turn, b"")])
    assert tables._redis.ttl(key) > 100  # type: ignore[operator,unused-ignore]
    tables.destroy()


# ---------------------------------------------------------------------------------- when the server goes away
def test_without_its_server_the_head_goes_on_and_writes_again_when_it_is_back(
    own_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    open_tables = opener(own_server, tmp_path)
    journal = Journal(open_tables, lambda: now[0])
    journal.begin(b"seed")
    journal.note(("one",))
    journal.commit(lambda: b"state 1")
    own_server.stop()
    journal.note(("two",))
    journal.commit(lambda: b"state 2")
    assert "The session goes on" in caplog.text
    assert PASSWORD not in caplog.text

    own_server.start_again()
    now[0] += journals.RETRY_S
    journal.note(("three",))
    journal.commit(lambda: b"state 3")
    journal.note(("four",))
    journal.commit(lambda: b"state 4")
    journal.close()
    assert "are written again" in caplog.text
    later = Journal(open_tables)
    found = later.load()
    assert found is not None
    assert (found.seed, found.snapshot, found.turns) == (b"seed", b"state 3", [[("four",)]])
    later.end()
    assert own_server.keys() == []
    assert os.listdir(tmp_path) == []


def test_an_emptied_server_is_told_of_and_filled_again(server: RedisServer, tmp_path: Path) -> None:
    now = [0.0]
    journal = Journal(opener(server, tmp_path), lambda: now[0])
    journal.begin(b"seed")
    tables = journal._tables
    assert isinstance(tables, RedisTables)
    tables._redis.flushall()
    with pytest.raises(TablesBroken, match="the server was emptied"):
        tables.commit([(JOURNAL, 1, b"")])
    assert server.keys() == []
    journal.note(("one",))
    journal.commit(lambda: b"state 1")
    now[0] += journals.RETRY_S
    journal.note(("two",))
    journal.commit(lambda: b"state 2")
    assert len(server.keys()) == 1
    journal.end()
    assert server.keys() == []


def test_nobody_goes_on_from_what_a_server_has_that_did_not_answer_for_a_while(
    own_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_tables, "REPLY_S", 0.1)
    open_tables = opener(own_server, tmp_path)
    journal = Journal(open_tables)
    journal.begin(b"seed")
    own_server.process.send_signal(signal.SIGSTOP)
    journal.note(("one",))
    journal.commit(lambda: b"state 1")  # goes on: what comes of "one" leaves, and is not written down
    own_server.process.send_signal(signal.SIGCONT)
    wait_until(lambda: len(own_server.keys()) == 1, "the server answers")

    assert Journal(open_tables).load() is None
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------------------------- what cannot be
@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"redis://:{PASSWORD}@127.0.0.1:1/0", "redis://127.0.0.1:1/0 cannot be used: .*refused"),
        (f"redis://:{PASSWORD}@127.0.0.1:port", "that is no URL of a Redis server"),
    ],
)
def test_a_server_that_is_not_there_is_told_of_without_the_password(url: str, words: str, tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="the package redis is not installed")
    with pytest.raises(TablesBroken, match=words) as caught:
        RedisTables(url, "s", str(tmp_path))
    assert PASSWORD not in f"{caught.value!r} {caught.value.__cause__}"


def test_a_wrong_password_is_told_of(server: RedisServer, tmp_path: Path) -> None:
    with pytest.raises(TablesBroken, match="invalid username-password pair"):
        RedisTables(server.url.replace(PASSWORD, "wrong"), "s", str(tmp_path))


def test_without_the_package_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(TablesBroken, match=r"pip install 'sparkray\[redis\]'"):
        RedisTables("redis://localhost", "s", str(tmp_path))


def test_of_a_url_only_the_place_is_shown() -> None:
    assert without_password("rediss://me:secret@host:6379/3?password=secret") == "rediss://host:6379/3"
    assert without_password("unix://:secret@/tmp/a.sock?db=1") == "unix:///tmp/a.sock"
