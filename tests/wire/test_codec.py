"""Messages as bytes: what goes in comes out, and nothing else can come out of bytes."""

from __future__ import annotations

import marshal
import os
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkray_core import ids
from sparkray_core.frozen import field_names
from sparkray_core.messages import MESSAGES, LeaseGranted, Message, WorkerBlocked
from sparkray_core.wire.codec import (
    ENVELOPE_BYTES,
    HOT,
    BadFrame,
    addressed_to,
    decode,
    encode,
    sent_by,
    unwrap,
    wrap,
)
from tests.marks import slow

KINDS = sorted(MESSAGES.items())
NODE = ids.NodeId(b"nodenode")
ME, YOU = ids.ProcessId(NODE + b"11111111"), ids.ProcessId(NODE + b"22222222")

atoms = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20), st.binary(max_size=40)
)
primitives = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=5), inner, max_size=4),
    ),
    max_leaves=12,
)


def a_message(kind: Callable[..., Message], field: Callable[[], Any]) -> Message:
    return kind(*(field() for _ in field_names(kind)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("number", "kind"), KINDS)
def test_every_message_comes_out_as_it_went_in(number: int, kind: type[Message]) -> None:
    dice = random.Random(number)
    message = a_message(kind, lambda: dice.choice([None, b"x", "y", 3, 0.5, True, [1, (b"z", None)], {"CPU": 1000}]))

    assert decode(encode(message)) == message
    assert (marshal if kind in HOT else pickle).loads(encode(message))[0] == number


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(KINDS), st.data())
def test_fields_may_be_any_primitives(numbered: tuple[int, type[Message]], data: st.DataObject) -> None:
    message = a_message(numbered[1], lambda: data.draw(primitives))

    assert decode(encode(message)) == message


def test_a_large_field_comes_out_as_it_went_in() -> None:
    message = LeaseGranted(ids.LeaseId(os.urandom(5 << 20)), YOU)
    assert decode(encode(message)) == message


# ---------------------------------------------------------------------------------- what is refused
class Evil:
    ran = False

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return run_evil, ()


def run_evil() -> None:
    Evil.ran = True


NO_MESSAGES = {
    "nothing": b"",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "not a tuple": pickle.dumps([21, b"lease", b"worker"], 5),
    "an empty tuple": pickle.dumps((), 5),
    "no number": pickle.dumps(("21", b"lease", b"worker"), 5),
    "a number that cannot be a key": pickle.dumps(([], b"lease", b"worker"), 5),
    "True for 1": pickle.dumps((True, "driver", 1), 5),
    "an unknown number": pickle.dumps((999_999, b"lease"), 5),
    "too few fields": pickle.dumps((21, b"lease"), 5),
    "too many fields": pickle.dumps((21, b"lease", b"worker", None), 5),
    "a function to call": pickle.dumps((21, Evil(), b""), 5),
    "a class": pickle.dumps((21, Evil, b""), 5),
    "a class, in protocol 0": pickle.dumps((21, Evil, b""), 0),
    "a builtin": pickle.dumps((21, print, b""), 5),
    "a function of the extension registry": b"\x80\x05\x82\x01.",
    "a persistent id": b"\x80\x05Pid\n.",
    "an out-of-band buffer": b"\x80\x05\x97.",
    "a call of no function": b"\x80\x05K\x01)R.",
    "a string that is no UTF-8": b"\x80\x05\x8c\x01\xff.",
    "an unhashable key": b"\x80\x05}]K\x01s.",
    "more bytes than there are": b"\x80\x05\x8e\x00\x00\x00\x00\x00\x01\x00\x00x.",
    "more bytes than there can be": b"\x80\x05\x8e\xff\xff\xff\xff\xff\xff\xff\xffx.",
    "a frame of a frame": b"\x80\x05\x95\x10\x00\x00\x00\x00\x00\x00\x00K\x01.",
    "a state for a number": b"\x80\x05K\x01}b.",
    "a deep nest": b"\x80\x05" + b"(" * 5000 + b"." + b"t" * 5000,
    "a marshalled list": marshal.dumps([21, b"lease", b"worker"], 4),
    "a marshalled tuple without a number": marshal.dumps(("21", b"lease", b"worker"), 4),
    "a marshalled tuple, cut short": marshal.dumps((21, b"lease", b"worker"), 4)[:-2],
    "a marshalled tuple in itself": b"\xa9\x01r\x00\x00\x00\x00",
    "a marshalled nest": b")\x01" * 5000 + b"N",
}


@pytest.mark.parametrize("body", NO_MESSAGES.values(), ids=NO_MESSAGES)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(BadFrame):
        decode(body)
    assert not Evil.ran


# These opcodes (PUT, LONG_BINPUT, BYTEARRAY8) take memory for as much as the bytes behind them say, gigabytes at times,
# before anything else is looked at; so does a marshalled tuple of many. A peer that has the token can do so anyhow.
GREEDY = frozenset(b"pr\x96")
GREEDY_MARSHALLED = frozenset(b"(\xa8")


def is_refused_or_read(body: bytes) -> bool:
    """Whether `decode` keeps its promise: a message, or `BadFrame`, and no other error."""
    if not (GREEDY_MARSHALLED if body[:1] in (b")", b"\xa9") else GREEDY).isdisjoint(body):
        return True
    try:
        return type(decode(body)) in MESSAGES.values()
    except BadFrame as error:
        return bool(str(error))


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_bad_frame(body: bytes) -> None:
    assert is_refused_or_read(body)
    assert is_refused_or_read(b"\x80\x05" + body + b".")
    assert is_refused_or_read(b")" + body)


@pytest.mark.parametrize("count", [1000, *slow(10_000)])
def test_damaged_messages_raise_nothing_but_bad_frame(count: int) -> None:
    dice = random.Random(1)
    values = [None, b"x" * 30, "y", 70_000, 0.5, True, [1, (b"z", None)], {"CPU": 1000}, -1, 1 << 70]
    for _ in range(count):
        body = bytearray(encode(a_message(dice.choice(KINDS)[1], lambda: dice.choice(values))))
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(len(body))
            match dice.randrange(3):
                case 0:
                    body[at] = dice.randrange(256)
                case 1:
                    del body[at : at + dice.randrange(1, 5)]
                case _:
                    body[at:at] = dice.randbytes(dice.randrange(1, 5))
            if not body:
                break
        assert is_refused_or_read(bytes(body))


def test_bad_frame_can_itself_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(BadFrame("why")))
    assert (type(error), error.why, str(error)) == (BadFrame, "why", "a frame cannot be read: why")


# ---------------------------------------------------------------------------------- envelopes
@pytest.mark.parametrize("size", [0, 1, 1000, 16 << 10, (16 << 10) + 1, 1 << 20])
def test_an_envelope_gives_back_what_was_put_in(size: int) -> None:
    body = os.urandom(size)
    frame = b"".join(parts) if isinstance(parts := wrap(YOU, ME, body), list) else parts

    assert unwrap(frame) == (YOU, ME, body)
    assert (addressed_to(frame), sent_by(frame)) == (YOU, ME)


def test_a_message_is_decoded_in_its_envelope() -> None:
    frame = wrap(YOU, ME, encode(WorkerBlocked()))
    assert isinstance(frame, bytes)
    assert decode(frame, ENVELOPE_BYTES) == WorkerBlocked()


@pytest.mark.parametrize("read", [unwrap, addressed_to])
def test_what_is_too_short_for_an_envelope_is_refused(read: Callable[[bytes], object]) -> None:
    with pytest.raises(BadFrame, match="31 bytes"):
        read(bytes(31))
