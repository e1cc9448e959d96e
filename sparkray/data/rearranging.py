"""Datasets of the same rows in other blocks, in another order, or shared out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from sparkray.api import get
from sparkray.data import locality, moving, tables
from sparkray.data.blocks import Block, Promised
from sparkray.data.transforms import Transforms

if TYPE_CHECKING:
    from typing_extensions import Self


class Rearranging(Transforms):
    """What has not been computed yet these begin to compute at once, and keep."""

    # ------------------------------------------------------------------ other blocks
    def repartition(self, num_blocks: int | None = None, target_num_rows_per_block: int | None = None) -> Self:
        """The same rows, in their order, in so many blocks of about the same number of rows.

        Rows are copied only where a block is of several.

        Raises:
            ValueError: not one of the two, or below 1.
        """
        if (num_blocks is None) == (target_num_rows_per_block is None):
            raise ValueError("repartition() takes num_blocks or target_num_rows_per_block, one of them")
        if (num_blocks or target_num_rows_per_block or 0) < 1:
            raise ValueError("repartition() makes blocks, and rows in each: at least 1")
        blocks = self._blocks()
        ends = [0, *accumulate(block.rows for block in blocks)]
        total = ends[-1]
        count = num_blocks if num_blocks is not None else max(1, -(-total // (target_num_rows_per_block or 1)))
        schema = self._whole_schema()
        made: list[Block | Promised] = []
        for first, last in pairwise(total * index // count for index in range(count + 1)):
            parts = _rows(blocks, ends, first, last)
            made.append(moving.joined(parts, schema) if parts else self._empty_block())
        return self._with(made)

    def _empty_block(self) -> Block:
        from sparkray.api import put

        return Block(put(self._whole_schema().empty_table()), 0, 0, 0)

    def random_shuffle(self, *, seed: int | None = None, num_blocks: int | None = None) -> Self:
        """All rows, in an order chosen at random.

        Args:
            seed: the same for the same rows in the same blocks.
            num_blocks: as many as there are, if not given.
        """
        import numpy as np

        self._begin()
        blocks = self._begun()
        count = num_blocks or len(blocks)
        seeds = np.random.SeedSequence(seed).spawn(len(blocks) + count)
        scatters = [moving.by_dice(own, [1.0] * count) for own in seeds[: len(blocks)]]
        gathers = [moving.mixed(own) for own in seeds[len(blocks) :]]
        return self._with(moving.regrouped(blocks, count, scatters, gathers, "random_shuffle"))

    def randomize_block_order(self, *, seed: int | None = None) -> Self:
        """The same blocks in an order chosen at random: costs nothing."""
        import numpy as np

        pieces = self._open()
        made = self._with([pieces[index] for index in np.random.default_rng(seed).permutation(len(pieces))])
        made._stages = self._stages
        return made

    def sort(self, key: str | Sequence[str], descending: bool | Sequence[bool] = False) -> Self:
        """All rows in order; nulls at the end, and rows with equal keys as they were.

        Args:
            key: column, or several.
            descending: for all columns, or for each.

        Raises:
            KeyError: there is no such column.
            ValueError: not one direction for each column.
        """
        keys = moving.keys_of(key, descending)
        blocks = [block for block in self._blocks() if block.rows]
        self._check_columns([name for name, _ in keys])
        if not blocks:
            return self._with(self._blocks())
        return self._with(self._by_key(blocks, keys))

    def _by_key(self, blocks: Sequence[Block], keys: moving.Keys) -> list[Promised]:
        """Sorted blocks; rows with equal keys are in one block."""
        schema = self._whole_schema()
        samples = [moving.scattered(block, 1, _alone(moving.sample(keys, schema)), "sort: sample") for block in blocks]
        bounds = moving.bounds_of(tables.concat(get([refs[0] for refs in samples])), keys, len(blocks))
        scatter, gather = moving.by_bounds(bounds, keys, schema), moving.in_order(keys)
        count = bounds.num_rows + 1
        return moving.regrouped(blocks, count, [scatter] * len(blocks), [gather] * count, "sort")

    # ------------------------------------------------------------------ shares
    def split(self, n: int, *, equal: bool = False, locality_hints: Sequence[Any] | None = None) -> list[Self]:
        """Cut into n datasets. Nothing is copied.

        Args:
            equal: False: as even as it goes without cutting a block; if there are fewer blocks than n, blocks are cut.
                True: the same number of rows in each, and up to n - 1 rows at the end are in none.
            locality_hints: an actor, or a node's id, for each: it gets blocks that lie on its node, as far as shares
                of about the same size allow. Without hints each share is of consecutive rows.

        Raises:
            ValueError: n is below 1, or there is not one hint for each.
        """
        if n < 1:
            raise ValueError(f"split() makes at least 1 dataset, not {n}")
        if locality_hints is not None:
            nodes = locality.nodes_of(locality_hints, n)
            places = [block.node_ids for block in self.blocks]
            return [self._with(share) for share in locality.shared_out(self._blocks(), places, nodes, equal)]
        blocks = self._blocks()
        total = sum(block.rows for block in blocks)
        if equal:
            return self._at([total // n * index for index in range(n + 1)])
        if len(blocks) < n:
            return self._at([total * index // n for index in range(n + 1)])
        ends = [0, *accumulate(block.rows for block in blocks)]
        at = [0]
        for index in range(1, n):
            best = bisect_left(ends, total * index / n)
            if best and ends[best] - total * index / n > total * index / n - ends[best - 1]:
                best -= 1
            at.append(min(max(best, at[-1] + 1), len(blocks) - (n - index)))  # at least one block for each
        return [self._with(blocks[first:last]) for first, last in pairwise([*at, len(blocks)])]

    def split_at_indices(self, indices: Sequence[int]) -> list[Self]:
        """Cut before the rows of these numbers, which rise: one dataset more than numbers."""
        if not indices or any(index < 0 for index in indices) or list(indices) != sorted(indices):
            raise ValueError(f"indices must be some numbers of rows that rise, not {indices!r}")
        total = sum(block.rows for block in self._blocks())
        return self._at([0, *(min(index, total) for index in indices), total])

    def split_proportionately(self, proportions: Sequence[float]) -> list[Self]:
        """Cut into shares of these parts of all rows, and the rest.

        Raises:
            ValueError: a proportion that is not above 0, or in all 1 or more.
        """
        if not proportions or any(not part > 0 for part in proportions) or sum(proportions) >= 1:
            raise ValueError(f"proportions must be above 0 and below 1 in all, not {proportions!r}")
        total = sum(block.rows for block in self._blocks())
        return self._at([0, *(int(total * part) for part in accumulate(proportions)), total])

    def train_test_split(
        self, test_size: int | float, *, shuffle: bool = False, seed: int | None = None
    ) -> tuple[Self, Self]:
        """(train, test): the last rows are for the test, after a shuffle if that is asked for.

        Args:
            test_size: rows, or their share if it is a float.

        Raises:
            ValueError: more rows than there are, or a share that is not between 0 and 1.
        """
        given = self.random_shuffle(seed=seed) if shuffle else self
        total = sum(block.rows for block in given._blocks())
        if isinstance(test_size, float):
            if not 0 < test_size < 1:
                raise ValueError(f"test_size must be a share between 0 and 1, or a number of rows, not {test_size}")
            first = int(total * (1 - test_size))
        else:
            if not 0 < test_size < total:
                raise ValueError(
                    f"test_size must be above 0 and below the {total} rows that there are, not {test_size}"
                )
            first = total - test_size
        train, test = given._at([0, first, total])
        return train, test

    def random_split(self, weights: Sequence[float], *, seed: int | None = None) -> list[Self]:
        """One dataset per weight; each row is in one of them, chosen at random in proportion to the weights.

        In the manner of Spark's `randomSplit`: the sizes are near the proportions, not exact.

        Raises:
            ValueError: no weights, or one that is not above 0.
        """
        import numpy as np

        if not weights or any(not weight > 0 for weight in weights):
            raise ValueError(f"weights must be numbers above 0, not {weights!r}")
        self._begin()
        blocks = self._begun()
        seeds = np.random.SeedSequence(seed).spawn(len(blocks))
        count = len(weights)
        shares: list[list[Promised]] = [[] for _ in weights]
        for block, own in zip(blocks, seeds, strict=True):
            refs = moving.scattered(block, count, moving.by_dice(own, weights), "random_split")
            for share, ref in zip(shares, refs, strict=True):
                share.append(moving.gathered([ref], _same, "random_split"))
        return [self._with(share) for share in shares]

    def _begun(self) -> list[Block | Promised]:
        return [piece for piece in self._open() if isinstance(piece, Block | Promised)]

    def _at(self, cuts: Sequence[int]) -> list[Self]:
        blocks = self._blocks()
        ends = [0, *accumulate(block.rows for block in blocks)]
        return [self._with(_rows(blocks, ends, first, last)) for first, last in pairwise(cuts)]


def _rows(blocks: Sequence[Block], ends: Sequence[int], first: int, last: int) -> list[Block]:
    """The parts of blocks that rows [first, last) lie in."""
    chosen = []
    for block, begin in zip(blocks, ends, strict=False):
        low, high = max(first, begin), min(last, begin + block.rows)
        if low < high:
            chosen.append(block.cut(low - begin, high - begin))
    return chosen


def _alone(how: Any) -> Any:
    return lambda table: [how(table)]


def _same(table: Any) -> Any:
    return table
