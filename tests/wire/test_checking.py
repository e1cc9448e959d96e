"""What raylet and head look at before a model gets it: the opcodes that cost memory, and the types of fields."""

from __future__ import annotations

import pickle
import resource
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkray_core.messages import (
    MESSAGES,
    AllocateObject,
    CreateActor,
    ObjectPinned,
    RequestLeases,
    WorkerBlocked,
)
from sparkray_core.wire import checking
from sparkray_core.wire.codec import BadFrame, decode_strictly, encode

LEASE, OBJECT = b"l" * 24, b"o" * 28


@pytest.mark.parametrize(
    "message",
    [
        WorkerBlocked(),
        ObjectPinned(OBJECT, 0, 1),  # type: ignore[arg-type]
        RequestLeases([LEASE], {"CPU": 1000}, []),  # type: ignore[list-item]
        CreateActor(LEASE, "A", b"f" * 16, b"blob", b"", [(0, b"v", OBJECT), ("k", (1, b""), OBJECT)], {}, {}, 0),  # type: ignore[arg-type, list-item]
    ],
)
def test_what_is_ours_passes(message: Any) -> None:
    assert decode_strictly(encode(message)) == message


@pytest.mark.parametrize(
    ("number", "fields", "wrong"),
    [
        (64, (OBJECT, "5"), "AllocateObject.size"),
        (64, (OBJECT, 1 << 70), "AllocateObject.size"),
        (64, (OBJECT, True), "AllocateObject.size"),
        (64, (b"x" * 100, 5), "AllocateObject.object"),
        (4, ({"CPU": 0.5}, 0, 0.0, 0, 0, {}, {}, 0.0, 0.0), "NodeBeat.available"),
        (4, ({"CPU": 1}, 0, "0", 0, 0, {}, {}, 0.0, 0.0), "NodeBeat.task_s"),
        (4, ({"CPU": 1}, 0, 0.0, 0, 0, {}, {b"node": (1,)}, 0.0, 0.0), "NodeBeat.others"),
        (23, (LEASE,), "ReturnLeases.leases"),
        (23, ([LEASE, 7],), "ReturnLeases.leases"),
        (62, ([(OBJECT,)],), "AddBorrowers.pairs"),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(number: int, fields: tuple[Any, ...], wrong: str) -> None:
    with pytest.raises(BadFrame, match=wrong):
        decode_strictly(pickle.dumps((number, *fields), 5))


def test_every_message_has_its_tests() -> None:
    checking.know_all()

    assert set(checking._known) == set(MESSAGES.values())
    assert [name for name, _ in checking.tests_of(AllocateObject)] == ["object", "size"]


BOMBS = [
    b"\x80\x05N" + b"r\xff\xff\xff\x7f" + b".",
    b"\x80\x05Np2000000000\n.",
    b"\x80\x05\x8c\x01rNr\x00\x00\x00\x40.",
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_memo_larger_than_its_frame_is_refused(bomb: bytes) -> None:
    with pytest.raises(BadFrame, match="no pickle of ours"):
        decode_strictly(bomb)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_lengths_beyond_the_end_take_no_memory() -> None:
    script = (
        "import resource, struct\n"
        "from sparkray_core.wire.codec import BadFrame, decode_strictly\n"
        "import pickle\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for code in (b'\\x8e', b'\\x8d', b'\\x96'):\n"
        "    try: decode_strictly(b'\\x80\\x05' + code + struct.pack('<Q', 1 << 32) + b'abc.')\n"
        "    except BadFrame: pass\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    )
)
def test_no_pickle_of_primitives_is_taken_for_a_foreign_one(value: Any) -> None:
    assert not checking.has_foreign_opcode(pickle.dumps((1, value, "rrrrr", b"p123456\n"), 5), 0)
