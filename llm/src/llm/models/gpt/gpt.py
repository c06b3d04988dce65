"""GPT: the post-norm decoder of 2018."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from llm.core.base_model import BaseModel
from llm.core.decoder import PostNormBlock
from llm.models.gpt.config import GPTConfig
from llm.models.gpt.hf_format import GPT_FORMAT
from llm.models.gpt.parts import gpt_decoder, init_normal


class GPT(BaseModel):
    """Post-norm blocks, learned positions, no final norm, tied output projection.

    Args:
        config: a `GPTConfig` or a mapping of its fields.

    Reference: Radford et al., "Improving Language Understanding by Generative
    Pre-Training", 2018.
    """

    config: GPTConfig
    config_class = GPTConfig
    hf_format = GPT_FORMAT

    def __init__(self, config: GPTConfig | Mapping[str, Any]) -> None:
        config = GPTConfig.of(config)
        super().__init__(config, gpt_decoder(config, PostNormBlock, final_norm=nn.Identity()))

    init_weights = staticmethod(init_normal)
