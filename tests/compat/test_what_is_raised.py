"""What a task raises, as its caller catches it: every class that there is, and those that cannot travel."""

from __future__ import annotations

import builtins
import errno
import sys
from typing import Any

import pytest

from sparkray.exceptions import (
    ActorDiedError,
    RayError,
    RaySystemError,
    RayTaskError,
    TaskCancelledError,
    UnserializableException,
    WorkerCrashedError,
)

_MADE_WITH: dict[str, tuple[Any, ...]] = {
    "UnicodeDecodeError": ("utf-8", b"\xff", 0, 1, "bad"),
    "UnicodeEncodeError": ("ascii", "\xe9", 0, 1, "bad"),
    "UnicodeTranslateError": ("\xe9", 0, 1, "bad"),
    "ExceptionGroup": ("several", [ValueError("a"), KeyError("b")]),
    "BaseExceptionGroup": ("several", [ValueError("a"), KeyboardInterrupt()]),
}
ORDINARY = sorted(
    name
    for name, cls in vars(builtins).items()
    if isinstance(cls, type) and issubclass(cls, Exception) and not issubclass(cls, Warning) and cls.__name__ == name
)


@pytest.mark.parametrize("name", ORDINARY)
def test_every_built_in_exception_is_caught_as_itself(ray: Any, name: str) -> None:
    cls = getattr(builtins, name)
    arguments = _MADE_WITH.get(name, ("said",))

    @ray.remote
    def fail() -> None:
        raise cls(*arguments)

    with pytest.raises(cls) as caught:
        ray.get(fail.remote(), timeout=20)
    assert isinstance(caught.value, RayTaskError)
    assert type(caught.value.cause) is cls
    if cls is not Exception:  # which a RayTaskError is anyway
        assert type(caught.value).__name__ == f"RayTaskError({name})"
        assert caught.value.args == (caught.value.cause,)
    assert "in fail" in str(caught.value)


def test_what_an_exception_keeps_in_c_is_there(ray: Any) -> None:
    @ray.remote
    def no_file() -> None:
        open("/no/such/file")  # noqa: SIM115

    @ray.remote
    def no_text() -> str:
        return b"ab\xff".decode()

    @ray.remote
    def no_module() -> None:
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401

    with pytest.raises(FileNotFoundError) as missing:
        ray.get(no_file.remote())
    assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, "/no/such/file")
    with pytest.raises(UnicodeDecodeError) as broken:
        ray.get(no_text.remote())
    assert (broken.value.start, broken.value.object, broken.value.encoding) == (2, b"ab\xff", "utf-8")
    with pytest.raises(ImportError) as unknown:
        ray.get(no_module.remote())
    assert unknown.value.name == "no_such_module"


class Fine(Exception):
    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code, self.hint = code, hint

    def __reduce__(self) -> Any:
        return _fine, (self.code, self.hint)


def _fine(code: int, hint: str) -> Fine:
    return Fine(code, hint=hint)


