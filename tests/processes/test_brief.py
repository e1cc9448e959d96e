"""Which values travel in a message as they are."""

from __future__ import annotations

import enum
import marshal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkray_core.run.brief import MOST_CHARACTERS, MOST_ITEMS, MOST_OF_AN_INT, are_brief

ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()


class Color(enum.IntEnum):
    RED = 1


class Name(str):
    __slots__ = ()


@given(st.lists(ATOMS, max_size=MOST_ITEMS + 1).map(tuple))
def test_what_is_brief_comes_out_of_a_message_as_it_went_in(items: tuple[Any, ...]) -> None:
    if are_brief(items):
        found = marshal.loads(marshal.dumps(items, 4))
        assert repr(found) == repr(items)  # nan is not equal to itself
        assert list(map(type, found)) == list(map(type, items))


@pytest.mark.parametrize(
    "items", [(), (None, True, 1, -1.5), ("text", b"bytes"), ("x" * MOST_CHARACTERS,), (MOST_OF_AN_INT - 1,)]
)
def test_a_few_numbers_and_short_strings_are_brief(items: tuple[Any, ...]) -> None:
    assert are_brief(items)


@pytest.mark.parametrize(
    "items",
    [
        ([1],),
        ({},),
        ((1,),),
        (Color.RED,),
        (Name("name"),),
        ("x" * (MOST_CHARACTERS + 1),),
        (b"x" * (MOST_CHARACTERS + 1),),
        (MOST_OF_AN_INT,),
        (-MOST_OF_AN_INT,),
        (0,) * (MOST_ITEMS + 1),
    ],
    ids=repr,
)
def test_what_can_change_or_be_large_is_not_and_neither_is_a_subclass(items: tuple[Any, ...]) -> None:
    assert not are_brief(items)
