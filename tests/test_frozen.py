"""`@frozen` gives what a frozen dataclass with slots gives, but for the guard at run time."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from sparkray_core.frozen import field_names, frozen, replaced


@frozen
class Point:
    """Where."""

    x: int
    y: int = 0

    @property
    def sum(self) -> int:
        return self.x + self.y


@frozen
class Nothing:
    pass


def test_fields_are_given_by_place_or_name_and_have_defaults() -> None:
    assert (Point(1).x, Point(1).y, Point(1, 2).y, Point(y=3, x=4).sum) == (1, 0, 2, 7)
    assert field_names(Point) == ("x", "y")
    assert Point.__doc__ == "Where."


@pytest.mark.parametrize("words", [{}, {"x": 1, "z": 2}])
def test_what_is_missing_or_unknown_is_a_type_error(words: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"Point\.__init__"):
        Point(**words)


def test_a_field_that_nobody_declared_cannot_be_set() -> None:
    with pytest.raises(AttributeError):
        Point(1).z = 1  # type: ignore[attr-defined]


def test_equal_are_those_of_one_class_with_equal_fields() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert Point(1, 2) != Point(2, 1)
    others: list[Any] = [(1, 2), Nothing(), None]
    assert all(Point(1, 2) != other for other in others)
    assert Nothing() == Nothing()
    assert len({Point(1), Point(1), Point(2)}) == 2


def test_it_says_what_it_is_matches_and_travels() -> None:
    assert repr(Point(1)) == "Point(x=1, y=0)"
    match Point(1, 2):
        case Point(x, 2):
            assert x == 1
        case _:
            pytest.fail("not matched")
    assert pickle.loads(pickle.dumps(Point(5))) == copy.copy(Point(5)) == Point(5)
    assert replaced(Point(5, 6), y=7) == Point(5, 7)
