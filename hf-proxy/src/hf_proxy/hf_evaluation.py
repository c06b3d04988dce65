"""Any causal model of transformers, with its tokenizer, for `llm.evaluation`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import decoders
from torch import Tensor
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from hf_proxy._python_tokenizer import HFPythonTokenizerAdapter
from llm.core.eval_mode import eval_mode
from llm.evaluation import TextModel, TextScore
from llm.evaluation.perplexity import perplexity_of
from llm.evaluation.text_model import ROWS, TokenIds, bytes_of_first, check_vocabulary, first_id


def hf_text_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prefix_token_id: int | None = None,
) -> TextModel:
    """A model and tokenizer of transformers, to be evaluated by `llm.evaluation`.

    With the weights of a model of ours the figures are those of
    `llm.evaluation.text_model`. The logits of a whole batch exist at a time, of the
    positions from the first that is scored.

    Args:
        model: a causal language model, an `HFAdapter` or any other, on its device.
        tokenizer: the model's. Special tokens in a text are text.
        prefix_token_id: what a text begins after; None for the model's
            `bos_token_id`, else its `eos_token_id`, else the tokenizer's eos, else its bos.

    Raises:
        TypeError: the model or the tokenizer is not of transformers.
        ValueError: the tokenizer has more tokens than the model, or the model does
            not predict the next token.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"expected a model of transformers, not {type(model).__name__}")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(f"expected a tokenizer of transformers, not {type(tokenizer).__name__}")
    if model.config.is_encoder_decoder or not model.can_generate():
        raise ValueError(f"{type(model).__name__} is no causal language model with a head")
    return _HFTextModel(model, tokenizer, prefix_token_id)


def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str | Path | Iterable[str | Path],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> TextScore:
    """How well any causal language model of transformers predicts a text.

    As `llm.evaluation.perplexity`: the same windows, tokens, bytes and figures.

    Args:
        model: an `HFAdapter` or any other, on its device; left as it was.
        tokenizer: the model's. No special token is added to the text, and those in it are text.
        text: a text; the path of a UTF-8 file; or several of either. A file, or a text of
            more than a million characters, is encoded in pieces cut between words; where
            the tokenizer is no byte-level BPE, a token beside a cut may differ.
        context: inputs of a window, in tokens, at most the model's; None for the model's.
        stride: tokens from a window to the next, in [1, context]; None for half of the context.
        batch_size: windows a forward.
        progress: a progress bar on stderr, in tokens.

    Raises:
        ValueError: as that function; or the model is no causal language model.
        TypeError: the model or the tokenizer is not of transformers, or `text` no text.
    """
    return perplexity_of(
        hf_text_model(model, tokenizer),
        text,
        context=context,
        stride=stride,
        batch_size=batch_size,
        progress=progress,
    )


class _HFTextModel(TextModel):
    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prefix_token_id: int | None,
    ) -> None:
        config = model.config.get_text_config()
        check_vocabulary(len(tokenizer), config.vocab_size)
        self.model, self.tokenizer = model, tokenizer
        self.context_length = getattr(config, "max_position_embeddings", None)
        self.vocab_size = config.vocab_size
        self.device = model.device
        ends = config.eos_token_id
        self.prefix_token_id = first_id(
            prefix_token_id,
            config.bos_token_id,
            ends[0] if isinstance(ends, list) and ends else ends,
            tokenizer.eos_token_id,
            tokenizer.bos_token_id,
        )
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    def encode(self, text: str, *, add_special_tokens: bool = False) -> TokenIds:
        return np.array(
            self._encode(text, add_special_tokens=add_special_tokens)["input_ids"], np.int64
        )

    def _encode(
        self, text: str, *, add_special_tokens: bool = False, **options: Any
    ) -> BatchEncoding:
        encoded: BatchEncoding = self.tokenizer(
            text,
            add_special_tokens=add_special_tokens,
            split_special_tokens=True,
            # of its maximum length, which the windows see to
            verbose=False,
            **options,
        )
        return encoded

    def first_token_bytes(self, text: str, first_id: int) -> int:
        if isinstance(self.tokenizer, HFPythonTokenizerAdapter):
            own = self.tokenizer.to_llm_tokenizer()
            return bytes_of_first(
                text,
                len(own.decode_bytes([first_id])),
                lambda start: len(own.decode_bytes(self.encode(start))),
            )
        if not self.tokenizer.is_fast:
            return super().first_token_bytes(text, first_id)
        backend = cast(Any, self.tokenizer).backend_tokenizer
        if isinstance(backend.decoder, decoders.ByteLevel):
            # a character of such a token is a byte
            return bytes_of_first(
                text,
                self._num_characters([first_id]),
                lambda start: self._num_characters(self.encode(start)),
            )
        _, end = self._encode(text, return_offsets_mapping=True)["offset_mapping"][0]
        return len(text[:end].encode("utf-8"))

    def _num_characters(self, ids: Sequence[int] | TokenIds) -> int:
        names = self.tokenizer.convert_ids_to_tokens([int(token_id) for token_id in ids])
        return sum(map(len, names))

    def logits(self, input_ids: Tensor, where: Tensor) -> Iterator[Tensor]:
        # each row ends with a position that is scored; without a mask transformers
        # warns of text that holds the padding token
        is_real = where.flip(1).cumsum(1).flip(1) > 0
        options: dict[str, Any] = {"attention_mask": is_real.long(), "use_cache": False}
        if self._keeps_logits:
            first = int(where.any(0).int().argmax())
            where = where[:, first:]
            options["logits_to_keep"] = where.shape[1]
        # not every model applies its head to hidden states alone
        logits = cast(Any, self.model)(input_ids=input_ids, **options).logits  # (B, T, V)
        rows, columns = where.nonzero(as_tuple=True)
        for row, column in zip(torch.split(rows, ROWS), torch.split(columns, ROWS), strict=True):
            yield logits[row, column]

    def eval_mode(self) -> AbstractContextManager[None]:
        return eval_mode(self.model)
