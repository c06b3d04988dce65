"""Log-likelihood of a continuation after a context, as lm-evaluation-harness counts it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from llm.core.config import check_count
from llm.evaluation.perplexity import check_context
from llm.evaluation.text_model import TextModel
from llm.evaluation.token_scores import Row, score_rows


class LogLikelihood(NamedTuple):
    """Of a continuation.

    Args:
        value: log p, in nats, ≤ 0.
        is_greedy: whether every token of it is the likeliest one.
    """

    value: float
    is_greedy: bool


def log_likelihoods(
    model: TextModel,
    pairs: Iterable[tuple[str, str]],
    *,
    context_length: int | None = None,
    batch_size: int = 8,
    show_progress: bool = True,
    names: Sequence[str] = (),
) -> list[LogLikelihood]:
    """The log p(continuation | context) of each pair, in their order.

    Context and continuation are encoded together, and what the context alone
    does not account for is the continuation; spaces that end a context are
    moved to the continuation. An empty context is the model's
    `prefix_token_id`: lm-evaluation-harness takes the tokenizer's <bos>, unless
    told the same with its own `prefix_token_id`. What is too long loses the
    beginning of its context.

    Args:
        model: of `text_model` or `hf_proxy.hf_text_model`; run in eval mode.
        pairs: contexts and continuations.
        context_length: inputs of a forward, at most the model's; None for the model's.
        batch_size: pairs a forward.
        show_progress: a progress bar on stderr.
        names: what errors call the pairs; none for their index.

    Raises:
        ValueError: a continuation has no tokens, or more than the context has room
            for, or the model's logits for it are not finite (says which pair); or
            an argument is outside its range.

    Reference: Gao et al., "A framework for few-shot language model evaluation",
    https://github.com/EleutherAI/lm-evaluation-harness.
    """
    context_length = check_context(model, context_length)
    check_count("batch_size", batch_size)
    rows: list[Row] = []

    def name(index: int) -> str:
        return names[index] if names else f"pairs[{index}]"

    for index, (context, continuation) in enumerate(pairs):
        try:
            rows.append(encode_pair(model, context, continuation, context_length))
        except ValueError as error:
            raise ValueError(f"{name(index)}: {error}") from None
    # of one length together, the longest first: what memory cannot hold fails at once
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].ids))
    results: dict[int, LogLikelihood] = {}
    with (
        tqdm(total=len(rows), desc="scoring", unit="text", disable=not show_progress) as bar,
        model.eval_mode(),
    ):
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            scores = score_rows(model, [rows[index] for index in batch])
            for index, (nats, is_greedy) in zip(batch, scores, strict=True):
                value = -float(nats.sum())
                if not math.isfinite(value):
                    raise ValueError(f"{name(index)}: the model's logits are not finite numbers")
                results[index] = LogLikelihood(value, bool(is_greedy.all()))
            bar.update(len(batch))
    return [results[index] for index in range(len(rows))]


def encode_pair(model: TextModel, context: str, continuation: str, context_length: int) -> Row:
    """The ids of a context and its continuation, whose tokens are the targets.

    Raises:
        ValueError: the continuation has no tokens, or more than `context_length`.
    """
    text = context.rstrip()
    continuation = context[len(text) :] + continuation
    start = len(model.encode(text))
    ids = model.encode(text + continuation)
    num_targets = len(ids) - start
    if num_targets < 1:
        raise ValueError(f"the continuation {continuation[:40]!r} has no tokens of its own")
    if num_targets > context_length:
        raise ValueError(
            f"the continuation {continuation[:40]!r} has {num_targets} tokens, more than the "
            f"context of {context_length}"
        )
    before = model.template_before if start else np.array([model.require_prefix()])
    return Row(np.concatenate([before, ids])[-(context_length + 1) :], num_targets)
