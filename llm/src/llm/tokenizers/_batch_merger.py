"""Applying BPE merges to many chunks at once.

Chunks of about one length are the columns of a matrix, a byte in each cell. In every round each
column does the merge that comes first: that of lowest rank, of equals the uppermost. Cells stay
where they are, a merged pair in its upper cell; what is left of a column is a linked list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.tokenizers._arrays import span_indices, starts_of
from llm.tokenizers._key_table import KeyTable

# Chunks up to each of these lengths share a matrix. A matrix takes some 70 µs for every merge of
# the column that has the most, as many as it is high: few of them are high.
_HEIGHTS = (8, 16, 32, 64)
LONGEST_COLUMN = _HEIGHTS[-1]
# Cells of a matrix: four arrays of 32 bits have so many entries.
_MOST_CELLS = 1 << 18
# A merge that a cell may do is rank << 8 | row: the smallest of a column comes first.
_ROW_BITS = 8
_NO_MERGE = 2**31 - 1
# In a cell merged into another, and in those below the end of a chunk.
_EMPTY = -1


class BatchMerger:
    """Merges the bytes of many chunks of at most `LONGEST_COLUMN` bytes."""

    def __init__(self, byte_ids: Sequence[int], merges: Sequence[tuple[int, int, int]]) -> None:
        """Prepare the tables.

        Args:
            byte_ids: id of each of the 256 bytes; chunks have no byte that has none.
            merges: (left id, right id, merged id) in order of rank.

        Raises:
            ValueError: there are 2^23 merges or more.
        """
        if len(merges) >= _NO_MERGE >> _ROW_BITS:
            raise ValueError(f"{len(merges)} merges are more than fit: fewer than 2^23")
        table = np.array(merges, dtype=np.int64).reshape(-1, 3)
        self._byte_ids = np.array(byte_ids, dtype=np.int32)
        self._merged = table[:, 2].astype(np.int32)
        self._ranks = KeyTable(slots_per_key=4)
        ranks = np.arange(len(table), dtype=np.int32)
        self._ranks.add(_pair_keys(table[:, 0], table[:, 1]), ranks)

    def __call__(
        self, data: NDArray[np.uint8], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of the chunks, one chunk after another, and how many each has.

        Args:
            data: bytes of the chunks, one chunk after another.
            lengths: how many bytes each has, 1 to `LONGEST_COLUMN`.
        """
        starts = starts_of(lengths)
        num_ids = np.zeros(len(lengths), dtype=np.int64)
        groups = []
        for shortest, longest in zip((0, *_HEIGHTS), _HEIGHTS, strict=False):
            all_of_height = np.flatnonzero((shortest < lengths) & (lengths <= longest))
            for begin in range(0, len(all_of_height), _MOST_CELLS // longest):
                group = all_of_height[begin : begin + _MOST_CELLS // longest]
                columns = self._merge_columns(data, starts[group], lengths[group])
                num_ids[group] = np.count_nonzero(columns != _EMPTY, axis=0)
                groups.append((group, columns))
        firsts = starts_of(num_ids)
        ids = np.empty(num_ids.sum(), dtype=np.int32)
        for group, columns in groups:
            by_chunk = columns.T
            ids[span_indices(firsts[group], num_ids[group])] = by_chunk[by_chunk != _EMPTY]
        return ids, num_ids

    def _merge_columns(
        self, data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """What is left of each chunk, one chunk a column."""
        width = len(lengths)
        rows = np.arange(lengths.max())[:, None]
        inside = rows < lengths
        # A last row that stays empty: every list ends there or above. Index -1, the row before
        # the first, is that row as well, so that no list needs a test for its ends.
        matrix = np.full((len(rows) + 1, width), _EMPTY, dtype=np.int32)
        matrix[:-1][inside] = self._byte_ids[data[(starts + rows)[inside]]]
        next_merges = np.full(matrix.shape, _NO_MERGE, dtype=np.int32)

        cells, merges = matrix.reshape(-1), next_merges.reshape(-1)
        following = np.arange(width, len(cells) + width, dtype=np.int32)
        preceding = np.arange(-width, len(cells) - width, dtype=np.int32)

        def look_up(left: NDArray[Any], right: NDArray[Any]) -> None:
            ranks = self._ranks.find(_pair_keys(cells[left].astype(np.int64), cells[right]))
            found = ranks << _ROW_BITS | (left // width).astype(np.int32)
            merges[left] = np.where(ranks >= 0, found, _NO_MERGE)

        upper = np.flatnonzero(inside[1:])
        look_up(upper, upper + width)
        while True:
            first = next_merges.min(axis=0)
            active = np.flatnonzero(first != _NO_MERGE)
            if not len(active):
                return matrix[:-1]
            first = first[active]
            upper = (first & (1 << _ROW_BITS) - 1) * width + active
            lower = following[upper]
            before, after = preceding[upper], following[lower]
            cells[upper] = self._merged[first >> _ROW_BITS]
            cells[lower] = _EMPTY
            merges[lower] = _NO_MERGE
            following[upper] = after
            preceding[after] = upper
            look_up(np.concatenate([upper, before]), np.concatenate([after, upper]))


def _pair_keys(left: NDArray[np.int64], right: NDArray[Any]) -> NDArray[np.uint64]:
    keys: NDArray[np.uint64] = (left << 32 | right).view(np.uint64)
    return keys
