"""Text with surrogates, which the Rust tokenizers refuse, and offsets back into it."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from tokenizers import Encoding

from llm.tokenizers._surrogates import is_unicode, replace_surrogates

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def valid_unicode(text: Any) -> Any:
    """Texts, however nested, with surrogates replaced as `BPETokenizer` does."""
    if isinstance(text, str):
        return text if is_unicode(text) else replace_surrogates(text)
    if isinstance(text, list | tuple):
        return type(text)(map(valid_unicode, text))
    return text


def has_surrogate_pair(text: Any) -> bool:
    """Whether a text, however nested, is shorter once its surrogates are replaced."""
    if isinstance(text, str):
        return not text.isascii() and _PAIR.search(text) is not None
    return isinstance(text, list | tuple) and any(map(has_surrogate_pair, text))


def sequences_of(text: Any, text_pair: Any, is_split_into_words: bool) -> list[tuple[Any, ...]]:
    """For each sample of a batch its one or two sequences.

    Args:
        text: what `PreTrainedTokenizerFast` was called with.
        text_pair: likewise.
        is_split_into_words: likewise; a sequence is then a list of words.
    """
    words = (list, tuple)
    batched = isinstance(text, words) and (not is_split_into_words or isinstance(text[0], words))
    if not batched:
        return [(text, text_pair)]
    if text_pair is not None:
        return list(zip(text, text_pair, strict=True))
    if is_split_into_words:
        return [row if row and isinstance(row[0], words) else (row,) for row in text]
    return [tuple(row) if isinstance(row, words) else (row,) for row in text]


class OriginalEncoding:
    """An `Encoding` of text without surrogates, its offsets in the text as it was given.

    A surrogate pair is two characters of a Python string; the tokenizer saw one.
    """

    def __init__(self, encoding: Encoding, sequences: Sequence[Any]) -> None:
        """Wrap an encoding.

        Args:
            encoding: what the tokenizer gave.
            sequences: the texts as they were given, or lists of their words.
        """
        self._encoding = encoding
        self._sequences = sequences

    def __getattr__(self, name: str) -> Any:
        """Everything else is the encoding's own."""
        if name.startswith("_"):  # also while it is being unpickled
            raise AttributeError(name)
        return getattr(self._encoding, name)

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self._encoding)

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Characters of each token."""
        return [
            self._restore(span, sequence, word)
            for span, sequence, word in zip(
                self._encoding.offsets,
                self._encoding.sequence_ids,
                self._encoding.word_ids,
                strict=True,
            )
        ]

    def token_to_chars(self, token_index: int) -> tuple[int, int] | None:
        """Characters of a token."""
        span = self._encoding.token_to_chars(token_index)
        sequence = self._encoding.token_to_sequence(token_index)
        return span and self._restore(span, sequence, self._encoding.word_ids[token_index])

    def word_to_chars(self, word_index: int, sequence_index: int = 0) -> tuple[int, int] | None:
        """Characters of a word."""
        span = self._encoding.word_to_chars(word_index, sequence_index)
        return span and self._restore(span, sequence_index, word_index)

    def char_to_token(self, char_pos: int, sequence_index: int = 0) -> int | None:
        """Token of a character."""
        position = self._position(char_pos, sequence_index)
        return self._encoding.char_to_token(position, sequence_index)

    def char_to_word(self, char_pos: int, sequence_index: int = 0) -> int | None:
        """Word of a character."""
        position = self._position(char_pos, sequence_index)
        return self._encoding.char_to_word(position, sequence_index)

    def _restore(
        self, span: tuple[int, int], sequence: int | None, word: int | None
    ) -> tuple[int, int]:
        if sequence is None:
            return span
        text = self._sequences[sequence]
        if not isinstance(text, str):
            text = text[word]
        # The n-th pair begins at its place in the text less the n pairs before it.
        pairs = [match.start() - number for number, match in enumerate(_PAIR.finditer(text))]
        start, end = span
        return start + _count_below(start, pairs), end + _count_below(end, pairs)

    def _position(self, char_pos: int, sequence: int) -> int:
        text = self._sequences[sequence]
        if not isinstance(text, str):
            return char_pos  # no one position in a list of words
        second_halves = [match.start() + 1 for match in _PAIR.finditer(text)]
        return char_pos - bisect_right(second_halves, char_pos)


def _count_below(position: int, sorted_positions: list[int]) -> int:
    return bisect_right(sorted_positions, position - 1)
