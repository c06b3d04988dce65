"""Spreading work over threads: numpy lets go of the interpreter while it works on arrays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def check_num_threads(num_threads: int) -> None:
    """Raise TypeError if it is no number of threads, ValueError if there would be no thread."""
    if not isinstance(num_threads, int) or isinstance(num_threads, bool):
        raise TypeError(f"num_threads={num_threads!r} has to be an int")
    if num_threads < 1:
        raise ValueError(f"num_threads={num_threads} has to be at least 1")


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int
) -> Iterator[Result]:
    """Results in the order of the items, which are read as the work goes on.

    Args:
        function: what to do with each item.
        items: read a few at a time.
        num_threads: 1 works in the thread of the caller.
    """
    if num_threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(num_threads) as executor:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(executor.submit(function, item))
                if len(waiting) > 2 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # after an error, or when nobody wants the rest
            executor.shutdown(wait=False, cancel_futures=True)
