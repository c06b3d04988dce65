"""The interface that every tokenizer has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from os import PathLike
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Self = TypeVar("Self", bound="BaseTokenizer")
AllowedSpecial = Literal["all"] | Collection[str]


class BaseTokenizer(ABC):
    """Text to token ids and back.

    A tokenizer has ids 0 to `vocab_size - 1`, special tokens included: the number of rows that a
    model's embedding needs. Some special tokens play a part (pad, unk, bos, eos); a part that
    none plays is None.
    """

    @abstractmethod
    def train(
        self,
        texts: Iterable[str],
        vocab_size: int,
        special_tokens: Iterable[str] = (),
        *,
        show_progress: bool = True,
    ) -> None:
        """Learn the vocabulary from texts, forgetting any earlier one."""

    @abstractmethod
    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        allowed_special: AllowedSpecial = (),
    ) -> list[int]:
        """Ids of a text."""

    @abstractmethod
    def decode_bytes(self, ids: Any, skip_special_tokens: bool = False) -> bytes:
        """UTF-8 that ids stand for; it may begin or end within a character."""

    @abstractmethod
    def save(self, path: str | PathLike[str]) -> None:
        """Write the tokenizer to disk."""

    @classmethod
    @abstractmethod
    def load(cls: type[Self], path: str | PathLike[str]) -> Self:
        """Read what `save` wrote."""

    @abstractmethod
    def get_vocab(self) -> dict[str, int]:
        """Every token and its id."""

    @abstractmethod
    def token_to_id(self, token: str) -> int | None:
        """Id of a token, None if there is no such token."""

    @abstractmethod
    def id_to_token(self, token_id: int) -> str | None:
        """Token of an id, None if there is no such id."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, those of special tokens included."""

    @abstractmethod
    def special_token(self, role: str) -> str | None:
        """The token that plays a part: "pad", "unk", "bos" or "eos"."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of everything that makes this tokenizer what it is."""

    def decode(self, ids: Any, skip_special_tokens: bool = False, errors: str = "replace") -> str:
        """Text of ids, the inverse of `encode`.

        Args:
            ids: sequence of ints, or a one-dimensional array or tensor, each in [0, vocab_size).
            skip_special_tokens: leave special tokens out.
            errors: what to do with bytes that are not UTF-8 (ids cut within a character), as in
                `bytes.decode`: "replace" puts U+FFFD, "strict" raises UnicodeDecodeError.

        Raises:
            ValueError: an id is out of range.
            TypeError: `ids` are not integers in one dimension.
        """
        return self.decode_bytes(ids, skip_special_tokens).decode("utf-8", errors)

    def encode_numpy(
        self,
        text: str,
        add_special_tokens: bool = True,
        allowed_special: AllowedSpecial = (),
    ) -> NDArray[np.int32]:
        """Ids of a text as `encode` gives them, in an array of the caller's own."""
        return np.array(self.encode(text, add_special_tokens, allowed_special), dtype=np.int32)

    def encode_batch(
        self,
        texts: Iterable[str],
        add_special_tokens: bool = True,
        allowed_special: AllowedSpecial = (),
    ) -> list[list[int]]:
        """Ids of each text, as `encode` gives them."""
        return [self.encode(text, add_special_tokens, allowed_special) for text in texts]

    def decode_batch(
        self, batch: Iterable[Any], skip_special_tokens: bool = False, errors: str = "replace"
    ) -> list[str]:
        """Text of each sequence of ids, as `decode` gives it."""
        return [self.decode(ids, skip_special_tokens, errors) for ids in batch]

    def __len__(self) -> int:
        """As `vocab_size`."""
        return self.vocab_size

    @property
    def pad_token(self) -> str | None:
        """Token that fills up a batch."""
        return self.special_token("pad")

    @property
    def unk_token(self) -> str | None:
        """Token of the unknown."""
        return self.special_token("unk")

    @property
    def bos_token(self) -> str | None:
        """Token that begins a text."""
        return self.special_token("bos")

    @property
    def eos_token(self) -> str | None:
        """Token that ends a text."""
        return self.special_token("eos")

    @property
    def pad_token_id(self) -> int | None:
        """Id of `pad_token`."""
        return self._role_id("pad")

    @property
    def unk_token_id(self) -> int | None:
        """Id of `unk_token`."""
        return self._role_id("unk")

    @property
    def bos_token_id(self) -> int | None:
        """Id of `bos_token`."""
        return self._role_id("bos")

    @property
    def eos_token_id(self) -> int | None:
        """Id of `eos_token`."""
        return self._role_id("eos")

    def _role_id(self, role: str) -> int | None:
        token = self.special_token(role)
        return None if token is None else self.token_to_id(token)
