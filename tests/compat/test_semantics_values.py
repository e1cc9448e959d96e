"""Arguments, values, functions and classes, as programs written for Ray expect them (lines 1 to 18)."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkray.session import core

BIG = 200_000  # bytes: more than travels inline


def test_references_at_the_top_are_values_and_deeper_ones_stay_references(ray: Any) -> None:
    """Line 1."""

    @ray.remote
    def kinds(*args: Any, **kwargs: Any) -> list[str]:
        return [type(value).__name__ for value in (*args, *kwargs.values())]

    class Holder:
        def __init__(self, ref: Any) -> None:
            self.ref = ref

    @ray.remote
    def inside(holder: Any) -> Any:
        return type(holder.ref).__name__, ray.get(holder.ref)

    ref = ray.put(1)
    assert ray.get(kinds.remote(ref, [ref], x=ref, y={"k": ref})) == ["int", "list", "int", "dict"]
    assert ray.get(inside.remote(Holder(ref))) == ("ObjectRef", 1)


def test_a_nested_reference_that_is_not_ready_delays_nobody(ray: Any, tmp_path: Path, wait_until: Any) -> None:
    """Line 2."""
    gate = tmp_path / "open"

    @ray.remote
    def slow() -> str:
        wait_until(gate.exists)
        return "slow"

    @ray.remote
    def nested(refs: list[Any]) -> int:
        return len(refs)

    @ray.remote
    def top(value: str) -> str:
        return value

    late = slow.remote()
    waits = top.remote(late)
    assert ray.get(nested.remote([late]), timeout=20) == 1
    assert ray.wait([waits], timeout=0) == ([], [waits])
    gate.touch()
    assert ray.get(waits, timeout=20) == "slow"


def test_arguments_and_put_take_a_snapshot(ray: Any) -> None:
    """Line 3."""

    @ray.remote
    def total(items: Any) -> int:
        return int(sum(items))

    small, large = [1, 2], np.ones(BIG)
    refs = [ray.put(small), ray.put(large)]
    calls = [total.remote(small), total.remote(large), total.remote(items=small)]
    small.append(100)
    large[:] = 7

    assert ray.get(calls) == [3, BIG, 3]
    assert ray.get(refs[0]) == [1, 2]
    assert ray.get(refs[1]).sum() == BIG


def test_large_arguments_travel_through_the_store_once_per_call_and_are_freed(ray: Any, wait_until: Any) -> None:
    """Line 4."""

    @ray.remote
    def size(a: bytes, b: bytes, *, c: bytes) -> int:
        return len(a) + len(b) + len(c)

    def used() -> int:
        return int(core().ask(core().raylet_id, "status")["store_used"])

    wait_until(lambda: used() == 0)
    block = b"x" * (4 << 20)
    assert ray.get([size.remote(block, b"", c=b"y") for _ in range(8)]) == [len(block) + 1] * 8
    assert ray.get(size.remote(block, block, c=block)) == 3 * len(block)
    wait_until(lambda: used() == 0)


def test_small_results_and_large_ones_come_the_same_way(ray: Any) -> None:
    """Line 5."""

    @ray.remote
    def give(n: int) -> bytes:
        return b"z" * n

    for n in (0, 1, 100 << 10, (100 << 10) + 1, BIG, 1 << 20):
        assert ray.get(give.remote(n)) == b"z" * n
        assert ray.get(ray.put(b"z" * n)) == b"z" * n


def test_every_array_that_crossed_the_boundary_is_read_only(ray: Any) -> None:
    """Line 6."""

    @ray.remote
    def writeable(*arrays: Any) -> list[bool]:
        return [array.flags.writeable for array in arrays]

    @ray.remote
    def give(n: int) -> Any:
        return np.zeros(n)

    assert ray.get(writeable.remote(np.zeros(3), np.zeros(BIG), ray.put(np.zeros(3)))) == [False] * 3
    for array in (ray.get(give.remote(3)), ray.get(give.remote(BIG)), ray.get(ray.put(np.zeros(3)))):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert ray.get(give.remote(3), copy=True).flags.writeable


def test_two_gets_give_two_objects(ray: Any) -> None:
    """Line 7."""

    @ray.remote
    def give() -> Any:
        return {"a": [1], "b": b"x" * BIG}

    @ray.remote
    def change(items: list[int]) -> list[int]:
        items.append(9)
        return items

    for ref in (ray.put([1, 2]), give.remote(), ray.put({"a": [1], "b": np.zeros(BIG)})):
        first, second = ray.get([ref, ref])
        assert first is not second
        (first if isinstance(first, list) else first["a"]).append(5)
        assert 5 not in (ray.get(ref) if isinstance(first, list) else ray.get(ref)["a"])
    kept = ray.put([1])
    assert ray.get([change.remote(kept), change.remote(kept)]) == [[1, 9], [1, 9]]
    assert ray.get(kept) == [1]


def test_a_returned_reference_stays_a_reference_and_a_handle_works(ray: Any) -> None:
    """Line 8."""

    @ray.remote
    class Counter:
        def __init__(self) -> None:
            self.n = 0

        def inc(self) -> int:
            self.n += 1
            return self.n

    @ray.remote
    def inner() -> int:
        return 5

    @ray.remote
    def outer() -> Any:
        return inner.remote()

    @ray.remote
    def twice() -> Any:
        return outer.remote()

    @ray.remote
    def make() -> Any:
        counter = Counter.remote()
        ray.get(counter.inc.remote())
        return counter

    ref = ray.get(outer.remote())
    assert isinstance(ref, ray.ObjectRef)
    assert ray.get(ref) == 5
    assert ray.get(ray.get(ray.get(twice.remote()))) == 5
    assert ray.get(ray.get(make.remote()).inc.remote(), timeout=20) == 2


def test_put_of_a_reference_is_refused_and_a_list_of_one_keeps_it_alive(ray: Any) -> None:
    """Line 9."""
    ref = ray.put(b"x" * BIG)
    with pytest.raises(TypeError, match="ObjectRef"):
        ray.put(ref)
    outer = ray.put([ref])
    del ref
    assert ray.get(ray.get(outer)[0]) == b"x" * BIG


def test_what_does_not_fit_the_signature_is_raised_in_the_caller(ray: Any) -> None:
    """Line 10."""

    @ray.remote
    def f(a: int, b: int = 1, *, c: int) -> None: ...

    @ray.remote
    class A:
        def __init__(self, x: int) -> None: ...

        def m(self, y: int) -> int:
            return y

        @staticmethod
        def s(y: int) -> int:
            return y

    for wrong in (
        lambda: f.remote(),
        lambda: f.remote(1, 2, 3, c=1),
        lambda: f.remote(1),
        lambda: f.remote(1, c=1, d=2),
        lambda: f.remote(1, a=1, c=1),
        lambda: A.remote(),
        lambda: A.remote(1, 2),
        lambda: A.remote(z=1),
    ):
        with pytest.raises(TypeError, match="argument"):
            wrong()


def test_an_argument_that_cannot_be_pickled_is_told_with_the_way_to_it(ray: Any) -> None:
    """Line 11."""

    @ray.remote
    def f(*args: Any) -> None: ...

    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"(?s)cannot serialize.*lock"):
        f.remote({"here": [1, lock]})
    with pytest.raises(TypeError, match=r"(?s)f\b.*lock|lock.*f\b"):
        ray.remote(lambda: lock).remote()


def test_a_function_is_pickled_at_its_first_call(ray: Any) -> None:
    """Line 12."""
    space: dict[str, Any] = {"ray": ray}
    source = textwrap.dedent(
        """
        FACTOR = 1
        @ray.remote
        def f():
            return FACTOR
        """
    )
    exec(compile(source, "<later>", "exec"), space)
    space["FACTOR"] = 2
    assert ray.get(space["f"].remote()) == 2
    space["FACTOR"] = 3
    assert ray.get(space["f"].remote()) == 2
    assert ray.get(space["f"].options(name="other").remote()) == 2


def test_a_function_made_anew_in_a_loop_is_another_function_each_time(ray: Any) -> None:
    """Line 13."""
    refs = []
    for i in range(150):

        @ray.remote
        def f(i: int = i) -> int:
            return i

        refs.append(f.remote())
    assert ray.get(refs) == list(range(150))


def test_a_function_that_captures_much_warns_and_too_much_is_refused(ray: Any) -> None:
    """Line 14."""
    some, more = np.zeros(11 << 17), np.zeros(96 << 17)  # 11 and 96 MiB

    @ray.remote
    def warns() -> int:
        return len(some)

    @ray.remote
    def refused() -> int:
        return len(more)

    @ray.remote
    class Refused:
        def m(self) -> int:
            return len(more)

    with pytest.warns(UserWarning, match="warns.*11 MiB"):
        ref = warns.remote()
    assert ray.get(ref, timeout=60) == len(some)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ray.get(warns.remote()) == len(some)  # told once
    for make in (refused.remote, Refused.remote):
        with pytest.raises(ValueError, match=r"(?i)refused.*96 MiB.*put"):
            make()


def test_functions_of_main_go_by_value_and_the_folder_of_the_script_is_searched(tmp_path: Path) -> None:
    """Line 15."""
    (tmp_path / "helper_of_script.py").write_text("def seven():\n    return 7\n")
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import os
            import sparkray as ray
            import helper_of_script

            def local():
                return helper_of_script.seven()

            @ray.remote
            def f():
                return local(), os.getcwd()

            @ray.remote
            def by_reference(function):
                return function()

            if __name__ == "__main__":
                with ray.init(num_cpus=1):
                    seven, cwd = ray.get(f.remote())
                    print(seven, cwd == os.getcwd(), ray.get(by_reference.remote(helper_of_script.seven)))
            """
        )
    )
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], cwd=elsewhere, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("7 True 7\n", 0), done.stderr


