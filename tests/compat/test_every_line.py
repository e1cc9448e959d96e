"""Each of 74 things about Ray's semantics that are easy to get wrong has a test, or is told in docs/differences.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent

# Shown by the tests of the part that it belongs to.
ELSEWHERE = {
    27: "api/test_unhandled_errors.py::test_errors_that_nobody_looked_at_are_reported",
    36: "api/test_actor_failures.py::test_calls_made_while_it_restarts_wait_if_they_have_a_retry_and_fail_if_not",
    37: "api/test_actor_failures.py::test_a_call_in_flight_is_made_again_after_the_restart_and_before_later_ones",
    38: "api/test_actor_failures.py::test_an_actor_that_ends_itself_is_not_restarted",
    39: "api/test_actor_failures.py::test_the_call_s_own_number_of_retries_counts_before_the_method_s_and_the_actor_s",
    40: "api/test_out_of_memory.py::test_a_task_that_never_fits_fails_with_who_used_what",
    56: "api/test_runtime_env.py::test_threads_of_libraries_follow_num_cpus_unless_the_user_set_them",
    58: "api/test_placement_groups.py::test_removal_kills_what_runs_there_and_fails_what_waits_and_what_comes_later",
    66: "api/test_streams.py::test_it_runs_whether_somebody_reads_or_not",
    67: "api/test_streams.py::test_an_error_is_the_last_item",
    68: "api/test_streams.py::test_items_come_in_order_and_the_generator_ends",
    69: "api/test_output.py::test_both_streams_arrive_before_the_result_with_name_and_pid",
    71: "cluster/test_drivers.py::test_each_driver_is_a_job_with_a_namespace_of_its_own",
}
# Different on purpose: words of the row in docs/differences.md that says so.
DIFFERENT = {
    57: "infeasible tasks",
    65: "methods of serial actors are interrupted",
    73: "signal handlers of the driver",
}
# Not there yet. This list only ever gets shorter.
MISSING: set[int] = set()


def _lines(text: str) -> set[int]:
    """The numbers in "Line 3.", "Lines 20 and 21." or "Lines 52 to 55."."""
    found: set[int] = set()
    for phrase in re.findall(r"Lines? (\d+(?:(?:, | and | to )\d+)*)", text):
        numbers = [int(number) for number in re.findall(r"\d+", phrase)]
        found |= set(range(numbers[0], numbers[-1] + 1)) if " to " in phrase else set(numbers)
    return found


def _tested() -> set[int]:
    found: set[int] = set()
    for path in HERE.glob("test_semantics_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found |= _lines(ast.get_docstring(node) or "")
    return found


def test_every_line_is_tested_or_told() -> None:
    everything = set(range(1, 75))
    covered = _tested() | ELSEWHERE.keys() | DIFFERENT.keys()
    assert covered | MISSING == everything
    assert not covered & MISSING, "take these out of MISSING"


def test_the_tests_elsewhere_are_there() -> None:
    for place in ELSEWHERE.values():
        path, _, name = place.partition("::")
        assert f"def {name}(" in (TESTS / path).read_text(), place


def test_the_differences_are_told() -> None:
    told = (TESTS.parent / "docs" / "differences.md").read_text()
    for words in DIFFERENT.values():
        assert words in told, words
