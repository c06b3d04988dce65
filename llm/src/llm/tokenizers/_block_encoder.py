"""Encoding blocks of text with GPT-2's pattern.

The chunks of a block are found and numbered in a few operations on arrays. The ids of each
distinct chunk are kept, so that merges are applied to new chunks only, to all of them at once.

Threads share the work on some blocks, not the encoder. One of them numbers the new chunks of
these, merges them and hands out the ids; the others meanwhile look up the chunks of the blocks
that follow, which nobody can do only while chunks get their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.tokenizers._arrays import PADDING, GrowingArray, span_indices, starts_of
from llm.tokenizers._batch_merger import LONGEST_COLUMN, BatchMerger
from llm.tokenizers._blocks import Block
from llm.tokenizers._bpe_encode import ByteMerger
from llm.tokenizers._chunk_table import ChunkTable
from llm.tokenizers._gpt2_split import SEPARATOR, chunk_starts
from llm.tokenizers._threads import Crew, Task

# New chunks of so many blocks are merged together, or of so many for each thread.
_BLOCKS_AT_ONCE = 8
_BLOCKS_FOR_A_THREAD = 6
# When so many chunks, or bytes of chunks, have been met, they are forgotten: up to some 100 MB.
_MOST_CHUNKS = 1 << 19
_MOST_BYTES = 1 << 23
# Fewer new chunks than this are merged one by one, in less time than a matrix takes.
_FEW_CHUNKS = 64


_Cutting = tuple[Block, Task[NDArray[np.intp]]]


def _in_cutting(group: list[Block], crew: Crew) -> list[_Cutting]:
    """Blocks, each with what finds the starts of its chunks."""
    starts = crew.start(lambda block: chunk_starts(block.data), group)
    return list(zip(group, starts, strict=True))


class EncodedBlock(NamedTuple):
    """Ids of the pieces of texts in a block, one after another, and where those of each end."""

    ids: NDArray[np.int32]
    ends: NDArray[np.int64]
    goes_on: bool  # as in `Block`


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

    def encode(self, blocks: Iterable[Block], num_threads: int = 1) -> Iterator[EncodedBlock]:
        """Ids of the texts of each block.

        Args:
            blocks: read some at a time, one lot ahead of those that are given back.
            num_threads: how many threads work at a time.

        Raises:
            ValueError: a chunk cannot be encoded.
        """
        blocks = iter(blocks)
        num_blocks = max(_BLOCKS_AT_ONCE, _BLOCKS_FOR_A_THREAD * num_threads)
        groups = iter(lambda: list(islice(blocks, num_blocks)), [])
        try:
            with Crew(num_threads) as crew:
                group = next(groups, [])
                finding = crew.start(self._find, _in_cutting(group, crew))
                while group:
                    following = next(groups, [])
                    # Needs no table: something to do while chunks get their numbers.
                    cutting = _in_cutting(following, crew)
                    found = zip(group, crew.results(finding), strict=True)
                    numbers = [self._complete(block, *of) for block, of in list(found)]
                    # The tables of chunks stay as they are until all of the next are found.
                    is_full = self._is_full()
                    if not is_full:
                        finding = crew.start(self._find, cutting)
                    self._learn()
                    encoding = crew.start(self._ids_of, numbers)
                    for block, encoded in zip(group, crew.results(encoding), strict=True):
                        yield EncodedBlock(*encoded, block.goes_on)
                    if is_full:
                        self._forget()
                        finding = crew.start(self._find, cutting)
                    group = following
        except BaseException:  # a chunk that cannot be encoded, or Ctrl-C: numbers without ids
            self._forget()
            raise

    def _find(self, cutting: _Cutting) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Where the chunks of a block begin and the last one ends, and the numbers of those met."""
        block, starts = cutting
        # What another thread has begun is not waited for: Ctrl-C may have ended that thread.
        is_there = starts.run() or starts.is_done()
        bounds = starts.result() if is_there else chunk_starts(block.data)
        return bounds, self._chunks.find(block.data, bounds[:-1], np.diff(bounds))

    def _complete(
        self, block: Block, bounds: NDArray[np.intp], numbers: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """Give numbers to the chunks that have none."""
        new = np.flatnonzero(numbers < 0)
        starts, ends = bounds[new], bounds[new + 1]
        numbers[new] = self._chunks.number(block.data, starts, ends - starts)
        return numbers

    def _ids_of(self, numbers: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of all chunks of a block, and where those of each text end."""
        separators = np.flatnonzero(numbers == self._separator)
        chunks = numbers.astype(np.intp)
        num_ids = self._num_ids.entries[chunks]
        ends = np.cumsum(num_ids)
        begins = ends - num_ids
        # Most chunks have one id. A separator has none: what it writes is written over by the
        # chunk after it, or into the one entry more.
        ids = np.empty(num_ids.sum() + 1, dtype=np.int32)
        ids[begins] = self._first_ids.entries[chunks]
        longer = np.flatnonzero(num_ids > 1)
        others = num_ids[longer] - 1
        ids[span_indices(begins[longer] + 1, others)] = self._ids.entries[
            span_indices(self._firsts.entries[chunks[longer]] + 1, others)
        ]
        return ids[:-1], ends[separators]

    def _is_full(self) -> bool:
        return len(self._chunks) > self._most_chunks or self._chunks.num_bytes > self._most_bytes

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

        # Chunk i has the num_ids[i] ids from firsts[i] on; the first one is in first_ids too.
        self._ids = GrowingArray(np.int32)
        self._firsts = GrowingArray(np.int64)
        self._num_ids = GrowingArray(np.int64)
        self._first_ids = GrowingArray(np.int32)
        order = np.argsort(numbers)
        num_ids = np.array([0] + [1] * len(self._whole))
        ids = np.array([0, *self._whole.values()], dtype=np.int32)
        self._ids.append(ids[1:])
        self._first_ids.append(ids[order])
        self._firsts.append(starts_of(num_ids)[order])
        self._num_ids.append(num_ids[order])

    def _learn(self) -> None:
        """Find the ids of the chunks that have got numbers, but no ids yet."""
        data, lengths = self._chunks.chunks(len(self._firsts))
        starts = starts_of(lengths)
        in_columns = lengths <= LONGEST_COLUMN
        if np.count_nonzero(in_columns) < _FEW_CHUNKS or self._merge_one.lacks_bytes:
            in_columns[:] = False

        firsts, num_ids = np.empty_like(starts), np.empty_like(starts)
        many = np.flatnonzero(in_columns)
        if len(many):
            bytes_of_many = data[span_indices(starts[many], lengths[many])]
            ids, num_ids[many] = self._merge_many(bytes_of_many, lengths[many])
            firsts[many] = len(self._ids) + starts_of(num_ids[many])
            self._ids.append(ids)
        for one in np.flatnonzero(~in_columns).tolist():
            chunk = data[starts[one] : starts[one] + lengths[one]].tobytes()
            ids = np.array(self._merge_one(chunk), dtype=np.int32)
            firsts[one], num_ids[one] = len(self._ids), len(ids)
            self._ids.append(ids)
        self._first_ids.append(self._ids.entries[firsts])
        self._firsts.append(firsts)
        self._num_ids.append(num_ids)
