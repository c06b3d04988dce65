"""The architectures, in one explicit table."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from llm.core.base_model import BaseModel
from llm.core.config import ModelConfig
from llm.core.model_folder import HFFormat, read_hf_config
from llm.models.gpt import GPT, GPT2


class Architecture(NamedTuple):
    """A model class with its configuration and its format on disk."""

    config: type[ModelConfig]
    model: type[BaseModel]
    format: HFFormat


ARCHITECTURES: dict[str, Architecture] = {
    model.config_class.model_type: Architecture(model.config_class, model, model.hf_format)
    for model in (GPT, GPT2)
}


def load_pretrained(folder: str | Path) -> BaseModel:
    """Read a model folder of any architecture; its `config.json` says which.

    Raises:
        FileNotFoundError: the folder or one of its files is not there.
        ValueError: the architecture is none of ours, or as `from_pretrained`.
    """
    model_type = read_hf_config(Path(folder))["model_type"]
    for architecture in ARCHITECTURES.values():
        if architecture.format.model_type == model_type:
            return architecture.model.from_pretrained(folder)
    known = ", ".join(architecture.format.model_type for architecture in ARCHITECTURES.values())
    raise ValueError(f"{folder} holds a model of type {model_type!r}; known are {known}")
