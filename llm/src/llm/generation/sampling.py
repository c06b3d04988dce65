"""From logits to the next token: pure functions of the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llm.core.config import check_count, check_flag, check_number

# outside of these, logits overflow in float32
SMALLEST_DIVISOR, LARGEST_DIVISOR = 1e-6, 1e6


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen.

    Applied in the order: repetition penalty, temperature, top-k, top-p, min-p.

    Args:
        do_sample: draw from the distribution; False takes the likeliest token,
            and of the rest only the repetition penalty may then be given.
        temperature: divides the logits, in [1e-6, 1e6]; below 1 sharpens.
        top_k: keep that many likeliest tokens, ≥ 1.
        top_p: keep the fewest likeliest tokens that hold this probability, in
            (0, 1].
        min_p: keep tokens with at least this share of the likeliest one's
            probability, in [0, 1].
        repetition_penalty: in [1e-6, 1e6]; above 1 makes tokens that are there already
            less likely.

    Raises:
        ValueError: a field is outside its range.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        check_flag("do_sample", self.do_sample)
        for name in ("temperature", "repetition_penalty"):
            value = getattr(self, name)
            check_number(name, value, low=SMALLEST_DIVISOR, high=LARGEST_DIVISOR, inclusive=True)
        if self.top_k is not None:
            check_count("top_k", self.top_k)
        if self.top_p is not None:
            check_number("top_p", self.top_p, low=0, high=1, inclusive=True)
            if self.top_p == 0:
                raise ValueError("top_p=0 would keep no token; top_k=1 keeps the likeliest")
        if self.min_p is not None:
            check_number("min_p", self.min_p, low=0, high=1, inclusive=True)
        neutral = {"temperature": (1,), "top_k": (None,), "top_p": (None, 1), "min_p": (None, 0)}
        idle = [
            f"{name}={getattr(self, name)}"
            for name, values in neutral.items()
            if getattr(self, name) not in values
        ]
        if idle and not self.do_sample:
            raise ValueError(f"{', '.join(idle)} would change nothing: it needs do_sample=True")


def apply_repetition_penalty(
    logits: Tensor, input_ids: Tensor, penalty: float, *, attention_mask: Tensor | None = None
) -> Tensor:
    """Divide the positive logits of tokens in `input_ids` by the penalty; multiply the negative.

    Args:
        logits: (B, V).
        input_ids: (B, T).
        penalty: > 0; 1 changes nothing.
        attention_mask: (B, T), 0 where `input_ids` is padding.

    Returns:
        (B, V).

    Reference: Keskar et al., "CTRL", arXiv:1909.05858, section 4.1.
    """
    real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    counts = torch.zeros_like(logits, dtype=torch.int64)
    counts.scatter_add_(1, input_ids, real.to(torch.int64))
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(counts > 0, penalised, logits)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Logits / temperature."""
    return logits / temperature


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """-inf for every logit below the k-th largest; logits equal to it stay. (B, V) -> (B, V)."""
    smallest_kept = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]  # (B, 1)
    return logits.masked_fill(logits < smallest_kept, float("-inf"))


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """-inf outside the smallest set of likeliest tokens of probability ≥ `top_p`.

    (B, V) -> (B, V). The token that crosses `top_p` is kept, so one always is.
    What is -inf already, as after top-k, is not sorted.

    Reference: Holtzman et al., "The Curious Case of Neural Text Degeneration",
    arXiv:1904.09751, section 3.1.
    """
    if top_p >= 1:  # rounding in the sum below must not remove the tail
        return logits
    likely = _columns_in_use(logits)  # (C,), or None for all V
    some = logits if likely is None else logits[:, likely]
    values, order = some.sort(descending=True, stable=True)  # (B, C)
    probabilities = values.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    removed = before >= top_p
    removed[..., 0] = False
    kept = torch.full_like(logits, float("-inf"))
    columns = order if likely is None else likely[order]
    return kept.scatter(-1, columns, values.masked_fill(removed, float("-inf")))


def _columns_in_use(logits: Tensor) -> Tensor | None:
    """The ids above -inf in some row, ascending, int64 (C,); None where they are many."""
    if logits.device.type != "cpu":
        # to count them would wait for the device, which sorts fast
        return None
    in_use = (logits > float("-inf")).any(dim=0)
    return in_use.nonzero().squeeze(-1) if int(in_use.sum()) * 2 < len(in_use) else None


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """-inf for tokens less likely than `min_p` times the likeliest one. (B, V) -> (B, V).

    Reference: Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative
    and Coherent LLM Outputs", arXiv:2407.01082, section 3.
    """
    probabilities = logits.softmax(dim=-1)
    threshold = min_p * probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill(probabilities < threshold, float("-inf"))


def choose(
    logits: Tensor,
    input_ids: Tensor,
    *,
    config: SamplingConfig,
    vocab_size: int,
    attention_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose the token that follows each row.

    Args:
        logits: of the model after `input_ids`, (B, V).
        input_ids: the text so far, int64 (B, T).
        config: the repetition penalty, and what to keep of the logits.
        vocab_size: choose among the ids below it, ≤ V.
        attention_mask: (B, T), 0 where `input_ids` is padding.
        generator: the source of randomness; None for PyTorch's global one.

    Returns:
        int64 (B,).
    """
    if config.repetition_penalty != 1:
        logits = apply_repetition_penalty(
            logits, input_ids, config.repetition_penalty, attention_mask=attention_mask
        )
    return sample(logits[:, :vocab_size], config, generator)


def sample(logits: Tensor, config: SamplingConfig, generator: torch.Generator | None) -> Tensor:
    """Choose a token for each row.

    Args:
        logits: (B, V), the repetition penalty already applied.
        config: what to keep of them.
        generator: the source of randomness; None for PyTorch's global one.

    Returns:
        int64 (B,).
    """
    if not config.do_sample:
        return logits.argmax(dim=-1)
    # in half precision the sums of a large vocabulary's probabilities are off
    logits = apply_temperature(logits.float(), config.temperature)
    if config.top_k is not None:
        logits = keep_top_k(logits, config.top_k)
    if config.top_p is not None:
        logits = keep_top_p(logits, config.top_p)
    if config.min_p is not None:
        logits = keep_min_p(logits, config.min_p)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(-1)
