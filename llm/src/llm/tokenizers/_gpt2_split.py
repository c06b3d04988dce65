r"""GPT-2's pattern over a whole block of bytes at once, without a regular expression.

The pattern, `'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, looks no
further than a character or two: a chunk begins where the kind of character changes (letter,
number, white space, other), but for a space, which goes with the word after it, and for a
contraction, which ends among the letters. So all boundaries of a block are a few comparisons of
the block with itself, shifted by one byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from llm.tokenizers._arrays import PADDING
from llm.tokenizers._unicode_classes import WHITE_SPACE, class_members

# A byte that no UTF-8 holds: it ends each text of a block.
SEPARATOR = 0xFF

# Kinds of characters. All bytes of a character have its kind.
_SPACE, _LETTER, _NUMBER, _OTHER, _SEPARATOR = range(5)
# Of a byte alone: its character has to be looked up; or it continues a character.
_UNKNOWN, _CONTINUATION = 5, 6


def make_block(texts: Iterable[bytes]) -> NDArray[np.uint8]:
    """Lay texts in UTF-8 one after another, each with a separator after it; then the padding."""
    end = bytes([SEPARATOR])
    return np.frombuffer(end.join([*texts, bytes(PADDING)]), dtype=np.uint8)


def chunk_starts(block: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Where chunks begin, in order; each ends where the next one begins.

    Args:
        block: what `make_block` makes.

    Returns:
        Offsets into the block. Each separator is a chunk; the last entry is where the padding
        begins, the end of the last chunk.
    """
    data = block[: len(block) - PADDING]
    kinds = _kinds(data, block)
    separators = np.flatnonzero(kinds == _SEPARATOR)

    # One entry more than there are bytes: the padding begins like a chunk.
    changes = np.ones(len(data) + 1, dtype=np.bool_)
    np.not_equal(kinds[1:], kinds[:-1], out=changes[1:-1])
    starts = changes.copy()
    # What follows a space begins at the space: a run of white space gives its last character
    # away, which is a chunk by itself unless it is that space.
    starts[1:] &= data != ord(" ")
    starts[:-1] |= (kinds == _SPACE) & changes[1:]
    # But not at the end of a text.
    starts[separators - 1] &= changes[separators - 1]
    starts[separators] = True
    starts[-1] = True
    _move_to_first_byte(starts, data)
    _add_contractions(starts, block)
    return np.flatnonzero(starts)


def _kinds(data: NDArray[np.uint8], block: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Kind of each byte."""
    kinds = _kinds_of_bytes().take(data)
    unknown = np.flatnonzero(kinds == _UNKNOWN)
    if len(unknown):
        kinds[unknown] = _kinds_of_characters()[_code_points(block, unknown)]
    rest = np.flatnonzero(kinds == _CONTINUATION)
    while len(rest):
        kinds[rest] = kinds[rest - 1]
        rest = rest[kinds[rest] == _CONTINUATION]
    return kinds


def _move_to_first_byte(starts: NDArray[np.bool_], data: NDArray[np.uint8]) -> None:
    """Where white space of two or three bytes begins a chunk, let its first byte do so."""
    wide = np.flatnonzero(starts[:-1] & (data & 0xC0 == 0x80))
    starts[wide] = False
    starts[np.where(data[wide - 1] >= 0xC0, wide - 1, wide - 2)] = True


def _add_contractions(starts: NDArray[np.bool_], block: NDArray[np.uint8]) -> None:
    """A chunk that begins `'s` ends there; likewise the others, in lower case only."""
    quotes = np.flatnonzero(starts[:-1] & (block[: len(starts) - 1] == ord("'")))
    following = block[quotes + 1].astype(np.uint16) << 8 | block[quotes + 2]
    for endings, length in ((_ONE_LETTER, 2), (_TWO_LETTERS, 3)):
        found = quotes[endings[following]]
        starts[found + 1] = False
        starts[found + length] = True


@cache
def _kinds_of_characters() -> NDArray[np.uint8]:
    """Kind of each code point."""
    kinds = np.full(0x110000, _OTHER, dtype=np.uint8)
    kinds[class_members("L")] = _LETTER
    kinds[class_members("N")] = _NUMBER
    kinds[[ord(char) for char in WHITE_SPACE]] = _SPACE
    return kinds


@cache
def _kinds_of_bytes() -> NDArray[np.uint8]:
    """Kind of each first byte of which all characters are of one kind: of `а`, not of `№`."""
    kinds = np.full(256, _UNKNOWN, dtype=np.uint8)
    kinds[:0x80] = _kinds_of_characters()[:0x80]
    kinds[0x80:0xC0] = _CONTINUATION
    for first, end, bits in ((0xC0, 0xE0, 6), (0xE0, 0xF0, 12), (0xF0, 0xF5, 18)):
        for byte in range(first, end):
            code_points = slice(byte - first << bits, byte - first + 1 << bits)
            members = np.unique(_kinds_of_characters()[code_points])
            if len(members) == 1:
                kinds[byte] = members[0]
    kinds[SEPARATOR] = _SEPARATOR
    return kinds


def _code_points(block: NDArray[np.uint8], first: NDArray[np.intp]) -> NDArray[np.int32]:
    """Code points of characters of more than one byte, from the offsets of their first bytes."""
    lead = block[first].astype(np.int32)
    second, third, fourth = (block[first + k].astype(np.int32) & 0x3F for k in (1, 2, 3))
    two = (lead & 0x1F) << 6 | second
    three = (lead & 0x0F) << 12 | second << 6 | third
    four = (lead & 0x07) << 18 | second << 12 | third << 6 | fourth
    return np.where(lead < 0xE0, two, np.where(lead < 0xF0, three, four))


def _endings(*words: str) -> NDArray[np.bool_]:
    """Which two bytes, as one number, begin with one of the words."""
    members = np.zeros(1 << 16, dtype=np.bool_)
    for word in words:
        first = int.from_bytes(word.encode().ljust(2, b"\0"), "big")
        members[first : first + (256 if len(word) == 1 else 1)] = True
    return members


_ONE_LETTER = _endings(*"sdmt")
_TWO_LETTERS = _endings("ll", "ve", "re")
