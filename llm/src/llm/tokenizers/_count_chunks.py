"""Counting the distinct chunks of a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.tokenizers._arrays import PADDING, GrowingArray, starts_of
from llm.tokenizers._blocks import Block, blocks_of
from llm.tokenizers._chunk_table import ChunkTable
from llm.tokenizers._gpt2_split import SEPARATOR, chunk_starts
from llm.tokenizers._pretokenize import PreTokenizer
from llm.tokenizers._surrogates import is_unicode, replace_surrogates
from llm.tokenizers._threads import Crew, Pool, check_num_threads


class ChunkCounts(NamedTuple):
    """Distinct chunks: their bytes one after another, the length of each, how often it occurs."""

    data: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    counts: NDArray[np.int64]


def count_chunks(
    texts: Iterable[str], pre_tokenize: PreTokenizer, num_threads: int = 1
) -> ChunkCounts:
    """Cut texts into chunks and count them.

    Args:
        texts: read once, a few hundred thousand characters at a time.
        pre_tokenize: cuts a text into chunks.
        num_threads: how many threads work at a time, where the pattern is GPT-2's.

    Raises:
        ValueError: `num_threads` is less than 1.
    """
    check_num_threads(num_threads)
    if not pre_tokenize.is_gpt2:
        return _count_one_by_one(texts, pre_tokenize)
    counters = Pool(_Counter)

    def count(block: Block) -> None:
        with counters.borrow() as counter:
            counter.add(block.data, chunk_starts(block.data))

    with Crew(num_threads) as crew:
        for _ in crew.map(count, blocks_of(texts)):
            pass
    with counters.borrow() as total:
        for counter in counters:
            total.add_all(counter)
        return total.without_separators()


class _Counter:
    """Counts the chunks of blocks, for one thread at a time."""

    def __init__(self) -> None:
        self._chunks = ChunkTable()
        self._counts = GrowingArray(np.int64)

    def add(
        self,
        block: NDArray[np.uint8],
        bounds: NDArray[np.intp],
        counts: NDArray[np.int64] | int = 1,
    ) -> None:
        """Count each chunk of a block so many times."""
        numbers = self._chunks.number(block, bounds[:-1], np.diff(bounds))
        self._counts.append(np.zeros(len(self._chunks) - len(self._counts)))
        np.add.at(self._counts.entries, numbers, counts)

    def add_all(self, other: _Counter) -> None:
        """Count what another counter has counted."""
        data, lengths = other._chunks.chunks()
        block = np.concatenate([data, np.zeros(PADDING, dtype=np.uint8)])
        self.add(block, np.append(0, np.cumsum(lengths)), other._counts.entries)

    def without_separators(self) -> ChunkCounts:
        """The chunks that are text."""
        data, lengths = self._chunks.chunks()
        starts = starts_of(lengths)
        separator = np.flatnonzero(data[starts] == SEPARATOR)
        return ChunkCounts(
            np.delete(data, starts[separator]),
            np.delete(lengths, separator),
            np.delete(self._counts.entries, separator),
        )


def _count_one_by_one(texts: Iterable[str], pre_tokenize: PreTokenizer) -> ChunkCounts:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(pre_tokenize(text if is_unicode(text) else replace_surrogates(text)))
    chunks = [chunk.encode() for chunk in counts]
    return ChunkCounts(
        np.frombuffer(b"".join(chunks), dtype=np.uint8),
        np.array(list(map(len, chunks)), dtype=np.int64),
        np.array(list(counts.values()), dtype=np.int64),
    )
