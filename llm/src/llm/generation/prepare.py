"""A model made ready to generate fast, beside the model itself."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from llm.core.base_model import BaseModel
from llm.core.config import check_choice
from llm.core.fast_linear import FastLinear
from llm.generation.packed_linear import (
    BFloat16Linear,
    Float16Linear,
    Float32Linear,
    Int8Linear,
    PackedLinear,
)

Model = TypeVar("Model", bound=BaseModel)

FLOATING: dict[torch.dtype, type[PackedLinear]] = {
    torch.float32: Float32Linear,
    torch.bfloat16: BFloat16Linear,
    torch.float16: Float16Linear,
}
QUANTIZED: dict[str, type[PackedLinear]] = {"int8": Int8Linear}


def prepare(
    model: Model, *, dtype: torch.dtype = torch.float32, quantize: str | None = None
) -> Model:
    """A model that gives the same logits, faster, for generation on the CPU.

        fast = prepare(model, quantize="int8")
        fast.generate(input_ids, max_new_tokens=100)

    The weights of the linear layers, the output projection included, are copied
    into the form that the processor reads fastest; embeddings, norms and biases
    are shared with `model`, and attention and its cache stay in float32. `model`
    is not touched. It pays from widths of about 256; narrower layers fit the
    processor's caches as they are, and may be slower packed. When the linear
    weights of `model` have changed, the next text raises rather than be
    continued with the old ones.

    Args:
        model: a float32 model on the CPU.
        dtype: of the packed weights: float32, bfloat16 or float16.
        quantize: "int8" for 8-bit weights and activations, a quarter of the
            bytes; None for those of `dtype`.

    Returns:
        A model of the same class, in eval mode, that cannot be trained or saved.

    Raises:
        ValueError: an argument is not one of these, the model is elsewhere or of
            another dtype, or this processor has no kernel for it.
    """
    if quantize is not None:
        check_choice("quantize", quantize, QUANTIZED)
        if dtype != torch.float32:
            raise ValueError(f"quantize={quantize!r} chooses the weights: leave out dtype={dtype}")
    elif dtype not in FLOATING:
        raise ValueError(f"dtype={dtype} is not one of {', '.join(map(str, FLOATING))}")
    for name, parameter in model.named_parameters():
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            raise ValueError(
                f"{name} is {parameter.dtype} on {parameter.device}: a model is prepared from "
                "float32 on the CPU; elsewhere generate with the model itself"
            )
    if any(isinstance(part, PackedLinear) for part in model.modules()):
        raise ValueError("the model is a prepared one: prepare the one that it was made of")
    packed = FLOATING[dtype] if quantize is None else QUANTIZED[quantize]
    # a copy of the modules, not of what they hold
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    prepared = copy.deepcopy(model, shared).eval()
    plain = (nn.Linear, FastLinear)
    linears = [name for name, part in prepared.named_modules() if type(part) in plain]
    for name in linears:
        # made of the user's own layer, whose weight it watches
        prepared.set_submodule(name, packed(model.get_submodule(name)))  # type: ignore[arg-type]
    for part in prepared.modules():
        if type(part) is nn.Dropout:
            part.__class__ = _NoDropout
    prepared.decoder.register_forward_pre_hook(partial(_check_current, prepared), with_kwargs=True)
    return prepared


class _NoDropout(nn.Dropout):
    """Dropout in eval mode, without the five calls that this takes there for every token."""

    def forward(self, input: Tensor) -> Tensor:
        """The input."""
        return input


def _check_current(model: BaseModel, _: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
    """At the beginning of a text, see that the packed weights are those of now."""
    cache = kwargs.get("cache")
    if cache is None or cache.get_seq_length() == 0:
        for part in model.modules():
            if isinstance(part, PackedLinear):
                part.check_current()
