"""How large the weights and the gradients of each layer are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm.core.base_model import BaseModel
from llm.core.eval_mode import eval_mode
from llm.inspection.tokens import check_model
from llm.training.dataset import Batch
from llm.training.loss import count_targets, next_token_loss
from llm.training.packing import attention_inputs


@dataclass(frozen=True, eq=False, kw_only=True)
class ParameterNorms:
    """Euclidean norms of a model's parameters, or of their gradients.

    Args:
        names: of the P parameters, as in the model's `named_parameters()`; a shared one
            comes once.
        layers: of each, the part of the model that it is in: "block 0", or the name of
            another part, such as "token_embeddings".
        norms: float64 (P,), ≥ 0.
    """

    names: tuple[str, ...]
    layers: tuple[str, ...]
    norms: npt.NDArray[np.float64]

    def by_layer(self) -> dict[str, float]:
        """The norm over all parameters of each layer, from the embeddings up."""
        squares = dict.fromkeys(self.layers, 0.0)
        for layer, norm in zip(self.layers, self.norms.tolist(), strict=True):
            squares[layer] += norm**2
        return {layer: math.sqrt(square) for layer, square in squares.items()}


def weight_norms(model: BaseModel) -> ParameterNorms:
    """Norms of every parameter of a model."""
    check_model(model)
    return _norms({name: parameter.detach() for name, parameter in model.named_parameters()})


def gradient_norms(model: BaseModel, batch: Batch) -> ParameterNorms:
    """Norms of the gradient of a batch's mean loss, by every parameter that is trained.

    Without dropout. The gradients that the model holds are neither read nor changed.

    Args:
        model: any model of this project; left as it is.
        batch: in the format of the trainer: `input_ids` and `labels`, int64 (B, T).

    Raises:
        ValueError: the batch has no targets or does not fit the model, or nothing is
            trainable.
    """
    check_model(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError("the model has no trainable parameters")
    num_targets = count_targets(batch["labels"])
    if num_targets == 0:
        raise ValueError("the batch has nothing to predict")
    device = model.decoder.token_embeddings.weight.device
    with torch.enable_grad(), eval_mode(model):
        loss = next_token_loss(
            model.hidden_states(batch["input_ids"].to(device), **attention_inputs(batch, device)),
            model.lm_head.weight,
            batch["labels"].to(device),
            num_targets=num_targets,
        )
        gradients = torch.autograd.grad(
            loss, list(trained.values()), allow_unused=True, materialize_grads=True
        )
    return _norms(dict(zip(trained, gradients, strict=True)))


def _norms(tensors: Mapping[str, Tensor]) -> ParameterNorms:
    norms = [torch.linalg.vector_norm(tensor.float()).item() for tensor in tensors.values()]
    return ParameterNorms(
        names=tuple(tensors),
        layers=tuple(_layer(name) for name in tensors),
        norms=np.array(norms, dtype=np.float64),
    )


def _layer(name: str) -> str:
    parts = name.removeprefix("decoder.").split(".")
    return f"block {parts[1]}" if parts[0] == "blocks" else parts[0]
