"""What an object became instead of a value, as the exception that its readers get."""

from __future__ import annotations

from sparkray_core import errors
from sparkray_core.messages import DEPENDENT, FAILED, Value
from sparkray_core.wire import values


def error_of(failure: Value) -> BaseException:
    """Of a value of kind ERROR (a task raised it), FAILED (the system says it) or DEPENDENT (an argument's)."""
    assert isinstance(failure, tuple)
    kind = failure[0]
    if kind == FAILED:
        return errors.by_name(*failure[1:])
    error = values.from_inline(failure if kind != DEPENDENT else failure[1])
    if kind == DEPENDENT:
        error = errors.of_argument(error, failure[2])
    return error.as_instanceof_cause() if isinstance(error, errors.RayTaskError) else error
