"""What numpy lacks: arrays that grow, many spans at once, words at any byte."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

# Bytes that may be read behind the last one of a text or chunk: four words of 8 from any byte on.
PADDING = 32


class GrowingArray(Generic[Scalar]):
    """A one-dimensional array to append to, in constant time an entry."""

    def __init__(self, dtype: type[Scalar], spare: int = 0) -> None:
        """Start with no entry.

        Args:
            dtype: type of the entries.
            spare: how many entries behind the last `buffer` always has, of whatever value.
        """
        self._spare = spare
        self._size = 0
        self.buffer: NDArray[Scalar] = np.zeros(spare, dtype=dtype)

    def __len__(self) -> int:
        """Number of entries."""
        return self._size

    @property
    def entries(self) -> NDArray[Scalar]:
        """All entries, as a view that appending may make stale."""
        return self.buffer[: self._size]

    def append(self, values: NDArray[Any]) -> None:
        """Put entries behind the last one."""
        begin, self._size = self._size, self._size + len(values)
        if self._size + self._spare > len(self.buffer):
            old = self.buffer
            self.buffer = np.zeros(2 * (self._size + self._spare), dtype=old.dtype)
            self.buffer[:begin] = old[:begin]
        self.buffer[begin : self._size] = values


def starts_of(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Where spans of these lengths begin that stand one after another, the first at 0."""
    starts: NDArray[np.int64] = np.cumsum(lengths, dtype=np.int64) - lengths
    return starts


def span_indices(starts: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Indices of all spans, one span after another: of [5, 2] and [3, 1] they are 5, 6, 7, 2."""
    if not lengths.all():
        some = np.flatnonzero(lengths)
        starts, lengths = starts[some], lengths[some]
    # Sums of steps: 1 within a span, from the last of one to the first of the next elsewhere.
    # (np.repeat takes several times as long, and no other thread runs meanwhile.)
    ends = np.cumsum(lengths, dtype=np.int64)
    steps = np.ones(ends[-1] if len(ends) else 0, dtype=np.int64)
    steps[:1] = starts[:1]
    steps[ends[:-1]] = starts[1:] - starts[:-1] - lengths[:-1] + 1
    return np.cumsum(steps, out=steps)


def words_at(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The 8 bytes from each byte on as an integer, the first byte its lowest: a view."""
    words: NDArray[np.uint64] = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    return words
