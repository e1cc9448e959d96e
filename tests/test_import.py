"""`import sparkray` brings nothing that it does not need."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"numpy", "pandas", "psutil", "pyarrow", "pyspark", "rich", "typer", "zmq", "asyncio"}
PROGRAM = f"""
import sys
import sparkray as ray
from sparkray.util import ActorPool
from sparkray.exceptions import RayTaskError
print(sorted({HEAVY!r} & set(sys.modules)))
ray.init(num_cpus=1)
assert ray.get(ray.remote(lambda: 1).remote()) == 1
ray.shutdown()
print(sorted({{"pandas", "pyarrow", "pyspark"}} & set(sys.modules)))
"""


def test_what_is_heavy_is_imported_when_it_is_needed() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.splitlines() == ["[]", "[]"]


def test_a_module_does_not_hide_the_function_of_its_name() -> None:
    """Importing a submodule sets its name in the package, unless it was imported before the function."""
    code = (
        "import sparkray.util, importlib; importlib.import_module('sparkray.util.placement_group'); "
        "from sparkray.util import placement_group; assert callable(placement_group)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
