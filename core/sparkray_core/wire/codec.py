"""Messages as bytes, and the envelope that a raylet relays them by.

A body is the pickle of `(number, *fields)`, fields being primitives. It is decoded by an unpickler that finds no class
and no function at all, so that a body can build nothing but primitives; user values lie in it as bytes.
What owners and their workers say to each other all the time (`HOT`) is marshalled instead: that takes half the time to
write and, of a short one, a tenth to read, for an unpickler that is made for each costs more than what it reads.
Every frame on a Unix socket is an envelope: receiver and sender, 16 bytes each, then the body. A raylet passes on
what is not for itself by the first 16 bytes, without decoding.
"""

from __future__ import annotations

import marshal
import pickle
from collections.abc import Callable
from io import BytesIO
from operator import attrgetter
from typing import Any, NoReturn

from sparkray_core.frozen import field_names
from sparkray_core.ids import ProcessId
from sparkray_core.messages import MESSAGES, Message, PushCalls, PushTasks, TaskResults, TasksReturned
from sparkray_core.wire import checking

ENVELOPE_BYTES = 32
# Between an owner and its workers, which run each other's code anyhow: neither is guarded from what the other makes
# with skill. What all others read is pickled, and looked into.
HOT = frozenset({PushTasks, PushCalls, TaskResults, TasksReturned})
_MARSHALLED = frozenset({ord(")"), ord(")") | 0x80})  # how a marshalled tuple begins; a pickle begins with 0x80
# Up to here one copy of the body behind its envelope is cheaper than a frame in two parts.
_COPY_BYTES = 16 << 10


class BadFrame(Exception):
    """The bytes are no message of ours: cut short, of another version, or made by something else."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"a frame cannot be read: {self.why}"


def _getter(message_type: type[Message]) -> Callable[[Any], tuple[Any, ...]]:
    names = field_names(message_type)
    if len(names) > 1:
        return attrgetter(*names)
    if names:
        only = attrgetter(names[0])
        return lambda message: (only(message),)
    return lambda message: ()


_Encoder = tuple[tuple[int], Callable[[Any], tuple[Any, ...]], Callable[[Any, int], bytes], int]


def _encoder(number: int, kind: type[Message]) -> _Encoder:
    """Its number, what gives its fields, what writes them, and in which version of that."""
    if kind in HOT:
        return (number,), _getter(kind), marshal.dumps, 4
    return (number,), _getter(kind), pickle.dumps, 5


_ENCODE = {kind: _encoder(number, kind) for number, kind in MESSAGES.items()}
_DECODE = {number: (kind, len(field_names(kind)) + 1) for number, kind in MESSAGES.items()}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


# All that the C unpickler and marshal were seen to raise on mutated and random bytes (tests/wire/test_codec.py), by
# base class.
_UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    ImportError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RecursionError,
)


def encode(message: Message) -> bytes:
    """The message's body. Fields must be primitives: a class instance would be pickled here and refused over there."""
    number, values, dumps, version = _ENCODE[type(message)]
    return dumps(number + values(message), version)


def decode(frame: bytes, start: int = 0) -> Message:
    """The message that lies in `frame` from byte `start` on; `ENVELOPE_BYTES` spares a copy of an envelope's body.

    Nothing is called and no class is found, whatever the bytes are. They must come from a peer that has shown the
    session's token, all the same: made with skill, a few bytes can ask for gigabytes of memory. (A worker that gets
    them could be sent a task that does the same. Raylet and head, which run no tasks, `decode_strictly`.)

    Raises:
        BadFrame: whatever is wrong with it. The types of the fields are not looked at.
    """
    try:
        if frame[start] in _MARSHALLED:
            values = marshal.loads(memoryview(frame)[start:])
        else:
            file = BytesIO(frame)  # shares the memory of bytes
            if start:
                file.seek(start)
            values = _Unpickler(file).load()
    except _UNPICKLING_ERRORS as error:
        raise BadFrame(f"{type(error).__name__}: {error}") from None
    if type(values) is not tuple or not values or type(values[0]) is not int:
        raise BadFrame("it holds no message")
    found = _DECODE.get(values[0])
    if found is None:
        raise BadFrame(f"message number {values[0]} is not known")
    kind, count = found
    if len(values) != count:
        raise BadFrame(f"{kind.__name__} has {count - 1} fields, not {len(values) - 1}")
    return kind(*values[1:])


# What handling a message of sound types and senseless contents was seen to raise (testing/fuzz.py).
MALFORMED = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError, RecursionError)


def decode_strictly(frame: bytes, start: int = 0) -> Message:
    """`decode` for those who serve all: it takes no more memory than the frame has, and fields have their types.

    Raises:
        BadFrame: whatever is wrong with it.
    """
    if checking.has_foreign_opcode(frame, start):
        raise BadFrame("it is no pickle of ours")
    message = decode(frame, start)
    wrong = checking.wrong_field(message)
    if wrong is not None:
        raise BadFrame(f"{type(message).__name__}.{wrong} is not of its type")
    return message


def wrap(to: ProcessId, sender: ProcessId, body: bytes) -> bytes | list[bytes]:
    """A frame for `Connection.send`: the body in its envelope, in two parts if the body is large."""
    if len(body) <= _COPY_BYTES:
        return to + sender + body
    return [to + sender, body]


def unwrap(frame: bytes) -> tuple[ProcessId, ProcessId, bytes]:
    """Receiver, sender and a copy of the body. Raises `BadFrame` when it is too short for an envelope."""
    if len(frame) < ENVELOPE_BYTES:
        raise BadFrame(f"{len(frame)} bytes are too few for an envelope")
    return ProcessId(frame[:16]), ProcessId(frame[16:32]), frame[32:]


def addressed_to(frame: bytes) -> ProcessId:
    """Who is to receive the frame: all that a relay needs. Raises `BadFrame` like `unwrap`."""
    if len(frame) < ENVELOPE_BYTES:
        raise BadFrame(f"{len(frame)} bytes are too few for an envelope")
    return ProcessId(frame[:16])


def sent_by(frame: bytes) -> ProcessId:
    """Who sent it, by its own account; the receiving end of a connection knows better."""
    return ProcessId(frame[16:32])
