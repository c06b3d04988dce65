"""Which example comes when, as a function of position alone: no shuffle is kept in memory."""

from __future__ import annotations

from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from llm.core.config import check_count, check_seed

Indices = TypeVar("Indices", int, npt.NDArray[np.uint64])

ROUNDS = 8
WORD = 2**64 - 1
# a domain of fewer than 2^8 values has too few round functions to shuffle well
SMALLEST_HALF = 4


class Permutation:
    """A pseudo-random bijection of [0, size), worked out where it is asked.

    A balanced Feistel network permutes the next power of four; what falls
    outside [0, size) is sent through it again until it falls inside (cycle
    walking), which takes fewer than 4 turns on average (256 / size, if size is
    below 64).

    Args:
        size: in [1, 2^62].
        key: numbers, each ≥ 0, that choose the bijection, such as (seed, epoch).

    Reference: Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
    CT-RSA 2002, sections 3 and 5.
    """

    def __init__(self, size: int, key: tuple[int, ...]) -> None:
        check_count("size", size)
        if size > 2**62:
            raise ValueError(f"size={size} must be at most 2^62")
        self.size = size
        self._half = max(SMALLEST_HALF, -(-(size - 1).bit_length() // 2))
        keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)
        self._keys = [int(key) for key in keys]

    def __call__(self, index: int) -> int:
        """Where `index` in [0, size) goes."""
        index = self._encrypt(index)
        while index >= self.size:
            index = self._encrypt(index)
        return index

    def many(self, indices: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Where each of these goes: `__call__`, for an array."""
        there = self._encrypt(indices.astype(np.uint64))
        outside = np.flatnonzero(there >= self.size)
        while outside.size:
            there[outside] = self._encrypt(there[outside])
            outside = outside[there[outside] >= self.size]
        return there.astype(np.int64)

    def _encrypt(self, index: Indices) -> Indices:
        mask = 2**self._half - 1
        left, right = index >> self._half, index & mask
        for key in self._keys:
            mixed = ((right ^ (key >> 32)) * 0x9E3779B97F4A7C15 + key) & WORD
            mixed = ((mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93) & WORD
            left, right = right, left ^ ((mixed >> 32) & mask)
        return cast(Indices, (left << self._half) | right)


class BijectiveOrder:
    """The order of examples over endless epochs, in constant memory.

    Position p is example p mod n of epoch p div n, in that epoch's own
    permutation.

    Args:
        num_examples: n, ≥ 1.
        seed: decides every epoch's permutation.
    """

    def __init__(self, num_examples: int, seed: int) -> None:
        check_count("num_examples", num_examples)
        check_seed(seed)
        self.num_examples = num_examples
        self.seed = seed
        self._epoch = -1
        self._permutation = Permutation(1, (0,))

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.num_examples)
        if epoch != self._epoch:
            self._permutation = Permutation(self.num_examples, (self.seed, epoch))
            self._epoch = epoch
        return self._permutation(place)


def rank_positions(
    step: int, examples_per_step: int, *, rank: int, num_ranks: int, batch_size: int = 1
) -> list[int]:
    """The positions that a rank reads for a step; the ranks together read each one once.

    Args:
        step: optimizer steps done before, ≥ 0.
        examples_per_step: of all ranks together; divisible by `num_ranks · batch_size`.
        rank: in [0, num_ranks).
        num_ranks: processes that train together.
        batch_size: the ranks take turns, so many positions at a time.

    Raises:
        ValueError: the ranks cannot share a step evenly, or there is no such rank.
    """
    check_count("examples_per_step", examples_per_step)
    check_count("num_ranks", num_ranks)
    check_count("batch_size", batch_size)
    if examples_per_step % (num_ranks * batch_size):
        raise ValueError(
            f"examples_per_step={examples_per_step} is not divisible by num_ranks={num_ranks} "
            f"times batch_size={batch_size}"
        )
    if not 0 <= rank < num_ranks:
        raise ValueError(f"rank={rank} is outside 0 to {num_ranks - 1}")
    first = step * examples_per_step
    turns = range(first + rank * batch_size, first + examples_per_step, num_ranks * batch_size)
    return [turn + place for turn in turns for place in range(batch_size)]
