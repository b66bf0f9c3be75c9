"""A function over many items: several at once, answered in order, in bounded memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def in_order(
    function: Callable[[S], T], items: Iterable[S], threads: int, ahead: int
) -> Generator[tuple[S, Future[T]], None, None]:
    """Each item and the future of `function(item)`, in the order of the items; `items` may be without end.

    At most `ahead` items are taken before the first of them is handed out, so that a slow one holds up no thread
    unless `ahead` is small. When the iterator is closed, what has not begun is dropped, and nobody waits for the rest.
    """
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
