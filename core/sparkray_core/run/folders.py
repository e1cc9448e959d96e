"""The folder of a node: sockets, logs and one locked file that says whether its keeper lives.

    /tmp/sparkray-<uid>/<session>/<node>/    0700, every level, and ours
        keeper.json                          who the keeper is; locked by it for as long as it lives
        raylet.sock, <process>.sock, logs/
        spill/                               objects for which memory had no room; or a link to where they are

The lock decides whether a folder is dead, not the pid in the file: a folder may be shared between containers, where
the same pid is another process or none, but a lock is one thing for the whole kernel and ends with its holders.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator

from sparkray_core.run.processes import Identity

KEEPER_FILE = "keeper.json"
SPILL = "spill"
_UNMARKED_S = 60.0  # a folder without a keeper's file for this long was left by a keeper killed in its first moments


class UnsafeFolder(OSError):
    """Somebody else could read or replace what we put there."""


def make_node_folder(base: str, session: str, node: str) -> str:
    """Make and return the node's folder, with `logs` in it.

    Raises:
        UnsafeFolder: a level belongs to someone else, is a link, or is open to others.
        FileExistsError: a node of this name has one already.
    """
    _refuse_open_parent(os.path.dirname(base))
    path = base
    for attempt in (1, 2):
        try:
            for path in (base, os.path.join(base, session)):
                _make_private(path)
            path = os.path.join(base, session, node)
            os.mkdir(path, 0o700)
            break
        except FileNotFoundError:  # another node of this session ended, and took the empty folder along
            if attempt == 2:
                raise
    os.mkdir(os.path.join(path, "logs"), 0o700)
    return path


def _make_private(path: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise UnsafeFolder(f"{path} is not a folder: remove it, or choose another base_folder")
    if found.st_uid != os.getuid():
        raise UnsafeFolder(f"{path} belongs to user {found.st_uid}: choose another base_folder")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise UnsafeFolder(f"{path} is open to other users: remove it, or `chmod 700` it if you trust what it holds")


def _refuse_open_parent(path: str) -> None:
    """Where others may rename our folder, they may put their own in its place."""
    found = os.stat(path)
    if found.st_uid not in (0, os.getuid()):
        raise UnsafeFolder(f"{path} belongs to user {found.st_uid}: choose another base_folder")
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise UnsafeFolder(f"{path} may be changed by other users: choose another base_folder")


def mark_folder(folder: str, keeper: Identity) -> int:
    """Write who keeps this folder, and lock that file; the lock ends when every copy of the descriptor is closed."""
    path = os.path.join(folder, KEEPER_FILE)
    descriptor = os.open(path + ".new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(descriptor, json.dumps({"pid": keeper.pid, "start": keeper.start}).encode())
    os.rename(path + ".new", path)  # never to be seen unlocked: a sweep would take it for abandoned
    return descriptor


def make_spill_folder(folder: str, elsewhere: str | None) -> None:
    """For spilled objects of the node that has `folder`.

    Raises:
        OSError: it cannot be made.
    """
    path = os.path.join(folder, SPILL)
    if elsewhere is None:
        os.mkdir(path, 0o700)
        return
    os.makedirs(elsewhere, exist_ok=True)
    target = os.path.join(os.path.realpath(elsewhere), f"sparkray-spill-{'-'.join(folder.split(os.sep)[-2:])}")
    with contextlib.suppress(FileExistsError):
        os.symlink(target, path)  # first: from now on whoever removes our folder finds the other
    os.mkdir(target, 0o700)


def spill_path(folder: str, file: int) -> str:
    """Of a file of spilled objects, for whoever knows the node's folder."""
    return os.path.join(folder, SPILL, f"{file:08d}")


def is_abandoned(folder: str) -> bool:
    """Nobody holds the lock: keeper and raylet are gone, or the folder itself is."""
    try:
        descriptor = os.open(os.path.join(folder, KEEPER_FILE), os.O_RDWR)
    except FileNotFoundError:
        try:
            return time.time() - os.stat(folder).st_mtime > _UNMARKED_S
        except FileNotFoundError:
            return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def remove_node_folder(folder: str, keep_logs: str | None = None) -> None:
    """Remove it, and the session's folder when this was the last node in it. Gone already is as good.

    Args:
        keep_logs: a folder that the logs are moved to; None: they go, too.
    """
    import shutil  # 5 ms, which the start can be spared

    if keep_logs:
        with contextlib.suppress(OSError):
            target = "-".join(folder.split(os.sep)[-2:])
            shutil.move(os.path.join(folder, "logs"), os.path.join(keep_logs, target))
    spill = os.path.join(folder, SPILL)
    if os.path.islink(spill):
        shutil.rmtree(os.readlink(spill), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(folder))


def sweep(base: str, keep_logs: str | None = None) -> list[str]:
    """Remove the folders of nodes whose keeper and raylet were both killed; returns what was removed."""
    removed = []
    for folder in node_folders(base):
        if is_abandoned(folder):
            remove_node_folder(folder, keep_logs)
            removed.append(folder)
    return removed


def node_folders(base: str) -> Iterator[str]:
    """Of all sessions of this user, dead or alive; nothing where `base` is somebody else's."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if os.lstat(base).st_uid != os.getuid():
            return
        for session in os.listdir(base):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for node in os.listdir(os.path.join(base, session)):
                    yield os.path.join(base, session, node)


def log_tail(folder: str, most: int = 2000) -> str:
    """The last characters of each log that has any, for a message about a node that failed."""
    parts = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(os.path.join(folder, "logs"))):
            with open(os.path.join(folder, "logs", name), errors="replace") as log:
                text = log.read()[-most:].strip()
                if text:
                    parts.append(f"--- {name}\n{text}")
    return "\n".join(parts)
