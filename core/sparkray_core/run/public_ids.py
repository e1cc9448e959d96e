"""Ids as users hold them: Ray's classes, with this engine's sizes. They are bytes, which is what the engine uses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self


class BaseID(bytes):
    """An id, equal to its bytes; `hex()` is what the runtime context, the state API and the logs show."""

    __slots__ = ()
    SIZE: ClassVar[int] = 28  # bytes

    def __new__(cls, binary: bytes) -> Self:
        """
        Raises:
            ValueError: not bytes, or of another length.
        """
        if not isinstance(binary, bytes) or len(binary) != cls.SIZE:
            raise ValueError(f"{cls.__name__} needs to have length {cls.SIZE} (bytes), got {binary!r}")
        return super().__new__(cls, binary)

    @classmethod
    def from_binary(cls, id_bytes: bytes) -> Self:
        return cls(id_bytes)

    @classmethod
    def from_hex(cls, hex_id: str) -> Self:
        return cls(bytes.fromhex(hex_id))

    @classmethod
    def from_random(cls) -> Self:
        return cls(os.urandom(cls.SIZE))

    @classmethod
    def nil(cls) -> Self:
        """The id of nothing."""
        return cls(b"\xff" * cls.SIZE)

    @classmethod
    def size(cls) -> int:
        return cls.SIZE

    def is_nil(self) -> bool:
        return self == b"\xff" * self.SIZE

    def binary(self) -> bytes:
        return bytes(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"

    __str__ = __repr__


class UniqueID(BaseID):
    __slots__ = ()


class JobID(BaseID):
    __slots__ = ()
    SIZE = 4

    @classmethod
    def from_int(cls, value: int) -> Self:
        return cls(value.to_bytes(cls.SIZE, "little"))

    def int(self) -> int:
        return int.from_bytes(self, "little")


class NodeID(BaseID):
    __slots__ = ()
    SIZE = 8


class WorkerID(BaseID):
    """Of a process, a driver too."""

    __slots__ = ()
    SIZE = 16


class TaskID(BaseID):
    __slots__ = ()
    SIZE = 24

    def job_id(self) -> JobID:
        """Of this process's job: no process knows tasks of others."""
        return _job_id()


class ActorID(BaseID):
    __slots__ = ()
    SIZE = 24

    @property
    def job_id(self) -> JobID:
        return _job_id()


def _job_id() -> JobID:
    from sparkray_core.run import object_ref

    return JobID.from_hex(object_ref.core().job)
