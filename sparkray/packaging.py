"""A folder of this machine as one .zip, for `working_dir` and `py_modules`: what is in it, and how it is named.

Its name is a hash of its content, so the same folder is packed, sent and unpacked once, whoever asks for it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from sparkray.ignoring import Rules

# Ray's limit. A package goes through the object store of each node that needs it, and is unpacked beside it.
PACKAGE_LIMIT_BYTES = 500 << 20
DEFAULT_EXCLUDES = (".git", ".venv", "venv", "__pycache__")  # Ray's
IGNORE_FILES = (".gitignore", ".rayignore")
_SHOWN = 10  # of the largest files, when it is too large
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip knows no earlier time; a fixed one, so that equal files make equal packages
_CHUNK = 1 << 20

__all__ = ["PACKAGE_LIMIT_BYTES", "Found", "PackageTooLarge", "find_files", "pack", "signature"]


class PackageTooLarge(ValueError):
    """A working_dir or py_module is above the limit; the text names its largest files."""


class Found(NamedTuple):
    path: str
    name: str  # in the package
    size: int
    changed: int  # ns
    executable: bool


def find_files(folder: str, excludes: Sequence[str], prefix: str = "") -> list[Found]:
    """The files below a folder that are not excluded, in the order of their names.

    Links to folders inside are followed, but not in a circle.

    Args:
        excludes: patterns as in .gitignore, relative to the folder.
        prefix: before each name in the package.
    """
    root = os.path.realpath(folder)
    rules = [("", Rules(DEFAULT_EXCLUDES)), ("", Rules(excludes))]
    return sorted(_walk(root, "", rules, {root}, prefix), key=lambda found: found.name)


def _walk(folder: str, below: str, rules: list[tuple[str, Rules]], above: set[str], prefix: str) -> Iterator[Found]:
    rules = rules[:1] + _ignore_files(folder, below) + rules[1:] if not below else rules + _ignore_files(folder, below)
    with os.scandir(folder) as entries:
        for entry in entries:
            name = below + entry.name
            is_folder = entry.is_dir()
            if _is_ignored(name, is_folder, rules):
                continue
            if is_folder:
                real = os.path.realpath(entry.path)
                if real not in above:
                    yield from _walk(entry.path, name + "/", rules, above | {real}, prefix)
                continue
            try:
                facts = entry.stat()
            except FileNotFoundError:  # a link to nowhere
                continue
            if stat.S_ISREG(facts.st_mode):
                executable = bool(facts.st_mode & 0o100)
                yield Found(entry.path, prefix + name, facts.st_size, facts.st_mtime_ns, executable)


def _ignore_files(folder: str, below: str) -> list[tuple[str, Rules]]:
    found = []
    for name in IGNORE_FILES:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                found.append((below, Rules(file)))
    return found


def _is_ignored(name: str, is_folder: bool, rules: list[tuple[str, Rules]]) -> bool:
    for below, some in reversed(rules):
        said = some.says(name[len(below) :], is_folder)
        if said is not None:
            return said
    return False


def signature(files: Sequence[Found]) -> str:
    """Changes when a file does, as far as its size and time tell: to see whether a folder must be packed anew."""
    return hashlib.blake2b(repr(files).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def pack(what: str, files: Sequence[Found]) -> tuple[str, IO[bytes], int]:
    """(hash, the .zip as an open file that goes when it is closed, its size).

    Args:
        what: is packed, for the error.

    Raises:
        PackageTooLarge: the package is.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    digest = hashlib.blake2b(digest_size=16)
    try:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for found in files:
                info = zipfile.ZipInfo(found.name, _EPOCH)
                info.external_attr = (0o755 if found.executable else 0o644) << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                digest.update(f"{found.name}\0{found.executable}\0{found.size}\0".encode("utf-8", "surrogateescape"))
                with open(found.path, "rb") as source, archive.open(info, "w", force_zip64=True) as target:
                    while chunk := source.read(_CHUNK):
                        digest.update(chunk)
                        target.write(chunk)
                if file.tell() > PACKAGE_LIMIT_BYTES:
                    raise PackageTooLarge(_size_report(what, files))
        return digest.hexdigest(), file, file.seek(0, os.SEEK_END)
    except BaseException:
        file.close()
        raise


def _size_report(what: str, files: Sequence[Found]) -> str:
    total = sum(found.size for found in files)
    largest = sorted(files, key=lambda found: -found.size)[:_SHOWN]
    lines = "\n".join(f"    {found.size / (1 << 20):10.1f} MiB  {found.name}" for found in largest)
    return (
        f"{what} is more than {PACKAGE_LIMIT_BYTES >> 20} MiB when packed ({total / (1 << 20):.1f} MiB in "
        f"{len(files)} files). The largest:\n{lines}\nLeave them out by runtime_env['excludes'] or a .gitignore, or "
        f"read them in the tasks from where they are."
    )
