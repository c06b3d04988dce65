"""What turns text into ids and ids into bytes, compiled from the data of a tokenizer."""

from __future__ import annotations

import operator
import unicodedata
from collections.abc import Collection
from functools import lru_cache
from typing import Any

from llm.tokenizers._bpe_encode import ByteMerger
from llm.tokenizers._byte_level import BYTE_TO_CHAR, CHAR_TO_BYTE, from_printable
from llm.tokenizers._special_tokens import AddedTokenMatcher
from llm.tokenizers._surrogates import replace_surrogates
from llm.tokenizers._tokenizer_json import (
    TokenizerData,
    make_normalizer,
    make_pre_tokenizer,
    template_ids,
)

# Chunks are words, mostly: a few tens of thousands of them are nearly all of a text.
_CACHED_CHUNKS = 1 << 16
_LONGEST_CACHED_CHUNK = 64


class Pipeline:
    """Added tokens, then normalizer, pre-tokenizer and merges; and the way back."""

    def __init__(self, data: TokenizerData) -> None:
        """Compile data that has been checked."""
        self._data = data
        added = data.added_tokens
        self.token_ids = {**data.vocab, **{token.content: token.token_id for token in added}}
        self.tokens = sorted(self.token_ids, key=self.token_ids.__getitem__)
        self.special_ids = frozenset(token.token_id for token in added if token.special)
        self.before, self.after = template_ids(
            data.post_processor, "post_processor", vocab_size=len(self.tokens)
        )
        self._specials = frozenset(token.content for token in added if token.special)
        self._normal_form = make_normalizer(data.normalizer, "normalizer")
        self._bytes = [_token_bytes(token) for token in self.tokens]
        # An added token stands for its own text, unless ordinary text gives it too.
        ordinary = {*CHAR_TO_BYTE, *(left + right for left, right in data.merges)}
        for token in added:
            if token.content not in ordinary:
                text = self._normalize(token.content) if token.normalized else token.content
                self._bytes[token.token_id] = text.encode("utf-8")

        self._pre_tokenize = make_pre_tokenizer(data.pre_tokenizer, "pre_tokenizer")
        self._merge = ByteMerger(
            byte_ids=[data.vocab[BYTE_TO_CHAR[byte]] for byte in range(256)],
            merges=[
                (data.vocab[left], data.vocab[right], data.vocab[left + right])
                for left, right in data.merges
            ],
            # Special tokens are never ordinary text, even where they stand in the vocabulary.
            whole={
                self._bytes[token_id]: token_id
                for token, token_id in data.vocab.items()
                if data.ignore_merges and token not in self._specials and _is_printable(token)
            },
        )
        self._cached_chunk_ids = lru_cache(maxsize=_CACHED_CHUNKS)(self._chunk_ids)
        self._matchers = lru_cache(maxsize=16)(self._make_matchers)

    def encode(self, text: str, allowed_special: str | Collection[str]) -> list[int]:
        """Ids of a text, without the post-processor's.

        Raises:
            ValueError: `allowed_special` names what is no special token.
        """
        allowed = self._allowed(allowed_special)
        try:
            return self._encode(text, allowed)
        except UnicodeEncodeError:  # UTF-8 has no surrogates
            return self._encode(replace_surrogates(text), allowed)

    def decode_bytes(self, ids: Any, skip_special_tokens: bool) -> bytes:
        """UTF-8 of ids.

        Raises:
            ValueError: an id is out of range.
            TypeError: `ids` are not integers in one dimension.
        """
        try:
            checked = list(map(operator.index, ids.tolist() if hasattr(ids, "tolist") else ids))
        except TypeError as error:
            raise TypeError(f"ids have to be integers in one dimension: {error}") from error
        for token_id in (min(checked, default=0), max(checked, default=0)):
            if not 0 <= token_id < len(self.tokens):
                raise ValueError(f"id {token_id} is not in [0, {len(self.tokens)}), the vocabulary")
        if skip_special_tokens:
            checked = [token_id for token_id in checked if token_id not in self.special_ids]
        return b"".join([self._bytes[token_id] for token_id in checked])

    def _allowed(self, allowed_special: str | Collection[str]) -> frozenset[str]:
        if allowed_special == "all":
            return self._specials
        if isinstance(allowed_special, str):
            raise ValueError(
                f"allowed_special={allowed_special!r} is neither 'all' nor a set of special tokens"
            )
        allowed = frozenset(allowed_special)
        if not allowed <= self._specials:
            unknown = sorted(map(repr, allowed - self._specials))
            raise ValueError(f"allowed_special: {', '.join(unknown)} is not a special token")
        return allowed

    def _make_matchers(
        self, allowed: frozenset[str]
    ) -> tuple[AddedTokenMatcher | None, AddedTokenMatcher | None]:
        """Of the tokens found in the raw text, and of those found in the normalized text."""
        matched = [
            token
            for token in self._data.added_tokens
            if not token.special or token.content in allowed
        ]
        raw = [token for token in matched if not token.normalized]
        normalized = [token for token in matched if token.normalized]
        return (
            AddedTokenMatcher(raw) if raw else None,
            AddedTokenMatcher(normalized, self._normalize) if normalized else None,
        )

    def _normalize(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self._normal_form else text

    def _encode(self, text: str, allowed: frozenset[str]) -> list[int]:
        raw, normalized = self._matchers(allowed)
        ids: list[int] = []
        for part in raw.split(text) if raw else [text]:
            if isinstance(part, int):
                ids.append(part)
                continue
            part = self._normalize(part)
            for piece in normalized.split(part) if normalized else [part]:
                if isinstance(piece, int):
                    ids.append(piece)
                elif piece:
                    self._extend(ids, piece)
        return ids

    def _extend(self, ids: list[int], text: str) -> None:
        cached, uncached = self._cached_chunk_ids, self._chunk_ids
        for chunk in self._pre_tokenize(text):
            ids.extend(cached(chunk) if len(chunk) <= _LONGEST_CACHED_CHUNK else uncached(chunk))

    def _chunk_ids(self, chunk: str) -> list[int]:
        return self._merge(chunk.encode("utf-8"))


def _is_printable(token: str) -> bool:
    return all(char in CHAR_TO_BYTE for char in token)


def _token_bytes(token: str) -> bytes:
    return from_printable(token) if _is_printable(token) else token.encode("utf-8")
