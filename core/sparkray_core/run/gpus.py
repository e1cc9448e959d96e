"""GPUs of this machine, and those that this worker was given.

The model numbers a node's GPUs from 0. Where CUDA_VISIBLE_DEVICES was set when the node started, number n is the n-th
that it names; else it is the system's own number. CUDA reads the variable once, when it is first used, so a worker's is
set before it runs anything for whoever has the GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

VARIABLE = "CUDA_VISIBLE_DEVICES"
LEFT_ALONE = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"  # Ray's: the variable is the user's own business
BLANKED_FOR_NONE = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"  # Ray's: who was given no GPU sees none
_PROC = "/proc/driver/nvidia/gpus"
_SMI_LIMIT_S = 10.0  # a driver that has just been loaded takes some seconds to answer

given: list[int] = []  # the numbers of those that whatever runs here may use
_names: list[str] | None = None  # what they are called; None: they are numbers
_before: list[str | None] = []  # the variable as the user left it, while ours is in its place


def named() -> list[str] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES names; None if it is not set, and all are visible."""
    text = os.environ.get(VARIABLE)
    if text is None:
        return None
    names = [one.strip() for one in text.split(",")]
    # CUDA looks no further than the first that cannot be.
    last = next((place for place, one in enumerate(names) if one in ("", "-1", "NoDevFiles")), len(names))
    return names[:last]


def count() -> int:
    """GPUs of NVIDIA that programs on this machine may use."""
    names = named()
    if names is not None:
        return len(names)
    try:
        return len(os.listdir(_PROC))
    except OSError:
        pass
    import shutil  # 4 ms, and few have a GPU to be found so

    program = shutil.which("nvidia-smi")  # in WSL the driver has no files in /proc
    if program is None:
        return 0
    import subprocess  # not for every worker

    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=_SMI_LIMIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def checked(wanted: float) -> float:
    """
    Raises:
        ValueError: CUDA_VISIBLE_DEVICES names fewer.
    """
    names = named()
    if names is not None and wanted > len(names):
        raise ValueError(
            f"num_gpus={wanted:g}, but {VARIABLE}={os.environ[VARIABLE]!r} names {len(names)}: unset it, or want less"
        )
    return wanted


# ------------------------------------------------------------------------------------------ in a worker
def begin() -> None:
    """Before it has run anything: the variable is as it was when the node started."""
    global _names
    _names = named()
    _follow()


def give(numbers: Iterable[int]) -> None:
    """From now on these are ours."""
    given[:] = numbers
    _follow()


def follow_variables(set_by_user: Iterable[str]) -> None:
    """These variables were set by the user's `env_vars` a moment ago."""
    if not {VARIABLE, LEFT_ALONE, BLANKED_FOR_NONE}.isdisjoint(set_by_user):
        _before.clear()
        _follow()


def ids() -> list[int] | list[str]:
    """Of what was given: names where CUDA_VISIBLE_DEVICES had some, else numbers."""
    names = _names
    return list(given) if names is None else [names[number] for number in given]


def _follow() -> None:
    if os.environ.get(LEFT_ALONE, "0") not in ("", "0", "false", "False"):
        return
    if given or os.environ.get(BLANKED_FOR_NONE, "0") in ("1", "true", "True"):
        if not _before:
            _before.append(os.environ.get(VARIABLE))
        os.environ[VARIABLE] = ",".join(map(str, ids()))
    elif _before:
        before = _before.pop()
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before
