"""Work ahead of whoever takes its results, in threads, in the order in which it was asked for."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

MOST_WORKERS = 8


def count_workers() -> int:
    """Return how many threads decode: the cores that this process may use, at most `MOST_WORKERS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


def make_ahead(
    make: Callable[[Item], Made], items: Iterable[Item], *, workers: int | None = None, waiting: int = 1
) -> Iterator[Made]:
    """Yield ``make(item)`` of each item in their order, while threads make the next ones.

    The order is the items', so that nothing depends on the number of threads. At most ``workers + waiting`` results are
    held. Threads suffice where the work leaves Python, as Pillow's decoders and torch do.

    Args:
        make: is called in several threads at once; what it raises is raised when its result is due.
        items: taken in the calling thread.
        workers: None is `count_workers`.
        waiting: results that may lie ready.
    """
    workers = workers or count_workers()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    begun = deque[Future[Made]]()
    try:
        for item in items:
            begun.append(pool.submit(make, item))
            if len(begun) >= workers + waiting:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
