"""GPT and GPT-2 in transformers' names: `openai-gpt` and `gpt2`.

Tables and tensor functions; transformers itself is not imported. Matrices of
the blocks are stored (in, out) there, transposed to ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm.core.config import default
from llm.models.gpt.config import GPT2Config, GPTConfig, GPTFamilyConfig

# ours: theirs, for what both classes call alike
SHARED_FIELDS = {
    "vocab_size": "vocab_size",
    "embed_dim": "n_embd",
    "num_heads": "n_head",
    "num_layers": "n_layer",
    "max_position_embeddings": "n_positions",
    "embedding_dropout": "embd_pdrop",
    "attention_dropout": "attn_pdrop",
    "residual_dropout": "resid_pdrop",
    "norm_eps": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
    "tie_embeddings": "tie_word_embeddings",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
}
BLOCK_MATRICES = {
    "attention.qkv_proj": "attn.c_attn",
    "attention.out_proj": "attn.c_proj",
    "feed_forward.up_proj": "mlp.c_fc",
    "feed_forward.down_proj": "mlp.c_proj",
}
BLOCK_NORMS = {"attention_norm": "ln_1", "feed_forward_norm": "ln_2"}
# causal masks and positions that older versions of transformers saved as weights
LEGACY_BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)|position_ids")


@dataclass(frozen=True, kw_only=True)
class GPTFormat:
    """One of transformers' two classes, as data.

    Args:
        model_type: transformers' name of the architecture.
        architecture: transformers' class with the output projection.
        config_class: ours.
        activation_field: what transformers calls the activation.
        activations: our name of each activation that the class has: its names
            there, the first of which is written.
        defaults: what a field that `config.json` does not mention means.
        fixed: fields that change the computation, and the one value that ours
            computes.
        token_embeddings: name of the token embeddings there.
        position_embeddings: name of the positional embeddings there.
        final_norm: name of the final norm there, or None.
        has_intermediate_dim: `n_inner` sets the feed-forward width, which is
            4 · n_embd where it is not.
    """

    model_type: str
    architecture: str
    config_class: type[GPTFamilyConfig]
    activation_field: str
    activations: Mapping[str, tuple[str, ...]]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    token_embeddings: str
    position_embeddings: str
    final_norm: str | None
    has_intermediate_dim: bool

    def config_to_hf(self, config: GPTFamilyConfig) -> dict[str, Any]:
        """The contents of `config.json`.

        Raises:
            ValueError: the class there cannot express a field, which is named.
        """
        hf_config = {theirs: getattr(config, ours) for ours, theirs in SHARED_FIELDS.items()}
        for theirs in ("embd_pdrop", "attn_pdrop", "resid_pdrop"):
            hf_config[theirs] = default(hf_config[theirs], config.dropout)
        if config.activation not in self.activations:
            raise ValueError(
                f"activation={config.activation!r} cannot be expressed by {self.architecture}, "
                f"which has {', '.join(self.activations)}"
            )
        hf_config[self.activation_field] = self.activations[config.activation][0]
        if self.has_intermediate_dim:
            hf_config["n_inner"] = config.intermediate_dim
        elif config.intermediate_dim not in (None, 4 * config.embed_dim):
            raise ValueError(
                f"intermediate_dim={config.intermediate_dim} cannot be expressed by "
                f"{self.architecture}, whose feed-forward width is 4 · embed_dim = "
                f"{4 * config.embed_dim}"
            )
        return {
            "model_type": self.model_type,
            "architectures": [self.architecture],
            **hf_config,
            **self.fixed,
        }

    def config_from_hf(self, hf_config: Mapping[str, Any]) -> GPTFamilyConfig:
        """Our configuration, from the contents of a `config.json`.

        Raises:
            ValueError: it is of another model_type, or ours cannot express a
                field, which is named.
        """
        if hf_config.get("model_type") != self.model_type:
            raise ValueError(
                f"model_type={hf_config.get('model_type')!r} is not {self.model_type!r}, which "
                f"{self.config_class.__name__} reads; load_pretrained of llm.models takes any"
            )
        hf_config = {**self.defaults, **hf_config}
        for name, value in self.fixed.items():
            if hf_config.get(name, value) != value:
                raise ValueError(f"{name}={hf_config[name]!r} is not supported, only {value!r}")
        fields = {ours: hf_config[theirs] for ours, theirs in SHARED_FIELDS.items()}
        activation = hf_config[self.activation_field]
        ours = [name for name, theirs in self.activations.items() if activation in theirs]
        if not ours:
            raise ValueError(f"{self.activation_field}={activation!r} is not supported")
        if isinstance(fields["eos_token_id"], list) and len(fields["eos_token_id"]) == 1:
            fields["eos_token_id"] = fields["eos_token_id"][0]
        fields["activation"] = ours[0]
        if self.has_intermediate_dim:
            fields["intermediate_dim"] = hf_config.get("n_inner")
        fields["dropout"] = fields["residual_dropout"]
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            if fields[name] == fields["dropout"]:
                del fields[name]
        return self.config_class.from_dict(fields)

    def weights_to_hf(
        self, config: GPTFamilyConfig, weights: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """A state dict of ours under the names and layouts there, tied tensors once.

        Raises:
            ValueError: the class there has no place for a weight, or ties what
                is not the same; it is named.
        """
        names = self._names(config)
        others = set(weights) - set(names)
        if config.tie_embeddings:
            others -= {"lm_head.weight"}
            _check_tied(weights["lm_head.weight"], weights["decoder.token_embeddings.weight"])
        if others:
            raise ValueError(
                f"{self.architecture} cannot express the model: {_some(sorted(others))} not of it"
            )
        return {theirs: _oriented(theirs, weights[ours]) for ours, theirs in names.items()}

    def weights_from_hf(
        self, config: GPTFamilyConfig, hf_weights: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """A state dict for our model, from one of transformers'.

        Names may lack the prefix `transformer.`, as the published GPT-2 does.

        Raises:
            ValueError: a weight is missing or is none of the model's.
        """
        hf_weights = {
            name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": weight
            for name, weight in hf_weights.items()
        }
        # before the names of blocks that a damaged configuration has billions of
        if config.num_layers > len(hf_weights):
            raise ValueError(
                f"num_layers={config.num_layers} is more than its {len(hf_weights)} weights: "
                "blocks are missing"
            )
        names = self._names(config)
        missing = [theirs for theirs in names.values() if theirs not in hf_weights]
        if missing:
            raise ValueError(f"{_some(missing)} missing")
        weights = {
            # memory of its own: a tensor from a file may be that file, which can change
            ours: _oriented(theirs, hf_weights[theirs]).clone(memory_format=torch.contiguous_format)
            for ours, theirs in names.items()
        }
        unused = [
            name
            for name in set(hf_weights) - set(names.values()) - {"lm_head.weight"}
            if not LEGACY_BUFFERS.fullmatch(name.removeprefix("transformer."))
        ]
        if unused:
            raise ValueError(f"{_some(sorted(unused))} not of this model")
        if config.tie_embeddings:
            weights["lm_head.weight"] = weights["decoder.token_embeddings.weight"]
            if "lm_head.weight" in hf_weights:
                _check_tied(hf_weights["lm_head.weight"], weights["lm_head.weight"])
        return weights

    def _names(self, config: GPTFamilyConfig) -> dict[str, str]:
        """Our name of each weight: the name there."""
        modules = {
            "token_embeddings": self.token_embeddings,
            "position_embeddings": self.position_embeddings,
        }
        names = {
            f"decoder.{ours}.weight": f"transformer.{theirs}.weight"
            for ours, theirs in modules.items()
        }
        modules = {} if self.final_norm is None else {"final_norm": self.final_norm}
        for i in range(config.num_layers):
            for ours, theirs in (BLOCK_MATRICES | BLOCK_NORMS).items():
                modules[f"blocks.{i}.{ours}"] = f"h.{i}.{theirs}"
        for ours, theirs in modules.items():
            for kind in ("weight", "bias"):
                names[f"decoder.{ours}.{kind}"] = f"transformer.{theirs}.{kind}"
        if not config.tie_embeddings:
            names["lm_head.weight"] = "lm_head.weight"
        return names


def _check_tied(head: Tensor, embeddings: Tensor) -> None:
    if head.data_ptr() != embeddings.data_ptr() and not torch.equal(head, embeddings):
        raise ValueError(
            "lm_head.weight differs from the token embeddings, and the configuration ties the two"
        )


def _oriented(theirs: str, weight: Tensor) -> Tensor:
    """A weight turned from one layout to the other, which for block matrices is transposed."""
    is_matrix = theirs.endswith(tuple(f"{matrix}.weight" for matrix in BLOCK_MATRICES.values()))
    return weight.t() if is_matrix and weight.dim() == 2 else weight


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{shown} {'is' if len(names) == 1 else 'are'}"


# what transformers takes where a config.json is silent
SHARED_DEFAULTS = {
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}

GPT_FORMAT = GPTFormat(
    model_type="openai-gpt",
    architecture="OpenAIGPTLMHeadModel",
    config_class=GPTConfig,
    activation_field="afn",
    # its "gelu" is the tanh form
    activations={"gelu_tanh": ("gelu",), "relu": ("relu",), "silu": ("silu", "swish")},
    defaults={**SHARED_DEFAULTS, "vocab_size": 40478, "n_positions": 512, "afn": "gelu"},
    fixed={},
    token_embeddings="tokens_embed",
    position_embeddings="positions_embed",
    final_norm=None,
    has_intermediate_dim=False,
)

GPT2_FORMAT = GPTFormat(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    config_class=GPT2Config,
    activation_field="activation_function",
    activations={
        "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh"),
        "gelu": ("gelu",),
        "relu": ("relu",),
        "silu": ("silu", "swish"),
    },
    defaults={
        **SHARED_DEFAULTS,
        "vocab_size": 50257,
        "n_positions": 1024,
        "activation_function": "gelu_new",
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    },
    fixed={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    token_embeddings="wte",
    position_embeddings="wpe",
    final_norm="ln_f",
    has_intermediate_dim=True,
)
