"""Applying BPE merges to one chunk."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from itertools import pairwise

# A pair of ids is one integer, left << 32 | right. What it merges into is one integer too,
# rank << 32 | new id: the smallest is the merge to apply next.
_SHIFT = 32
_LOW = (1 << _SHIFT) - 1
_NO_MERGE = 1 << 64
# Id of a byte that the vocabulary lacks: no merge has it.
NO_TOKEN = -2
# Beyond this length the heap, O(n log n), beats scanning the list after every merge, O(n²).
_LONG_CHUNK = 400


class ByteMerger:
    """Merges the bytes of a chunk: always the pair of lowest rank, the leftmost of equals."""

    def __init__(
        self,
        byte_ids: Iterable[int],
        merges: Iterable[tuple[int, int, int]],
        whole: Mapping[bytes, int],
    ) -> None:
        """Prepare the tables.

        Args:
            byte_ids: id of each of the 256 bytes, `NO_TOKEN` where there is none.
            merges: (left id, right id, merged id) in order of rank.
            whole: chunks that are one token whatever the merges say.
        """
        self._byte_ids = tuple(byte_ids)
        self._merges = {
            left << _SHIFT | right: rank << _SHIFT | new
            for rank, (left, right, new) in enumerate(merges)
        }
        self._whole = whole
        self.lacks_bytes = NO_TOKEN in self._byte_ids

    def __call__(self, chunk: bytes) -> list[int]:
        """Ids of a chunk.

        Raises:
            ValueError: the vocabulary lacks one of its bytes.
        """
        if chunk in self._whole:
            return [self._whole[chunk]]
        ids = [self._byte_ids[byte] for byte in chunk]
        if NO_TOKEN in ids:
            index = ids.index(NO_TOKEN)
            nearby = chunk[max(index - 40, 0) : index + 40].decode("utf-8", "replace")
            raise ValueError(
                f"the vocabulary has no token for the byte {chunk[index]:#04x} of {nearby!r}: this "
                "text cannot be encoded"
            )
        return self._merge_short(ids) if len(ids) < _LONG_CHUNK else self._merge_long(ids)

    def _merge_short(self, ids: list[int]) -> list[int]:
        find = self._merges.get
        # candidates[i] is the merge of ids[i] and ids[i + 1]
        candidates = [find(left << _SHIFT | right, _NO_MERGE) for left, right in pairwise(ids)]
        while candidates:
            best = min(candidates)
            if best == _NO_MERGE:
                break
            index = candidates.index(best)
            ids[index : index + 2] = [best & _LOW]
            del candidates[index]
            if index > 0:
                candidates[index - 1] = find(ids[index - 1] << _SHIFT | ids[index], _NO_MERGE)
            if index < len(candidates):
                candidates[index] = find(ids[index] << _SHIFT | ids[index + 1], _NO_MERGE)
        return ids

    def _merge_long(self, ids: list[int]) -> list[int]:
        """The same with a heap of candidates over a linked list of ids."""
        find = self._merges.get
        end = len(ids)
        following = list(range(1, end + 1))
        preceding = list(range(-1, end - 1))
        heap = []
        for index in range(end - 1):
            merge = find(ids[index] << _SHIFT | ids[index + 1])
            if merge is not None:
                heap.append((merge, index))
        heapq.heapify(heap)
        while heap:
            merge, index = heapq.heappop(heap)
            right = following[index]
            # Either side may have been merged since; a consumed id is -1, which is in no pair.
            if right == end or find(ids[index] << _SHIFT | ids[right]) != merge:
                continue
            ids[index], ids[right] = merge & _LOW, -1
            after, before = following[right], preceding[index]
            following[index] = after
            if after < end:
                preceding[after] = index
                candidate = find(ids[index] << _SHIFT | ids[after])
                if candidate is not None:
                    heapq.heappush(heap, (candidate, index))
            if before >= 0:
                candidate = find(ids[before] << _SHIFT | ids[index])
                if candidate is not None:
                    heapq.heappush(heap, (candidate, before))
        return [token_id for token_id in ids if token_id >= 0]
