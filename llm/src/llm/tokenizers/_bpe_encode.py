"""Applying BPE merges to one chunk."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from itertools import chain, pairwise

# Above every rank, and small enough that Python compares it in one step.
_NO_MERGE = (1 << 30) - 1
# Id of a byte that the vocabulary lacks: no merge has it.
NO_TOKEN = -2
# In place of an id that was merged into the one before it.
_CONSUMED = -1
# Beyond this length the heap, O(n log n), beats scanning the list after every merge, O(n²).
_LONG_CHUNK = 48


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
        merges = list(merges)
        self._merged = [new for _, _, new in merges]
        # ranks[left][right] is the rank of a pair that merges; few ids are the left of any.
        nothing: dict[int, int] = {}
        num_ids = 1 + max([NO_TOKEN, *self._byte_ids, *chain.from_iterable(merges)])
        self._ranks = [nothing] * num_ids
        for rank, (left, right, _) in enumerate(merges):
            if self._ranks[left] is nothing:
                self._ranks[left] = {}
            self._ranks[left][right] = rank
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
        if self.lacks_bytes and NO_TOKEN in ids:
            index = ids.index(NO_TOKEN)
            nearby = chunk[max(index - 40, 0) : index + 40].decode("utf-8", "replace")
            raise ValueError(
                f"the vocabulary has no token for the byte {chunk[index]:#04x} of {nearby!r}: this "
                "text cannot be encoded"
            )
        return self._merge_short(ids) if len(ids) < _LONG_CHUNK else self._merge_long(ids)

    def _merge_short(self, ids: list[int]) -> list[int]:
        ranks, merged = self._ranks, self._merged
        # candidates[i] is the rank of ids[i] and ids[i + 1]
        candidates = [ranks[left].get(right, _NO_MERGE) for left, right in pairwise(ids)]
        while candidates:
            rank = min(candidates)
            if rank == _NO_MERGE:
                break
            index = candidates.index(rank)
            new = ids[index] = merged[rank]
            del ids[index + 1], candidates[index]
            if index > 0:
                candidates[index - 1] = ranks[ids[index - 1]].get(new, _NO_MERGE)
            if index < len(candidates):
                candidates[index] = ranks[new].get(ids[index + 1], _NO_MERGE)
        return ids

    def _merge_long(self, ids: list[int]) -> list[int]:
        """The same with a heap of candidates over a linked list of ids."""
        ranks, merged = self._ranks, self._merged
        end = len(ids)
        following = list(range(1, end + 1))
        preceding = list(range(-1, end - 1))
        heap = []
        for index, (left, right) in enumerate(pairwise(ids)):
            if right in ranks[left]:
                heap.append((ranks[left][right], index))
        heapq.heapify(heap)
        while heap:
            rank, index = heapq.heappop(heap)
            right = following[index]
            # Either side may have been merged since.
            if right == end or ids[index] < 0 or ranks[ids[index]].get(ids[right]) != rank:
                continue
            new = ids[index] = merged[rank]
            ids[right] = _CONSUMED
            after, before = following[right], preceding[index]
            following[index] = after
            if after < end:
                preceding[after] = index
                candidate = ranks[new].get(ids[after])
                if candidate is not None:
                    heapq.heappush(heap, (candidate, index))
            if before >= 0:
                candidate = ranks[ids[before]].get(new)
                if candidate is not None:
                    heapq.heappush(heap, (candidate, before))
        return [token_id for token_id in ids if token_id >= 0]
