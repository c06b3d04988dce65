"""Reading and writing a model folder as transformers lays it out.

`config.json`, `generation_config.json` and `model.safetensors` (or the shards
that `model.safetensors.index.json` lists). What is in them is an
architecture's `HFFormat`; how they lie on disk is the same for all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm.core.config import ModelConfig
from llm.core.files import check_regular, read_json, replace_file, write_json

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class HFFormat(Protocol):
    """Configuration and weights of an architecture, to transformers' names and back."""

    @property
    def model_type(self) -> str:
        """Transformers' name of the architecture."""
        ...

    def config_to_hf(self, config: Any) -> dict[str, Any]:
        """The contents of `config.json`."""
        ...

    def config_from_hf(self, hf_config: Mapping[str, Any]) -> ModelConfig:
        """The configuration that a `config.json` describes."""
        ...

    def weights_to_hf(self, config: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict under transformers' names, tied tensors once."""
        ...

    def weights_from_hf(self, config: Any, hf_weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict under our names, from transformers'."""
        ...


def write_model_folder(
    folder: Path, hf_format: HFFormat, config: ModelConfig, weights: Mapping[str, Tensor]
) -> None:
    """Write a model into `folder`, which is made if it is not there."""
    hf_config = hf_format.config_to_hf(config)
    # a copy of what is not contiguous, which safetensors does not write
    hf_weights = {
        name: weight.detach().contiguous()
        for name, weight in hf_format.weights_to_hf(config, weights).items()
    }
    dtypes = {weight.dtype for weight in hf_weights.values()}
    if len(dtypes) == 1:
        hf_config["dtype"] = str(dtypes.pop()).removeprefix("torch.")
    token_ids = {
        name: hf_config[name]
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        if hf_config.get(name) is not None
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG_FILE, hf_config)
    write_json(folder / GENERATION_FILE, token_ids)
    replace_file(
        folder / WEIGHTS_FILE,
        # transformers asks for this entry before it believes a file
        lambda temporary: save_file(hf_weights, temporary, metadata={"format": "pt"}),
    )


def read_hf_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a model folder.

    Raises:
        FileNotFoundError: there is no such folder, or no such file in it.
        ValueError: it is damaged, or says no `model_type`.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    hf_config = read_json(folder / CONFIG_FILE)
    if not isinstance(hf_config.get("model_type"), str):
        raise ValueError(f"{folder / CONFIG_FILE} has no 'model_type'")
    return hf_config


def read_model_folder(folder: Path, hf_format: HFFormat) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The configuration and state dict of a model folder.

    Raises:
        FileNotFoundError: the folder or one of its files is not there.
        ValueError: a file is damaged, is of another architecture, or lacks or
            adds a weight.
    """
    hf_config = read_hf_config(folder)
    try:
        config = hf_format.config_from_hf(hf_config)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_FILE}: {error}") from None
    hf_weights = _read_weights(folder)
    try:
        return config, hf_format.weights_from_hf(config, hf_weights)
    except ValueError as error:
        raise ValueError(f"{folder / WEIGHTS_FILE}: {error}") from None


def _read_weights(folder: Path) -> dict[str, Tensor]:
    # a link that leads nowhere is damage, not a model in several files
    if os.path.lexists(folder / WEIGHTS_FILE):
        return _load_safetensors(folder / WEIGHTS_FILE)
    if not (folder / INDEX_FILE).exists():
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        hint = f"; {pickled[0]} is not read, as it can run code" if pickled else ""
        raise FileNotFoundError(f"{folder} has no {WEIGHTS_FILE}{hint}")
    weight_map = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        # a shard is a file of this folder, whatever the index says
        isinstance(shard, str) and Path(shard).name == shard
        for shard in weight_map.values()
    ):
        raise ValueError(f"{folder / INDEX_FILE} has no 'weight_map' of file names")
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        weights.update(_load_safetensors(folder / shard))
    lost = sorted(set(weight_map) - set(weights))
    if lost:
        raise ValueError(f"{folder / weight_map[lost[0]]} lacks {lost[0]!r}, which the index lists")
    return weights


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    check_regular(path)
    try:
        return load_file(path)
    except (OSError, MemoryError) as error:
        raise OSError(f"{path} cannot be read: {error}") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
