"""State pictures for `core/README.md`, drawn from the tables that the code goes by.

python -m sparkray_core.testing.pictures core/README.md     # redraw them in place
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from sparkray_core.model import actors, node_workers

TABLES: Mapping[str, Mapping[Any, Iterable[Any]]] = {
    "actor": actors.MOVES,
    "worker": node_workers.MOVES,
}
_BLOCK = re.compile(r"(<!-- states of (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def mermaid(moves: Mapping[Any, Iterable[Any]]) -> str:
    """A table of moves as a Mermaid diagram, states in the order of their enum."""
    lines = ["```mermaid", "stateDiagram-v2"]
    states: type[Enum] = type(next(iter(moves)))
    order: list[Any] = list(states)
    lines.append(f"    [*] --> {order[0].name}")
    for state in order:
        after = sorted(moves.get(state, ()), key=order.index)
        lines += [f"    {state.name} --> {other.name}" for other in after]
        if not after:
            lines.append(f"    {state.name} --> [*]")
    return "\n".join([*lines, "```", ""])


def redraw(text: str) -> str:
    """The text with each picture between its two comment marks drawn anew."""
    return _BLOCK.sub(lambda found: found[1] + mermaid(TABLES[found[2]]) + found[4], text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(redraw(path.read_text()))
