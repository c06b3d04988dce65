"""What each head attends to."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from llm.core.attention_mask import causal_mask
from llm.core.base_model import BaseModel
from llm.core.eval_mode import eval_mode
from llm.inspection.tokens import check_model, choose, read_text
from llm.tokenizers import BaseTokenizer


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionMaps:
    """Attention weights of a text.

    Args:
        tokens: texts of the T tokens.
        layers: which layers these are, counted from 0.
        weights: float32 (len(layers), H, T, T): of a layer and head, the row of a
            token says how much it takes from each, and sums to 1.
    """

    tokens: tuple[str, ...]
    layers: tuple[int, ...]
    weights: npt.NDArray[np.float32]

    def layer(self, layer: int) -> npt.NDArray[np.float32]:
        """The maps (H, T, T) of a layer of the model.

        Raises:
            ValueError: the layer is not among `layers`.
        """
        if layer not in self.layers:
            raise ValueError(f"layer={layer!r} is not among the recorded {list(self.layers)}")
        maps: npt.NDArray[np.float32] = self.weights[self.layers.index(layer)]
        return maps

    def head(self, layer: int, head: int) -> npt.NDArray[np.float32]:
        """The map (T, T) of a head of a layer of the model, both counted from 0.

        Raises:
            ValueError: there is no such layer or head.
        """
        maps = self.layer(layer)
        (chosen,) = choose("head", [head], len(maps))
        one: npt.NDArray[np.float32] = maps[chosen]
        return one


def attention_maps(
    model: BaseModel,
    tokenizer: BaseTokenizer,
    text: str | Sequence[int],
    *,
    layers: Sequence[int] | None = None,
) -> AttentionMaps:
    """What every head of some layers attends to, without dropout.

    Args:
        model: any model of this project; left as it is.
        tokenizer: the one that the model was trained with.
        text: of 1 to `max_position_embeddings` tokens; or their ids.
        layers: counted from 0; None for all. A layer takes 4 · H · T² bytes.

    Raises:
        ValueError: the text does not fit the model, or there is no such layer.
    """
    input_ids, tokens = read_text(model, tokenizer, text)
    chosen = choose("layer", layers, model.config.num_layers)
    with torch.no_grad(), eval_mode(model), recorded_attention(model, chosen) as weights:
        model.hidden_states(input_ids)
    return AttentionMaps(
        tokens=tokens,
        layers=chosen,
        weights=np.stack([weights[layer][0].numpy() for layer in chosen]),
    )


@contextmanager
def recorded_attention(model: BaseModel, layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """Inside, each forward leaves its attention weights in the dictionary.

    The forward computes with the very weights that are recorded. It is the equation, so
    that it is slower than the kernel whose place it takes, and takes memory in T².

    Args:
        model: any model of this project, in eval mode.
        layers: to record, counted from 0.

    Returns:
        By layer, the weights (B, H, T, S) of the last forward, float32 on the CPU.
    """
    check_model(model)
    recorded: dict[int, Tensor] = {}

    def kernel(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None,
        dropout: float,
        layer_idx: int,
    ) -> Tensor:
        if dropout:
            raise ValueError("attention is recorded in eval mode: without dropout")
        if mask is None:
            mask = causal_mask(query.shape[2], key.shape[2], device=query.device)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # (B, H, T, S)
        weights = scores.masked_fill(~mask, -math.inf).softmax(-1, dtype=torch.float32)
        if layer_idx in layers:
            recorded[layer_idx] = weights.detach().cpu()
        return weights.to(value.dtype) @ value  # (B, H, T, D)

    def hand_in(decoder: nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, Any]:
        return args, {**options, "kernel": kernel}

    with model.decoder.register_forward_pre_hook(hand_in, with_kwargs=True):
        yield recorded
