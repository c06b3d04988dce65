"""The language model: a decoder and an output projection, the same for every architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from llm.core.attention_mask import (
    build_attention_mask,
    check_attention_mask,
    position_ids_from_mask,
)
from llm.core.config import ModelConfig
from llm.core.decoder import Decoder
from llm.core.kv_cache import Cache, KVCache
from llm.core.model_folder import HFFormat, read_model_folder, write_model_folder

Model = TypeVar("Model", bound="BaseModel")


def check_range(what: str, ids: Tensor, limit: int) -> None:
    """Raise unless every id is in [0, limit).

    It reads the ids back, so it leaves those on a GPU alone, where that would
    wait for the device, and those under `torch.compile`.

    Raises:
        ValueError: an id is negative or not below `limit`.
    """
    if torch.compiler.is_compiling() or ids.device.type != "cpu" or ids.numel() == 0:
        return
    low, high = (int(bound) for bound in ids.aminmax())
    if low < 0 or high >= limit:
        raise ValueError(f"{what} {low if low < 0 else high} is outside 0 to {limit - 1}")


def check_tensor(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor, not a {type(value).__name__}")


class _NoFirstValues(TorchFunctionMode):
    """Draws no random weights, for those that are about to be replaced.

    On the meta device the first draw loads PyTorch's compiler: over a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


