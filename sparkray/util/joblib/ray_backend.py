"""The backend: a `Parallel` borrows a `Pool`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from joblib._parallel_backends import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)

from sparkray.api import cluster_resources
from sparkray.util.joblib import kept_pool
from sparkray.util.joblib.batch import SharedArguments
from sparkray.util.multiprocessing.pool import Pool
from sparkray.util.multiprocessing.results import AsyncResult

Callback = Callable[[Any], object]


class RayBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Batches of calls on the actors of a pool. n_jobs=-1 is all CPUs of the cluster, -2 all but one.

    Args:
        ray_remote_args: options of the actors; those given to `Parallel` come before those given to
            `parallel_backend`.
    """

    supports_retrieve_callback = True
    uses_threads = False
    supports_sharedmem = False

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        ray_remote_args: Mapping[str, Any] | None = None,
        **backend_kwargs: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **backend_kwargs)
        self._remote_args = ray_remote_args
        self._pool: Pool | None = None
        self._is_kept = False  # beyond this Parallel
        self._shared = SharedArguments()

    # pyright takes the empty bodies of joblib's abstract methods for their types.
    def effective_n_jobs(self, n_jobs: int | None) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Raises `ValueError` for 0."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs < 0:
            return max(1, int(cluster_resources().get("CPU", 1)) + 1 + n_jobs)
        return n_jobs

    def configure(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        ray_remote_args: Mapping[str, Any] | None = None,
        **_: Any,  # of joblib's own process pools: where they map memory, and how
    ) -> int:
        """Start the actors; joblib calls this when a `Parallel` begins."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        remote_args = ray_remote_args or self._remote_args
        self._is_kept = not remote_args  # one with resources of its own is not to hold them for longer than it must
        self._pool = Pool(n_jobs, ray_remote_args=remote_args) if remote_args else kept_pool.borrow(n_jobs)
        return n_jobs

    def submit(self, func: Callable[[], Any], callback: Callback | None = None) -> AsyncResult:
        assert self._pool is not None
        return self._pool.apply_async(self._shared.lighten(func), callback=callback, error_callback=callback)

    apply_async = submit  # joblib's name for it before 1.5

    def retrieve_result_callback(self, out: Any) -> Any:
        """What the callback got: a batch's list of results, or an exception instead."""
        if isinstance(out, BaseException):
            raise out
        return out

    def stop_call(self) -> None:
        """A `Parallel` is done; with the next one, of the same `with` block, the arguments may have changed."""
        self._shared.clear()

    def terminate(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            if self._is_kept:
                kept_pool.give_back(pool)
            else:
                kept_pool.end(pool)
        self._shared.clear()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        self._is_kept = False
        self.terminate()
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel, **self.parallel._backend_kwargs)