class Final(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("no subclasses")


class Base(BaseException):
    pass


def test_attributes_of_a_user_s_own_class(ray: Any) -> None:
    @ray.remote
    def fail() -> None:
        raise Fine(7, hint="look there")

    with pytest.raises(Fine) as caught:
        ray.get(fail.remote())
    assert (caught.value.code, caught.value.hint) == (7, "look there")


def test_a_class_that_wants_no_subclass_leaves_a_plain_error_with_its_cause(ray: Any) -> None:
    @ray.remote
    def fail() -> None:
        raise Final("final")

    with pytest.raises(RayTaskError) as caught:
        ray.get(fail.remote())
    assert type(caught.value.cause) is Final


@pytest.mark.parametrize("cls", [Base, GeneratorExit])
def test_a_base_exception_is_a_plain_error_and_the_worker_lives(ray: Any, cls: type[BaseException]) -> None:
    @ray.remote
    class Actor:
        def fail(self) -> None:
            raise cls("beyond Exception")

        def ok(self) -> int:
            return 1

    @ray.remote(max_retries=0)
    def fail() -> None:
        raise cls("beyond Exception")

    actor = Actor.remote()
    for ref in (fail.remote(), actor.fail.remote()):
        with pytest.raises(RayTaskError) as caught:
            ray.get(ref, timeout=20)
        assert not isinstance(caught.value, cls)
        assert type(caught.value.cause) is cls
        assert "beyond Exception" in str(caught.value)
    assert ray.get(actor.ok.remote(), timeout=20) == 1


def test_a_base_exception_of_a_constructor_is_told_by_its_calls(ray: Any) -> None:
    @ray.remote
    class Actor:
        def __init__(self) -> None:
            raise Base("in the constructor")

        def m(self) -> None: ...

    with pytest.raises(ActorDiedError, match=r"(?s)Base.*in the constructor"):
        ray.get(Actor.remote().m.remote(), timeout=20)


def test_a_base_exception_of_a_coroutine_leaves_its_actor_alive(ray: Any) -> None:
    @ray.remote
    class Actor:
        async def fail(self) -> None:
            raise Base("in a coroutine")

        async def ok(self) -> int:
            return 1

    actor = Actor.remote()
    with pytest.raises(RayTaskError, match="in a coroutine"):
        ray.get(actor.fail.remote(), timeout=20)
    assert ray.get(actor.ok.remote(), timeout=20) == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_exception_groups_keep_what_is_in_them(ray: Any) -> None:
    @ray.remote
    def fail(base: bool) -> None:
        one = KeyboardInterrupt() if base else KeyError("b")
        raise builtins.BaseExceptionGroup("several", [ValueError("a"), one])  # pyright: ignore[reportAttributeAccessIssue]

    with pytest.raises(builtins.ExceptionGroup) as caught:  # pyright: ignore[reportAttributeAccessIssue]
        ray.get(fail.remote(False))
    assert [type(one) for one in caught.value.exceptions] == [ValueError, KeyError]
    with pytest.raises(RayTaskError) as plain:
        ray.get(fail.remote(True))
    assert len(getattr(plain.value.cause, "exceptions", ())) == 2


def test_keyboard_interrupt_in_a_task_counts_as_its_cancellation(ray: Any) -> None:
    @ray.remote
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(TaskCancelledError):
        ray.get(fail.remote(), timeout=20)


@pytest.mark.parametrize("code", [0, 3])
def test_sys_exit_in_a_task_is_a_crashed_worker_whatever_the_code(ray: Any, code: int) -> None:
    @ray.remote(max_retries=0)
    def leave() -> None:
        sys.exit(code)

    with pytest.raises(WorkerCrashedError):
        ray.get(leave.remote(), timeout=20)


class OneWay(Exception):
    """Can be pickled, but its constructor wants two arguments: it does not come back."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} {b}")


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("never")


class Chameleon(Exception):
    def __reduce__(self) -> Any:
        return str, ("no exception at all",)


@pytest.mark.parametrize("cls", [Unpicklable, Chameleon])
def test_an_exception_that_cannot_be_pickled_is_told_with_its_traceback(ray: Any, cls: type[Exception]) -> None:
    @ray.remote
    def fail() -> None:
        raise cls("the original text")

    with pytest.raises(RayTaskError, match=rf"(?s){cls.__name__}.*the original text") as caught:
        ray.get(fail.remote(), timeout=20)
    assert isinstance(caught.value.cause, RayError)
    assert "isn't serializable" in str(caught.value.cause)


def test_an_exception_that_does_not_come_back_is_told_too(ray: Any) -> None:
    @ray.remote
    def fail() -> None:
        raise OneWay(1, 2)

    with pytest.raises(RayTaskError, match=r"OneWay") as caught:
        ray.get(fail.remote(), timeout=20)
    assert "isn't serializable" in str(caught.value.cause)


ONLY_THERE = """
import os
class {name}({base}):
    def __init__(self, *args):
        super().__init__(*args)
    def __reduce__(self):
        return self.__class__, ()
"""


def test_an_exception_of_a_module_that_the_caller_lacks_keeps_its_text(ray: Any, tmp_path: Any) -> None:
    (tmp_path / "only_there_error.py").write_text(ONLY_THERE.format(name="Odd", base="Exception"))
    folder = str(tmp_path)

    @ray.remote
    def fail() -> None:
        sys.path.insert(0, folder)
        import only_there_error  # type: ignore[import-not-found]

        raise only_there_error.Odd("said there")

    with pytest.raises(UnserializableException, match=r"(?s)only_there_error.*said there") as caught:
        ray.get(fail.remote(), timeout=20)
    assert isinstance(caught.value, RayTaskError)


def test_a_value_that_cannot_be_unpickled_here_is_a_clear_error_and_the_session_goes_on(
    ray: Any, tmp_path: Any
) -> None:
    (tmp_path / "only_there_value.py").write_text(ONLY_THERE.format(name="Odd", base="object"))
    folder = str(tmp_path)

    @ray.remote
    def give(pad: int) -> Any:
        sys.path.insert(0, folder)
        import only_there_value  # type: ignore[import-not-found]

        return only_there_value.Odd, b"x" * pad

    @ray.remote
    def kind(value: Any) -> str:
        return type(value).__name__

    for pad in (0, 300_000):
        ref = give.remote(pad)
        for _ in range(2):
            with pytest.raises(RaySystemError, match="only_there_value"):
                ray.get(ref, timeout=20)
    assert ray.get(kind.remote(1), timeout=20) == "int"


class BadState:
    def __setstate__(self, state: Any) -> None:
        raise RuntimeError("refuses to live")

    def __getstate__(self) -> Any:
        return {"x": 1}


def test_an_argument_that_cannot_be_unpickled_fails_its_task_alone(ray: Any) -> None:
    @ray.remote
    def take(value: Any) -> int:
        return 1

    with pytest.raises(RuntimeError, match="refuses to live"):
        ray.get(take.remote(BadState()), timeout=20)
    with pytest.raises(RuntimeError, match="refuses to live"):
        ray.get(take.remote(ray.put([BadState()])), timeout=20)
    with pytest.raises(RaySystemError, match="refuses to live"):
        ray.get(ray.put(BadState()), timeout=20)
    assert ray.get(take.remote(1), timeout=20) == 1


def test_errors_go_through_several_tasks_as_what_they_were(ray: Any) -> None:
    @ray.remote
    def fail() -> int:
        raise LookupError("deep down")

    @ray.remote
    def take(value: int) -> int:
        return value

    @ray.remote
    def ask(refs: list[Any]) -> Any:
        return ray.get(refs[0])

    for ref in (take.remote(take.remote(fail.remote())), ask.remote([ask.remote([fail.remote()])])):
        with pytest.raises(LookupError, match="deep down") as caught:
            ray.get(ref, timeout=20)
        assert isinstance(caught.value, RayTaskError)
        assert type(caught.value.cause) is LookupError
