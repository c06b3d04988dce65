"""A model with its tokenizer, as every evaluation sees them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm.core.base_model import BaseModel
from llm.core.config import check_count
from llm.core.eval_mode import eval_mode
from llm.tokenizers import BaseTokenizer

# rows of logits that exist at a time: 512 × 50257 × 4 bytes are 100 MB
ROWS = 512

TokenIds = npt.NDArray[np.integer]


class TextModel(ABC):
    """What is evaluated: text to ids, and ids to logits.

    `text_model` makes one of a model of ours, `hf_proxy.hf_text_model` of one of
    transformers'.

    Args:
        context_length: longest input of the model, in tokens; None where it has no bound.
        vocab_size: V.
        device: where the model is.
        prefix_token_id: what a text begins after, so that its first token is
            predicted too; None where nothing plays that part.
    """

    context_length: int | None
    vocab_size: int
    device: torch.device
    prefix_token_id: int | None

    @abstractmethod
    def encode(self, text: str, *, add_special_tokens: bool = False) -> TokenIds:
        """Ids (N,) of a text, in which special tokens are text like any other."""

    @abstractmethod
    def logits(self, input_ids: Tensor, where: Tensor) -> Iterator[Tensor]:
        """Logits at some positions, a few rows at a time.

        Args:
            input_ids: int64 (B, T), on the device; rows may end in padding.
            where: bool (B, T), the positions, in order of row and column.

        Returns:
            An iterator of (n, V), whose n add up to the positions.
        """

    @abstractmethod
    def eval_mode(self) -> AbstractContextManager[None]:
        """The model in eval mode, and then as it was."""

    def first_token_bytes(self, text: str, first_id: int) -> int:
        """UTF-8 bytes of a text that its first token stands for.

        They do not count where nothing predicts that token.

        Args:
            text: as given to `encode`.
            first_id: the first id of it.

        Raises:
            ValueError: the tokenizer does not say.
        """
        raise ValueError(
            "neither the model nor its tokenizer has a <bos> or <eos> for a text to begin after, "
            "and the tokenizer does not say which bytes its first token is: give prefix_token_id"
        )

    @property
    def checked_prefix(self) -> int | None:
        """`prefix_token_id`.

        Raises:
            ValueError: it is no id of the model.
        """
        if self.prefix_token_id is not None:
            check_count(
                "prefix_token_id", self.prefix_token_id, minimum=0, maximum=self.vocab_size - 1
            )
        return self.prefix_token_id

    @cached_property
    def template_before(self) -> TokenIds:
        """Ids that the tokenizer's template puts before a text, such as that of <bos>."""
        plain, marked = self.encode("a"), self.encode("a", add_special_tokens=True)
        for start in range(len(marked) - len(plain) + 1):
            if np.array_equal(marked[start : start + len(plain)], plain):
                return marked[:start]
        raise ValueError("the tokenizer's special tokens change the ids of the text between them")

    def require_prefix(self) -> int:
        """As `checked_prefix`, where one is needed.

        Raises:
            ValueError: there is none, or it is no id of the model.
        """
        if (prefix := self.checked_prefix) is None:
            raise ValueError(
                "neither the model nor its tokenizer has a <bos> or <eos> for a text to begin "
                "after: give prefix_token_id"
            )
        return prefix


def text_model(
    model: BaseModel, tokenizer: BaseTokenizer, *, prefix_token_id: int | None = None
) -> TextModel:
    """A model of ours and its tokenizer, to be evaluated.

    Args:
        model: on its device; each part comes back in the mode that it was in.
        tokenizer: the one that it was trained with.
        prefix_token_id: what a text begins after; None for the model's
            `bos_token_id`, else its `eos_token_id`, which ends the text before,
            else the tokenizer's <eos>, else its <bos>.

    Raises:
        ValueError: the tokenizer has more tokens than the model.
    """
    return _OwnTextModel(model, tokenizer, prefix_token_id)


def first_id(*candidates: int | None) -> int | None:
    """The first that is an id."""
    return next((token_id for token_id in candidates if token_id is not None), None)


def bytes_of_first(text: str, first: int, count_bytes: Callable[[str], int]) -> int:
    """Bytes of a text that its first token stands for.

    Where a tokenizer normalizes, or begins with a space of its own, they are not
    those of the token. A token that ends within a character counts as its own.

    Args:
        text: begins with the token.
        first: bytes of the token.
        count_bytes: bytes of all tokens of a text.
    """
    end = 0
    while (size := count_bytes(text[:end])) < first and end < len(text):
        end += 1
    return len(text[:end].encode("utf-8")) if size == first else first


def check_vocabulary(num_tokens: int, vocab_size: int) -> None:
    """Raise unless the model has a row for each of the tokenizer's tokens."""
    if num_tokens > vocab_size:
        raise ValueError(
            f"the tokenizer has {num_tokens} tokens and the model {vocab_size}: it is another "
            "model's"
        )


class _OwnTextModel(TextModel):
    def __init__(
        self, model: BaseModel, tokenizer: BaseTokenizer, prefix_token_id: int | None
    ) -> None:
        check_vocabulary(len(tokenizer), model.config.vocab_size)
        self.model, self.tokenizer = model, tokenizer
        self.context_length = model.config.max_position_embeddings
        self.vocab_size = model.config.vocab_size
        self.device = model.decoder.token_embeddings.weight.device
        self.prefix_token_id = first_id(
            prefix_token_id,
            model.config.bos_token_id,
            model.config.eos_token_id,
            tokenizer.eos_token_id,
            tokenizer.bos_token_id,
        )

    def encode(self, text: str, *, add_special_tokens: bool = False) -> TokenIds:
        return self.tokenizer.encode_numpy(text, add_special_tokens)

    def first_token_bytes(self, text: str, first_id: int) -> int:
        def count_bytes(start: str) -> int:
            return len(self.tokenizer.decode_bytes(self.encode(start)))

        return bytes_of_first(text, len(self.tokenizer.decode_bytes([first_id])), count_bytes)

    def logits(self, input_ids: Tensor, where: Tensor) -> Iterator[Tensor]:
        # a row that is not asked for is never multiplied by the vocabulary
        rows = self.model.hidden_states(input_ids)[where]  # (N, C)
        for chunk in torch.split(rows, ROWS):
            yield self.model.lm_head(chunk)  # (n, V)

    def eval_mode(self) -> AbstractContextManager[None]:
        return eval_mode(self.model)
