"""A node's logs shown at the output of a pod."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkray_core.run.following import Follower


@pytest.fixture
def pipe() -> Iterator[tuple[int, str]]:
    """Its end to read from, and the path of the other, as that of a process's output."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield read, f"/proc/{os.getpid()}/fd/{write}"
    with contextlib.suppress(OSError):
        os.close(read)
    os.close(write)


def test_whole_lines_are_shown_once_with_their_process_in_front(tmp_path: Path, pipe: tuple[int, str]) -> None:
    read, place = pipe
    follower = Follower(str(tmp_path), place)
    (tmp_path / "raylet.log").write_text("one\ntwo\nthr")
    (tmp_path / "worker-1.out").write_text("said\n")
    follower.follow()
    assert os.read(read, 1000) == b"[sparkray raylet] one\n[sparkray raylet] two\n[sparkray worker-1] said\n"
    follower.follow()
    with pytest.raises(BlockingIOError):
        os.read(read, 1000)
    with open(tmp_path / "raylet.log", "a") as log:
        log.write("ee\n")
    follower.close()
    assert os.read(read, 1000) == b"[sparkray raylet] three\n"


def test_a_reader_that_is_slow_is_not_waited_for_and_gets_all(tmp_path: Path, pipe: tuple[int, str]) -> None:
    read, place = pipe
    follower = Follower(str(tmp_path), place)
    lines = [f"{number:06d}" for number in range(40_000)]
    (tmp_path / "raylet.log").write_text("\n".join(lines) + "\n")
    got = b""
    follower.follow()
    while len(got) < len(lines) * len("[sparkray raylet] 000000\n"):
        got += os.read(read, 1 << 20)
        follower.follow()
    assert got.decode().splitlines() == [f"[sparkray raylet] {line}" for line in lines]
    follower.close()


def test_a_line_without_an_end_is_cut_where_it_is_long(tmp_path: Path, pipe: tuple[int, str]) -> None:
    read, place = pipe
    follower = Follower(str(tmp_path), place)
    (tmp_path / "a.log").write_text("x" * 40_000)
    follower.close()
    assert os.read(read, 1 << 20) == b"[sparkray a] " + b"x" * 40_000 + b"\n"


def test_a_reader_that_is_gone_is_no_error(tmp_path: Path, pipe: tuple[int, str]) -> None:
    read, place = pipe
    follower = Follower(str(tmp_path), place)
    os.close(read)
    (tmp_path / "a.log").write_text("line\n")
    follower.close()
