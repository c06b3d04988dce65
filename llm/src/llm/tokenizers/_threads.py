"""Spreading work over threads: numpy lets go of the interpreter while it works on arrays."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Lock
from types import TracebackType
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


class Task(Generic[Result]):
    """Work that is done once, by whichever thread comes first."""

    def __init__(self, work: Callable[[], Result]) -> None:
        """Do nothing yet."""
        self._work = work
        self._taken = Lock()
        self._outcome: Future[Result] = Future()

    def run(self) -> bool:
        """Do the work, unless a thread has begun it already: then False."""
        if not self._taken.acquire(blocking=False):
            return False
        try:
            self._outcome.set_result(self._work())
        except BaseException as error:
            self._outcome.set_exception(error)
            if not isinstance(error, Exception):  # Ctrl-C does not wait for who asks for a result
                raise
        return True

    def is_done(self) -> bool:
        """Whether `result` would not wait."""
        return self._outcome.done()

    def result(self) -> Result:
        """What the work gave, or its error. Waits for the thread that does it."""
        return self._outcome.result()


def _run_if_wanted(reference: weakref.ref[Task[Result]]) -> None:
    """Do the work of a task that somebody still has."""
    task = reference()
    if task is not None:
        task.run()


class Crew:
    """The caller's thread, and others that work ahead of it.

    Between barriers, all threads would wait for what one of them has to do alone.
    """

    def __init__(self, num_threads: int) -> None:
        """Have `num_threads`, the caller's among them."""
        self._others = ThreadPoolExecutor(num_threads - 1) if num_threads > 1 else None
        # Items that `map` reads before it waits: the others always find work.
        self._most_ahead = 2 * num_threads if self._others else 0

    def __enter__(self) -> Crew:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drop the work that nobody has begun, and wait for the rest: no thread is left."""
        if self._others:
            self._others.shutdown(cancel_futures=True)

    def start(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> list[Task[Result]]:
        """Let the others work on the items, in order, after what they were given before."""
        tasks = [Task(partial(function, item)) for item in items]
        if self._others:
            for task in tasks:
                # weak: what is done and given back is not kept until they come to it
                self._others.submit(_run_if_wanted, weakref.ref(task))
        return tasks

    def results(self, tasks: Iterable[Task[Result]]) -> Iterator[Result]:
        """Results in order. The caller does the work that the others have not begun."""
        waiting = deque(tasks)
        while waiting:
            yield self._next(waiting)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results in the order of the items, which are read a few at a time as the work goes on."""
        waiting: deque[Task[Result]] = deque()
        for item in items:
            waiting += self.start(function, [item])
            if len(waiting) > self._most_ahead:
                yield self._next(waiting)
        while waiting:
            yield self._next(waiting)

    def _next(self, waiting: deque[Task[Result]]) -> Result:
        """The result of the first of some tasks. The caller does what nobody does meanwhile."""
        while not waiting[0].is_done() and any(task.run() for task in waiting):
            pass
        return waiting.popleft().result()
