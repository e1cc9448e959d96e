"""A conda environment made by hand, where no channel of conda's can be reached: this machine's Python laid out as conda
does. A package in a cache of packages, hard links to its files in the environment, `conda-meta` that says whose they
are; and beside them what pip would have installed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

PLACEHOLDER = "/opt/placeholder_of_the_prefix"  # as the package was built; conda writes the prefix in its place
_LEFT_OUT = ("site-packages", "dist-packages", "test", "idlelib", "ensurepip", "__pycache__", "config-*", "*.a")


def conda_environment(folder: Path) -> Path:
    """Its prefix."""
    package = _package(folder / "pkgs")
    prefix = folder / "envs" / "made"
    files = [row["_path"] for row in json.loads((package / "info" / "paths.json").read_text())["paths"]]
    for file in files:
        (prefix / file).parent.mkdir(parents=True, exist_ok=True)
        os.link(package / file, prefix / file, follow_symlinks=False)
    script = prefix / "bin" / "tool"  # has the prefix in it, so it is a file of its own
    script.unlink()
    script.write_text((package / "bin" / "tool").read_text().replace(PLACEHOLDER, str(prefix)))
    script.chmod(0o755)
    (prefix / "lib" / _python() / "site-packages").mkdir()  # what pip installs goes there
    meta = prefix / "conda-meta"
    meta.mkdir()
    facts = {
        "name": "python",
        "version": sys.version.split()[0],
        "build": "0",
        "channel": "made-by-hand",
        "url": f"file://{package}.conda",
        "files": files,
        "link": {"source": str(package), "type": 1},
    }
    (meta / f"{package.name}.json").write_text(json.dumps(facts))
    (meta / "history").write_text("")
    return prefix


def _python() -> str:
    return f"python{sys.version_info[0]}.{sys.version_info[1]}"


def _package(cache: Path) -> Path:
    package = cache / f"python-{sys.version.split()[0]}-0"
    base, name = Path(sys.base_prefix), _python()
    (package / "bin").mkdir(parents=True)
    shutil.copy2(os.path.realpath(base / "bin" / name), package / "bin" / name)
    (package / "bin" / "python").symlink_to(name)
    (package / "bin" / "tool").write_text(f"#!{PLACEHOLDER}/bin/python\nimport sys\nprint(sys.prefix)\n")
    ignored = shutil.ignore_patterns(*_LEFT_OUT)
    shutil.copytree(base / "lib" / name, package / "lib" / name, symlinks=True, ignore=ignored)
    files = [path for path in sorted(package.rglob("*")) if path.is_symlink() or path.is_file()]
    rows = [{"_path": str(path.relative_to(package)), "path_type": "hardlink"} for path in files]
    for row in rows:
        if row["_path"] == "bin/tool":
            row |= {"prefix_placeholder": PLACEHOLDER, "file_mode": "text"}
    (package / "info").mkdir()
    (package / "info" / "paths.json").write_text(json.dumps({"paths": rows, "paths_version": 1}))
    return package
