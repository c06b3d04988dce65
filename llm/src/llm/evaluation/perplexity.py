"""Perplexity of a text by a sliding window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from llm.core.base_model import BaseModel
from llm.core.config import check_count
from llm.data import Text
from llm.evaluation.encoded_text import EncodedText, as_documents
from llm.evaluation.metrics import bits_per_byte
from llm.evaluation.text_model import TextModel, TokenIds, text_model
from llm.evaluation.token_scores import Row, score_rows
from llm.tokenizers import BaseTokenizer
from llm.training.validation import ValidationResult


@dataclass(frozen=True, kw_only=True)
class TextScore(ValidationResult):
    """How well a text was predicted.

    Args:
        num_bytes: of the text that was predicted, in UTF-8.
    """

    num_bytes: int

    @property
    def bits_per_byte(self) -> float:
        """What compares across tokenizers."""
        return bits_per_byte(self.total_loss, self.num_bytes)

    def to_dict(self) -> dict[str, int | float]:
        """What was counted, and the figures made of it, by name."""
        names = ("total_loss", "num_targets", "num_bytes", "loss", "perplexity", "bits_per_byte")
        return {name: getattr(self, name) for name in names}


def perplexity(
    model: BaseModel,
    tokenizer: BaseTokenizer,
    text: str | Path | Iterable[str | Path],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> TextScore:
    """How well a model predicts a text: nats per token, perplexity, bits per byte.

    Every token is predicted exactly once, by a sliding window: see `evaluate_text`,
    which this calls. A document begins after the model's `bos_token_id`, else its
    `eos_token_id`, which ends the document before it in training, else those of the
    tokenizer. Where there is none, its first token is not predicted, and the
    token's bytes do not count.

    Args:
        model: run in eval mode, on its device; left as it was.
        tokenizer: the one that the model was trained with. Special tokens in the
            text are text.
        text: a text; the path of a UTF-8 file, of which only a part is in memory
            at a time; or several of either, each predicted by itself from its start.
        context: inputs of a window, in tokens, at most the model's; None for the model's.
        stride: tokens from a window to the next, in [1, context]; None for half of
            the context: each token has at least the other half, for twice the work
            of `stride=context`.
        batch_size: windows a forward; changes nothing but the time and memory.
        progress: a progress bar on stderr, in tokens.

    Raises:
        ValueError: there is nothing to predict; a file is not UTF-8 (names the byte);
            the tokenizer has more tokens than the model; or an argument is outside its range.
        TypeError: `text` is none of the above.

    Reference: that of `evaluate_text`.
    """
    return perplexity_of(
        text_model(model, tokenizer),
        text,
        context=context,
        stride=stride,
        batch_size=batch_size,
        progress=progress,
    )


def perplexity_of(
    model: TextModel,
    text: str | Path | Iterable[str | Path],
    *,
    context: int | None,
    stride: int | None,
    batch_size: int,
    progress: bool,
) -> TextScore:
    """`perplexity` of ours and of transformers' models."""
    return evaluate_text(
        model,
        as_documents(text),
        context_length=check_context(model, context, "context"),
        stride=stride,
        batch_size=batch_size,
        show_progress=progress,
    )


def evaluate_text(
    model: TextModel,
    documents: Iterable[Text],
    *,
    context_length: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    show_progress: bool = True,
) -> TextScore:
    """Predict every token of every document exactly once.

    Each document is read by itself, after the model's `prefix_token_id`, which
    is no target; where there is none, its first token is no target, and the
    token's bytes do not count. A window of `context_length` inputs moves on by `stride`, and
    predicts what the windows before have not: a token is predicted from all of
    the document before it, or from more than `context_length - stride` tokens.

    Memory does not grow with the text, if long documents come in parts. They
    are encoded in pieces of a million characters, cut between words; where the
    tokenizer is no byte-level BPE, a token beside a cut may differ.

    Args:
        model: of `text_model` or `hf_proxy.hf_text_model`; run in eval mode.
        documents: texts, or their parts in order, such as a `TextFile`.
        context_length: inputs of a window, at most the model's; None for the model's.
        stride: tokens from a window to the next, in [1, context_length]; None for
            half of it. A smaller one costs more and gives more context.
        batch_size: windows a forward.
        show_progress: a progress bar on stderr.

    Raises:
        ValueError: there is nothing to predict, or text that is not Unicode; or an
            argument is outside its range.
        TypeError: `documents` is a single string.

    Reference: Press et al., "Shortformer", arXiv:2012.15832, section 2 (sliding
    windows); Gao et al., "The Pile", arXiv:2101.00027, section 3.1 (bits per byte).
    """
    context_length = check_context(model, context_length)
    stride = max(context_length // 2, 1) if stride is None else stride
    check_count("stride", stride, maximum=context_length)
    check_count("batch_size", batch_size)
    text = EncodedText(model, documents)
    total_loss, num_targets = 0.0, 0
    rows = chain.from_iterable(windows(ids, context_length, stride) for ids in text)
    with (
        tqdm(desc="evaluating", unit="token", unit_scale=True, disable=not show_progress) as bar,
        model.eval_mode(),
    ):
        while batch := list(islice(rows, batch_size)):
            total_loss += sum(float(scores.nats.sum()) for scores in score_rows(model, batch))
            tokens = sum(row.num_targets for row in batch)
            num_targets += tokens
            bar.update(tokens)
    if not num_targets:
        raise ValueError("there is no text to evaluate: no token has one before it")
    return TextScore(total_loss=total_loss, num_targets=num_targets, num_bytes=text.num_bytes)


def windows(ids: Iterable[TokenIds], context_length: int, stride: int) -> Iterator[Row]:
    """Rows of up to `context_length` inputs that make every id but the first a target once.

    Args:
        ids: of a document, in parts.
        context_length: inputs of a row, one less than its ids.
        stride: ids from the start of a row to that of the next, at most `context_length`.
    """
    held, seen = np.empty(0, dtype=np.int64), 1
    for part in ids:
        held = np.concatenate([held, part])
        while len(held) > context_length:
            yield Row(held[: context_length + 1], context_length + 1 - seen)
            held, seen = held[stride:], context_length + 1 - stride
    if len(held) > seen:
        yield Row(held, len(held) - seen)


def check_context(
    model: TextModel, context_length: int | None, name: str = "context_length"
) -> int:
    """The inputs of a window.

    Raises:
        ValueError: they are more than the model takes, or neither says how many.
    """
    if context_length is None:
        context_length = model.context_length
    if context_length is None:
        raise ValueError(f"the model does not say how long its context is: give {name}")
    check_count(name, context_length, maximum=model.context_length)
    return context_length
