"""The head's tables in a Redis server, for whoever trusts that more than the disk of the head's node.

One hash per session, and one more for each shard, so that a server without memory drops all of it or nothing. Whoever
opens it becomes its writer, and its writer alone may commit: what a killed head had sent may still be on its way when
the next one reads. A commit is a script, which a server runs as one, as MULTI and EXEC, but which can look at the
writer first.

    sparkray:{SESSION}    writer -> 2    life:0 -> ...    snapshot:7 -> ...    journal:812 -> ...
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sparkray_core.run.tables import TABLES, Row, TablesBroken

if TYPE_CHECKING:
    import redis

REPLY_S = 1.0  # for which the head stands still at most, when the server does not answer
KEPT_S = 24 * 3600  # after the last commit: what a session leaves that was killed as a whole goes by itself
_EXTEND_AFTER = 100  # commits, or a beat each half second would be told the server twice
_READ_AT_ONCE = 64  # rows

# ARGV: who writes, seconds to keep it or 0, number of rows, (field, value) of each, fields to drop.
_COMMIT = """
local writer = redis.call('HGET', KEYS[1], 'writer')
if writer ~= ARGV[1] then return writer or '' end
local last = 3 + 2 * tonumber(ARGV[3])
for i = 4, last, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
for i = last + 1, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
if ARGV[2] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return writer
"""
_DESTROY = """
if redis.call('HGET', KEYS[1], 'writer') == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""

log = logging.getLogger(__name__)


class TakenOver(Exception):
    """Another head has opened this session's tables since: this one must not go on, nor write anything more."""


def without_password(url: str) -> str:
    """As it may be shown."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def key_of(session: str, name: str = "gcs") -> str:
    """
    Args:
        name: of the process whose tables they are.
    """
    key = f"sparkray:{{{session}}}"  # the braces: of a name, what a Redis Cluster chooses the place by
    return key if name == "gcs" else f"{key}:{name}"


class RedisTables:
    def __init__(self, url: str, session: str, folder: str, name: str = "gcs") -> None:
        """
        Args:
            url: as `redis.from_url` takes it, the password in it.
            folder: of the head's node. A file there says, while the server cannot be told, that what it has is stale.

        Raises:
            TablesBroken: no server is there, or it does not let us in; or the package `redis` is not installed.
        """
        self._where = without_password(url)
        self._stale = os.path.join(folder, f"{name}.stale")
        self._key = key_of(session, name)
        self._keys: dict[str, set[int]] = {table: set() for table in TABLES}
        self._commits = 0
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            why = "the package redis is not installed here; pip install 'sparkray[redis]'"
            raise TablesBroken(self._where, why) from error
        self._error: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        try:
            # One more try, on a new connection, for one that broke while it was idle: a commit may be repeated.
            self._redis: redis.Redis = redis.Redis.from_url(
                url,
                protocol=2,
                decode_responses=False,
                socket_timeout=REPLY_S,
                socket_connect_timeout=REPLY_S,
                retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),
            )
        except (ValueError, TypeError):  # their sentence may quote the URL, with its password
            raise TablesBroken(self._where, "that is no URL of a Redis server") from None
        try:
            if os.path.exists(self._stale):
                self._redis.delete(self._key)
                os.unlink(self._stale)
            self._commit: Any = self._redis.register_script(_COMMIT)
            self._destroy: Any = self._redis.register_script(_DESTROY)
            self._writer = b"%d" % int(self._redis.hincrby(self._key, "writer", 1))  # type: ignore[arg-type,unused-ignore]
            self._redis.expire(self._key, KEPT_S)
            for name in self._fields():
                table, _, key = name.partition(":")
                if key:
                    self._keys[table].add(int(key))
        except self._error as error:
            self._redis.close()
            raise TablesBroken(self._where, str(error)) from error

    def _fields(self) -> list[str]:
        found: Any = self._redis.hkeys(self._key)
        return [name.decode() for name in found]

    def load(self, table: str) -> list[tuple[int, bytes]]:
        keys = sorted(self._keys[table])
        rows: list[tuple[int, bytes]] = []
        try:
            for begin in range(0, len(keys), _READ_AT_ONCE):
                some = keys[begin : begin + _READ_AT_ONCE]
                values: Any = self._redis.hmget(self._key, [f"{table}:{key}" for key in some])
                rows += zip(some, values, strict=True)
        except self._error as error:
            raise TablesBroken(self._where, str(error)) from error
        if any(value is None for _, value in rows):
            raise TablesBroken(self._where, "rows that were there a moment ago are gone")
        return rows

    def commit(self, rows: Sequence[Row], below: Mapping[str, int] | None = None) -> None:
        """Raises also `TakenOver`."""
        put: list[Any] = []
        for table, key, value in rows:
            put += (f"{table}:{key}", value)
            self._keys[table].add(key)
        gone: list[str] = []
        for table, first in (below or {}).items():
            gone += [f"{table}:{key}" for key in self._keys[table] if key < first]
            self._keys[table] = {key for key in self._keys[table] if key >= first}
        self._commits += 1
        keep = KEPT_S if self._commits % _EXTEND_AFTER == 0 else 0
        try:
            writer = self._commit(keys=[self._key], args=[self._writer, keep, len(rows), *put, *gone])
        except self._error as error:
            raise TablesBroken(self._where, str(error)) from error
        if writer == b"":
            raise TablesBroken(self._where, "what was written there is gone: the server was emptied, or lost it")
        if writer != self._writer:
            raise TakenOver(f"another head has taken over the session's tables in {self._where}")

    def close(self) -> None:
        with contextlib.suppress(*self._error):
            self._redis.close()

    def destroy(self) -> None:
        try:
            self._destroy(keys=[self._key], args=[self._writer])
        except self._error as error:
            try:
                with open(self._stale, "x"):
                    pass
            except FileExistsError:
                pass
            except OSError as worse:
                log.error(
                    "neither can %s be told that what it has is stale (%s), nor can that be noted here (%s): a head "
                    "that is started in place of this one would go on from there",
                    self._where,
                    error,
                    worse,
                )
        self.close()
