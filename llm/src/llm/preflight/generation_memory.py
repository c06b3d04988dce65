"""Memory of generation, worked out from a configuration."""

from __future__ import annotations

from dataclasses import dataclass

from llm.core.config import ModelConfig, check_choice, check_count
from llm.preflight.activations import NUMBER_BYTES
from llm.preflight.training_memory import HEAP_SHARE

# logits, and what sampling makes of them in float32: scaled, sorted, summed, with places
LOGIT_BYTES = 24


@dataclass(frozen=True, kw_only=True)
class GenerationMemory:
    """Bytes of a generation when it has most.

    Args:
        weights: in the precision of the model.
        cache: keys and values of all tokens.
        working: what the prompt needs in one block, or the choice of a token.
    """

    weights: int
    cache: int
    working: int

    @property
    def total(self) -> int:
        """The peak."""
        return self.weights + self.cache + self.working


def kv_bytes_per_token(config: ModelConfig, *, precision: str = "fp32") -> int:
    """Bytes of the keys and values that each token of a row adds to the cache.

    Raises:
        ValueError: there is no such precision.
    """
    check_choice("precision", precision, NUMBER_BYTES)
    return NUMBER_BYTES[precision] * config.cached_numbers


def generation_memory(
    config: ModelConfig,
    *,
    batch_size: int = 1,
    prompt_length: int,
    max_new_tokens: int,
    precision: str = "fp32",
) -> GenerationMemory:
    """The memory of `model.generate` at its peak, the model being in that precision.

    Of a model that `llm.generation.prepare` made, the packed weights come on top.

    Args:
        config: of the model.
        batch_size: rows, B.
        prompt_length: tokens of each prompt.
        max_new_tokens: that are added to it; the cache ends with the context.
        precision: of weights and cache, "fp32", "bf16" or "fp16".

    Raises:
        ValueError: a number is outside its range, or there is no such precision.
    """
    check_count("batch_size", batch_size)
    check_count("prompt_length", prompt_length)
    check_count("max_new_tokens", max_new_tokens, minimum=0)
    longest = config.max_position_embeddings
    size = kv_bytes_per_token(config, precision=precision) // config.cached_numbers
    length = min(longest, prompt_length + max_new_tokens)
    # past the context the window is encoded anew for each token
    read = longest if prompt_length + max_new_tokens > longest + 1 else prompt_length
    prompt = size * batch_size * min(longest, read) * config.kept_numbers.products
    chosen = LOGIT_BYTES * batch_size * config.vocab_size
    return GenerationMemory(
        weights=size * config.num_parameters,
        cache=size * config.cached_numbers * batch_size * length,
        working=round((1 + HEAP_SHARE) * max(prompt, chosen)),
    )
