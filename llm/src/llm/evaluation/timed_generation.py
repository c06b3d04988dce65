"""Texts generated, and how long each token of them took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llm.core.base_model import BaseModel
from llm.generation import stream
from llm.generation.text import encode_prompt
from llm.tokenizers import BaseTokenizer


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What continues a prompt.

    Args:
        text: the continuation, without special tokens.
        prompt_tokens: tokens that the model read first.
        seconds: from one token to the next, the first from the start: the
            prompt's forward, or prefill, and the choice of a token.
    """

    text: str
    prompt_tokens: int
    seconds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds: the median, and what 95% of them do not exceed (interpolated)."""

    median: float
    p95: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Of measured times, one at least."""
        median, p95 = np.percentile(seconds, [50, 95])
        return cls(median=float(median), p95=float(p95))


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Of texts that were generated one at a time.

    Args:
        prompt_tokens: of all prompts, each as often as it was continued.
        new_tokens: of all texts, <eos> included.
        tokens_per_second: new tokens by all of the time, prefill included.
        prefill_tokens_per_second: prompt tokens by the time until the first tokens.
        prefill: until the first token of a text.
        token: from each token of a text to the next; None where texts have one.
    """

    prompt_tokens: int
    new_tokens: int
    tokens_per_second: float
    prefill_tokens_per_second: float
    prefill: Latency
    token: Latency | None

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Speed:
        """Of texts, one at least."""
        first = [sample.seconds[0] for sample in samples]
        later = [seconds for sample in samples for seconds in sample.seconds[1:]]
        prompt_tokens = sum(sample.prompt_tokens for sample in samples)
        new_tokens = len(first) + len(later)
        return cls(
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            tokens_per_second=new_tokens / (sum(first) + sum(later)),
            prefill_tokens_per_second=prompt_tokens / sum(first),
            prefill=Latency.of(first),
            token=Latency.of(later) if later else None,
        )


def time_generation(
    model: BaseModel, tokenizer: BaseTokenizer, prompt: str, **options: Any
) -> Sample:
    """Continue a prompt as `llm.generation.stream_text` does, by the clock.

    Args:
        model: any model of this project, a prepared one too.
        tokenizer: the one that it was trained with.
        prompt: any text; an empty one begins a document.
        options: those of `llm.generation.stream`, `max_new_tokens` among them.

    Raises:
        ValueError: as `stream_text`.
    """
    prompt_ids = encode_prompt(tokenizer, prompt)
    device = model.decoder.token_embeddings.weight.device
    input_ids = torch.tensor([prompt_ids], device=device)
    tokens = stream(model, input_ids, vocab_size=len(tokenizer), **options)
    new_ids: list[int] = []
    seconds: list[float] = []
    started = time.perf_counter()
    for ids in tokens:
        # waits for the device: what a reader of the text waits for
        new_ids += ids.tolist()
        now = time.perf_counter()
        seconds.append(now - started)
        started = now
    return Sample(
        text=tokenizer.decode(new_ids, skip_special_tokens=True),
        prompt_tokens=len(prompt_ids),
        seconds=tuple(seconds),
    )
