"""An `llm` model as a `transformers` model: a trunk and a head with a language-model loss."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import torch
from huggingface_hub import HfApi
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hf_proxy._model_card import model_card
from hf_proxy.hf_config import TOKEN_IDS, HFAdapterConfig
from llm.core.attention_mask import position_ids_from_mask
from llm.core.base_model import BaseModel, check_range
from llm.core.multi_head_attention import AttentionKernel

Module = TypeVar("Module", bound=nn.Module)

CARD_FILE = "README.md"


class AttentionWeights(nn.Identity):
    """Attention weights (B, H, T, S) pass through it, so that transformers can record them."""


class HFDecoderBlock(GradientCheckpointingLayer):
    """A block of ours that transformers can checkpoint, record, and keep on one device.

    To transformers' attention functions it is the layer that they compute for.

    Args:
        block: of a `Decoder`.
        layer_idx: its place there.
        config: of the model, from which some back-ends read which one they are.
    """

    is_causal = True

    def __init__(self, block: nn.Module, layer_idx: int, config: HFAdapterConfig) -> None:
        super().__init__()
        self.block = block
        self.config = config
        self.layer_idx = layer_idx
        self.attention_weights = AttentionWeights()
        # made around a block that has its mode already
        self.training = self.attention_weights.training = block.training

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        """As the block's."""
        return cast(Tensor, self.block(x, **options))


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """softmax(query keyᵀ · scaling + mask) value, and the weights.

    Args:
        module: whose attention it is.
        query: (B, H, T, D).
        key: (B, H, S, D).
        value: (B, H, S, D).
        attention_mask: to add to the scores, broadcastable to (B, H, T, S).
        scaling: of the scores.
        dropout: probability in [0, 1) of dropping a weight.
        options: of other back-ends.

    Returns:
        (B, T, H, D), as transformers' attention functions do, and (B, H, T, S).
    """
    scores = query @ key.transpose(-1, -2) * scaling  # (B, H, T, S)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout)
    return (weights @ value).transpose(1, 2), weights


