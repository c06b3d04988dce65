"""Learning BPE merges from counted chunks.

Reference: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units",
arXiv:1508.07909, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from llm.tokenizers._arrays import GrowingArray, span_indices
from llm.tokenizers._byte_level import ALPHABET

_Int64s = NDArray[np.int64]

_NOT_IN_BATCH = -1
_MAX_BATCH = 1 << 12
# Below these, a step's time is that of calling numpy, and more work costs nothing.
_FEW_OCCURRENCES = 1 << 13
_FEW_HOT_PAIRS = 1 << 11
# Bytes that are counted at once: their temporary arrays stay in the cache.
_BLOCK = 1 << 17


def learn_merges(
    chunks: NDArray[np.uint8],
    lengths: _Int64s,
    counts: _Int64s,
    *,
    vocab_size: int,
    first_id: int,
    reserved: Collection[bytes] = (),
    show_progress: bool = True,
) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Merge the most frequent adjacent pair, again and again, until the vocabulary is full.

    Ties go to the smallest pair of ids. No token is spelled by two merges: what merging makes of
    a stretch of bytes does not depend on what surrounds it.

    Pairs are merged in batches, with the result of one after another. Say that the pairs first in
    order share no symbol anywhere in the corpus. Merging one then leaves the counts of the others
    as they are. Nor does a new pair come before them: `p x`, where x was `a b`, occurs at most as
    often as `p a` did, which comes after the batch, for it shares that `a` with `a b`; and among
    equal counts `p x` comes after `p a`, new ids being the largest. So with `x n` and `b n`.

    Args:
        chunks: the bytes of all distinct chunks, one chunk after another.
        lengths: of each chunk, at least 1.
        counts: how often each chunk occurs in the corpus; merges never cross chunks.
        vocab_size: number of ids to reach, at least `first_id` + 256.
        first_id: id of the first byte of the alphabet; ids below it are special tokens.
        reserved: byte strings that no merge may spell (they would forge a special token).
        show_progress: draw a progress bar.

    Returns:
        Tokens in order of id from `first_id`, and the merges as pairs of ids in order of rank.
        Fewer tokens than asked for when no pair is left to merge.

    Raises:
        ValueError: the distinct chunks are too large for positions of 32 bits.
    """
    tokens = [bytes([byte]) for byte in ALPHABET]
    merges: list[tuple[int, int]] = []
    corpus = _Corpus(chunks, lengths, counts, max_tokens=vocab_size - first_id)
    num_candidates = 1
    progress = tqdm(total=vocab_size, desc="merges", disable=not show_progress, mininterval=0.5)
    with progress:
        progress.update(first_id + len(tokens))
        while room := max(vocab_size - first_id - len(tokens), 0):
            candidates = corpus.top_pairs(min(num_candidates, room, corpus.max_batch))
            if not len(candidates):
                break
            if reserved:
                spelled = [tokens[left] + tokens[right] for left, right in corpus.ids(candidates)]
                is_reserved = np.array([merged in reserved for merged in spelled])
                corpus.pass_over(candidates[is_reserved])
                candidates = candidates[~is_reserved]
                if not len(candidates):
                    continue
            batch = corpus.merge(candidates)
            for left, right in corpus.ids(batch):
                tokens.append(tokens[left] + tokens[right])
                merges.append((left + first_id, right + first_id))
            progress.update(len(batch))
            num_candidates = 3 * len(batch) + 1
    return tokens, merges


