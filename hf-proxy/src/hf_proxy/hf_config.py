"""The configuration of a wrapped model, as transformers keeps it."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from llm.core.config import ModelConfig
from llm.models import ARCHITECTURES, Architecture

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@strict
class HFAdapterConfig(PreTrainedConfig):
    """Every field of an `llm` configuration, under transformers' names where it has one.

    Fields that only some architectures have (`activation`, `dropout`, ...) are
    plain attributes. Both `hidden_size` and `embed_dim` can be read and given,
    and so on for the names of `attribute_map`.

    Args:
        llm_model_type: a key of `llm.models.ARCHITECTURES`.
        use_cache: `forward` makes a cache where it is not told.
        auto_map: classes of the code that the folder carries, as transformers writes it.
    """

    model_type: ClassVar[str] = "llm"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    # ours: theirs
    attribute_map: ClassVar[dict[str, str]] = {
        "embed_dim": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "tie_embeddings": "tie_word_embeddings",
    }

    llm_model_type: str = "gpt2"
    vocab_size: int = 50257
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 1024
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    # declared, for TRL reads it from any class that is not transformers' own
    auto_map: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_llm_config(cls, config: ModelConfig, **changes: Any) -> HFAdapterConfig:
        """The configuration of a model of ours; `changes` are fields of this class.

        Raises:
            ValueError: its architecture is not in `llm.models.ARCHITECTURES`.
        """
        find_architecture(config.model_type)
        fields = {cls.attribute_map.get(name, name): v for name, v in config.to_dict().items()}
        return cls(**{"llm_model_type": config.model_type, **fields, **changes})

    def to_llm_config(self, **changes: Any) -> ModelConfig:
        """The configuration of ours that this one describes; `changes` are fields of it.

        Raises:
            ValueError: the architecture is unknown, or a field is not one that it can have.
        """
        config_class = self.architecture.config
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(config_class)
            if hasattr(self, field.name)
        }
        return config_class.from_dict({**fields, **changes})

    @property
    def architecture(self) -> Architecture:
        """The entry of `llm.models.ARCHITECTURES`."""
        return find_architecture(self.llm_model_type)


def find_architecture(model_type: str) -> Architecture:
    """The entry of `llm.models.ARCHITECTURES`.

    Raises:
        ValueError: there is none.
    """
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"no architecture is called {model_type!r}: llm.models.ARCHITECTURES has "
            f"{', '.join(ARCHITECTURES)}; put your own in there before you wrap or load it"
        )
    return ARCHITECTURES[model_type]
