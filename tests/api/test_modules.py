"""Modules of the driver in the workers: beside the script, in folders added later, by value, and what is not there."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparkray.exceptions import ActorDiedError
from sparkray_core.run.modules import with_new_folders

PREAMBLE = """
import json, os, sys
import sparkray as ray
ray.init(num_cpus=1, object_store_memory=32 << 20)
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """Run a script of these lines, which prints JSON, in a folder of its own, from another one."""

    def run_script(text: str, **files: str) -> Any:
        folder, elsewhere = tmp_path / "script", tmp_path / "elsewhere"
        folder.mkdir()
        elsewhere.mkdir()
        for name, content in files.items():
            (folder / f"{name}.py").write_text(content)
        (folder / "main.py").write_text(PREAMBLE + textwrap.dedent(text))
        command = [sys.executable, str(folder / "main.py")]
        done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run_script


def test_a_module_beside_the_script_is_found_and_the_folder_is_the_drivers(run: Any) -> None:
    answer = run(
        """
        import helper

        @ray.remote
        def look():
            import late
            return helper.double(2), late.X, sys.path[0], os.getcwd()

        in_module = ray.remote(helper.double)
        actor = ray.remote(helper.Counter).remote()
        print(json.dumps([ray.get(look.remote()), ray.get(in_module.remote(3)), ray.get(actor.add.remote(4)),
                          sys.path[0], os.getcwd()]))
        """,
        helper="def double(x):\n    return 2 * x\nclass Counter:\n    def add(self, x):\n        return x + 1\n",
        late="X = 1\n",
    )
    (four, late, path, folder), six, five, its_path, its_folder = answer
    assert (four, late, six, five) == (4, 1, 6, 5)
    assert (path, folder) == (its_path, its_folder)


def test_a_folder_added_to_the_path_after_init_is_looked_in(run: Any) -> None:
    answer = run(
        """
        os.mkdir("added")
        open("added/newmodule.py", "w").write("def f(x):\\n    return x + 1\\nclass C:\\n    def g(self):\\n"
                                               "        import newmodule\\n        return newmodule.f(5)\\n")
        warm = ray.remote(lambda: os.getpid())
        ray.get(warm.remote())
        sys.path.insert(0, "added")
        import newmodule

        @ray.remote
        def nested():
            return ray.get(ray.remote(newmodule.f).remote(7))

        print(json.dumps([ray.get(ray.remote(newmodule.f).remote(1)),
                          ray.get(ray.remote(newmodule.C).remote().g.remote()), ray.get(nested.remote())]))
        """
    )
    assert answer == [2, 6, 8]


def test_a_module_that_only_the_driver_has_is_named_and_by_value_it_works(run: Any) -> None:
    answer = run(
        """
        import types, cloudpickle
        only = types.ModuleType("only_here")
        exec("class Thing:\\n    x = 1\\ndef f():\\n    return Thing.x\\n", only.__dict__)
        sys.modules["only_here"] = only

        texts = []
        for call in (lambda: ray.remote(only.f).remote(),
                     lambda: ray.remote(only.Thing).remote().__ray_ready__.remote(),
                     lambda: ray.remote(lambda thing: 1).remote(only.Thing())):
            try:
                ray.get(call())
            except Exception as error:
                texts.append(type(error).__name__ + ": " + str(error))
        cloudpickle.register_pickle_by_value(only)
        texts.append(ray.get(ray.remote(lambda: only.f()).remote()))
        texts.append(ray.get(ray.remote(only.f).remote()))
        print(json.dumps(texts))
        """
    )
    function, actor, argument, *by_value = answer
    assert function.startswith("RayTaskError(ModuleNotFoundError)")
    assert actor.startswith(ActorDiedError.__name__)
    assert argument.startswith("RayTaskError(ModuleNotFoundError)")
    for text, what in ((function, "f() needs"), (actor, "the class Thing needs"), (argument, "an argument needs")):
        assert "No module named 'only_here'" in text
        assert what in text
        assert "register_pickle_by_value(only_here)" in text
        assert "runtime_env={'py_modules': [only_here]}" in text
    assert by_value == [1, 1]


def test_a_function_with_nothing_new_on_the_path_is_pickled_as_it_is() -> None:
    assert with_new_folders(b"blob", [*map(str, map(Path.absolute, map(Path, sys.path)))]) == b"blob"