class _Corpus:
    """All chunks in one row of symbols, and the pairs that occur in it.

    A symbol is 1 + the index of a token; 0 stands before, between and after the chunks. A token
    keeps the positions of its bytes, and is written at the first and the last of them: the
    symbol before `position` is `symbol[position - 1]`, the one after it begins its length later.

    A pair is the index of its counts; 0 is no pair. Each has a stretch of `occurrence`, written
    when the pair comes into being, as no later merge adds any. `pair_at` says which still hold.
    """

    def __init__(
        self, chunks: NDArray[np.uint8], lengths: _Int64s, counts: _Int64s, *, max_tokens: int
    ) -> None:
        size = len(chunks) + len(lengths) + 1
        if size + len(ALPHABET) >= 1 << 31:
            raise ValueError(
                f"the distinct chunks have {len(chunks)} bytes; fewer than 2**31, less one for "
                "each chunk, can be trained on"
            )
        # Each merge uses up at least one byte.
        max_symbols = min(max_tokens, len(ALPHABET) + len(chunks)) + 1
        self._position_bits = size.bit_length()
        self._symbol_bits = max_symbols.bit_length()
        self.max_batch = min(_MAX_BATCH, 1 << (62 - self._position_bits - self._symbol_bits))

        is_byte = np.ones(size, dtype=bool)
        is_byte[0] = False
        is_byte[np.cumsum(lengths + 1)] = False
        symbol_of_byte = np.empty(256, dtype=np.int32)
        symbol_of_byte[ALPHABET] = np.arange(1, 257)
        self._symbol = np.zeros(size, dtype=np.int32)
        self._symbol[is_byte] = symbol_of_byte[chunks]
        self._num_symbols = 1 + len(ALPHABET)
        self._length = np.ones(max_symbols + 1, dtype=np.int64)
        # How often the chunk at a position occurs.
        is_small = counts.max(initial=0) < 1 << 31
        self._weight = np.zeros(size, dtype=np.int32 if is_small else np.int64)
        self._weight[1:] = np.repeat(counts.astype(self._weight.dtype), lengths + 1)

        self._left = GrowingArray(np.int32)
        self._right = GrowingArray(np.int32)
        self._count = GrowingArray(np.int64)
        self._rank = GrowingArray(np.int16)
        # Pair 0 is no pair.
        for of_pairs in (self._left, self._right, self._count):
            of_pairs.append(np.zeros(1))
        self._rank.append(np.full(1, _NOT_IN_BATCH))
        # The stretch of a pair ends where that of the next begins.
        self._start = GrowingArray(np.int64)
        self._start.append(np.zeros(2))
        # At most `size` occurrences hold at any time. What is never written takes no memory.
        self._occurrence = np.empty(3 * size, dtype=np.int32)
        self._pair_at = np.zeros(size, dtype=np.int32)
        self._passed_over: list[int] = []
        # All pairs that occur at least `threshold` times, perhaps some that no longer do.
        self._hot = np.zeros(0, dtype=np.int64)
        self._threshold = np.iinfo(np.int64).max
        self._budget = _FEW_OCCURRENCES

        self._count_pairs_of_bytes(is_byte[:-1] & is_byte[1:])

    def _count_pairs_of_bytes(self, is_pair: NDArray[np.bool_]) -> None:
        """Add the pairs that begin where `is_pair`, in order of their bytes' ids."""
        row = (self._symbol - 1).astype(np.uint16)
        keys = (row[:-1] << 8 | row[1:])[is_pair]
        weights = self._weight[:-1][is_pair]
        sizes = np.zeros(1 << 16, dtype=np.int64)
        counts = np.zeros(1 << 16, dtype=np.int64)
        for begin in range(0, len(keys), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            sizes += np.bincount(keys[block], minlength=1 << 16)
            # Summed as floats, which is exact up to 2**53.
            sums = np.bincount(keys[block], weights=weights[block], minlength=1 << 16)
            counts += sums.astype(np.int64)
        del row, weights
        occurs = sizes > 0
        starts = np.flatnonzero(is_pair).astype(np.int32)
        self._pair_at[:-1][is_pair] = np.cumsum(occurs, dtype=np.int32)[keys]
        # A stable sort of 16 bits is a radix sort.
        positions = starts[np.argsort(keys, kind="stable")]
        self._add_pairs(positions, sizes[occurs], counts[occurs])

    def ids(self, pairs: _Int64s) -> list[tuple[int, int]]:
        """Indices of the tokens in each pair."""
        left, right = self._left.entries[pairs] - 1, self._right.entries[pairs] - 1
        return list(zip(left.tolist(), right.tolist(), strict=True))

    def pass_over(self, pairs: _Int64s) -> None:
        """Never merge these."""
        self._count.entries[pairs] = 0
        self._passed_over.extend(pairs.tolist())

    def top_pairs(self, limit: int) -> _Int64s:
        """The most frequent pairs in order, at most `limit` and none only if none is left."""
        counts = self._count.entries[self._hot]
        is_hot = counts >= self._threshold
        self._hot, counts = self._hot[is_hot], counts[is_hot]
        if len(self._hot) < limit and self._threshold > 1:
            self._refill(max(4 * limit, _FEW_HOT_PAIRS))
            counts = self._count.entries[self._hot]
        pairs = self._hot
        if len(pairs) > limit:
            # numpy finds the smallest of many equal counts in a tenth of the time of the largest
            least = -np.partition(-counts, limit - 1)[limit - 1]
            above, ties = pairs[counts > least], pairs[counts == least]
            wanted = limit - len(above)
            smallest_first = (
                self._left.entries[ties].astype(np.int64) << 32 | self._right.entries[ties]
            )
            ties = ties[np.argpartition(smallest_first, wanted - 1)[:wanted]]
            pairs = np.concatenate([above, ties])
        return pairs[
            np.lexsort(
                (self._right.entries[pairs], self._left.entries[pairs], -self._count.entries[pairs])
            )
        ]

    def _refill(self, wanted: int) -> None:
        """Lower the threshold until about so many pairs reach it."""
        all_counts = self._count.entries
        self._threshold = min(self._threshold, max(int(all_counts.max()), 0) + 1)
        while self._threshold > 1 and len(self._hot) < wanted:
            self._threshold = max(self._threshold // 2, 1)
            self._hot = np.flatnonzero(all_counts >= self._threshold)
        counts = all_counts[self._hot]
        if len(counts) > wanted:
            self._threshold = -int(np.partition(-counts, wanted - 1)[wanted - 1])
            self._hot = self._hot[counts >= self._threshold]

    def merge(self, candidates: _Int64s) -> _Int64s:
        """Merge the first of the candidates, as many as one batch can hold; return those."""
        batch, positions, ranks = self._find_batch(candidates)
        first_new = self._num_symbols
        self._num_symbols += len(batch)
        left_length = self._length[self._left.entries[batch]]
        right_length = self._length[self._right.entries[batch]]
        self._length[first_new : self._num_symbols] = left_length + right_length

        middles = positions + left_length[ranks]
        ends = middles + right_length[ranks]
        self._symbol[positions] = self._symbol[ends - 1] = first_new + ranks
        before = self._symbol[positions - 1].astype(np.int64)
        after = self._symbol[ends].astype(np.int64)
        befores = positions - self._length[before]

        # The pair between two sites is taken away once: as that of a middle, gone when looked
        # up again from the site behind it.
        weights = self._weight[positions].astype(np.int64)
        np.subtract.at(self._count.entries, self._pair_at[middles], weights)
        self._pair_at[middles] = self._pair_at[positions] = 0
        np.subtract.at(self._count.entries, self._pair_at[befores], weights)
        self._count.entries[batch] = 0

        # Group the new pairs by the new symbol, its side and the other symbol; then by position.
        # A pair of two new symbols is that of the left one.
        group = ranks << (1 + self._symbol_bits)
        is_left = after > 0
        left_groups = (group | 1 << self._symbol_bits | after)[is_left]
        is_right = (before > 0) & (before < first_new)
        right_groups = (group | before)[is_right]
        keys = np.concatenate(
            [
                left_groups << self._position_bits | positions[is_left],
                right_groups << self._position_bits | befores[is_right],
            ]
        )
        keys.sort()
        groups, positions = keys >> self._position_bits, keys & ((1 << self._position_bits) - 1)
        is_first = np.ones(len(groups), dtype=bool)
        np.not_equal(groups[1:], groups[:-1], out=is_first[1:])
        self._pair_at[positions] = len(self._count) - 1 + np.cumsum(is_first, dtype=np.int32)
        bounds = np.flatnonzero(np.append(is_first, True))
        counts = np.add.reduceat(self._weight[positions], bounds[:-1], dtype=np.int64)
        self._add_pairs(positions, np.diff(bounds), counts)
        return batch

    def _find_batch(self, candidates: _Int64s) -> tuple[_Int64s, _Int64s, _Int64s]:
        """The batch, the positions to merge at, and which of the batch is at each (in order)."""
        starts = self._start.entries[candidates]
        sizes = self._start.entries[candidates + 1] - starts
        num_pairs = max(int(np.searchsorted(np.cumsum(sizes), self._budget)), 1)
        batch, starts, sizes = candidates[:num_pairs], starts[:num_pairs], sizes[:num_pairs]

        ranks = np.repeat(np.arange(num_pairs, dtype=np.int64), sizes)
        positions = self._occurrence[span_indices(starts, sizes)].astype(np.int64)
        holds = self._pair_at[positions] == np.repeat(batch, sizes)
        positions, ranks = positions[holds], ranks[holds]

        # Where another pair of the batch begins in the middle of one, only one can be merged:
        # the batch ends before the later of the two. A pair that overlaps itself (`a a` in `aaa`)
        # ends the batch, as its new pair `x a` may come next.
        middles = positions + self._length[self._left.entries[batch]][ranks]
        self._rank.entries[batch] = np.arange(num_pairs)
        next_ranks = self._rank.entries[self._pair_at[middles]].astype(np.int64)
        self._rank.entries[batch] = _NOT_IN_BATCH
        overlaps = np.flatnonzero(next_ranks != _NOT_IN_BATCH)
        rank, next_rank = ranks[overlaps], next_ranks[overlaps]
        limits = [np.maximum(rank, next_rank) + (rank == next_rank)]
        if self._passed_over:
            # A pair beside one passed over ends the batch: its new pair is as frequent as either.
            befores = positions - self._length[self._symbol[positions - 1]]
            for beside in (middles, befores):
                limits.append(ranks[np.isin(self._pair_at[beside], self._passed_over)] + 1)
        num_pairs = int(np.concatenate(limits).min(initial=num_pairs))
        batch = batch[:num_pairs]
        num_sites = int(np.searchsorted(ranks, num_pairs))
        positions, ranks = positions[:num_sites], ranks[:num_sites]
        self._budget = max(_FEW_OCCURRENCES, num_sites + num_sites // 4)

        last = batch[-1]
        if self._left.entries[last] == self._right.entries[last]:
            num_others = int(np.searchsorted(ranks, num_pairs - 1))
            step = int(self._length[self._left.entries[last]])
            kept = _without_overlaps(positions[num_others:], step)
            positions = np.concatenate([positions[:num_others], kept])
            ranks = ranks[: len(positions)]
        return batch, positions, ranks

    def _add_pairs(self, positions: NDArray[np.integer], sizes: _Int64s, counts: _Int64s) -> None:
        """Add pairs, already in `pair_at`: the first `sizes[0]` positions are one, and so on."""
        if not len(sizes):
            return
        if len(self._count) + len(sizes) >= 1 << 31:
            raise ValueError("the corpus has 2**31 distinct pairs, too many to train on")
        used = int(self._start.entries[-1])
        if used + len(positions) > len(self._occurrence):
            used = self._drop_stale_occurrences()
        self._occurrence[used : used + len(positions)] = positions
        stops = np.cumsum(sizes)
        self._start.append(used + stops)

        hot = len(self._count) + np.flatnonzero(counts >= self._threshold)
        self._hot = np.concatenate([self._hot, hot])
        first = positions[stops - sizes]
        left = self._symbol[first]
        self._left.append(left)
        self._right.append(self._symbol[first + self._length[left]])
        self._count.append(counts)
        self._rank.append(np.full(len(sizes), _NOT_IN_BATCH))

    def _drop_stale_occurrences(self) -> int:
        """Close the gaps that merges have left; return how many occurrences hold."""
        starts = self._start.entries
        num_pairs = len(self._count)
        occurrence = self._occurrence[: starts[-1]]
        pairs = np.repeat(np.arange(num_pairs, dtype=np.int32), np.diff(starts))
        holds = self._pair_at[occurrence] == pairs
        kept = occurrence[holds]
        self._occurrence[: len(kept)] = kept
        np.cumsum(np.bincount(pairs[holds], minlength=num_pairs), out=starts[1:])
        return len(kept)


def _without_overlaps(starts: _Int64s, step: int) -> _Int64s:
    """Every second start within each run of starts `step` apart: `aaaa` holds `aa` twice."""
    index = np.arange(len(starts))
    is_first = np.ones(len(starts), dtype=bool)
    is_first[1:] = np.diff(starts) != step
    run_starts = index[is_first][np.cumsum(is_first) - 1]
    kept: _Int64s = starts[(index - run_starts) % 2 == 0]
    return kept
