"""Sending sparkray's own code to executors that do not have it, as a zip that Spark puts on their Python's path."""

from __future__ import annotations

import hashlib
import os
import zipfile
from typing import TYPE_CHECKING

import sparkray
import sparkray_core

if TYPE_CHECKING:
    from pyspark import SparkContext


def ship_sparkray(sc: SparkContext) -> None:
    """Only sparkray: what it needs (pyzmq, cloudpickle, pyarrow, numpy, psutil) has to be there.

    The executors fetch the file when they need it, for as long as the SparkContext is there, so it lies in its folder.
    Two sessions in one SparkContext send the same file, once.
    """
    sc.addPyFile(pack_sparkray(sc._temp_dir))


def pack_sparkray(folder: str) -> str:
    """The path of a new file in the folder, named by what is in it."""
    found = sorted(modules())
    digest = hashlib.sha256()
    for path, name in found:
        with open(path, "rb") as module:
            digest.update(name.encode() + b"\0" + module.read() + b"\0")
    target = os.path.join(folder, f"sparkray-{digest.hexdigest()[:12]}.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, name in found:
            archive.write(path, name)
    return target


def modules() -> list[tuple[str, str]]:
    """(path, name in the archive) of every module of both packages."""
    found = []
    for package in (sparkray, sparkray_core):
        root = os.path.dirname(os.path.abspath(str(package.__file__)))
        for folder, _, files in os.walk(root):
            for file in files:
                if file.endswith(".py"):
                    path = os.path.join(folder, file)
                    found.append((path, os.path.join(os.path.basename(root), os.path.relpath(path, root))))
    return found
