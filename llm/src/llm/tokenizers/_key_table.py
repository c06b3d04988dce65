"""A hash table from 64-bit keys to small integers, for many keys in one call.

Open addressing as in the textbook, but one step at a time for all keys together: look into the
slots that the keys hash to, keep the keys that met another one there, move on with these. So
many slots stay empty that nearly every key is settled by the first look.

References: Knuth, The Art of Computer Programming, volume 3, section 6.4; Dietzfelbinger et al.,
"A Reliable Randomized Algorithm for the Closest-Pair Problem", 1997, for the hash function.
"""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray

# Drawn anew in every process: nobody can choose keys that meet in one slot. What a table maps
# to what does not depend on it.
MULTIPLIER = np.uint64(secrets.randbits(64) | 1)


class KeyTable:
    """Maps uint64 keys to int32 values, none below 0."""

    def __init__(self, slots_per_key: int = 2) -> None:
        """Make an empty table.

        Args:
            slots_per_key: at least so many; with more, few keys are found in few steps.
        """
        self._slots_per_key = slots_per_key
        self._num_keys = 0
        self._allocate(1 << 10)

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Value of each key, -1 where the table does not have it."""
        slots = self._home(keys)
        values: NDArray[np.int32] = self._values[slots]
        others = np.flatnonzero((self._keys[slots] != keys) & (values >= 0))
        keys, slots = keys[others], slots[others]
        step = 0
        while len(others):
            step += 1
            slots = self._next(slots, step)
            found = self._values[slots]
            values[others] = found
            going_on = np.flatnonzero((self._keys[slots] != keys) & (found >= 0))
            others, keys, slots = others[going_on], keys[going_on], slots[going_on]
        return values

    def add(self, keys: NDArray[np.uint64], values: NDArray[np.int32]) -> None:
        """Put in distinct keys that are not in the table."""
        num_keys = self._num_keys + len(keys)
        if self._slots_per_key * num_keys > len(self._keys):
            used = self._values >= 0
            old_keys, old_values = self._keys[used], self._values[used]
            self._allocate(self._slots_per_key * num_keys)
            self._insert(old_keys, old_values)
        self._insert(keys, values)
        self._num_keys = num_keys

    def _insert(self, keys: NDArray[np.uint64], values: NDArray[np.int32]) -> None:
        slots = self._home(keys)
        step = 0
        while len(keys):
            free = self._values[slots] < 0
            # Of several keys that meet in a free slot the last one written gets it.
            self._keys[slots[free]] = keys[free]
            placed = free & (self._keys[slots] == keys)
            self._values[slots[placed]] = values[placed]
            step += 1
            keys, values = keys[~placed], values[~placed]
            slots = self._next(slots[~placed], step)

    def _allocate(self, num_slots: int) -> None:
        bits = (num_slots - 1).bit_length()
        self._shift = np.uint64(64 - bits)
        self._mask = (1 << bits) - 1
        self._keys = np.zeros(1 << bits, dtype=np.uint64)
        self._values = np.full(1 << bits, -1, dtype=np.int32)

    def _home(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        slots: NDArray[np.int64] = ((keys * MULTIPLIER) >> self._shift).view(np.int64)
        return slots

    def _next(self, slots: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        # Steps of 1, 2, 3, ...: triangular numbers reach every slot of a power of two.
        moved: NDArray[np.int64] = (slots + step) & self._mask
        return moved
