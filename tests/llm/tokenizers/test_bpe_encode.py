"""Applying merges: the fast forms equal the definition."""

import random
from itertools import pairwise

import numpy as np
import pytest

from llm.tokenizers._batch_merger import LONGEST_COLUMN, BatchMerger
from llm.tokenizers._bpe_encode import ByteMerger


def merge_by_definition(ids, merges):
    """Merge the leftmost pair of lowest rank until no pair has a rank."""
    ranks = {(left, right): (rank, new) for rank, (left, right, new) in enumerate(merges)}
    while True:
        candidates = [
            (*ranks[pair], index) for index, pair in enumerate(pairwise(ids)) if pair in ranks
        ]
        if not candidates:
            return ids
        _, new, index = min(candidates, key=lambda candidate: (candidate[0], candidate[2]))
        ids = [*ids[:index], new, *ids[index + 2 :]]


def random_merges(rng):
    """Merges over bytes 0 to 2, in an order in which a later token can have a lower rank."""
    tokens = [(0,), (1,), (2,)]
    merges = []
    for _ in range(25):
        left, right = rng.choice(tokens), rng.choice(tokens)
        if left + right not in tokens:
            tokens.append(left + right)
        merges.append((left, right))
    token_ids = {token: index if index < 3 else index + 253 for index, token in enumerate(tokens)}
    merges = list(dict.fromkeys(merges))
    rng.shuffle(merges)
    return [(token_ids[a], token_ids[b], token_ids[a + b]) for a, b in merges]


@pytest.mark.parametrize("seed", range(40))
def test_short_and_long_chunks_are_merged_by_definition(seed):
    rng = random.Random(seed)
    merges = random_merges(rng)
    merger = ByteMerger(byte_ids=range(256), merges=merges, whole={})
    for length in (0, 1, 2, 3, 10, 60, 450):
        chunk = bytes(rng.choices(range(3), k=length))
        expected = merge_by_definition(list(chunk), merges)
        assert merger(chunk) == expected
        assert merger._merge_short(list(chunk)) == expected
        assert merger._merge_long(list(chunk)) == expected


def test_a_whole_chunk_is_one_token_whatever_the_merges():
    merger = ByteMerger(byte_ids=range(256), merges=[(0, 1, 256)], whole={b"\x00\x01\x02": 257})
    assert merger(b"\x00\x01\x02") == [257]
    assert merger(b"\x00\x01\x02\x02") == [256, 2, 2]


# many chunks at once


def merge_many(merges, chunks):
    """Ids of each chunk, from one call."""
    merger = BatchMerger(byte_ids=range(256), merges=merges)
    data = np.frombuffer(b"".join(chunks), dtype=np.uint8)
    ids, num_ids = merger(data, np.array([len(chunk) for chunk in chunks], dtype=np.int64))
    assert (ids.dtype, len(ids)) == (np.int32, num_ids.sum())
    return [part.tolist() for part in np.split(ids, np.cumsum(num_ids)[:-1])]


@pytest.mark.parametrize("seed", range(25))
def test_many_chunks_are_merged_by_definition(seed):
    rng = random.Random(seed)
    merges = random_merges(rng)
    chunks = [bytes(rng.choices(range(3), k=rng.randint(1, 40))) for _ in range(70)]
    chunks += [bytes([0]) * length for length in range(1, 40)]
    chunks += [
        bytes(rng.choices(range(3), k=length)) for length in range(41, LONGEST_COLUMN + 1, 31)
    ]
    rng.shuffle(chunks)
    assert merge_many(merges, chunks) == [merge_by_definition(list(c), merges) for c in chunks]


@pytest.mark.parametrize("length", [*range(1, 20), 31, 32, 33, LONGEST_COLUMN - 1, LONGEST_COLUMN])
def test_a_chunk_alone_is_merged_by_definition(length):
    rng = random.Random(length)
    for seed in range(5):
        merges = random_merges(random.Random(seed))
        for chunk in (bytes(length), bytes(rng.choices(range(3), k=length))):
            assert merge_many(merges, [chunk]) == [merge_by_definition(list(chunk), merges)]


def test_of_equal_merges_the_leftmost_comes_first():
    merges = [(0, 0, 256), (256, 0, 257), (0, 256, 258)]
    assert merge_many(merges, [bytes(3), bytes(5), bytes(7)]) == [
        [257],
        [256, 257],
        [256, 256, 257],
    ]
    assert merge_many(merges[:1], [bytes(32), bytes(31)]) == [[256] * 16, [256] * 15 + [0]]


def test_chunks_that_end_at_different_rows_do_not_reach_into_each_other():
    # whatever stands below the end of a column or beside it is no part of the chunk
    merges = [(left, right, 256 + 3 * left + right) for left in range(3) for right in range(3)]
    chunks = [
        bytes([letter]) * length
        for length in (1, 2, 3, 8, 9, 16, 17, LONGEST_COLUMN)
        for letter in (0, 1, 2)
    ]
    assert merge_many(merges, chunks) == [merge_by_definition(list(c), merges) for c in chunks]


def test_bytes_get_the_ids_of_the_vocabulary():
    byte_ids = [*range(1000, 1256)]
    merger = BatchMerger(byte_ids=byte_ids, merges=[(1255, 1254, 7)])
    ids, num_ids = merger(np.array([255, 254, 253], dtype=np.uint8), np.array([3]))
    assert (ids.tolist(), num_ids.tolist()) == ([7, 1253], [2])


def test_a_vocabulary_without_merges_leaves_the_bytes():
    assert merge_many([], [b"ab", b"c" * 32]) == [[97, 98], [99] * 32]


def test_ids_and_ranks_beyond_16_bits_are_kept_apart():
    # 70,000 merges that do not occur, then two of which the later one has lower ids
    merges = [(1000 + i, 1000 + i, 100_000 + i) for i in range(70_000)]
    merges += [(1, 2, 200_001), (0, 1, 200_000)]
    expected = [[0, 200_001], [200_000, 200_001]]
    assert merge_many(merges, [b"\0\1\2", b"\0\1\1\2"]) == expected
    # 1 << 16 | 5 is one id, not a pair
    byte_ids = [1, 5, 0, 1 << 16 | 5, *range(4, 256)]
    merger = BatchMerger(byte_ids=byte_ids, merges=[(0, 1 << 16 | 5, 300)])
    ids, _ = merger(np.array([0, 1, 2, 3], dtype=np.uint8), np.array([2, 2]))
    assert ids.tolist() == [1, 5, 300]
