"""GPT-2: the pre-norm decoder of 2019."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from llm.core.base_model import BaseModel
from llm.core.decoder import PreNormBlock
from llm.models.gpt.config import GPT2Config
from llm.models.gpt.hf_format import GPT2_FORMAT
from llm.models.gpt.parts import gpt_parts, init_normal


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
        super().__init__(config, **gpt_parts(config, PreNormBlock), final_norm=final_norm)
        init_normal(self, config.initializer_range)
        # 2 · num_layers projections add to the stream: each starts 1/√ of that
        residual_std = config.initializer_range / math.sqrt(2 * config.num_layers)
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.out_proj.weight", "feed_forward.down_proj.weight")):
                nn.init.normal_(parameter, std=residual_std)
