"""Folders are private or refused, and the sweep takes the dead ones only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparkray_core.run import folders, processes
from sparkray_core.run.folders import UnsafeFolder
from sparkray_core.run.processes import Identity


@pytest.fixture
def base(tmp_path: Path) -> str:
    return str(tmp_path / "base")


def test_every_level_is_private(base: str) -> None:
    folder = folders.make_node_folder(base, "s", "n")

    assert folder == os.path.join(base, "s", "n")
    for path in (base, os.path.join(base, "s"), folder, os.path.join(folder, "logs")):
        assert os.stat(path).st_mode & 0o777 == 0o700


def test_a_node_cannot_take_the_folder_of_another(base: str) -> None:
    folders.make_node_folder(base, "s", "n")

    with pytest.raises(FileExistsError):
        folders.make_node_folder(base, "s", "n")


def test_a_folder_open_to_others_is_refused(base: str) -> None:
    os.mkdir(base)
    os.chmod(base, 0o755)

    with pytest.raises(UnsafeFolder, match="open to other users"):
        folders.make_node_folder(base, "s", "n")


def test_a_link_is_refused(base: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    os.symlink(tmp_path / "elsewhere", base)

    with pytest.raises(UnsafeFolder, match="not a folder"):
        folders.make_node_folder(base, "s", "n")


def test_a_parent_where_others_may_rename_is_refused(base: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    with pytest.raises(UnsafeFolder, match="may be changed by other users"):
        folders.make_node_folder(base, "s", "n")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_someone_else_is_refused(base: str) -> None:
    os.mkdir(base, 0o700)
    os.chown(base, 12345, -1)

    with pytest.raises(UnsafeFolder, match="belongs to user 12345"):
        folders.make_node_folder(base, "s", "n")


def test_the_last_node_takes_the_session_folder_along(base: str) -> None:
    one = folders.make_node_folder(base, "s", "one")
    two = folders.make_node_folder(base, "s", "two")

    folders.remove_node_folder(one)
    assert os.listdir(os.path.join(base, "s")) == ["two"]
    folders.remove_node_folder(two)
    folders.remove_node_folder(two)
    assert os.listdir(base) == []


def test_logs_are_kept_on_request(base: str, tmp_path: Path) -> None:
    folder = folders.make_node_folder(base, "s", "n")
    Path(folder, "logs", "raylet.log").write_text("its last words")
    assert folders.log_tail(folder) == "--- raylet.log\nits last words"
    (tmp_path / "kept").mkdir()

    folders.remove_node_folder(folder, keep_logs=str(tmp_path / "kept"))

    assert (tmp_path / "kept" / "s-n" / "raylet.log").read_text() == "its last words"
    assert os.listdir(base) == []


def test_sweep_takes_the_folder_of_a_killed_keeper_and_leaves_that_of_a_living_one(base: str) -> None:
    dead = folders.make_node_folder(base, "s", "dead")
    living = folders.make_node_folder(base, "s", "living")
    young = folders.make_node_folder(base, "s", "young")
    os.close(folders.mark_folder(dead, Identity(1, 1)))
    lock = folders.mark_folder(living, Identity(1, 1))
    try:
        assert folders.sweep(base) == [dead]
        assert sorted(os.listdir(os.path.join(base, "s"))) == ["living", "young"]
    finally:
        os.close(lock)
    assert folders.sweep(base) == [living]
    os.utime(young, (0, 0))
    assert folders.sweep(base) == [young]
    assert os.listdir(base) == []


def test_a_child_holds_the_lock_on_for_its_keeper(base: str) -> None:
    folder = folders.make_node_folder(base, "s", "n")
    lock = folders.mark_folder(folder, Identity(1, 1))
    read, write = os.pipe()
    child = processes.fork(os.read, read, 1, close=[write])
    os.close(lock)
    try:
        assert folders.sweep(base) == []
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(child, 0)
    assert folders.sweep(base) == [folder]


def test_nothing_to_sweep_is_no_error(base: str) -> None:
    assert folders.sweep(base) == []
