"""What turns text into ids and ids into bytes, compiled from the data of a tokenizer."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from llm.tokenizers._bpe_encode import NO_TOKEN
from llm.tokenizers._byte_level import BYTE_TO_CHAR, CHAR_TO_BYTE, from_printable, is_printable
from llm.tokenizers._decoder import Decoder
from llm.tokenizers._special_tokens import AddedTokenMatcher
from llm.tokenizers._surrogates import is_unicode, replace_surrogates
from llm.tokenizers._text_encoder import TextEncoder
from llm.tokenizers._threads import check_num_threads
from llm.tokenizers._tokenizer_json import (
    TokenizerData,
    make_normalizer,
    make_pre_tokenizer,
    template_ids,
)


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
        self.has_template = bool(self.before or self.after)
        self._specials = frozenset(token.content for token in added if token.special)
        self._normal_form = make_normalizer(data.normalizer, "normalizer")
        token_bytes = [_token_bytes(token) for token in self.tokens]
        # An added token stands for its own text, unless ordinary text gives it too.
        merged = [left + right for left, right in data.merges]
        ordinary = {*merged, *(CHAR_TO_BYTE.keys() & data.vocab.keys())}
        for token in added:
            if token.content not in ordinary:
                text = self._normalize(token.content) if token.normalized else token.content
                token_bytes[token.token_id] = text.encode("utf-8")

        self.decode = Decoder(token_bytes, self.special_ids)
        self._text_encoder = TextEncoder(
            make_pre_tokenizer(data.pre_tokenizer, "pre_tokenizer"),
            byte_ids=[data.vocab.get(BYTE_TO_CHAR[byte], NO_TOKEN) for byte in range(256)],
            merges=[
                (data.vocab[left], data.vocab[right], data.vocab[both])
                for (left, right), both in zip(data.merges, merged, strict=True)
            ],
            # Special tokens are never ordinary text, even where they stand in the vocabulary.
            whole={
                token_bytes[token_id]: token_id
                for token, token_id in data.vocab.items()
                if data.ignore_merges and token not in self._specials and is_printable(token)
            },
            num_ids=len(self.tokens),
        )
        self._matchers = lru_cache(maxsize=16)(self._make_matchers)
        # Whether a text in which no special token is allowed is nothing but chunks.
        self._plain = not self._normal_form and all(token.special for token in added)

    def encode(self, text: str, allowed_special: str | Collection[str]) -> list[int]:
        """Ids of a text, without the post-processor's.

        Raises:
            ValueError: `allowed_special` names what is no special token, or the vocabulary lacks
                a byte of the text.
        """
        if self._plain and allowed_special == ():
            try:
                return self._text_encoder.encode(text)
            except UnicodeEncodeError:  # UTF-8 has no surrogates
                text = replace_surrogates(text)
        ids: list[int] = []
        for part in self._parts(text, allowed_special):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._text_encoder.encode(part)
        return ids

    def encode_numpy(self, text: str, allowed_special: str | Collection[str]) -> NDArray[np.int32]:
        """As `encode`, the ids in an array."""
        parts = [
            (
                np.array([part], dtype=np.int32)
                if isinstance(part, int)
                else self._text_encoder.encode_numpy(part)
            )
            for part in self._parts(text, allowed_special)
        ]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)

    def encode_batch(
        self, texts: Iterable[str], allowed_special: str | Collection[str], num_threads: int
    ) -> list[list[int]]:
        """As `encode`, of many texts."""
        check_num_threads(num_threads)
        allowed = self._allowed(allowed_special)
        if self._plain and not allowed and self._text_encoder.is_gpt2:
            return self._text_encoder.encode_batch(texts, num_threads)
        return [self.encode(text, allowed) for text in texts]

    def _parts(self, text: str, allowed_special: str | Collection[str]) -> Iterator[str | int]:
        """Ids of the added tokens in a text, and the normalized text between them."""
        raw, normalized = self._matchers(self._allowed(allowed_special))
        if not is_unicode(text):
            text = replace_surrogates(text)
        for part in raw.split(text) if raw else [text]:
            if isinstance(part, int):
                yield part
                continue
            part = self._normalize(part)
            yield from normalized.split(part) if normalized else [part]

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


def _token_bytes(token: str) -> bytes:
    try:
        return from_printable(token)
    except ValueError:  # the text itself, as that of an added token
        return token.encode("utf-8")
