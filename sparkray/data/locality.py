"""Shares of blocks for those who are to read them, near where the blocks lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparkray.actor_handle import ActorHandle
from sparkray.api import get
from sparkray.data.blocks import Block


def nodes_of(hints: Sequence[Any], n: int) -> list[str]:
    """The node of each hint: an actor, once it is up, or a node's id.

    Raises:
        ValueError: not one for each of the n shares.
        TypeError: neither actors nor ids.
    """
    if len(hints) != n:
        raise ValueError(f"locality_hints must be one for each of the {n} shares, not {len(hints)}")
    for hint in hints:
        if not isinstance(hint, ActorHandle | str):
            raise TypeError(f"locality_hints are actors or ids of nodes, not {type(hint).__name__}")
    actors = [hint for hint in hints if isinstance(hint, ActorHandle)]
    if not actors:
        return [str(hint) for hint in hints]
    get([actor.__ray_ready__.remote() for actor in actors])
    from sparkray.util.state import list_actors

    places = {state.actor_id: state.node_id or "" for state in list_actors(limit=10_000)}
    return [places.get(hint._actor.id.hex(), "") if isinstance(hint, ActorHandle) else hint for hint in hints]


def shared_out(
    blocks: Sequence[Block], places: Sequence[Sequence[str]], nodes: Sequence[str], equal: bool
) -> list[list[Block]]:
    """A share for each node: first of blocks that it has, up to its part of all rows; then who has least gets more.

    Args:
        places: the nodes that have each block.
        nodes: of whoever gets each share; several may be on one.
        equal: the same number of rows in each, so that blocks are cut and a few rows at the end are in none.
    """
    part = sum(block.rows for block in blocks) / len(nodes)
    shares: list[list[tuple[int, Block]]] = [[] for _ in nodes]
    sizes = [0] * len(nodes)
    left: list[tuple[int, Block]] = []
    for number, (block, where) in enumerate(zip(blocks, places, strict=True)):
        near = [index for index, node in enumerate(nodes) if node in where and sizes[index] + block.rows / 2 <= part]
        if not near:
            left.append((number, block))
            continue
        index = min(near, key=lambda index: sizes[index])
        shares[index].append((number, block))
        sizes[index] += block.rows
    for number, block in sorted(left, key=lambda each: -each[1].rows):
        index = min(range(len(nodes)), key=lambda index: sizes[index])
        shares[index].append((number, block))
        sizes[index] += block.rows
    ordered = [[block for _, block in sorted(share, key=lambda each: each[0])] for share in shares]
    return _levelled(ordered, int(part)) if equal else ordered


def _levelled(shares: list[list[Block]], rows: int) -> list[list[Block]]:
    """So many rows in each: what is over in some goes where there is too little."""
    over: list[Block] = []
    kept: list[list[Block]] = []
    for share in shares:
        mine, rest = _first(share, rows)
        kept.append(mine)
        over += rest
    for share in kept:
        missing = rows - sum(block.rows for block in share)
        more, over = _first(over, missing)
        share += more
    return kept


def _first(blocks: Sequence[Block], rows: int) -> tuple[list[Block], list[Block]]:
    """(blocks of the first rows, the rest)."""
    first: list[Block] = []
    rest: list[Block] = []
    for block in blocks:
        if rows >= block.rows:
            first.append(block)
        elif rows:
            first.append(block.cut(0, rows))
            rest.append(block.cut(rows, block.rows))
        else:
            rest.append(block)
        rows -= min(rows, block.rows)
    return first, rest
