"""GPT-2: the pre-norm decoder of 2019."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from llm.core.base_model import BaseModel
from llm.core.decoder import DecoderBlock, PreNormBlock
from llm.models.gpt.config import GPT2Config
from llm.models.gpt.hf_format import GPT2_FORMAT
from llm.models.gpt.parts import gpt_decoder, init_normal


class GPT2(BaseModel):
    """Pre-norm blocks and a final norm; residual projections start smaller.

    Args:
        config: a `GPT2Config` or a mapping of its fields.

    Reference: Radford et al., "Language Models are Unsupervised Multitask
    Learners", 2019, section 2.3.
    """

    config: GPT2Config
    config_class = GPT2Config
    hf_format = GPT2_FORMAT

    def __init__(self, config: GPT2Config | Mapping[str, Any]) -> None:
        config = GPT2Config.of(config)
        final_norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        super().__init__(config, gpt_decoder(config, PreNormBlock, final_norm))

    @staticmethod
    def init_weights(part: nn.Module, config: GPT2Config) -> None:
        """As GPT, but for the projections that end in the residual stream."""
        init_normal(part, config)
        if isinstance(part, DecoderBlock):
            # 2 · num_layers projections add to the stream: each starts 1/√ of that
            std = config.initializer_range / math.sqrt(2 * config.num_layers)
            for name in ("attention.out_proj.weight", "feed_forward.down_proj.weight"):
                nn.init.normal_(part.get_parameter(name), std=std)
