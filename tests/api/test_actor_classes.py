"""A class that was made remote is still a class: it is inherited from, asked about, and used here."""

from __future__ import annotations

import abc
import pickle
from typing import Any

import pytest

import sparkray
from sparkray.actor import ActorClass, ActorHandle, ActorProxy

LOCAL_MODE_TOO = True


class _Base:
    """Says who it is."""

    kind = "base"
    made = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def who(self) -> str:
        return f"{self.kind} {self.name}"

    @classmethod
    def named(cls, name: str) -> _Base:
        return cls(name.upper())

    @staticmethod
    def add(a: int, b: int) -> int:
        return a + b


_Base.__module__ = "__main__"  # the workers cannot import this module
Base: Any = sparkray.remote(_Base)


def test_subclasses_of_a_remote_class_are_plain_until_they_are_made_remote(ray: Any) -> None:
    class Plain(Base):  # type: ignore[misc]
        kind = "plain"

        def who(self) -> str:
            return f"a {super().who()}"

    class Middle(Plain):
        kind = "remote"

    Remote: Any = ray.remote(Middle)

    class Deepest(Remote):  # type: ignore[misc]
        def who(self) -> str:
            return f"deep in {super().who()}"

    Deeper: Any = ray.remote(num_cpus=0)(Deepest)

    assert Plain("x").who() == "a plain x"
    assert ray.get(ray.remote(Plain).remote("y").who.remote(), timeout=60) == "a plain y"
    assert ray.get(Remote.remote("z").who.remote(), timeout=60) == "a remote z"
    assert ray.get(Deeper.remote("w").who.remote(), timeout=60) == "deep in a remote w"
    assert Plain.__mro__[1] is _Base


def test_a_remote_class_answers_for_the_plain_one() -> None:
    class Sub(Base):  # type: ignore[misc]
        pass

    here = Base.cls("x")
    assert isinstance(here, Base)
    assert isinstance(Sub("y"), Base)
    assert not isinstance("x", Base)
    assert issubclass(Sub, Base)
    remote: Any = sparkray.remote(Sub)
    assert issubclass(remote, Base)
    assert not issubclass(int, Base)
    assert here.who() == "base x"
    assert Base.__ray_metadata__.modified_class is _Base
    assert Base.__doc__ == "Says who it is."
    with pytest.raises(TypeError, match=r"Base\.remote\(\)"):
        Base("x")


def test_attributes_class_methods_and_static_methods_are_those_of_the_class(ray: Any) -> None:
    assert Base.kind == "base"
    assert Base.named("x").who() == "base X"
    assert Base.add(1, 2) == 3
    assert Base.who(Base.cls("y")) == "base y"
    Base.made = 7
    assert _Base.made == 7
    with pytest.raises(AttributeError):
        _ = Base.nothing
    actor = Base.remote("x")
    assert ray.get(actor.add.remote(3, 4), timeout=60) == 7


def test_abstract_classes_are_refused_here_and_their_subclasses_are_not(ray: Any) -> None:
    class Plain(abc.ABC):
        @abc.abstractmethod
        def area(self) -> int: ...

        def doubled(self) -> int:
            return 2 * self.area()

    Shape: Any = ray.remote(Plain)

    class Square(Shape):  # type: ignore[misc]
        def area(self) -> int:
            return 9

    with pytest.raises(TypeError, match=r"abstract class Plain.*area"):
        Shape.remote()
    assert ray.get(ray.remote(Square).remote().doubled.remote(), timeout=60) == 18


def test_generic_classes_stay_generic(ray: Any) -> None:
    from typing import Generic, TypeVar

    T = TypeVar("T")

    class Plain(Generic[T]):
        def __init__(self, value: T) -> None:
            self.value = value

        def get(self) -> T:
            return self.value

    Box: Any = ray.remote(Plain)

    class IntBox(Box):  # type: ignore[misc]
        pass

    assert IntBox(3).get() == 3
    assert ray.get(ray.remote(IntBox).remote(4).get.remote(), timeout=60) == 4
    hints: Any = (ActorClass[int], ActorHandle[int])
    assert [hint.__origin__ for hint in hints] == [ActorClass, ActorHandle]
    assert ActorProxy is ActorHandle


def test_a_remote_class_can_be_pickled_and_used_in_a_task(ray: Any) -> None:
    @ray.remote
    def make(cls: Any) -> str:
        return f"{ray.get(cls.remote('there').who.remote())} {cls.cls('here').who()}"

    assert ray.get(make.remote(Base), timeout=60) == "base there base here"
    assert pickle.loads(pickle.dumps(sparkray.remote(dict))).cls is dict
