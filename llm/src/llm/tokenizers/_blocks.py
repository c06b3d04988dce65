"""Cutting and joining texts into blocks of a size that arrays work best with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.tokenizers._gpt2_split import make_block
from llm.tokenizers._surrogates import replace_surrogates

# Characters of a block: operations on its arrays take so long that threads seldom wait for each
# other. Text without a place to cut is longer.
BLOCK_CHARS = 1 << 20
# GPT-2's pattern begins a chunk here, whatever comes before and after: at white space after what
# is none (Python's \S leaves out more characters than the pattern's, never fewer), and at a mark
# of punctuation after a letter or number, in texts without white space.
_CUT = re.compile(
    r"(?<=\S)[ \t\r\n]|(?<=[0-9A-Za-zА-яぁ-ゖ一-龥])[!-/:-@\[-`{-~，。、：；！？「」]"
)


class Block(NamedTuple):
    """Pieces of texts, as `make_block` lays them out."""

    data: NDArray[np.uint8]
    goes_on: bool  # the last piece is not the end of its text


def blocks_of(texts: Iterable[str]) -> Iterator[Block]:
    """Texts in blocks: short ones together, long ones cut where a chunk begins.

    The texts are read as the blocks are asked for. Surrogates are replaced.
    """
    pieces: list[str] = []
    num_chars = 0
    for text in texts:
        begin = 0
        while len(text) - begin > BLOCK_CHARS and (cut := _CUT.search(text, begin + BLOCK_CHARS)):
            pieces.append(text[begin : cut.start()])
            yield _block(pieces, goes_on=True)
            pieces, num_chars = [], 0
            begin = cut.start()
        pieces.append(text[begin:])
        num_chars += len(text) - begin + 1  # many empty texts are a block too
        if num_chars >= BLOCK_CHARS:
            yield _block(pieces)
            pieces, num_chars = [], 0
    if pieces:
        yield _block(pieces)


def _block(pieces: list[str], goes_on: bool = False) -> Block:
    try:
        encoded = [piece.encode() for piece in pieces]
    except UnicodeEncodeError:
        encoded = [replace_surrogates(piece).encode() for piece in pieces]
    return Block(make_block(encoded), goes_on)
