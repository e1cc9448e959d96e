"""Where the head keeps what is to outlive its process: rows of bytes, by table and number, written all or none.

What has been committed must survive a SIGKILL of the head, at any moment. It need not survive the machine: with that
the session ends anyhow. (`redis_tables` keeps them in a server.)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import sqlite3

JOURNAL, SNAPSHOT, LIFE = TABLES = "journal", "snapshot", "life"

Row = tuple[str, int, bytes]  # table, key, value


class TablesBroken(OSError):
    """A row cannot be written or read: the disk is full, the file is damaged, the server does not answer."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(where, why)
        self.where, self.why = where, why

    def __str__(self) -> str:
        return f"the GCS's tables in {self.where} cannot be used: {self.why}"


class Tables(Protocol):
    def load(self, table: str) -> list[tuple[int, bytes]]:
        """All rows of a table, by key. Raises `TablesBroken`, as all here."""
        ...

    def commit(self, rows: Sequence[Row], below: Mapping[str, int] | None = None) -> None:
        """Put these rows, in place of those of the same table and key; of each table in `below` drop the rows with a
        smaller key. All of it or nothing is done when this returns, or when the process is killed meanwhile."""
        ...

    def close(self) -> None: ...

    def destroy(self) -> None:
        """Close, and leave nothing that could be taken for the head's state."""
        ...


class MemoryTables:
    """For tests: what is committed stays with the object."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, bytes]] = {table: {} for table in TABLES}

    def load(self, table: str) -> list[tuple[int, bytes]]:
        return sorted(self.rows[table].items())

    def commit(self, rows: Sequence[Row], below: Mapping[str, int] | None = None) -> None:
        for table, key, value in rows:
            self.rows[table][key] = value
        for table, first in (below or {}).items():
            self.rows[table] = {key: value for key, value in self.rows[table].items() if key >= first}

    def close(self) -> None:
        pass

    def destroy(self) -> None:
        for rows in self.rows.values():
            rows.clear()


class SqliteTables:
    """One file, written by one process.

    WAL, because a commit then is one write at the end of a file. synchronous=OFF: what was handed to the system
    survives the process, and only that is asked for; with NORMAL each checkpoint would wait for the disk. Locked
    exclusively, which spares a commit four system calls, and the file for shared memory beside it.
    """

    def __init__(self, path: str) -> None:
        """Raises `TablesBroken`."""
        import sqlite3

        self._path = path
        self._error: type[Exception] = sqlite3.Error
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite's other file gets its mode
            self._database: sqlite3.Connection = sqlite3.connect(path, isolation_level=None)
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=OFF"):
                self._database.execute(f"PRAGMA {pragma}").fetchall()
            for table in TABLES:
                self._database.execute(f"CREATE TABLE IF NOT EXISTS {table} (key INTEGER PRIMARY KEY, value BLOB)")
        except (OSError, sqlite3.Error) as error:
            raise TablesBroken(path, str(error)) from error

    def load(self, table: str) -> list[tuple[int, bytes]]:
        assert table in TABLES
        try:
            return self._database.execute(f"SELECT key, value FROM {table} ORDER BY key").fetchall()
        except self._error as error:
            raise TablesBroken(self._path, str(error)) from error

    def commit(self, rows: Sequence[Row], below: Mapping[str, int] | None = None) -> None:
        database = self._database
        try:
            if below is None and len(rows) == 1:  # the usual case; a transaction of its own
                self._put(rows[0])
                return
            database.execute("BEGIN")
            for row in rows:
                self._put(row)
            for table, first in (below or {}).items():
                assert table in TABLES
                database.execute(f"DELETE FROM {table} WHERE key < ?", (first,))
            database.execute("COMMIT")
        except self._error as error:
            with contextlib.suppress(self._error):
                database.execute("ROLLBACK")
            raise TablesBroken(self._path, str(error)) from error

    def _put(self, row: Row) -> None:
        table, key, value = row
        assert table in TABLES
        self._database.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (key, value))

    def close(self) -> None:
        with contextlib.suppress(self._error):
            self._database.close()

    def destroy(self) -> None:
        self.close()
        for path in (self._path, f"{self._path}-wal", f"{self._path}-journal"):
            with contextlib.suppress(OSError):
                os.unlink(path)
