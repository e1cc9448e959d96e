"""Settings of datasets, under Ray's name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

# Ray's variable; 1 means no bars.
NO_BARS = "RAY_DATA_DISABLE_PROGRESS_BARS"


@dataclass
class DataContext:
    """What all datasets of this process go by. `DataContext.get_current()` is the one; change its attributes."""

    enable_progress_bars: bool | None = None  # None: at a terminal and in notebooks
    target_max_block_size: int = 128 << 20  # bytes; of a block that is read from a file

    _current: ClassVar[DataContext | None] = None

    @classmethod
    def get_current(cls) -> DataContext:
        if cls._current is None:
            cls._current = cls(False if os.environ.get(NO_BARS) == "1" else None)
        return cls._current
