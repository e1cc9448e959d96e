"""Modules that a function or class names, from where the driver has them to the worker that needs them.

Workers start with the driver's sys.path. What was added to it since goes along with the functions that are first called
after that. What is not where a worker looks at all, it cannot guess: the error names the module, and what to do.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from typing import Any

import cloudpickle


def search_path() -> list[str]:
    """Where this process looks for modules, as it is understood from any folder."""
    return [os.path.abspath(entry) for entry in sys.path]


class _Found:
    """Pickles as its inner blob, to be loaded with more folders on sys.path."""

    def __init__(self, blob: bytes, folders: Sequence[str]) -> None:
        self.blob, self.folders = blob, folders

    def __reduce__(self) -> Any:
        return _load_with, (self.blob, list(self.folders))


def _load_with(blob: bytes, folders: list[str]) -> Any:
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]
    return cloudpickle.loads(blob)


def with_new_folders(blob: bytes, known: Sequence[str]) -> bytes:
    """The pickle of a function or class; with the entries of sys.path that are not in `known`, if there are any."""
    added = [entry for entry in dict.fromkeys(search_path()) if entry not in known]
    return pickle.dumps(_Found(blob, added), 5) if added else blob


def load(blob: bytes, what: str) -> Any:
    """The function or class; of an error that says no more than a module's name, one that says what to do.

    Raises:
        Exception: whatever unpickling it raises, which is user code.
    """
    try:
        return cloudpickle.loads(blob)
    except ModuleNotFoundError as error:
        raise not_found(error, what) from None


def not_found(error: ModuleNotFoundError, what: str) -> ModuleNotFoundError:
    """The same error, for whoever sent the value."""
    module = (error.name or "").partition(".")[0] or "that module"
    text = (
        f"{error}, which {what} needs. It could be imported where it was sent from, and cannot be here (pid "
        f"{os.getpid()}). If it is a file or folder of yours, ship it with the tasks: "
        f"runtime_env={{'py_modules': [{module}]}} or {{'working_dir': its folder}}; or send what is in it by value: "
        f"cloudpickle.register_pickle_by_value({module}). If it is installed, install it where the workers run. "
        f"Workers look in: {os.pathsep.join(sys.path[:5])}{' ...' if len(sys.path) > 5 else ''}"
    )
    return ModuleNotFoundError(text, name=error.name, path=error.path)
