"""Configurations of GPT and GPT-2, with the published sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from llm.core.config import ModelConfig, check_choice, check_count, check_number, default
from llm.core.feed_forward import ACTIVATIONS
from llm.core.model_size import KeptNumbers, ParameterCounts


@dataclass(frozen=True, kw_only=True)
class GPTFamilyConfig(ModelConfig):
    """What `GPT` and `GPT2` have in common, which is every field.

    Args:
        intermediate_dim: inner width of the feed-forward network, F; None for
            4 · embed_dim.
        activation: "gelu_tanh", "gelu", "relu" or "silu".
        embedding_dropout: after the embeddings; None for `dropout`.
        attention_dropout: of attention weights; None for `dropout`.
        residual_dropout: of what each block adds; None for `dropout`.
        norm_eps: added to the variance in LayerNorm.

    The other fields are those of `ModelConfig`.
    """

    final_norms: ClassVar[int] = 0

    intermediate_dim: int | None = None
    activation: str = "gelu_tanh"
    embedding_dropout: float | None = None
    attention_dropout: float | None = None
    residual_dropout: float | None = None
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.intermediate_dim is not None:
            check_count("intermediate_dim", self.intermediate_dim)
        check_choice("activation", self.activation, ACTIVATIONS)
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), low=0, high=1, inclusive=False)
        check_number("norm_eps", self.norm_eps, low=0, high=math.inf, inclusive=False)

    @property
    def inner_dim(self) -> int:
        """Width of the feed-forward network, F."""
        return default(self.intermediate_dim, 4 * self.embed_dim)

    @property
    def parameters(self) -> ParameterCounts:
        """In each block four projections of attention, two of the feed-forward network, and
        two norms, all with biases; `final_norms` norms after them.
        """
        width, inner, layers = self.embed_dim, self.inner_dim, self.num_layers
        return ParameterCounts(
            token_embeddings=self.vocab_size * width,
            position_embeddings=self.max_position_embeddings * width,
            attention=layers * 4 * (width * width + width),
            feed_forward=layers * (2 * width * inner + inner + width),
            norms=(2 * layers + self.final_norms) * 2 * width,
            head=0 if self.tie_embeddings else self.vocab_size * width,
        )

    @property
    def multiplied_weights(self) -> int:
        """The projections of the blocks, and the head."""
        block = 4 * self.embed_dim**2 + 2 * self.embed_dim * self.inner_dim
        return self.num_layers * block + self.vocab_size * self.embed_dim

    @property
    def kept_numbers(self) -> KeptNumbers:
        """Both norms' inputs; queries, keys, values and the inputs of four projections, one of
        them the activation's output, and its input, unless it can do without.
        """
        width = self.embed_dim
        inner = self.inner_dim * (1 if self.activation == "relu" else 2)
        return KeptNumbers(
            residual=2 * (width + 2),
            products=6 * width + inner,
            dropped=2 * width if default(self.residual_dropout, self.dropout) else 0,
            outside=self.final_norms * (width + 2),
            dropped_embeddings=width if default(self.embedding_dropout, self.dropout) else 0,
            attention_dropout=default(self.attention_dropout, self.dropout) > 0,
        )


@dataclass(frozen=True, kw_only=True)
class GPTConfig(GPTFamilyConfig):
    """The configuration of `GPT`.

    Reference: Radford et al., "Improving Language Understanding by Generative
    Pre-Training", section 4.1.
    """

    model_type: ClassVar[str] = "gpt"

    @classmethod
    def gpt1(cls, **changes: Any) -> GPTConfig:
        """The published GPT, 117M parameters."""
        published = {
            "vocab_size": 40478,
            "embed_dim": 768,
            "num_heads": 12,
            "num_layers": 12,
            "max_position_embeddings": 512,
        }
        return cls(**{**published, **changes})


@dataclass(frozen=True, kw_only=True)
class GPT2Config(GPTFamilyConfig):
    """The configuration of `GPT2`.

    Reference: Radford et al., "Language Models are Unsupervised Multitask
    Learners", table 2; the parameter counts are those of the published weights.
    """

    model_type: ClassVar[str] = "gpt2"
    final_norms: ClassVar[int] = 1

    @classmethod
    def gpt2_small(cls, **changes: Any) -> GPT2Config:
        """The published GPT-2 of 124M parameters."""
        return cls._published(changes, embed_dim=768, num_heads=12, num_layers=12)

    @classmethod
    def gpt2_medium(cls, **changes: Any) -> GPT2Config:
        """The published GPT-2 of 355M parameters."""
        return cls._published(changes, embed_dim=1024, num_heads=16, num_layers=24)

    @classmethod
    def gpt2_large(cls, **changes: Any) -> GPT2Config:
        """The published GPT-2 of 774M parameters."""
        return cls._published(changes, embed_dim=1280, num_heads=20, num_layers=36)

    @classmethod
    def gpt2_xl(cls, **changes: Any) -> GPT2Config:
        """The published GPT-2 of 1.5B parameters."""
        return cls._published(changes, embed_dim=1600, num_heads=25, num_layers=48)

    @classmethod
    def _published(cls, changes: dict[str, Any], **size: int) -> GPT2Config:
        shared = {
            "vocab_size": 50257,
            "max_position_embeddings": 1024,
            "bos_token_id": 50256,
            "eos_token_id": 50256,
        }
        return cls(**{**shared, **size, **changes})
