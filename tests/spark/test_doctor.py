"""`sparkray doctor`: everything tried once in a real Spark, and what is wrong told with what to set."""

from __future__ import annotations

import pytest
from pyspark import SparkContext
from typer.testing import CliRunner, Result

import sparkray
from sparkray.cli import app

from .conftest import START_S, Contexts

pytestmark = pytest.mark.timeout(2 * START_S)


@pytest.fixture(autouse=True, scope="module")
def jvm(local_sc: SparkContext) -> None:
    """It stays for the tests after these, so it has to be there before them."""


def doctor(contexts: Contexts, *words: str) -> Result:
    contexts.stop()  # the command makes a SparkContext of its own
    return CliRunner().invoke(app, ["doctor", "--start-timeout", str(START_S), *words])


@pytest.mark.slow
def test_every_step_is_told_and_nothing_is_left(contexts: Contexts) -> None:
    done = doctor(contexts, "--master", "local[2]")

    assert done.exit_code == 0, done.stdout
    assert done.stdout.count("ok ") == 10, done.stdout
    assert done.stdout.endswith("sparkray works here.\n")
    for said in ("local[2], application", "nodes:          1", "8 MiB read on 1 nodes", "10000 rows", "folder removed"):
        assert said in done.stdout
    assert not sparkray.is_initialized()


def test_what_is_wrong_is_told_and_the_rest_is_cleaned_up(contexts: Contexts) -> None:
    done = doctor(contexts, "--master", "local[2]", "--nodes", "2")

    assert done.exit_code == 1
    (failed,) = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert failed.split()[1] == "plan"
    assert "local-cluster[2,cores,MiB]" in failed
    assert "nothing was" in done.stdout or "0 nodes stopped" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("ok     Spark stopped")


@pytest.mark.parametrize("word", ["nonsense", ""])
def test_a_setting_needs_a_value(word: str) -> None:
    done = CliRunner().invoke(app, ["doctor", "--conf", word])

    assert done.exit_code == 2
    assert "--conf must be NAME=VALUE" in done.stderr
