"""What workers print reaches the driver, named and in time."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sparkray_core.messages import LogLines
from sparkray_core.run.output import Printer


def run(tmp_path: Path, program: str, init: str = "num_cpus=2") -> tuple[list[str], list[str]]:
    """The lines of a driver's stdout and stderr."""
    script = tmp_path / "driver.py"
    script.write_text(
        "import os, sys, time\nimport sparkray as ray\n" + f"ray.init({init})\n" + textwrap.dedent(program)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_both_streams_arrive_before_the_result_with_name_and_pid(tmp_path: Path) -> None:
    out, err = run(
        tmp_path,
        """
        @ray.remote
        def talk():
            print("to stdout")
            os.system("echo from a child process")
            print("to stderr", file=sys.stderr)
            return os.getpid()

        pid = ray.get(talk.remote())
        print("result", pid)
        """,
    )
    pid = out[-1].split()[1]
    assert out == [f"(talk pid={pid}) to stdout", f"(talk pid={pid}) from a child process", f"result {pid}"]
    assert err == [f"(talk pid={pid}) to stderr"]


def test_a_running_task_s_output_is_shown_while_it_runs(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    script = tmp_path / "driver.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, time
            import sparkray as ray

            ray.init(num_cpus=1)

            @ray.remote
            def slow():
                print("begun")
                while not os.path.exists({str(go_on)!r}):
                    time.sleep(0.01)
                print("ended")

            ray.get(slow.remote(), timeout=60)
            """
        )
    )
    with subprocess.Popen([sys.executable, "-u", str(script)], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline().endswith("begun\n")  # and only now may the task end
        go_on.touch()
        assert driver.stdout.readline().endswith("ended\n")
        assert driver.wait(60) == 0


def test_output_of_actors_and_nested_tasks_reaches_the_driver(tmp_path: Path) -> None:
    out, _ = run(
        tmp_path,
        """
        @ray.remote
        def inner():
            print("inner line")

        @ray.remote
        class Outer:
            def call(self):
                print("outer line")
                ray.get(inner.remote())

        ray.get(Outer.remote().call.remote())
        """,
    )
    assert [(line.split()[0], line.split(") ")[1]) for line in out] == [
        ("(Outer", "outer line"),
        ("(inner", "inner line"),
    ]


def test_an_actor_with_a_repr_of_its_own_is_known_by_it(tmp_path: Path) -> None:
    out, _ = run(
        tmp_path,
        """
        @ray.remote
        class Named:
            def __init__(self, index):
                self.index = index
                print("made")
            def talk(self):
                print("hello")
            def __repr__(self):
                return f"Named(index={self.index})"

        @ray.remote
        class Broken:
            def talk(self):
                print("hello")
            def __repr__(self):
                raise ValueError("no repr")

        for cls, args in ((Named, (1,)), (Named, (2,)), (Broken, ())):
            ray.get(cls.remote(*args).talk.remote())  # one after the other, or the same lines are folded
        """,
    )
    assert sorted({re.sub(r" pid=\d+", "", line) for line in out}) == [
        "(<Broken, whose repr raised ValueError>) hello",
        "(Named(index=1)) hello",
        "(Named(index=2)) hello",
        "(Named) made",
    ]


def test_a_line_that_several_workers_print_at_once_is_folded(capsys: pytest.CaptureFixture[str]) -> None:
    def lines(pid: int, *said: str) -> LogLines:
        return LogLines("f", pid, "", 1, list(said))

    printer = Printer()
    for message in (lines(1, "ready", "mine"), lines(2, "ready"), lines(3, "ready"), lines(1, "again", "again")):
        printer.add(message)
    printer.show()
    printer.add(lines(2, "ready"))  # later: it is news again
    printer.show()

    assert capsys.readouterr().out.splitlines() == [
        "(f pid=1) ready [repeated 3x across 3 workers]",
        "(f pid=1) mine",
        "(f pid=1) again",  # of one worker nothing is folded: it may be counting
        "(f pid=1) again",
        "(f pid=2) ready",
    ]


def test_log_to_driver_false_shows_nothing(tmp_path: Path) -> None:
    out, err = run(
        tmp_path,
        """
        @ray.remote
        def talk():
            print("unheard")

        ray.get(talk.remote())
        """,
        init="num_cpus=1, log_to_driver=False",
    )
    assert (out, err) == ([], [])
