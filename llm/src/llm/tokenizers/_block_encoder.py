"""Encoding blocks of text with GPT-2's pattern.

The chunks of a block are found and numbered in a few operations on arrays. The ids of each
distinct chunk are kept, so that merges are applied to new chunks only, to all of them at once.

Threads share the work, not the encoder: each looks up the chunks of some blocks, merges some of
the new chunks, and puts the ids of some blocks together, while nobody changes the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from llm.tokenizers._arrays import PADDING, GrowingArray, span_indices, starts_of
from llm.tokenizers._batch_merger import LONGEST_COLUMN, BatchMerger
from llm.tokenizers._bpe_encode import ByteMerger
from llm.tokenizers._chunk_table import ChunkTable
from llm.tokenizers._gpt2_split import SEPARATOR, chunk_starts
from llm.tokenizers._threads import map_in_threads

# When so many chunks, or bytes of chunks, have been met, they are forgotten: up to some 100 MB.
_MOST_CHUNKS = 1 << 19
_MOST_BYTES = 1 << 23
# Fewer new chunks than this are merged one by one, in less time than a matrix takes.
_FEW_CHUNKS = 64


class BlockEncoder:
    """Ids of blocks. It remembers the chunks it has met: not for two threads at once."""

    def __init__(
        self,
        merge_one: ByteMerger,
        merge_many: BatchMerger,
        whole: Mapping[bytes, int],
    ) -> None:
        """Know no chunk but those of `whole`.

        Args:
            merge_one: gives the ids of a chunk.
            merge_many: gives those of many chunks that are not long.
            whole: chunks that are one token whatever the merges say.
        """
        self._merge_one = merge_one
        self._merge_many = merge_many
        self._whole = dict(whole)
        self._whole.pop(bytes([SEPARATOR]), None)  # no text has it
        self._forget()

    def encode(
        self, blocks: Sequence[NDArray[np.uint8]], num_threads: int = 1
    ) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """Ids of the texts of each block, one text after another, and where those of each end.

        Args:
            blocks: what `make_block` makes. Several cost less than one by one.
            num_threads: how many threads work at a time.

        Raises:
            ValueError: a chunk cannot be encoded.
        """
        try:
            found = list(map_in_threads(self._find, blocks, num_threads))
            numbers = [self._complete(block, *of) for block, of in zip(blocks, found, strict=True)]
            self._learn(num_threads)
        except BaseException:  # a chunk that cannot be encoded, or Ctrl-C: numbers without ids
            self._forget()
            raise
        encoded = list(map_in_threads(self._ids_of, numbers, num_threads))
        if len(self._chunks) > self._most_chunks or self._chunks.num_bytes > self._most_bytes:
            self._forget()
        return encoded

    def _find(self, block: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Where the chunks of a block begin and the last one ends, and the numbers of those met."""
        bounds = chunk_starts(block)
        return bounds, self._chunks.find(block, bounds[:-1], np.diff(bounds))

    def _complete(
        self, block: NDArray[np.uint8], bounds: NDArray[np.intp], numbers: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """Give numbers to the chunks that have none."""
        new = np.flatnonzero(numbers < 0)
        starts, ends = bounds[new], bounds[new + 1]
        numbers[new] = self._chunks.number(block, starts, ends - starts)
        return numbers

    def _ids_of(self, numbers: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        num_ids = self._num_ids.entries[numbers]
        ids = self._ids.entries[span_indices(self._firsts.entries[numbers], num_ids)]
        return ids, np.cumsum(num_ids)[numbers == self._separator]

    def _forget(self) -> None:
        """Know the separator, which has no ids, and the whole chunks, which have one each."""
        known = [bytes([SEPARATOR]), *self._whole]
        data = np.frombuffer(b"".join([*known, bytes(PADDING)]), dtype=np.uint8)
        self._chunks = ChunkTable()
        lengths = np.array(list(map(len, known)))
        numbers = self._chunks.number(data, starts_of(lengths), lengths)
        self._separator = numbers[0]
        self._most_chunks = len(known) + _MOST_CHUNKS
        self._most_bytes = self._chunks.num_bytes + _MOST_BYTES

        # Chunk i has the num_ids[i] ids from firsts[i] on.
        self._ids = GrowingArray(np.int32)
        self._firsts = GrowingArray(np.int64)
        self._num_ids = GrowingArray(np.int64)
        order = np.argsort(numbers)
        num_ids = np.array([0] + [1] * len(self._whole))
        self._ids.append(np.array(list(self._whole.values()), dtype=np.int32))
        self._firsts.append(starts_of(num_ids)[order])
        self._num_ids.append(num_ids[order])

    def _learn(self, num_threads: int) -> None:
        """Find the ids of the chunks that have got numbers, but no ids yet."""
        data, lengths = self._chunks.chunks(len(self._firsts))
        starts = starts_of(lengths)
        in_columns = lengths <= LONGEST_COLUMN
        if np.count_nonzero(in_columns) < _FEW_CHUNKS or self._merge_one.lacks_bytes:
            in_columns[:] = False

        def merge(chunks: NDArray[np.intp]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
            bytes_of_chunks = data[span_indices(starts[chunks], lengths[chunks])]
            return self._merge_many(bytes_of_chunks, lengths[chunks])

        firsts, num_ids = np.empty_like(starts), np.empty_like(starts)
        many = np.flatnonzero(in_columns)
        parts = [many[thread::num_threads] for thread in range(num_threads if len(many) else 0)]
        for part, (ids, num_ids_of_part) in zip(
            parts, map_in_threads(merge, parts, num_threads), strict=True
        ):
            num_ids[part] = num_ids_of_part
            firsts[part] = len(self._ids) + starts_of(num_ids_of_part)
            self._ids.append(ids)
        for one in np.flatnonzero(~in_columns).tolist():
            chunk = data[starts[one] : starts[one] + lengths[one]].tobytes()
            ids = np.array(self._merge_one(chunk), dtype=np.int32)
            firsts[one], num_ids[one] = len(self._ids), len(ids)
            self._ids.append(ids)
        self._firsts.append(firsts)
        self._num_ids.append(num_ids)
