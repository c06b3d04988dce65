"""Guesses at the next tokens, for the model to check several in one forward.

At each place of a draft the loop chooses a token as it would without one, and
goes on only where the draft has guessed it: so a draft can change how many
forwards a text takes, and not the text. Checking costs little, because a
forward over few tokens waits for the same weights as one over a single token.

References: Leviathan et al., "Fast Inference from Transformers via Speculative
Decoding", arXiv:2211.17192; Daliri et al., "Coupling without Communication and
Drafter-Invariant Speculative Decoding", arXiv:2408.07978, for a choice that
does not depend on the draft.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from llm.core.attention_mask import extend_mask
from llm.core.base_model import BaseModel
from llm.core.config import check_count
from llm.core.eval_mode import eval_mode


class Choose(Protocol):
    """Chooses a token of each row: `llm.generation.sampling.choose`, its settings given."""

    def __call__(
        self,
        logits: Tensor,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """From logits (B, V) after the text `input_ids` (B, T) to int64 (B,)."""
        ...


class Draft(Protocol):
    """Guesses for one generation."""

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        *,
        room: int,
        choose: Choose,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Guess what follows.

        Args:
            input_ids: the text so far, int64 (B, T).
            attention_mask: (B, T), 0 where `input_ids` is padding, or None.
            room: tokens that a draft may have at most, ≥ 1.
            choose: how the model's next tokens are chosen from its logits.
            generator: what they are drawn with; it must be left as it is.

        Returns:
            int64 (B, K), 0 ≤ K ≤ `room`.
        """
        ...


class Drafter(Protocol):
    """What `stream` takes as its `drafter`."""

    def start(self, model: BaseModel, batch_size: int, max_length: int) -> Draft:
        """Begin a generation of `model`, of rows of up to `max_length` tokens."""
        ...


@dataclass(frozen=True, kw_only=True)
class PromptLookup:
    """Guesses that the last few tokens go on as they did where they stood before.

    It costs next to nothing, and helps where a text repeats itself or its
    prompt: code, tables, corrections, questions about a document.

    Args:
        num_tokens: of a draft, at most.
        max_ngram: how many of the last tokens to look for; where they are not
            found, fewer.

    Reference: Saxena, "Prompt Lookup Decoding", 2023,
    https://github.com/apoorvumang/prompt-lookup-decoding.
    """

    num_tokens: int = 8
    max_ngram: int = 3

    def __post_init__(self) -> None:
        check_count("num_tokens", self.num_tokens)
        check_count("max_ngram", self.max_ngram)

    def start(self, model: BaseModel, batch_size: int, max_length: int) -> Draft:
        """Begin a generation."""
        return self._draft

    def _draft(
        self, input_ids: Tensor, attention_mask: Tensor | None, *, room: int, **_: object
    ) -> Tensor:
        texts = list(input_ids)
        if attention_mask is not None:
            pairs = zip(input_ids, attention_mask.bool(), strict=True)
            texts = [row[real] for row, real in pairs]
        rows = [self._lookup(text, min(self.num_tokens, room)) for text in texts]
        # a forward takes rows of one length
        shortest = min(map(len, rows))
        return torch.stack([row[:shortest] for row in rows])

    def _lookup(self, row: Tensor, num_tokens: int) -> Tensor:
        """What followed the last tokens of the row (T,) when they came last: at most (K,)."""
        for size in range(min(self.max_ngram, len(row) - 1), 0, -1):
            ngrams = row[:-1].unfold(0, size, 1)  # (T - size, size)
            found = (ngrams == row[-size:]).all(dim=1).nonzero()
            if len(found):
                start = int(found[-1]) + size
                return row[start : start + num_tokens]
        return row[:0]


@dataclass(frozen=True, kw_only=True)
class DraftModel:
    """Guesses what a smaller model of the same tokenizer would say.

    It draws with the random numbers that the choice after it will be made with,
    so that the two agree as often as their distributions are alike.

    Args:
        model: with the vocabulary of the one it guesses for; any architecture.
        num_tokens: of a draft, at most.
    """

    model: BaseModel
    num_tokens: int = 4

    def __post_init__(self) -> None:
        check_count("num_tokens", self.num_tokens)

    def start(self, model: BaseModel, batch_size: int, max_length: int) -> Draft:
        """Begin a generation with a cache of its own.

        Raises:
            ValueError: the vocabularies have different sizes.
        """
        ours, theirs = self.model.config, model.config
        if ours.vocab_size != theirs.vocab_size:
            raise ValueError(
                f"the draft model has {ours.vocab_size} tokens and the model "
                f"{theirs.vocab_size}: they need the same tokenizer"
            )
        longest = min(max_length, ours.max_position_embeddings)
        cache = self.model.make_cache(batch_size, longest)
        modules = list(self.model.modules())

        def draft(
            input_ids: Tensor,
            attention_mask: Tensor | None,
            *,
            room: int,
            choose: Choose,
            generator: torch.Generator | None,
        ) -> Tensor:
            length = input_ids.shape[1]
            # of its last draft, some may have been refused
            cache.truncate(min(cache.get_seq_length(), length - 1))
            same_numbers = _copy_generator(generator, input_ids.device)
            for _ in range(min(self.num_tokens, room, longest - length)):
                with eval_mode(modules):
                    hidden_states = self.model.hidden_states(
                        input_ids[:, cache.get_seq_length() :],
                        attention_mask=attention_mask,
                        cache=cache,
                    )
                    logits = self.model.lm_head(hidden_states[:, -1])  # (B, V)
                next_ids = choose(
                    logits, input_ids, attention_mask=attention_mask, generator=same_numbers
                )
                input_ids = torch.cat([input_ids, next_ids[:, None]], dim=1)
                attention_mask = extend_mask(attention_mask, 1)
            return input_ids[:, length:]

        return draft


def _copy_generator(generator: torch.Generator | None, device: torch.device) -> torch.Generator:
    """Another generator, about to give the numbers that this one will give."""
    if generator is not None:
        return torch.Generator(generator.device).set_state(generator.get_state())
    module = torch if device.type == "cpu" else torch.get_device_module(device)
    return torch.Generator(device).set_state(module.get_rng_state())
