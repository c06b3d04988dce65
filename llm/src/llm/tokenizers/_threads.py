"""Spreading work over threads: numpy lets go of the interpreter while it works on arrays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def check_num_threads(num_threads: int) -> None:
    """Raise TypeError if it is no number of threads, ValueError if there would be no thread."""
    if not isinstance(num_threads, int) or isinstance(num_threads, bool):
        raise TypeError(f"num_threads={num_threads!r} has to be an int")
    if num_threads < 1:
        raise ValueError(f"num_threads={num_threads} has to be at least 1")


class Pool(Generic[Item]):
    """Objects that one thread at a time may use.

    What fails in use is not put back: nobody knows what state it is in.
    """

    def __init__(self, make: Callable[[], Item], most_idle: int | None = None) -> None:
        """Start with none.

        Args:
            make: makes one more, when all are in use.
            most_idle: how many are kept when nobody uses them, None for all.
        """
        self._make = make
        self._most_idle = most_idle
        self._idle: deque[Item] = deque()

    def __len__(self) -> int:
        """How many are not in use."""
        return len(self._idle)

    def __iter__(self) -> Iterator[Item]:
        """Those that are not in use."""
        return iter(self._idle)

    @contextmanager
    def borrow(self) -> Iterator[Item]:
        """One of them, for this thread alone."""
        try:
            item = self._idle.pop()
        except IndexError:  # all are in use
            item = self._make()
        yield item
        if self._most_idle is None or len(self._idle) < self._most_idle:
            self._idle.append(item)


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
