"""How a command fails: in one sentence, with an exit code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer

from sparkray_core.errors import RayError

FAILED, WRONG_USE, NO_SESSION = 1, 2, 3


class Failed(typer.Exit):
    """Printed already."""


def fail(sentence: str, code: int = FAILED) -> Failed:
    """What to raise, after the sentence has been printed to stderr."""
    typer.echo(f"sparkray: {sentence}", err=True)
    return Failed(code)


@contextlib.contextmanager
def in_one_sentence() -> Iterator[None]:
    """Our own errors, and the system's, without a traceback."""
    try:
        yield
    except ConnectionError as error:
        raise fail(str(error), NO_SESSION) from None
    except (RayError, OSError) as error:
        raise fail(str(error)) from None
    except ValueError as error:
        raise fail(str(error), WRONG_USE) from None
