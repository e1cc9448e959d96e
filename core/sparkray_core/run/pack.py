"""A call's arguments as they travel, and the function as it travels once."""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING, Any

from sparkray_core.ids import FunctionId
from sparkray_core.messages import PLAIN, Value
from sparkray_core.model.entries import Entry
from sparkray_core.model.owner import Function
from sparkray_core.run import modules
from sparkray_core.run.brief import are_brief
from sparkray_core.run.execute import NO_ARGUMENTS
from sparkray_core.run.object_ref import ObjectRef
from sparkray_core.wire import values

if TYPE_CHECKING:
    from sparkray_core.run.core import Core

FUNCTION_WARNING_BYTES = 10 << 20  # Ray's: every worker that runs it gets and holds a copy

# The last: references that nobody else holds yet. They must live until the call is handed in, or their values go.
Packed = tuple[Value, "list[tuple[int | str, Entry]] | None", "list[Entry] | None", "list[ObjectRef[Any]]"]


def pack(core: Core, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
    """(payload, arguments that are references, references inside the arguments, references that were made for them).

    A snapshot: what the caller does to the arguments afterwards is not seen. Large arguments become objects of their
    own, so that they are written once to shared memory and read in place.

    Raises:
        TypeError: an argument cannot be pickled; the text names it.
        UnknownOwnerError: one is a reference of an earlier session.
    """
    if not args and not kwargs:
        return NO_ARGUMENTS, None, None, []
    if not kwargs and are_brief(args):
        return (PLAIN, args), None, None, []
    refs: list[tuple[int | str, Entry]] | None = None
    made: list[ObjectRef[Any]] = []
    if ObjectRef in map(type, args) or (kwargs and ObjectRef in map(type, kwargs.values())):
        args, kwargs, refs = _take_refs(args, kwargs)
        core.refuse_foreign([entry for _, entry in refs])
    serialized = values.serialize((args, kwargs))
    if serialized.size > core.inline_bytes:
        args, kwargs, refs = _take_large(core, args, kwargs, refs or [], made)
        serialized = values.serialize((args, kwargs))
    nested = [ref._entry for ref in serialized.refs] if serialized.refs else None
    return values.to_inline(serialized), refs, nested, made


def _take_refs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, list[tuple[int | str, Entry]]]:
    refs: list[tuple[int | str, Entry]] = []
    left = list(args)
    for position, value in enumerate(args):
        if type(value) is ObjectRef:
            refs.append((position, value._entry))
            left[position] = None
    kept = dict(kwargs)
    for name, value in kwargs.items():
        if type(value) is ObjectRef:
            refs.append((name, value._entry))
            kept[name] = None
    return tuple(left), kept, refs


def _take_large(
    core: Core,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    refs: list[tuple[int | str, Entry]],
    made: list[ObjectRef[Any]],
) -> tuple[Any, Any, list[tuple[int | str, Entry]] | None]:
    """Each argument that is large by itself goes to the store."""
    left, kept = list(args), dict(kwargs)
    holders: list[tuple[Any, Any, Any]] = [(left, position, value) for position, value in enumerate(args)]
    holders += [(kept, name, value) for name, value in kwargs.items()]
    for holder, where, value in holders:
        if value is not None and values.serialize(value).size > core.inline_bytes:
            made.append(core.put(value))
            refs.append((where, made[-1]._entry))
            holder[where] = None
    return tuple(left), kept, refs or None


def pickle_function(core: Core, function: Any, name: str) -> tuple[bytes, list[Any]]:
    """A function or class as bytes, and the references that it has captured (which must outlive it).

    Raises:
        TypeError: it cannot be pickled.
        ValueError: it is larger than the setting `function_limit_bytes`, 95 MiB. (From 10 MiB on, a `UserWarning`.)
    """
    blob, refs = values.serialize_in_band(function)  # captured arrays too: one blob holds everything
    limit = core.settings.function_limit_bytes
    if len(blob) > min(limit, FUNCTION_WARNING_BYTES):
        told = (
            f"{name} is {len(blob) >> 20} MiB when pickled, and goes to every worker that runs it. It captures large "
            f"objects: store them with put() and pass the references."
        )
        if len(blob) > limit:
            raise ValueError(f"{told} The limit is {limit >> 20} MiB (the setting function_limit_bytes).")
        warnings.warn(told, UserWarning, stacklevel=5)
    return modules.with_new_folders(blob, core.known_folders), refs


def name_function(blob: bytes, name: str) -> Function:
    """The same bytes under the same name are the same function, to whoever has got it already."""
    digest = hashlib.blake2b(blob, digest_size=16, key=name.encode()[:64])
    return Function(FunctionId(digest.digest()), name, blob)


def pack_function(core: Core, function: Any, name: str) -> tuple[Function, list[Any]]:
    """`pickle_function` and `name_function`."""
    blob, refs = pickle_function(core, function, name)
    return name_function(blob, name), refs
