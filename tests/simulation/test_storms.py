"""Many sessions by one command: `sparkray_core.testing.storms`."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sparkray_core.testing import storms
from sparkray_core.testing.storm import Storm
from sparkray_core.testing.weather import KINDS, SAYS


def break_rough_sessions(patch: pytest.MonkeyPatch) -> None:
    """They fail on their way."""

    def fails(self: Storm) -> None:
        self.sim.run(1.0)
        assert self.weather is not KINDS["rough"], "it was to fail"

    patch.setattr(Storm, "run", fails)


def test_each_kind_is_explained() -> None:
    assert list(SAYS) == list(KINDS)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_fails_comes_with_its_story_and_the_command_that_runs_it_again(
    jobs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_rough_sessions(monkeypatch)
    kinds = len(KINDS)

    assert storms.main(["--seeds", "0", str(kinds + 1), "--mixed", "--jobs", jobs, "--into", str(tmp_path)]) == 1

    printed = capsys.readouterr().out
    assert re.search(rf"^all +{kinds + 1} +2 ", printed, re.MULTILINE)
    assert {path.name for path in tmp_path.iterdir()} == {"rough-0.txt", f"rough-{kinds}.txt"}
    told = (tmp_path / "rough-0.txt").read_text()
    assert "it was to fail" in told
    assert "RegisterNode" in told or "JoinNode" in told
    command = told.splitlines()[0]
    assert command in printed
    assert storms.main(shlex.split(command)[3:]) == 1


def test_a_process_that_is_killed_is_a_failure_of_its_session_and_another_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies(self: Storm) -> None:
        if self.seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Storm, "run", dies)

    assert storms.main(["--seeds", "0", "6", "--calm", "--jobs", "2"]) == 1

    printed = capsys.readouterr().out
    assert "failed: python -m sparkray_core.testing.storm --seeds 1 2 --calm" in printed
    assert "its process ended with -9" in printed
    assert re.search(r"^all +6 +1 ", printed, re.MULTILINE)


def test_an_interrupt_ends_it_and_it_sums_up_what_ran() -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "sparkray_core.testing.storm", "--seeds", "0", "100000", "--calm", "--jobs", "2"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    try:
        assert run.stdout.readline() == "2 processes run calm\n"
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        rest = run.stdout.read()
        assert run.wait(30) == 130
    finally:
        run.kill()
        run.wait()
        run.stdout.close()
    assert re.search(r"^kind +sessions +failed", rest, re.MULTILINE)
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)  # nothing of it is left
