"""What several processes share of a model: its examples alone, or its weights as well.

"ddp" keeps the model whole on every rank and averages the gradients. "fsdp" gives each rank a
share of every weight, gradient and optimizer state; a block's weights are together only while
it runs.

References: Li et al., "PyTorch Distributed", arXiv:2006.15704; Zhao et al., "PyTorch FSDP",
arXiv:2304.11277.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from llm.core.base_model import BaseModel


def shard(model: BaseModel) -> None:
    """Leave this rank its share of each parameter, in place."""
    # a second's import, which those who shard nothing are spared here and below
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in model.decoder.blocks:
        fully_shard(block)
    fully_shard(model)
    # the training loop calls this, and not forward
    register_fsdp_forward_method(model, "hidden_states")


def is_sharded(model: nn.Module) -> bool:
    """Whether other ranks have shares of the model."""
    return hasattr(model, "unshard")


def reshard(model: nn.Module) -> None:
    """Give up what a forward without a backward has left together."""
    if is_sharded(model):
        cast(Any, model).reshard()


def replicate(module: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The module, whose gradients a backward averages over the ranks."""
    return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


def gradients_stay_here(module: nn.Module) -> AbstractContextManager[None]:
    """Where a backward adds to this rank's gradients, and exchanges none."""
    if isinstance(module, DistributedDataParallel):
        context: AbstractContextManager[None] = module.no_sync()
        return context
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """The whole of what may be a share; all ranks have to ask."""
    return cast(Tensor, cast(Any, tensor).full_tensor()) if _is_share(tensor) else tensor


def share_like(tensor: Tensor, model_tensor: Tensor) -> Tensor:
    """Of a whole tensor the share that this rank has of `model_tensor`."""
    if not _is_share(model_tensor) or _is_share(tensor):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(model_tensor, DTensor)
    # every rank has the whole: nothing need be sent
    return distribute_tensor(
        tensor.to(model_tensor.device),
        model_tensor.device_mesh,
        model_tensor.placements,
        src_data_rank=None,
    )


def whole_weights(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """The state dict of the model, whole; of a sharded one on the CPU, and all ranks have to ask.

    Args:
        model: which this rank may have a share of.
        keep: give an empty dictionary otherwise.
    """
    if not is_sharded(model):
        return model.state_dict() if keep else {}
    weights = {}
    for name, tensor in model.state_dict().items():
        # one at a time, so that ranks which keep nothing need little memory
        together = whole(tensor)
        if keep:
            weights[name] = together.cpu()
    return weights


@torch.no_grad()
def set_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights, by parameter name, into the parameters; shares of them where it is sharded."""
    for name, parameter in model.named_parameters():
        parameter.copy_(share_like(weights[name], parameter))


def _is_share(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")
