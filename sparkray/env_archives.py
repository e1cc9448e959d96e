"""A Python environment that travels to executors: an archive, or a conda environment or venv that is packed here."""

from __future__ import annotations

import importlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "python_env"  # of the folder that a container finds it as
_MARKERS = {"conda": "conda-meta", "venv": "pyvenv.cfg"}
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip", ".jar")  # what YARN unpacks


@dataclass(frozen=True, slots=True)
class Travelling:
    """An environment that is still to be packed."""

    kind: str  # "conda" or "venv"
    prefix: str | None  # its folder
    name: str | None = None  # of a conda environment, where that is all that is known

    def pack(self, folder: str) -> str:
        """The path of a new archive in the folder.

        Raises:
            ValueError: it cannot be packed.
        """
        packer = _packer(self.kind)
        target = os.path.join(folder, f"{NAME}.tar.gz")
        # Editable packages are links to folders of this machine: they stay behind. sparkray itself is shipped.
        more: dict[str, Any] = {"ignore_editable_packages": True} if self.kind == "conda" else {}
        of = {"prefix": self.prefix} if self.name is None else {"name": self.name}
        try:
            # The archive is read once by each host: a little compression is worth the most.
            packer.pack(**of, output=target, compress_level=1, **more)
        except Exception as error:  # each of the two raises its own
            raise ValueError(f"{self} cannot be packed: {error}") from error
        return target

    def __str__(self) -> str:
        return f"the {'conda environment' if self.kind == 'conda' else 'venv'} {self.name or self.prefix}"


def travelling(environment: str) -> Travelling:
    """
    Args:
        environment: the name or folder of a conda environment, or the folder of a venv.

    Raises:
        ValueError: it is neither, or what packs it is not installed.
    """
    folder = Path(environment).expanduser()
    if os.sep not in environment and not folder.is_dir():
        found = Travelling("conda", None, environment)
    else:
        kind = next((kind for kind, marker in _MARKERS.items() if (folder / marker).exists()), None)
        if kind is None:
            raise ValueError(
                f"{environment} is neither a conda environment (no {_MARKERS['conda']} in it) nor a venv (no "
                f"{_MARKERS['venv']}): give conda_name the name or folder of one, or penv_archive an archive"
            )
        found = Travelling(kind, str(folder.absolute()))
    _packer(found.kind)
    return found


def _packer(kind: str) -> Any:
    package = "conda-pack" if kind == "conda" else "venv-pack2"
    module = "conda_pack" if kind == "conda" else "venv_pack"
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ValueError(
            f"{package} is needed to send a {kind} environment to the executors, and is not installed: "
            f"`pip install {package}`, or pack it yourself and give penv_archive the archive's path or URL"
        ) from None


def archive_url(given: str, name: str | None = NAME) -> str:
    """As Spark takes an archive: a URL, and the folder's name after "#".

    Args:
        given: a path or a URL, which may have a name already.
        name: where it has none; None: it keeps its file's name.

    Raises:
        ValueError: there is no such file, or YARN would not unpack it.
    """
    place, _, own = given.partition("#")
    if not place.lower().endswith(_ARCHIVES):
        raise ValueError(f"{place} is no archive that YARN unpacks: its name has to end in {', '.join(_ARCHIVES)}")
    name = own or name
    return file_url(place) + (f"#{name}" if name else "")


def file_url(given: str) -> str:
    """A path as a URL, so that it means the same everywhere; a URL stays as it is.

    Raises:
        ValueError: there is no such file.
    """
    if re.match(r"[a-zA-Z][\w+.-]*:", given):
        return given
    path = Path(given).expanduser().absolute()
    if not path.exists():
        raise ValueError(f"{given} is not there")
    return path.as_uri()


def python_in(archive: str) -> str:
    """The interpreter in it, as seen from a container's folder, in which Spark starts Python."""
    return f"./{archive.partition('#')[2]}/bin/python"


def own_python() -> str:
    """For executors that have their own environment: an absolute path, unless the user said otherwise."""
    return os.environ.get("PYSPARK_PYTHON") or sys.executable
