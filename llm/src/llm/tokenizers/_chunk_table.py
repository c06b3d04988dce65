"""Numbering the distinct chunks of blocks of text.

A chunk of up to 7 bytes is an integer of 64 bits, its bytes and its length, and as such its own
key in a hash table. The key of one of up to 31 bytes is a hash of its 8-byte words, and the chunk
found by it is compared byte for byte. The few that are longer, or meet another chunk, are in a
dictionary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.tokenizers._arrays import PADDING, GrowingArray, span_indices, words_at
from llm.tokenizers._key_table import MULTIPLIER, KeyTable

_LONGEST_EXACT = 7
_LONGEST_HASHED = 31
# The highest byte of an exact key is a length; that of a hash is 128 or more.
_IS_HASH = np.uint64(1 << 63)
# Masks of the first n bytes of a word, n from 0 to 8.
_FIRST_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)


class ChunkTable:
    """Gives each distinct chunk a number, from 0 on, and keeps its bytes."""

    def __init__(self) -> None:
        """Make an empty table."""
        self._keys = KeyTable()
        self._others: dict[bytes, int] = {}
        # Chunk i is the bytes from ends[i] to ends[i + 1].
        self._bytes = GrowingArray(np.uint8, spare=PADDING)
        self._ends = GrowingArray(np.int64)
        self._ends.append(np.zeros(1))

    def __len__(self) -> int:
        """Number of chunks."""
        return len(self._ends) - 1

    @property
    def num_bytes(self) -> int:
        """Number of bytes of all chunks together."""
        return len(self._bytes)

    def chunks(self, first: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Bytes of the chunks from number `first` on, one after another, and their lengths."""
        ends = self._ends.entries[first:]
        return self._bytes.entries[ends[0] :], np.diff(ends)

    def number(
        self, block: NDArray[np.uint8], starts: NDArray[Any], lengths: NDArray[Any]
    ) -> NDArray[np.int32]:
        """Number of each chunk of a block; those not seen before get the next numbers.

        Args:
            block: bytes, `PADDING` of them after the last chunk.
            starts: where chunks begin.
            lengths: how many bytes each has.
        """
        return self._number(block, starts, lengths, add=True)

    def find(
        self, block: NDArray[np.uint8], starts: NDArray[Any], lengths: NDArray[Any]
    ) -> NDArray[np.int32]:
        """As `number`, but -1 for those not seen before: threads may do so at the same time."""
        return self._number(block, starts, lengths, add=False)

    def _number(
        self, block: NDArray[np.uint8], starts: NDArray[Any], lengths: NDArray[Any], add: bool
    ) -> NDArray[np.int32]:
        words = words_at(block)
        keys = _first_words(words, starts, lengths)
        keys |= lengths.astype(np.uint64) << np.uint64(56)
        hashed = np.flatnonzero(lengths > _LONGEST_EXACT)
        keys[hashed] = _hash(words, starts[hashed], lengths[hashed])
        numbers = self._keys.find(keys)

        is_longest = lengths[hashed] > _LONGEST_HASHED
        others = hashed[is_longest]
        numbers[others] = self._number_others(block, starts[others], lengths[others], add)
        unseen = np.flatnonzero(numbers < 0) if add else ()
        if len(unseen):
            numbers[unseen] = self._number_new(keys[unseen], block, starts[unseen], lengths[unseen])

        hashed = hashed[~is_longest]
        hashed = hashed[numbers[hashed] >= 0]
        is_found = self._equal(numbers[hashed], words, starts[hashed], lengths[hashed])
        others = hashed[~is_found]
        numbers[others] = self._number_others(block, starts[others], lengths[others], add)
        return numbers

    def _number_new(
        self,
        keys: NDArray[np.uint64],
        block: NDArray[np.uint8],
        starts: NDArray[Any],
        lengths: NDArray[Any],
    ) -> NDArray[np.int32]:
        """Number of each of those chunks whose keys the hash table does not have yet."""
        # Sorted without their places, which takes a fraction of the time; the table knows them.
        distinct = np.sort(keys)
        distinct = distinct[np.append(True, distinct[1:] != distinct[:-1])]
        first = len(self)
        self._keys.add(distinct, np.arange(first, first + len(distinct), dtype=np.int32))
        numbers = self._keys.find(keys)
        # Of the places of a chunk, any.
        places = np.empty(len(distinct), dtype=np.intp)
        places[numbers - first] = np.arange(len(keys))
        self._append(block, starts[places], lengths[places])
        return numbers

    def _number_others(
        self, block: NDArray[np.uint8], starts: NDArray[Any], lengths: NDArray[Any], add: bool
    ) -> list[int]:
        """Number of each of those chunks that the hash table is not for."""
        numbers: list[int] = []
        new: list[int] = []
        ends = starts + lengths
        for index, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            chunk = block[start:end].tobytes()
            number = self._others.get(chunk, -1)
            if number < 0 and add:
                number = self._others[chunk] = len(self) + len(new)
                new.append(index)
            numbers.append(number)
        if new:
            self._append(block, starts[new], lengths[new])
        return numbers

    def _append(
        self, block: NDArray[np.uint8], starts: NDArray[Any], lengths: NDArray[Any]
    ) -> None:
        """Keep new chunks, under the next numbers."""
        self._ends.append(len(self._bytes) + np.cumsum(lengths))
        self._bytes.append(block[span_indices(starts, lengths)])

    def _equal(
        self,
        numbers: NDArray[np.int32],
        words: NDArray[np.uint64],
        starts: NDArray[np.intp],
        lengths: NDArray[np.intp],
    ) -> NDArray[np.bool_]:
        """Whether these chunks, of 8 to 31 bytes, are those that have the numbers."""
        begins = self._ends.entries[numbers]
        equal: NDArray[np.bool_] = self._ends.entries[numbers + 1] - begins == lengths
        ours = words_at(self._bytes.buffer)
        rest = np.arange(len(numbers))
        for offset in range(0, _LONGEST_HASHED, 8):
            rest = rest[lengths[rest] > offset]
            rest_lengths = lengths[rest] - offset
            our_words = _first_words(ours, begins[rest] + offset, rest_lengths)
            equal[rest] &= our_words == _first_words(words, starts[rest] + offset, rest_lengths)
        return equal


def _first_words(
    words: NDArray[np.uint64], starts: NDArray[Any], lengths: NDArray[Any]
) -> NDArray[np.uint64]:
    """The first 8 bytes of each chunk, zeros after a shorter one."""
    # mode="clip": 8 bytes and more have the mask of 8
    first: NDArray[np.uint64] = words[starts] & _FIRST_BYTES.take(lengths, mode="clip")
    return first


def _hash(
    words: NDArray[np.uint64], starts: NDArray[np.intp], lengths: NDArray[np.intp]
) -> NDArray[np.uint64]:
    """Keys of chunks of 8 bytes or more, by their first 32 bytes and their length."""
    keys: NDArray[np.uint64] = _mixed(words[starts]) ^ lengths.astype(np.uint64)
    rest = np.arange(len(starts))
    for offset in range(8, _LONGEST_HASHED, 8):
        rest = rest[lengths[rest] > offset]
        word = _first_words(words, starts[rest] + offset, lengths[rest] - offset)
        keys[rest] = _mixed(keys[rest]) ^ word
    hashes: NDArray[np.uint64] = _mixed(keys) | _IS_HASH
    return hashes


def _mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each bit of a key in many: a product carries them upwards only, hence the shifts."""
    keys = (keys ^ (keys >> np.uint64(32))) * MULTIPLIER
    keys ^= keys >> np.uint64(32)
    return keys
