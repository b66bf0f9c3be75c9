"""Map a function over many items with several threads, in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with the current activity, the steps done, and the steps in all."""

_AHEAD = 16  # items per thread that may be done before a slow one


def in_order(
    function: Callable[[S], T], items: Iterable[S], threads: int, ahead: int | None = None
) -> Generator[tuple[S, Future[T]], None, None]:
    """Yield each item with the future of `function(item)`, in the order of `items`, which may be endless.

    At most `ahead` items are in flight, by default 16 for each thread: a slow one stalls the other threads only if
    `ahead` is small. Closing the generator drops what has not started and waits for nothing.
    """
    ahead = ahead or _AHEAD * threads
    executor = ThreadPoolExecutor(threads, "eyespot-ordered")
    pending: deque[tuple[S, Future[T]]] = deque()
    try:
        for item in items:
            pending.append((item, executor.submit(function, item)))
            while pending and (len(pending) >= ahead or pending[0][1].done()):
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
