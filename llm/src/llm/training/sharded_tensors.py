"""Tensors that ranks have shares of, on disk: each rank writes its own, any number reads them.

Through `torch.distributed.checkpoint`, in its safetensors form: nothing is pickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save


def save_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write this rank's shares, and of what all ranks have, a part; all ranks call it.

    Args:
        folder: of nothing else, which all ranks see.
        tensors: those that are whole have to be equal on all ranks.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    save(dict(tensors), storage_writer=writer)


def load_shards(folder: Path, like: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Read this rank's shares of what any number of ranks wrote; all ranks call it.

    Args:
        folder: what `save_shards` wrote.
        like: a tensor of which this rank has the share that it is to have of the
            named one. One of another shape is read whole.
    """
    written = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors: dict[str, Tensor] = {}
    for name, about in written.items():
        if not isinstance(about, TensorStorageMetadata):
            raise ValueError(f"{name} is no tensor")
        dtype, model = about.properties.dtype, like(name)
        tensors[name] = (
            torch.zeros_like(model, dtype=dtype)
            if about.size == model.shape
            else torch.zeros(about.size, dtype=dtype)
        )
    with warnings.catch_warnings():
        # a process alone needs no group
        warnings.filterwarnings("ignore", message="torch.distributed is")
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)))
    return tensors
