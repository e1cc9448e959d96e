"""Which files are left out of a package: patterns in the manner of .gitignore."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Rule(NamedTuple):
    matches: re.Pattern[str]  # the whole path below the rule's folder, with "/" between its parts
    folders_only: bool
    ignored: bool  # False: a rule that begins with "!" and takes back what an earlier one said


class Rules:
    """Patterns that hold in one folder and all below it."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.rules = [rule for pattern in patterns if (rule := _rule(pattern)) is not None]

    def says(self, path: str, is_folder: bool) -> bool | None:
        """Whether a path, relative to the rules' folder, is ignored; None: none matches. The last that does counts."""
        for rule in reversed(self.rules):
            if (is_folder or not rule.folders_only) and rule.matches.fullmatch(path):
                return rule.ignored
        return None


def _rule(line: str) -> Rule | None:
    pattern = line.rstrip("\r\n")
    while pattern.endswith(" ") and not pattern.endswith("\\ "):
        pattern = pattern[:-1]
    if not pattern or pattern.startswith("#"):
        return None
    ignored = not pattern.startswith("!")
    if not ignored:
        pattern = pattern[1:]
    folders_only = pattern.endswith("/")
    pattern = pattern.rstrip("/")
    if not pattern:
        return None
    anchored = "/" in pattern  # then it is about a path from here, else about a name anywhere below
    text = _regex(pattern.lstrip("/"))
    return Rule(re.compile(text if anchored else f"(?:.*/)?{text}", re.DOTALL), folders_only, ignored)


def _regex(pattern: str) -> str:
    out = ""
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            out += "(?:.*/)?"
            at += 3
            continue
        if pattern[at:] == "**" and at and pattern[at - 1] == "/":
            return out + ".+"
        char = pattern[at]
        at += 1
        if char == "*":
            while at < len(pattern) and pattern[at] == "*":
                at += 1
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[" and (end := pattern.find("]", at + 1)) > 0:
            inside = pattern[at:end].replace("\\", "\\\\")
            out += "[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]"
            at = end + 1
        elif char == "\\" and at < len(pattern):
            out += re.escape(pattern[at])
            at += 1
        else:
            out += re.escape(char)
    return out
