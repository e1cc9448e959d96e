"""Say which object inside a value cannot be pickled. Slow, and only run when pickling has failed already."""

from __future__ import annotations

import contextlib
import copyreg
import functools
import itertools
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType
from typing import Any, Final

MAX_DEPTH: Final = 12  # steps from the value to the culprit
MAX_ATTEMPTS: Final = 2_000  # picklings of inner objects; a list of a million is not searched to its end
_NOT_PICKLED: Final = frozenset({"__dict__", "__weakref__", "_abc_impl"})  # of a class; cloudpickle drops them


def explain(value: object, error: Exception, pickle: Callable[[object], object]) -> str:
    """The text for the user's TypeError.

    Args:
        value: what could not be pickled.
        error: why.
        pickle: tries one object, and raises if it cannot be done.
    """
    search = _Search(pickle)
    try:
        path, culprit, why = search.descend(value, "", error, 0)
    except Exception:  # noqa: BLE001 user code again: odd iterators and properties. The first error is what matters
        path, culprit, why = "", value, error
    said = f"{type(why).__name__}: {why}"
    if not path:
        return f"cannot serialize {_describe(value)}: {said}"
    return (
        f"cannot serialize {_describe(value)}: in it, {path.lstrip('. ')} is {_describe(culprit)}, which cannot be "
        f"pickled ({said}). Make that object where it is used, inside the task or in the actor's __init__, or give its "
        "class a __reduce__."
    )


class _Search:
    def __init__(self, pickle: Callable[[object], object]) -> None:
        self.pickle = pickle
        self.left = MAX_ATTEMPTS
        self.seen: dict[int, object] = {}  # the objects are kept, or ids would be used again

    def descend(self, value: object, path: str, error: Exception, depth: int) -> tuple[str, object, Exception]:
        """Follow the first inner object that fails too, to one that has none: (where, what, why)."""
        self.seen[id(value)] = value
        if depth < MAX_DEPTH:
            for step, inner in inside(value):
                if id(inner) in self.seen:
                    continue
                if self.left <= 0:
                    break
                self.left -= 1
                if (inner_error := self._attempt(inner)) is not None:
                    return self.descend(inner, path + step, inner_error, depth + 1)
        return path, value, error

    def _attempt(self, value: object) -> Exception | None:
        try:
            self.pickle(value)
        except Exception as error:  # noqa: BLE001 the user's __reduce__ runs in there, and how it fails is the answer
            return error
        return None


def _describe(value: object) -> str:
    if isinstance(value, (FunctionType, type)):
        return f"{'the class' if isinstance(value, type) else 'the function'} {value.__module__}.{value.__qualname__}"
    cls = type(value)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    return f"a value of type {name}"


def inside(value: Any) -> Iterator[tuple[str, object]]:
    """(how one writes it, object) of what a pickle of `value` contains."""
    if isinstance(value, dict):
        for key, item in itertools.islice(value.items(), MAX_ATTEMPTS):
            yield f"[{_short(key)}]", item
            yield f" key {_short(key)}", key
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(itertools.islice(value, MAX_ATTEMPTS)):
            yield f"[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in itertools.islice(value, MAX_ATTEMPTS):
            yield f" item {_short(item)}", item
    elif isinstance(value, FunctionType):
        yield from _inside_function(value)
    elif isinstance(value, MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif isinstance(value, functools.partial):
        yield ".func", value.func
        yield from ((f" argument {index}", item) for index, item in enumerate(value.args))
        yield from ((f" argument {name}", item) for name, item in value.keywords.items())
    elif isinstance(value, type):
        yield from _inside_class(value)
    else:
        yield from _inside_instance(value)


def _inside_class(cls: type) -> Iterator[tuple[str, object]]:
    for name, item in vars(cls).items():
        if isinstance(item, (classmethod, staticmethod)):
            item = item.__func__
        if name not in _NOT_PICKLED and not isinstance(item, (MemberDescriptorType, GetSetDescriptorType)):
            yield f".{name}", item


def _inside_function(function: FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):  # a cell that is still empty
            yield f" the variable {name} of {function.__qualname__}", cell.cell_contents
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield f" the global {name} used by {function.__qualname__}", function.__globals__[name]
    yield from ((f" a default of {function.__qualname__}", item) for item in function.__defaults__ or ())
    yield from ((f" the default {name}", item) for name, item in (function.__kwdefaults__ or {}).items())


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _inside_instance(value: Any) -> Iterator[tuple[str, object]]:
    """As its reduction tells: attributes that its __getstate__ leaves out are no culprits."""
    reducer = copyreg.dispatch_table.get(type(value))
    try:
        reduced = value.__reduce_ex__(5) if reducer is None else reducer(value)
    except Exception:  # noqa: BLE001 user code; the value itself is the culprit then
        return
    if not isinstance(reduced, tuple):
        return
    parts: list[Any] = list(reduced)
    parts.extend([None, None, None])
    _, arguments, state, items, pairs = parts[:5]
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            yield from ((f".{name}", item) for name, item in part.items())
        elif part is not None:
            yield "'s state", part
    if items is not None:
        yield from ((f"[{index}]", item) for index, item in enumerate(itertools.islice(items, MAX_ATTEMPTS)))
    if pairs is not None:
        yield from ((f"[{_short(key)}]", item) for key, item in itertools.islice(pairs, MAX_ATTEMPTS))
    yield from ((f"'s constructor argument {index}", item) for index, item in enumerate(arguments))


def _short(key: object) -> str:
    text = repr(key) if isinstance(key, (str, bytes, int, float, tuple, type(None))) else f"<{type(key).__name__}>"
    return text if len(text) <= 40 else f"{text[:37]}..."
