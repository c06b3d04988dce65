"""Applying merges: the fast forms equal the definition."""

import random
from itertools import pairwise

import pytest

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
