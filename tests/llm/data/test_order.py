"""Permutation, BijectiveOrder and rank_positions: every example once an epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.order import BijectiveOrder, Permutation, rank_positions


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 700), key=st.tuples(st.integers(0, 2**63), st.integers(0, 9)))
def test_a_permutation_is_a_bijection_one_by_one_and_in_arrays(size, key):
    permutation = Permutation(size, key)
    there = permutation.many(np.arange(size))
    assert sorted(there.tolist()) == list(range(size))
    assert [permutation(i) for i in range(min(size, 40))] == there[:40].tolist()


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(1, 300),
    seed=st.integers(0, 2**63 - 1),
    num_ranks=st.integers(1, 5),
    each=st.integers(1, 4),
)
def test_every_example_comes_once_an_epoch_on_any_number_of_ranks(size, seed, num_ranks, each):
    epochs, together = 3, num_ranks * each
    steps = -(-epochs * size // together)
    seen = {}
    for rank in range(num_ranks):
        order = BijectiveOrder(size, seed)  # of that rank's own process
        for step in range(steps):
            for position in rank_positions(step, together, rank=rank, num_ranks=num_ranks):
                assert position not in seen  # no two ranks read the same
                seen[position] = order[position]
    for epoch in range(epochs):
        examples = [seen[epoch * size + i] for i in range(size)]
        assert sorted(examples) == list(range(size))


def test_the_step_and_not_the_number_of_ranks_decides_what_is_read():
    one = set(rank_positions(7, 12, rank=0, num_ranks=1))
    for num_ranks in (2, 3, 4):
        ranks = [rank_positions(7, 12, rank=r, num_ranks=num_ranks) for r in range(num_ranks)]
        assert set().union(*ranks) == one


def test_epochs_and_seeds_shuffle_differently():
    def epoch(seed, number):
        order = BijectiveOrder(100, seed)
        return [order[number * 100 + i] for i in range(100)]

    shuffles = [epoch(seed, number) for seed in range(4) for number in range(4)]
    assert len({tuple(shuffle) for shuffle in shuffles}) == 16
    # two shuffles agree in one place on average: by chance alone, never in 10 of 100
    for i, first in enumerate(shuffles):
        for second in [*shuffles[:i], list(range(100))]:
            assert sum(a == b for a, b in zip(first, second, strict=True)) < 10


@pytest.mark.parametrize("size", [2, 3, 10, 100])
def test_every_place_is_as_likely_for_every_example(size):
    keys = 400
    counts = np.zeros((size, size))
    for key in range(keys):
        permutation = Permutation(size, (key,))
        counts[np.arange(size), [permutation(i) for i in range(size)]] += 1
    expected = keys / size
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = (size - 1) ** 2
    assert abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5 + 5


def test_neighbours_do_not_stay_together():
    there = Permutation(100_000, (1, 2)).many(np.arange(100_000))
    steps = np.diff(there)
    # for a fair shuffle the distance of neighbours is a third of the whole on average
    assert abs(np.abs(steps).mean() / 100_000 - 1 / 3) < 0.01
    assert (np.abs(steps) == 1).sum() < 20


def test_the_largest_size_needs_no_memory():
    permutation = Permutation(2**62, (0,))
    assert len({permutation(i) for i in range(1000)}) == 1000
    assert BijectiveOrder(10**15, 3)[10**17 + 5] < 10**15


@pytest.mark.parametrize("size", [0, -1, 2**62 + 1, 1.5])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ValueError, match="size="):
        Permutation(size, (0,))


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_take_turns_by_whole_batches(num_ranks):
    ranks = [
        rank_positions(2, 24, rank=rank, num_ranks=num_ranks, batch_size=4)
        for rank in range(num_ranks)
    ]
    batches = [tuple(each[i : i + 4]) for each in ranks for i in range(0, len(each), 4)]
    assert sorted(batches) == [tuple(range(start, start + 4)) for start in range(48, 72, 4)]


def test_ranks_that_cannot_share_a_step_are_refused():
    with pytest.raises(ValueError, match="examples_per_step=10 is not divisible by num_ranks=4"):
        rank_positions(0, 10, rank=0, num_ranks=4)
    with pytest.raises(ValueError, match="rank=2"):
        rank_positions(0, 10, rank=2, num_ranks=2)
