"""Work done ahead by background threads: reading and decoding let go of the interpreter, so that they run beside it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def prefetched(function: Callable[[S], T], items: Iterable[S], threads: int = 1, ahead: int = 4) -> Iterator[T]:
    """``function`` of each item, in order, with at most ``ahead`` results made before they are asked for.

    What ``function`` raises is raised here in its turn.  The threads end with the iterator, also if that is closed
    early.
    """
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
