"""Pools that start a session or see its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import sparkray
from sparkray.exceptions import RayError, RaySystemError
from sparkray.util.multiprocessing import Pool


@pytest.fixture(autouse=True)
def no_session() -> Iterator[None]:
    yield
    sparkray.shutdown()


def test_a_pool_without_a_session_starts_one_of_its_size() -> None:
    with Pool(3) as pool:
        assert pool.map(abs, [-1]) == [1]
        assert sparkray.cluster_resources()["CPU"] == 3


def test_the_end_of_the_session_fails_what_is_not_done() -> None:
    sparkray.init(num_cpus=2)
    pool = Pool(2)
    failed: list[Any] = []
    result = pool.map_async(time.sleep, [60] * 10, chunksize=1, error_callback=failed.append)
    results = pool.imap(time.sleep, [60] * 10)
    sparkray.shutdown()
    result.wait(30)
    with pytest.raises(RayError):
        result.get(timeout=0)
    assert len(failed) == 1
    assert isinstance(results.next(timeout=30), RayError)
    assert isinstance(results.next(timeout=30), RayError)
    with pytest.raises(RaySystemError, match="ended"):
        results.next(timeout=30)
    with pytest.raises(RaySystemError, match="ended"):
        pool.map(abs, [1])
    assert not sparkray.is_initialized()  # and nothing of the pool starts another
    pool.close()
    pool.join()