class Shared:
    value = 0


def test_class_variables_and_globals_belong_to_each_process(ray: Any) -> None:
    """Line 16."""

    @ray.remote
    def change() -> int:
        Shared.value += 1
        return Shared.value

    assert ray.get(change.remote()) >= 1
    assert Shared.value == 0


def test_a_worker_is_used_again_with_what_tasks_left_in_it(ray: Any) -> None:
    """Line 17."""

    @ray.remote
    def mark(n: int) -> tuple[int, Any]:
        before = getattr(sys, "left_by_a_task", None)
        setattr(sys, "left_by_a_task", n)  # noqa: B010
        return os.getpid(), before

    seen = [ray.get(mark.remote(n)) for n in range(20)]
    assert len({pid for pid, _ in seen}) == 1
    assert [before for _, before in seen][1:] == list(range(19))


def test_remote_functions_and_actor_classes_are_values(ray: Any) -> None:
    """Line 18."""

    @ray.remote
    def double(x: int) -> int:
        return 2 * x

    @ray.remote(num_cpus=0)
    class Doubler:
        def double(self, x: int) -> int:
            return 2 * x

    @ray.remote
    def use(function: Any, cls: Any, x: int) -> tuple[int, int]:
        return ray.get(function.remote(x)), ray.get(cls.remote().double.remote(x))

    assert ray.get(use.remote(double, Doubler, 4), timeout=30) == (8, 8)
    again: tuple[Any, Any] = ray.get(ray.put((double, Doubler)))
    assert ray.get(again[0].remote(5)) == 10
    assert ray.get(again[1].remote().double.remote(5), timeout=30) == 10


def test_recursion_through_the_remote_function_itself(ray: Any) -> None:
    """Line 18, in its own body."""

    @ray.remote
    def factorial(n: int) -> int:
        return 1 if n == 0 else n * int(ray.get(factorial.remote(n - 1)))

    factorial_of: Callable[[int], Any] = factorial.remote
    assert ray.get(factorial_of(6), timeout=30) == 720
