"""The settings of a session, and where they come from.

    python -m sparkray.settings              # what counts here and now, and what each is good for
    python -m sparkray.settings --markdown   # the table in docs/settings.md
    python -m sparkray.settings --example    # conf/sparkray.toml: every setting at its default, commented out

To give one: `init(inline_bytes=1 << 20)` or `init(settings={...})` or `RayContext(sc, settings={...})`; or the variable
SPARKRAY_INLINE_BYTES; or a file in TOML, which SPARKRAY_CONFIG names, or else `./sparkray.toml`, or else
`~/.config/sparkray.toml`. The first of these that has it wins. What is wrong in any of them is refused by name.
"""

from __future__ import annotations

import math
import os
import sys
import textwrap
from dataclasses import Field
from typing import Any

from sparkray_core.run.redis_tables import without_password
from sparkray_core.run.settings_sources import file_path, resolve
from sparkray_core.settings import FIELDS, BadSetting, Settings

__all__ = ["BadSetting", "Settings", "resolve"]

_WIDTH = 118


def show(value: Any) -> str:
    """A value as it is written in the file."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "inf" if math.isinf(value) else repr(value)
    return f'"{value}"' if isinstance(value, str) else str(value)


def in_effect() -> str:
    """Every setting with its value in a session that would be started now, and its reason."""
    settings, path = resolve(), file_path(os.environ)
    lines = [f"# {path}, then the environment" if path else "# no settings file; the environment"]
    for name, one in FIELDS.items():
        value = getattr(settings, name)
        if one.metadata["schemes"] and value is not None:
            value = without_password(value)
        mark = "" if value == one.default else f"   (default: {show(one.default)})"
        lines += ["", f"{name} = {show(value)}{_unit(one)}{mark}", *textwrap.wrap(_reason(one), _WIDTH - 4, **_INDENT)]
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """The table of docs/settings.md."""
    rows = ["| setting | default | unit | what it is, and why the default is what it is |", "|---|---|---|---|"]
    for name, one in FIELDS.items():
        rows.append(f"| `{name}` | {show(one.default)} | {one.metadata['unit']} | {_reason(one)} |")
    return "\n".join(rows) + "\n"


def example() -> str:
    """The example file."""
    lines = [
        "# Settings of sparkray, each at its default. Generated: python -m sparkray.settings --example",
        "#",
        "# Copy what you need to ./sparkray.toml, to ~/.config/sparkray.toml, or to where SPARKRAY_CONFIG says.",
        "# A keyword of init() wins over the environment (SPARKRAY_INLINE_BYTES=...), and that over the file.",
        '# Sizes may be written as "512m" or "4g". What has no default here is left to the machine.',
    ]
    for name, one in FIELDS.items():
        value = "" if one.default is None else f" {show(one.default)}"
        lines += ["", *textwrap.wrap(_reason(one) + _unit(one), _WIDTH, initial_indent="# ", subsequent_indent="# ")]
        lines.append(f"# {name} ={value}")
    return "\n".join(lines) + "\n"


_INDENT: dict[str, Any] = {"initial_indent": "    ", "subsequent_indent": "    "}


def _reason(one: Field[Any]) -> str:
    facts = one.metadata
    text: str = facts["reason"]
    if facts["choices"]:
        text += f"; one of {', '.join(facts['choices'])}"
    if facts["schemes"]:
        text += f"; begins with one of {', '.join(facts['schemes'])}"
    if facts["ray"]:
        text += f"; known by Ray's name, too: {', '.join(facts['ray'])}"
    return text


def _unit(one: Field[Any]) -> str:
    unit = one.metadata["unit"]
    return f" ({unit})" if unit else ""


def main(words: list[str]) -> int:
    if words not in ([], ["--markdown"], ["--example"]):
        sys.stderr.write(f"{__doc__}")
        return 2
    try:
        text = in_effect() if not words else markdown() if words == ["--markdown"] else example()
    except BadSetting as bad:
        sys.stderr.write(f"{bad}\n")
        return 1
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
