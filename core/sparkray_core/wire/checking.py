"""What came over a wire, looked at before a model gets it: in raylet and head, which serve all and must outlive each.

Who has shown the token is of this session, and could run any code in a worker; but its mistake, or a peer of another
making, must not take raylet or head along. Drivers and workers do without: what costs 5 us here is once per lease or
stored object, there it would be for every batch of tasks.
"""

from __future__ import annotations

import re
import struct
import types
from collections.abc import Callable, Mapping
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from sparkray_core import messages
from sparkray_core.frozen import field_names
from sparkray_core.messages import MESSAGES, Message
from sparkray_core.model.where import is_sound

Test = Callable[[Any], bool]

MOST_ID_BYTES: Final = 64  # ids have 8 to 28
_MOST_INT: Final = 1 << 63  # sizes, counts and offsets; larger ones break arithmetic in C further down

# ---- the pickle ----
# The one way to make the unpickler take memory that the frame does not have: a number of a memo's place (PUT,
# LONG_BINPUT), up to which it makes room. Our encoder writes neither. They are looked for among the opcodes only if
# the frame has bytes that could be one, or the look would cost more than the unpickling.
_MAYBE_LONG_BINPUT: Final = re.compile(rb"r..(?:[^\0].|.[^\0])", re.DOTALL)
_FIXED: Final[Mapping[int, int]] = {  # opcode -> bytes of its argument
    **dict.fromkeys(b".N)]}(aesut0\x85\x86\x87\x88\x89\x8f\x90\x91\x94", 0),
    **dict.fromkeys(b"Kh\x80", 1),
    **dict.fromkeys(b"M", 2),
    **dict.fromkeys(b"Jj", 4),
    **dict.fromkeys(b"G\x95", 8),
}
_LENGTHS: Final[Mapping[int, struct.Struct]] = {  # opcode -> how the length of what follows it is written
    **dict.fromkeys(b"\x8a\x8cC", struct.Struct("<B")),
    **dict.fromkeys(b"\x8bXB", struct.Struct("<I")),
    **dict.fromkeys(b"\x8d\x8e\x96", struct.Struct("<Q")),
}


def has_foreign_opcode(frame: bytes, start: int) -> bool:
    """Whether the pickle in `frame` is one that our encoder cannot have made, in what could cost memory."""
    if not (b"\n" in frame and b"p" in frame) and _MAYBE_LONG_BINPUT.search(frame, start) is None:
        return False
    at, end = start, len(frame)
    while at < end:
        opcode = frame[at]
        at += 1
        skip = _FIXED.get(opcode)
        if skip is None:
            length = _LENGTHS.get(opcode)
            if length is None or at + length.size > end:
                return True
            skip = length.size + length.unpack_from(frame, at)[0]
        elif opcode == 0x2E:  # STOP: what is behind it is not read
            return False
        at += skip
    return False  # cut short: the unpickler says so


# ---- the fields ----
def wrong_field(message: Message) -> str | None:
    """The name of the first field whose value is not of the type that `messages.py` gives it."""
    for name, test in tests_of(type(message)):
        if not test(getattr(message, name)):
            return name
    return None


def _is_int(value: Any) -> bool:
    return type(value) is int and -_MOST_INT <= value < _MOST_INT


def _is_float(value: Any) -> bool:
    return type(value) is float or _is_int(value)


def _is_id(value: Any) -> bool:
    return type(value) is bytes and len(value) <= MOST_ID_BYTES


_ATOMS: Final[Mapping[Any, Test]] = {
    int: _is_int,
    float: _is_float,
    bool: lambda value: type(value) is bool,
    str: lambda value: type(value) is str,
    bytes: lambda value: type(value) is bytes,
    types.NoneType: lambda value: value is None,
}


def _test(hint: Any) -> Test | None:
    """What a value of this type satisfies; None: anything does. A list may be a tuple: senders are free to."""
    if hint in _ATOMS:
        return _ATOMS[hint]
    if getattr(hint, "__supertype__", None) is bytes:
        return _is_id
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _any_of([_test(argument) for argument in arguments])
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        return _each_of([_test(argument) for argument in arguments])
    if origin in (list, tuple):
        return _all_are(_test(arguments[0]))
    if origin is dict:
        return _dict_of(_test(arguments[0]), _test(arguments[1]))
    return None


def _any_of(tests: list[Test | None]) -> Test | None:
    sure = [test for test in tests if test is not None]
    return None if len(sure) < len(tests) else lambda value: any(test(value) for test in sure)


def _each_of(tests: list[Test | None]) -> Test:
    def fits(value: Any) -> bool:
        return (
            type(value) in (tuple, list)
            and len(value) == len(tests)
            and all(test is None or test(item) for test, item in zip(tests, value, strict=True))
        )

    return fits


def _all_are(test: Test | None) -> Test:
    if test is None:
        return lambda value: type(value) in (list, tuple)
    return lambda value: type(value) in (list, tuple) and all(map(test, value))


def _dict_of(key: Test | None, item: Test | None) -> Test:
    def fits(value: Any) -> bool:
        return (
            type(value) is dict
            and (key is None or all(map(key, value)))
            and (item is None or all(map(item, value.values())))
        )

    return fits


def _tests(kind: type[Message]) -> list[tuple[str, Test]]:
    hints = get_type_hints(kind, dict(vars(messages)))
    tests = [(name, is_sound if name == "where" else _test(hints[name])) for name in field_names(kind)]
    return [(name, test) for name, test in tests if test is not None]


_known: Final[dict[type, list[tuple[str, Test]]]] = {}


def tests_of(kind: type[Message]) -> list[tuple[str, Test]]:
    """The fields that are looked at, and how. Made when the first message of its kind comes: all of them take 6 ms."""
    known = _known.get(kind)
    if known is None:
        known = _known[kind] = _tests(kind)
    return known


def know_all() -> None:
    """Make them now: in a process from which others are forked."""
    for kind in MESSAGES.values():
        tests_of(kind)