class HFAdapterPreTrainedModel(PreTrainedModel):
    """What the trunk and the head have in common."""

    config: HFAdapterConfig
    config_class = HFAdapterConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["HFDecoderBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": HFDecoderBlock,
        "attentions": AttentionWeights,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers guards torch's functions, so that they leave loaded weights alone
        self.config.architecture.model.init_weights(module, _build_config(self.config))

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # of code that is not its own, transformers passes over a module without weights of its
        # own, such as a block, for fear of functions that it does not guard
        super()._initialize_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        """Token embeddings, (B, T) -> (B, T, C)."""
        return cast(HFAdapterModel, self.base_model).decoder.token_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put others in their place."""
        cast(HFAdapterModel, self.base_model).decoder.token_embeddings = cast(Any, value)

    def get_decoder(self) -> nn.Module:
        """The trunk, as of other models: not the decoder of ours, which takes no token ids."""
        return self.base_model

    def resize_token_embeddings(self, *args: Any, **options: Any) -> nn.Embedding:
        """As of other models; a model of ours that shares the embeddings keeps its own."""
        modules = [self.get_input_embeddings(), self.get_output_embeddings()]
        before = [(part, part.weight, part.weight.data) for part in modules if part is not None]
        super().resize_token_embeddings(*args, **options)
        # transformers puts the new weights into the old parameters, which are shared
        for part, shared, weights in before:
            if shared.shape != weights.shape:
                part.weight = nn.Parameter(shared.data, requires_grad=shared.requires_grad)
                shared.data = weights
        self.tie_weights()
        return cast(nn.Embedding, self.get_input_embeddings())


class HFAdapterModel(HFAdapterPreTrainedModel):
    """The trunk: tokens to hidden states, through a `Decoder` of ours.

    Args:
        config: of any architecture in `llm.models.ARCHITECTURES`.
    """

    def __init__(self, config: HFAdapterConfig) -> None:
        super().__init__(config)
        self.decoder = config.architecture.model(_build_config(config)).decoder  # type: ignore[call-arg]
        self._wrap_blocks()
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states.

        Args:
            input_ids: int64 (B, T); or `inputs_embeds` in their place.
            attention_mask: (B, S), 1 = real token, the cached ones included;
                or a mask ready for the attention function.
            position_ids: int64 (B, T); by default counted over the real tokens.
            past_key_values: cache of the tokens before these.
            inputs_embeds: (B, T, C), token embeddings.
            use_cache: return a cache; by default as the configuration says.
            kwargs: for the attention function.

        Raises:
            ValueError: not one of `input_ids` and `inputs_embeds` is given, a
                token id is outside the vocabulary, or the sequence is longer
                than `max_position_embeddings`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, and not both")
        if inputs_embeds is None:
            check_range("token id", cast(Tensor, input_ids), self.config.vocab_size)
            inputs_embeds = self.get_input_embeddings()(input_ids)  # (B, T, C)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if self.gradient_checkpointing and self.training and past_key_values is not None:
            raise ValueError(
                "a cache would be filled a second time by gradient checkpointing: leave out "
                "past_key_values, or call eval() or gradient_checkpointing_disable() first"
            )
        if position_ids is None:
            position_ids = _positions(inputs_embeds, attention_mask, past_key_values)
        self._check_positions(position_ids)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        hidden_states = self.decoder(
            inputs_embeds,
            position_ids=position_ids,
            mask=mask,
            cache=past_key_values,
            # by the positions FlashAttention knows packed sequences apart
            kernel=self._attention_kernel({**kwargs, "position_ids": position_ids}),
        )
        return BaseModelOutputWithPast(
            last_hidden_state=hidden_states,
            past_key_values=past_key_values if use_cache else None,
        )

    def _attention_kernel(self, options: dict[str, Any]) -> AttentionKernel:
        """Transformers' attention function of the configuration, as a kernel of ours."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )

        def kernel(
            query: Tensor,
            key: Tensor,
            value: Tensor,
            *,
            mask: Tensor | None,
            dropout: float,
            layer_idx: int,
        ) -> Tensor:
            block = cast(HFDecoderBlock, self.decoder.blocks[layer_idx])
            scaling = query.shape[-1] ** -0.5
            heads, weights = attend(
                *(block, query, key, value, mask), dropout=dropout, scaling=scaling, **options
            )
            if weights is not None:
                block.attention_weights(weights)
            return cast(Tensor, heads.transpose(1, 2))  # (B, H, T, D)

        return kernel

    def _check_positions(self, position_ids: Tensor) -> None:
        longest = self.config.max_position_embeddings
        try:
            check_range("position", position_ids, longest)
        except ValueError as error:
            raise ValueError(f"{error}: max_position_embeddings={longest}") from None

    def _wrap_blocks(self) -> None:
        for i, block in enumerate(self.decoder.blocks):
            self.decoder.blocks[i] = HFDecoderBlock(block, i, self.config)


class HFAdapter(HFAdapterPreTrainedModel, GenerationMixin):
    """An `llm` model with its output projection, for all that takes a causal language model.

    `HFAdapter.from_llm_model(model)` wraps a model; `to_llm_model()` gives one back.

    Args:
        config: of any architecture in `llm.models.ARCHITECTURES`.
    """

    _tied_weights_keys = {"lm_head.weight": "model.decoder.token_embeddings.weight"}

    def __init__(self, config: HFAdapterConfig) -> None:
        super().__init__(config)
        self.model = HFAdapterModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        # transformers guesses it from the name of the class; the Trainer counts targets by it
        self.loss_type = "ForCausalLM"
        self.post_init()

    @classmethod
    def from_llm_model(cls, model: BaseModel) -> HFAdapter:
        """Wrap a model, sharing its parameters.

        What trains one trains the other. The modules are the adapter's own:
        what is done to them there (adapters, other embeddings) is not done to
        the model. They are copies of the model's as they are, hooks included.

        Args:
            model: any model of ours; its dtype, device and train or eval mode are kept.

        Raises:
            TypeError: it is no `BaseModel`.
            ValueError: its architecture is not in `llm.models.ARCHITECTURES`.
        """
        if not isinstance(model, BaseModel):
            raise TypeError(f"expected a model of llm, not {type(model).__name__}")
        config = HFAdapterConfig.from_llm_config(
            model.config, dtype=next(model.parameters()).dtype, architectures=[cls.__name__]
        )
        # nothing is initialised there
        with torch.device("meta"):
            adapter = cls(config)
        shared = _share(model)
        adapter.model.decoder, adapter.lm_head = shared.decoder, shared.lm_head
        adapter.model._wrap_blocks()
        adapter.training = adapter.model.training = model.training
        return adapter

    def to_llm_model(self) -> BaseModel:
        """The model of ours, sharing the parameters of this one.

        Raises:
            ValueError: the configuration is not one that it can have; names the field.
        """
        config = self.config.to_llm_config()
        with torch.device("meta"):
            model = self.config.architecture.model(config)  # type: ignore[call-arg]
        model.decoder, model.lm_head = _share(self.model.decoder), _share(self.lm_head)
        for i, wrapped in enumerate(model.decoder.blocks):
            model.decoder.blocks[i] = cast(HFDecoderBlock, wrapped).block
        model.training = self.training
        return model

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V), and the loss if there are labels.

        Args:
            input_ids: as in `HFAdapterModel.forward`, like those not named here.
            attention_mask: (B, S), 1 = real token.
            position_ids: int64 (B, T).
            past_key_values: cache of the tokens before these.
            inputs_embeds: (B, T, C), in place of `input_ids`.
            labels: int64 (B, T), unshifted, -100 = no target.
            use_cache: return a cache.
            logits_to_keep: compute those of the last so many positions, or at these; 0 for all.
            kwargs: for the attention function and the loss (`num_items_in_batch`).
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = _positions_to_keep(outputs.last_hidden_state, logits_to_keep)
        logits = self.lm_head(hidden_states)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def push_to_hub(  # type: ignore[override]  # the base's is wrapped, and has another type
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = "50GB",
        tags: list[str] | None = None,
    ) -> str:
        """Upload the model to the HuggingFace hub, with a model card that says what it is.

        A card that is there already stays. The arguments are those of
        `transformers.PreTrainedModel.push_to_hub`.

        Returns:
            The address of the commit.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size or "50GB")
            if not api.file_exists(repo_id, CARD_FILE, revision=revision):
                model_card(self, repo_id, tags).save(Path(folder, CARD_FILE))
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )
        return str(commit)

    def _prepare_generated_length(self, *args: Any, **options: Any) -> GenerationConfig:
        generation_config: GenerationConfig = super()._prepare_generated_length(  # type: ignore[misc]
            *args, **options
        )
        prompt_length = options["inputs_tensor"].shape[1]
        # max_length counts a prompt of ids, and not one of embeddings
        new_tokens = generation_config.max_length - options["input_ids_length"]
        longest = self.config.max_position_embeddings
        if prompt_length + new_tokens > longest:
            room = longest - prompt_length
            raise ValueError(
                f"a prompt of {prompt_length} tokens, to be continued to "
                f"{prompt_length + new_tokens}, passes max_position_embeddings={longest}: "
                + (f"ask for max_new_tokens={room} at most" if room > 0 else "shorten it")
            )
        return generation_config


def _build_config(config: HFAdapterConfig) -> Any:
    """The configuration to build modules by."""
    # tying is left to transformers, and so are token ids, which it lets be lists
    return config.to_llm_config(tie_embeddings=False, **dict.fromkeys(TOKEN_IDS))


def _share(module: Module) -> Module:
    """A copy of the modules, with the very same parameters and buffers."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _positions(
    inputs_embeds: Tensor, attention_mask: Tensor | None, past_key_values: Cache | None
) -> Tensor:
    """Positions counted over the real tokens, (B, T) or (1, T)."""
    query_length = inputs_embeds.shape[1]
    past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
    slots = torch.arange(query_length, device=inputs_embeds.device) + past_length
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        return slots[None]
    mask_length = attention_mask.shape[1]
    # a static cache keeps its length in a tensor, which would have to be waited for
    if isinstance(past_length, int) and mask_length < past_length + query_length:
        raise ValueError(
            f"attention_mask of {mask_length} tokens must cover the {past_length} cached ones and "
            f"these {query_length}"
        )
    # the mask may reach over the empty slots of a static cache
    return position_ids_from_mask(attention_mask, query_length=mask_length).index_select(1, slots)


def _positions_to_keep(hidden_states: Tensor, keep: int | Tensor) -> Tensor:
    """The last `keep` positions (0 for all), or those that a tensor names, as in transformers."""
    if isinstance(keep, int):
        return hidden_states[:, -keep:]
    if keep.dim() == 1:
        return hidden_states[:, keep]
    if keep.dtype == torch.bool:
        return hidden_states[keep]
    return hidden_states.take_along_dim(keep[..., None], dim=1)
