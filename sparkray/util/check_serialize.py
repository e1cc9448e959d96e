"""`inspect_serializability`: which of the things inside a value keep it from being sent."""

from __future__ import annotations

from typing import Any, TextIO

from sparkray_core.wire.pickling import dump
from sparkray_core.wire.unpicklable import MAX_ATTEMPTS, inside

_SHOWN = 200  # characters of an object's repr


class FailureTuple:
    """Something that cannot be pickled, and nothing was found in it that is to blame.

    Attributes:
        path: how one gets to it from the inspected object; the inspected object's name first, if it was given.
        parent: the object in which it was found; None for the inspected object.
    """

    def __init__(self, obj: Any, path: tuple[str, ...], parent: Any) -> None:
        self.obj = obj
        self.path = path
        self.parent = parent

    @property
    def name(self) -> str:
        return self.path[-1] if self.path else "unknown"

    def __repr__(self) -> str:
        path = " -> ".join(self.path)
        return f"FailTuple({self.name} [path={path}, obj={_show(self.obj)}, parent={_show(self.parent)}])"


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Look for what keeps an object from being pickled, and print the way there.

    Args:
        name: what to call the object in the report.
        depth: levels to go down into it; what fails at the last one is reported as it is.
        print_file: as with `print`; None is the standard output.

    Returns:
        (True, empty), or (False, the innermost objects found that cannot be pickled).
    """
    inspection = _Inspection(print_file)
    title = f"Checking Serializability of {_show(base_obj)}"
    inspection.say(0, "=" * min(len(title), 80))
    inspection.say(0, title)
    inspection.say(0, "=" * min(len(title), 80))
    error = _attempt(base_obj)
    if error is None:
        return True, set()
    inspection.descend(base_obj, (name,) if name is not None else (), None, error, depth)
    inspection.say(0, "=" * min(len(title), 80))
    for failure in inspection.failures:
        inspection.say(0, f"Not serializable: {failure!r}")
    inspection.say(0, "Make these where they are used, inside the task or in the actor's __init__, or leave them out.")
    return False, inspection.failures


class _Inspection:
    def __init__(self, print_file: TextIO | None) -> None:
        self.failures: set[FailureTuple] = set()
        self._print_file = print_file
        self._seen: dict[int, object] = {}  # what failed. The objects are kept, or ids would be used again
        self._blamed: set[int] = set()  # ids of what failed and was gone through
        self._left = MAX_ATTEMPTS

    def say(self, level: int, text: str) -> None:
        print("    " * level + text, file=self._print_file)

    def descend(self, value: Any, path: tuple[str, ...], parent: Any, error: Exception, depth: int) -> None:
        """Report a value that failed with `error`, or rather what fails inside it."""
        level = len(path)
        self.say(level, f"!!! FAIL serialization: {type(error).__name__}: {error}")
        self._seen[id(value)] = value
        found = False
        for step, inner in _parts(value) if depth > 0 else ():
            if id(inner) in self._seen:
                found = found or id(inner) in self._blamed
                continue
            if self._left <= 0:
                self.say(level, f"... {MAX_ATTEMPTS} inner objects were tried; the rest is not looked at")
                break
            self._left -= 1
            inner_error = _attempt(inner)
            if inner_error is not None:
                found = True
                name = "its class" if inner is type(value) else step.strip()
                self.say(level, f"Serializing {name!r} {_show(inner)}...")
                self.descend(inner, (*path, name), value, inner_error, depth - 1)
        self._blamed.add(id(value))
        if not found:
            self.failures.add(FailureTuple(value, path, parent))


def _parts(value: object) -> list[tuple[str, object]]:
    parts: list[tuple[str, object]] = []
    try:
        parts.extend(inside(value))
    except Exception:  # noqa: BLE001 - the user's iterators and properties; what came before counts
        return parts
    return parts


def _attempt(value: object) -> Exception | None:
    try:
        dump(value, [])
    except Exception as error:  # noqa: BLE001 - the user's __reduce__ runs in there, and how it fails is the answer
        return error
    return None


def _show(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - the user's __repr__
        text = object.__repr__(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
