"""`label_selector={"region": "in(eu, us)"}`: read, checked, and as the engine has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sparkray_core.model.where import Choice, Condition

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?")
_LIST = re.compile(r"in\((.*)\)", re.DOTALL)


def selector_choice(keyword: str, selector: Mapping[str, str]) -> Choice:
    """Conditions that must all hold of a node's labels.

    Raises:
        ValueError: it is not what a selector can be; the sentence names the part.
    """
    return tuple(sorted(_condition(keyword, label, value) for label, value in selector.items()))


def _condition(keyword: str, label: Any, value: Any) -> Condition:
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise ValueError(f"{keyword}: {label!r} is no name of a label")
    if not isinstance(value, str):
        raise ValueError(f"{keyword}[{label!r}] must be a string, not {value!r}")
    negated = value.startswith("!")
    text = value.removeprefix("!").strip()
    listed = _LIST.fullmatch(text)
    found = [part.strip() for part in listed[1].split(",")] if listed is not None else [text]
    for one in found:
        if not _VALUE.fullmatch(one) or (listed is not None and not one):
            raise ValueError(
                f"{keyword}[{label!r}] = {value!r}: {one!r} is no value of a label. Write 'a', '!a', 'in(a, b)' or "
                f"'!in(a, b)'"
            )
    return label, "not in" if negated else "in", tuple(sorted(found))


def check_selector(keyword: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise TypeError(f"{keyword} must be a dict of labels and what they are to be, not {value!r}")
    selector_choice(keyword, value)


def check_fallbacks(keyword: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, list):
        raise TypeError(f"{keyword} must be a list of dicts with a label_selector each, not {value!r}")
    for one in value:
        if not isinstance(one, Mapping):
            raise TypeError(f"{keyword} must be a list of dicts with a label_selector each, not of {one!r}")
        unknown = set(one) - {"label_selector"}
        if unknown or "label_selector" not in one:
            raise ValueError(f"{keyword}: each of them has label_selector, and that only, not {sorted(one)}")
        check_selector(f"{keyword}'s label_selector", one["label_selector"])
