"""What this process has packed for environments: objects of its own in the store, named by what is in them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from typing import IO, Any

import cloudpickle

from sparkray.packaging import Found, find_files, pack, signature
from sparkray_core.errors import RuntimeEnvSetupError
from sparkray_core.messages import STORED
from sparkray_core.run.core import Core
from sparkray_core.run.object_ref import ObjectRef


class Packages:
    """The objects live as long as the process."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.kept: list[ObjectRef[Any]] = []
        self.places: dict[str, list[Any]] = {}  # hash -> [object id, [node], bytes], in hex
        self.seen: dict[str, tuple[str, str]] = {}  # what was packed -> (its signature then, hash)

    def folder(self, what: str, path: str, excludes: Sequence[str], prefix: str = "") -> str:
        """Pack a folder unless that was done and nothing has changed since. The hash of what is in it."""
        return self._files(what, f"{os.path.realpath(path)}\0{prefix}\0{excludes}", find_files(path, excludes, prefix))

    def file(self, what: str, path: str) -> str:
        """A package of one .py file."""
        facts = os.stat(path)
        found = Found(path, os.path.basename(path), facts.st_size, facts.st_mtime_ns, False)
        return self._files(what, os.path.realpath(path), [found])

    def _files(self, what: str, key: str, files: list[Found]) -> str:
        now = signature(files)
        known = self.seen.get(key)
        if known is not None and known[0] == now:
            return known[1]
        digest, file, size = pack(what, files)
        with file:
            self._keep(digest, file, size)
        self.seen[key] = (now, digest)
        return digest

    def archive(self, path: str) -> str:
        """A .zip or .whl, as it is."""
        facts = os.stat(path)
        key, now = os.path.realpath(path), f"{facts.st_size} {facts.st_mtime_ns}"
        known = self.seen.get(key)
        if known is not None and known[0] == now:
            return known[1]
        digest = hashlib.blake2b(digest_size=16)
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
            self._keep(digest.hexdigest(), file, facts.st_size)
        self.seen[key] = (now, digest.hexdigest())
        return digest.hexdigest()

    def hook(self, function: Any) -> str:
        try:
            blob = cloudpickle.dumps(function)
        except Exception as error:  # the user's objects decide what their pickling raises
            raise RuntimeEnvSetupError(
                f"Failed to export the setup function: worker_process_setup_hook cannot be pickled ({error!r}). "
                f"Make what it captures inside it."
            ) from error
        digest = hashlib.blake2b(blob, digest_size=16).hexdigest()
        self._keep(digest, io.BytesIO(blob), len(blob))
        return digest

    def _keep(self, digest: str, file: IO[bytes], size: int) -> None:
        """Write it to the store, as an object of ours, unless that was done."""
        if digest in self.places:
            return
        core = self.core
        entry = core.next_entry()
        file.seek(0)
        with core.room(entry.id, size) as view:
            done = 0
            while done < size:
                done += file.readinto(view[done:])  # type: ignore[attr-defined]
        core.owner.put(entry, (STORED, size, (core.node,)), [])
        self.kept.append(ObjectRef(entry))
        self.places[digest] = [entry.id.hex(), [core.node.hex()], size]