class BaseModel(nn.Module):
    """logits = lm_head(decoder(input_ids)).

    An architecture is a subclass whose constructor hands its decoder to this
    one, and whose `init_weights` says how each part begins.

    Args:
        config: the architecture's configuration.
        decoder: embeddings, blocks and final norm.
    """

    config: ModelConfig
    config_class: ClassVar[type[ModelConfig]]
    hf_format: ClassVar[HFFormat]

    def __init__(self, config: ModelConfig, decoder: Decoder) -> None:
        super().__init__()
        self.config = config
        self.decoder = decoder
        self.lm_head = nn.Linear(config.embed_dim, config.vocab_size, bias=False)
        self.tie_weights()
        self.apply(lambda part: self.init_weights(part, config))

    @staticmethod
    def init_weights(part: nn.Module, config: Any) -> None:
        """Initialise a part of the model, after the parts that it is made of."""
        raise NotImplementedError

    def tie_weights(self) -> None:
        """Let the output projection share the token embeddings, if the config says so."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.decoder.token_embeddings.weight

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """What the output projection reads.

        Args:
            input_ids: int64 (B, T).
            attention_mask: a padding mask (B, S), 1 = real token, over the
                cached tokens and these; or a ready boolean mask (B, 1, T, S),
                True = may attend. None where nothing is padded.
            position_ids: int64 (B, T); by default counted from the cache's
                length, over the real tokens of a padding mask.
            cache: of the tokens before these, which are added to it.

        Returns:
            (B, T, C).

        Raises:
            ValueError: shapes, dtypes, ids or the length are not as above. On
                a GPU the ids are not read back: check them where they come from.
        """
        check_tensor("input_ids", input_ids)
        for name, given in {"attention_mask": attention_mask, "position_ids": position_ids}.items():
            if given is not None:
                check_tensor(name, given)
        past_length = 0 if cache is None else cache.get_seq_length()
        self._check(input_ids, attention_mask, position_ids, cache, past_length)
        query_length = input_ids.shape[1]
        if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            position_ids = position_ids_from_mask(attention_mask, query_length=query_length)
        elif position_ids is None:
            positions = torch.arange(query_length, device=input_ids.device) + past_length
            position_ids = positions[None]  # (1, T)
        mask = build_attention_mask(
            attention_mask,
            query_length=query_length,
            past_length=past_length,
            device=input_ids.device,
        )
        embeddings = self.decoder.token_embeddings(input_ids)  # (B, T, C)
        return cast(
            Tensor, self.decoder(embeddings, position_ids=position_ids, mask=mask, cache=cache)
        )

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits (B, T, V); the arguments are those of `hidden_states`."""
        hidden_states = self.hidden_states(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, cache=cache
        )
        return cast(Tensor, self.lm_head(hidden_states))

    def make_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache for `batch_size` rows of up to `max_length` tokens."""
        weight = self.decoder.token_embeddings.weight
        return KVCache(
            num_layers=self.config.num_layers,
            batch_size=batch_size,
            num_kv_heads=self.config.num_heads,
            max_length=max_length,
            head_dim=self.config.embed_dim // self.config.num_heads,
            dtype=weight.dtype,
            device=weight.device,
        )

    def num_parameters(self, *, trainable_only: bool = False) -> int:
        """Parameters of the model, a shared one counted once."""
        parameters = self.parameters()
        return sum(p.numel() for p in parameters if p.requires_grad or not trainable_only)

    def generate(self, input_ids: Tensor, **options: Any) -> Tensor:
        """Continue `input_ids`: `llm.generation.generate(self, input_ids, **options)`."""
        # imported here, for the loop stands above the models
        from llm.generation import generate

        return generate(self, input_ids, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, `generation_config.json` and `model.safetensors`.

        They are laid out as by transformers' own class of this architecture,
        which opens the folder without this project.

        Raises:
            ValueError: that class cannot express this model; names the field.
        """
        write_model_folder(Path(folder), self.hf_format, self.config, self.state_dict())

    @classmethod
    def from_pretrained(cls: type[Model], folder: str | Path) -> Model:
        """Read a folder that `save_pretrained`, or transformers, wrote.

        The weights keep the dtype that they have on disk; the model comes back
        on the CPU, in eval mode.

        Raises:
            FileNotFoundError: the folder or one of its files is not there.
            ValueError: a file is damaged or of another architecture, a key is
                missing or unused, or this project cannot express the model.
        """
        config, weights = read_model_folder(Path(folder), cls.hf_format)
        try:
            with torch.device("meta"), _NoFirstValues():
                model = cls(config)  # type: ignore[call-arg]
        except RuntimeError as error:
            raise ValueError(
                f"{folder}: no tensor has the configuration's sizes: {error}"
            ) from None
        for name, parameter in model.state_dict().items():
            if weights[name].shape != parameter.shape:
                raise ValueError(
                    f"{folder}: {name} has shape {tuple(weights[name].shape)}, and the "
                    f"configuration asks for {tuple(parameter.shape)}"
                )
            if not weights[name].is_floating_point():
                raise ValueError(
                    f"{folder}: {name} is of {weights[name].dtype}, not floating point"
                )
        model.load_state_dict(weights, assign=True)
        # assigning gave each its own tensor
        model.tie_weights()
        return model.eval()

    def _check(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
        past_length: int,
    ) -> None:
        if input_ids.dim() != 2 or input_ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                "input_ids must be int64 of shape (batch, tokens), not "
                f"{input_ids.dtype} of shape {tuple(input_ids.shape)}"
            )
        batch_size, query_length = input_ids.shape
        key_length = past_length + query_length
        longest = self.config.max_position_embeddings
        if query_length == 0:
            raise ValueError(f"input_ids holds no tokens: its shape is {tuple(input_ids.shape)}")
        if key_length > longest:
            cached = f", {past_length} of them in the cache," if past_length else ""
            raise ValueError(
                f"{key_length} tokens{cached} are more than max_position_embeddings={longest}"
            )
        if attention_mask is not None:
            check_attention_mask(
                attention_mask,
                batch_size=batch_size,
                query_length=query_length,
                key_length=key_length,
                may_be_longer=cache is not None and not isinstance(cache, KVCache),
            )
        if position_ids is not None:
            fits = tuple(position_ids.shape) in ((batch_size, query_length), (1, query_length))
            if not fits or position_ids.dtype not in (torch.int64, torch.int32):
                raise ValueError(
                    f"position_ids of {position_ids.dtype} and shape {tuple(position_ids.shape)} "
                    f"must be int64 of the shape of input_ids, {tuple(input_ids.shape)}"
                )
            check_range("position", position_ids, longest)
        check_range("token id", input_ids, self.config.vocab_size)
