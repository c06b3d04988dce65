"""Learning BPE merges from counted chunks.

Reference: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units",
arXiv:1508.07909, algorithm 1.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from llm.tokenizers._byte_level import ALPHABET

# A pair of ids is one integer, left << 32 | right: it hashes fast and sorts as the pair does.
_SHIFT = 32
_LOW = (1 << _SHIFT) - 1
# Words longer than this are numpy arrays: found and rewritten without a Python step a symbol.
_LONG_WORD = 512


def learn_merges(
    chunk_counts: Mapping[bytes, int],
    *,
    vocab_size: int,
    first_id: int,
    reserved: Collection[bytes] = (),
    show_progress: bool = True,
) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Merge the most frequent adjacent pair, again and again, until the vocabulary is full.

    Ties go to the smallest pair of ids. No token is spelled by two merges: what merging makes of
    a stretch of bytes does not depend on what surrounds it.

    Args:
        chunk_counts: how often each chunk of the corpus occurs; merges never cross chunks.
        vocab_size: number of ids to reach, those below `first_id` included.
        first_id: id of the first byte of the alphabet; ids below it are special tokens.
        reserved: byte strings that no merge may spell (they would forge a special token).
        show_progress: draw a progress bar.

    Returns:
        Tokens in order of id from `first_id`, and the merges as pairs of ids in order of rank.
        Fewer tokens than asked for when no pair is left to merge.
    """
    tokens = [bytes([byte]) for byte in ALPHABET]
    byte_ids = [first_id + ALPHABET.index(byte) for byte in range(256)]
    words = [_Word([byte_ids[byte] for byte in chunk]) for chunk in chunk_counts]
    word_counts = list(chunk_counts.values())

    pair_counts: defaultdict[int, int] = defaultdict(int)
    where: defaultdict[int, set[int]] = defaultdict(set)
    for index, (word, count) in enumerate(zip(words, word_counts, strict=True)):
        for pair, occurrences in word.pairs():
            pair_counts[pair] += occurrences * count
            where[pair].add(index)

    # An entry is out of date when the pair's count has changed since; it is then pushed again.
    # The serial number keeps the heap from comparing the sets.
    heap = [
        (-pair_counts[pair], pair, serial, indices)
        for serial, (pair, indices) in enumerate(where.items())
    ]
    serial = len(heap)
    heapq.heapify(heap)

    merges: list[tuple[int, int]] = []
    progress = tqdm(total=vocab_size, desc="merges", disable=not show_progress, mininterval=0.5)
    with progress:
        progress.update(first_id + len(tokens))
        while first_id + len(tokens) < vocab_size and heap:
            negative_count, pair, _, indices = heapq.heappop(heap)
            count = pair_counts[pair]
            if count != -negative_count:
                heapq.heappush(heap, (-count, pair, serial, indices))
                serial += 1
                continue
            if count < 1:
                break
            left, right = pair >> _SHIFT, pair & _LOW
            merged = tokens[left - first_id] + tokens[right - first_id]
            if merged in reserved:
                continue
            new = first_id + len(tokens)
            tokens.append(merged)
            merges.append((left, right))
            progress.update()

            where = defaultdict(set)
            for index in indices:
                count = word_counts[index]
                for changed, change in words[index].merge(left, right, new):
                    pair_counts[changed] += change * count
                    if change > 0:
                        where[changed].add(index)
            for changed, changed_indices in where.items():
                if pair_counts[changed] > 0:
                    entry = (-pair_counts[changed], changed, serial, changed_indices)
                    heapq.heappush(heap, entry)
                    serial += 1
    return tokens, merges


class _Word:
    """The symbols of one chunk."""

    __slots__ = ("symbols",)

    def __init__(self, symbols: list[int]) -> None:
        self.symbols: list[int] | NDArray[np.int64] = symbols
        if len(symbols) > _LONG_WORD:
            self.symbols = np.array(symbols, dtype=np.int64)

    def pairs(self) -> list[tuple[int, int]]:
        """Adjacent pairs and how often each occurs (a pair may be listed more than once)."""
        symbols = self.symbols
        if isinstance(symbols, list):
            return [(left << _SHIFT | right, 1) for left, right in pairwise(symbols)]
        return _counted(symbols[:-1] << _SHIFT | symbols[1:], 1)

    def merge(self, left: int, right: int, new: int) -> list[tuple[int, int]]:
        """Replace (left, right) by `new`, from left to right; return the changes of pair counts."""
        symbols = self.symbols
        if isinstance(symbols, list):
            merged, changes = _merge_list(symbols, left, right, new)
            self.symbols = merged
            return changes

        starts = np.flatnonzero((symbols[:-1] == left) & (symbols[1:] == right))
        if left == right:
            starts = _without_overlaps(starts)
        if not len(starts):
            return []
        inner = starts[starts > 0]
        before = symbols[inner - 1]
        # The symbol before is `new` already where the previous occurrence ends.
        before[np.isin(inner - 2, starts, assume_unique=True)] = new
        after = symbols[starts[starts + 2 < len(symbols)] + 2]
        changes = [
            *_counted(before << _SHIFT | left, -1),
            *_counted(before << _SHIFT | new, 1),
            *_counted(right << _SHIFT | after, -1),
            *_counted(new << _SHIFT | after, 1),
        ]
        symbols[starts] = new
        self.symbols = np.delete(symbols, starts + 1)
        return changes


def _counted(pairs: NDArray[np.int64], sign: int) -> list[tuple[int, int]]:
    """Distinct pairs and how often each occurs, times `sign`."""
    distinct, counts = np.unique(pairs, return_counts=True)
    return list(zip(distinct.tolist(), (sign * counts).tolist(), strict=True))


def _without_overlaps(starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every second start within each run of consecutive ones: `aaaa` holds `aa` twice."""
    if not len(starts):
        return starts
    is_first = np.diff(starts, prepend=starts[0] - 2) > 1
    run_starts = starts[is_first][np.cumsum(is_first) - 1]
    kept: NDArray[np.int64] = starts[(starts - run_starts) % 2 == 0]
    return kept


def _merge_list(
    symbols: list[int], left: int, right: int, new: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """As `_Word.merge`, of a short word: its new symbols, and the changes of pair counts."""
    merged: list[int] = []
    changes: list[tuple[int, int]] = []
    position, end = 0, len(symbols)
    while position < end:
        symbol = symbols[position]
        position += 1
        if symbol != left or position == end or symbols[position] != right:
            merged.append(symbol)
            continue
        position += 1
        if merged:
            changes.append((merged[-1] << _SHIFT | left, -1))
            changes.append((merged[-1] << _SHIFT | new, 1))
        if position < end:
            after = symbols[position]
            changes.append((right << _SHIFT | after, -1))
            changes.append((new << _SHIFT | after, 1))
        merged.append(new)
    return merged, changes
