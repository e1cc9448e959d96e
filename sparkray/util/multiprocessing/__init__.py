"""`multiprocessing.Pool` on actors: the same calls, on all nodes of the cluster."""

from multiprocessing import JoinableQueue, TimeoutError

from sparkray.util.multiprocessing.pool import Pool

__all__ = ["JoinableQueue", "Pool", "TimeoutError"]
