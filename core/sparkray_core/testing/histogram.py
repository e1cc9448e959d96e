"""Percentiles of very many durations in little memory."""

from __future__ import annotations

import math

_STEP = math.log(1.01)  # a bucket is 1 % wide
_LEAST = 1e-7  # seconds; what is shorter counts as this


class Histogram:
    """Counts by bucket: percentiles are right within 1 %, mean and maximum are exact."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.largest = 0.0
        self._buckets: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        if seconds > self.largest:
            self.largest = seconds
        bucket = int(math.log(seconds / _LEAST) / _STEP) if seconds > _LEAST else 0
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def percentile(self, share: float) -> float:
        """What this share of them (0 to 1) stays below. 0.0 if there are none."""
        left = share * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return min(self.largest, _LEAST * math.exp((bucket + 1) * _STEP)) if bucket else 0.0
        return self.largest
