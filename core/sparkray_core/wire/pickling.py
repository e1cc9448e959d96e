"""One value -> one pickle stream and its out-of-band buffers: cloudpickle, with a quick way for what is plain.

What it costs (Python 3.11): pickle.dumps 0.2 us, a pickler object of our own 1.7 us, and 1.4 us more for each class or
function that goes by reference.
"""

from __future__ import annotations

import copyreg
import io
import sys
from collections.abc import Callable
from pickle import PickleBuffer
from types import CodeType, FunctionType, NoneType
from typing import Any, Final, cast

import cloudpickle
from cloudpickle.cloudpickle import list_registry_pickle_by_value

from sparkray_core.wire import arrow_values

ATOMS: Final = frozenset({NoneType, bool, int, float, str, bytes})
CONTAINERS: Final = frozenset({tuple, list, dict})
PLAIN_ITEMS: Final = 32  # in a container; beyond it, looking at each costs more than the pickler object that it saves
PLAIN_CONTAINERS: Final = 4  # in a container, for the same reason; two are the arguments of a task: (args, kwargs)


_registered: dict[type, Any] = {}  # by `register`


def has_reducer(cls: type) -> bool:
    """The user has told how to pickle it, to us or to `copyreg`: then that holds, and none of our own quick ways."""
    return cls in _registered or cls in copyreg.dispatch_table


def is_plain(container: Any, depth: int) -> bool:
    """Nothing but atoms, in containers at most `depth` deep inside this one: no class, function, array or ref."""
    items = container
    if type(container) is dict:
        if not ATOMS.issuperset(map(type, container)):
            return False
        items = container.values()
    if ATOMS.issuperset(map(type, items)):
        return True
    if not depth or len(container) > PLAIN_CONTAINERS:
        return False
    for item in items:
        cls = type(item)
        if cls not in ATOMS and not (cls in CONTAINERS and len(item) <= PLAIN_ITEMS and is_plain(item, depth - 1)):
            return False
    return True


def reduce_array(value: Any) -> Any:
    """(constructor, arguments) of an exact numpy.ndarray with its bytes as a PickleBuffer, or NotImplemented.

    numpy's own reduction leaves arrays that are not contiguous in the stream, so that they come out writable, and names
    a private function that has moved between numpy 1 and 2. This one is also three times as fast.
    """
    if type(value).__name__ != "ndarray":
        return NotImplemented
    dtype = value.dtype
    if dtype.hasobject or not dtype.itemsize or has_reducer(type(value)):
        return NotImplemented
    flags = value.flags
    fortran = flags.f_contiguous and not flags.c_contiguous
    buffer = PickleBuffer(value.ravel("F" if fortran else "C").view("u1"))
    plain = dtype.kind in "biufcmMSU" and dtype.metadata is None  # then its name says it all, and pickles faster
    arguments = (value.shape, dtype.str if plain else dtype, buffer)
    return type(value), (*arguments, 0, None, "F") if fortran else arguments


class Reduced:
    """Pickles as what it is told to."""

    __slots__ = ("reduced",)

    def __init__(self, reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


_CLOUDPICKLE_REDUCERS: dict[type, Any] = cast(Any, cloudpickle.Pickler.dispatch_table).maps[0]


class _Reducers(dict[type, Any]):
    """cloudpickle's reducers, then copyreg's as they are now. Its own ChainMap takes four times as long to say no."""

    def __missing__(self, cls: type) -> Any:
        return copyreg.dispatch_table[cls]


def _is_importable(function_or_class: Any) -> bool:
    """cloudpickle's own test, for the usual case in a tenth of the time: False asks cloudpickle."""
    module = function_or_class.__module__
    if type(module) is not str or module == "__main__" or list_registry_pickle_by_value():
        return False
    names = getattr(sys.modules.get(module), "__dict__", {})
    return names.get(function_or_class.__qualname__) is function_or_class


def _reduce_code(code: CodeType) -> Any:
    """As cloudpickle does, but with the name of its file: without it a traceback cannot show the line.

    (cloudpickle 3.1.3 writes "<dynamic-code>" instead, so that equal functions of different files are equal bytes.)
    """
    made, arguments = _CLOUDPICKLE_REDUCERS[CodeType](code)
    named = [code.co_filename if type(one) is str and one == "<dynamic-code>" else one for one in arguments]
    return made, tuple(named)


_reducers = _Reducers({**_CLOUDPICKLE_REDUCERS, CodeType: _reduce_code})


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle, with arrays and Arrow data out of band wherever they are in the value."""

    dispatch_table = _reducers

    def reducer_override(self, obj: Any) -> Any:
        cls = type(obj)
        if cls is FunctionType or cls is type or issubclass(cls, type):
            return NotImplemented if _is_importable(obj) else super().reducer_override(obj)
        module = cls.__module__
        if module == "numpy":
            return reduce_array(obj)
        if module == "pyarrow.lib" and not has_reducer(cls):
            return arrow_values.reduce(obj)
        return NotImplemented


def register(cls: type, reducer: Callable[[Any], Any]) -> None:
    """Pickle instances of exactly `cls` as `reducer(instance)` says: in this process, by `dump`, and nowhere else.

    (`copyreg` has the same effect here, but changes `copy.copy` and plain pickle as well.)
    """
    _registered[cls] = _reducers[cls] = reducer


def deregister(cls: type) -> None:
    """Pickle it as before `register`. Nothing happens to a class that is not registered."""
    if _registered.pop(cls, None) is not None:
        del _reducers[cls]
        if cls in _CLOUDPICKLE_REDUCERS:
            _reducers[cls] = _CLOUDPICKLE_REDUCERS[cls]


def dump(value: object, buffers: list[PickleBuffer] | None) -> bytes:
    """The stream; the buffers are added to `buffers`, or with None put into the stream. Raises what pickling raises."""
    file = io.BytesIO()
    _Pickler(file, 5, buffer_callback=None if buffers is None else buffers.append).dump(value)
    return file.getvalue()
