"""How a script reaches a driver's pod: with the settings, in the ConfigMap that Spark makes of a folder of settings.

Spark sends what stands in SPARK_CONF_DIR, text only and at most about a megabyte, and mounts it in the pod. So script,
modules and sparkray itself travel as one archive written in base 64, beside a main program that unpacks and runs it.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import tarfile
from collections.abc import Sequence

from sparkray.ship import modules
from sparkray.submitting import PYTHON_FILES

MOUNTED = "/opt/spark/conf"  # Spark's own, fixed
MOST_BYTES = 1_000_000  # of a ConfigMap, less what Kubernetes and Spark's settings need of its 1 MiB
_ARCHIVE, _MAIN = "sparkray_program.txt", "sparkray_program.py"
_PROGRAM = f"""\
import base64, io, os, runpy, sys, tarfile, tempfile
script, files = {{script!r}}, {{files!r}}
folder = tempfile.mkdtemp(prefix="sparkray-program-")
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), {_ARCHIVE!r})) as text:
    archive = tarfile.open(fileobj=io.BytesIO(base64.b64decode(text.read())), mode="r:xz")
archive.extraction_filter = getattr(tarfile, "data_filter", None)
archive.extractall(folder)
paths = [os.path.join(folder, "files", name) for name in files]
sys.path[0:1] = [os.path.join(folder, name) for name in ("script", "files", "sparkray")]
sys.path[3:3] = [path for path in paths if not path.endswith(".py")]
os.environ[{PYTHON_FILES!r}] = os.pathsep.join(paths)
sys.argv[0] = os.path.join(folder, "script", script)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def folder_with_program(folder: str, settings_now: str, script: str, files: Sequence[str]) -> tuple[str, str]:
    """Make one for spark-submit.

    Args:
        folder: where it is made.
        settings_now: the folder of settings that would be taken otherwise; its files are taken along.
        files: for Python's path, of the driver and of the executors.

    Returns:
        Its path, and the URL of the program to run, in the driver's pod.

    Raises:
        ValueError: a file is not there, or all is too large.
    """
    names = [os.path.basename(name) for name in files]
    if len(set(names)) < len(names):
        raise ValueError(f"extra_python_lib names two files alike: {', '.join(sorted(names))}")
    target = os.path.join(folder, "conf")
    os.mkdir(target)
    size = 0
    for entry in os.scandir(settings_now) if os.path.isdir(settings_now) else ():
        if entry.is_file():
            size += os.path.getsize(shutil.copy(entry.path, target))
    for file in files:
        if not os.path.isfile(file):
            raise ValueError(
                f"extra_python_lib names {file}, which is no file of this host's: only such reach the driver's pod. "
                "Give URLs in conf, as spark.submit.pyFiles"
            )
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        archive.add(script, f"script/{os.path.basename(script)}")
        for file in files:
            archive.add(file, f"files/{os.path.basename(file)}")
        for path, name in sorted(modules()):
            archive.add(path, f"sparkray/{name}")
    text = base64.b64encode(packed.getvalue())
    size += len(text)
    if size > MOST_BYTES:  # Spark would leave files out, and say so in its log only
        raise ValueError(
            f"Spark's settings, the script, extra_python_lib and sparkray are {size:,} bytes, packed, and a ConfigMap "
            f"takes {MOST_BYTES:,}: put the modules into the image, or into an archive that penv_archive names"
        )
    with open(os.path.join(target, _ARCHIVE), "wb") as out:
        out.write(text)
    with open(os.path.join(target, _MAIN), "w") as main:
        main.write(_PROGRAM.format(script=os.path.basename(script), files=names))
    return target, f"local://{MOUNTED}/{_MAIN}"
