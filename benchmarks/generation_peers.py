"""The same weights in each library, and a greedy continuation by each.

Positions add nothing here (their embeddings are zero): litgpt's models have no learned ones, and
so its tokens can be compared with the others' as well. It costs and saves nobody anything.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from llm.generation import generate, prepare
from llm.models.gpt import GPT2

Greedy = Callable[[Tensor, int], Tensor]  # prompts (B, T), new tokens N -> (B, T + N)

# what a linear layer of GPT-2 is called by litgpt
LITGPT_LINEARS = {
    "attn.c_attn": "attn.qkv",
    "attn.c_proj": "attn.proj",
    "mlp.c_fc": "mlp.fc",
    "mlp.c_proj": "mlp.proj",
}
LITGPT_NORMS = {"ln_1": "norm_1", "ln_2": "norm_2"}


def make_model(sizes: dict[str, int]) -> GPT2:
    """Random weights whose greedy text is varied."""
    torch.manual_seed(0)
    model = GPT2({**sizes, "dropout": 0.0}).eval()
    with torch.no_grad():
        for block in model.decoder.blocks:
            for name, parameter in block.named_parameters():
                if parameter.dim() == 2:
                    # attention sharp enough that what is far back still decides
                    gain = 2.5 if "attention" in name else 1.0
                    parameter.normal_(std=gain / model.config.embed_dim**0.5)
        model.decoder.position_embeddings.weight.zero_()
    return model


def is_tie(model: GPT2, ids: Tensor, others: Tensor, prompt: int) -> bool:
    """Whether texts (T,) part where two tokens are as likely, to the rounding of float32."""
    place = int((ids != others).nonzero()[0])
    if place < prompt:
        return False
    with torch.no_grad():
        logits = model(ids[None, :place])[0, -1]
    gap = logits[ids[place]] - logits[others[place]]
    return bool(gap.abs() < 1e-3 * logits.std())


def ours(model: GPT2, **options: object) -> Greedy:
    """The model prepared, or as it is with `plain=True`."""
    plain = options.pop("plain", False)
    drafter = options.pop("drafter", None)
    chosen = model if plain else prepare(model, **options)
    return lambda ids, count: generate(chosen, ids, max_new_tokens=count, drafter=drafter)


def transformers_peer(folder: Path, cache: str | None) -> Greedy:
    """AutoModelForCausalLM on what `save_pretrained` wrote; a `cache_implementation`, or None."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def run(ids: Tensor, count: int) -> Tensor:
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            cache_implementation=cache,
            # a static cache is for a compiled model, whose time to compile is another story
            disable_compile=True,
        )

    return run


def nanogpt_peer(model: GPT2, weights: dict[str, Tensor], folder: Path) -> Greedy:
    """The `model.py` of a folder; `weights` in the published names."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    config = model.config
    theirs = module.GPT(
        module.GPTConfig(
            block_size=config.max_position_embeddings,
            vocab_size=config.vocab_size,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            n_embd=config.embed_dim,
        )
    ).eval()
    state = {name: linear(name, tensor) for name, tensor in weights.items()}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    theirs.load_state_dict(state)
    # it samples always: of one candidate, this is greedy
    return lambda ids, count: theirs.generate(ids, count, top_k=1)


def litgpt_peer(model: GPT2, weights: dict[str, Tensor], folder: Path | None) -> Greedy:
    """The model and cache of litgpt, in the steps of its own `generate`, for batches too."""
    if folder is not None:
        sys.path.append(str(folder))
    from litgpt.config import Config
    from litgpt.model import GPT

    config = model.config
    theirs = GPT(
        Config(
            name="benchmark",
            n_layer=config.num_layers,
            n_head=config.num_heads,
            n_embd=config.embed_dim,
            block_size=config.max_position_embeddings,
            vocab_size=config.vocab_size,
            padded_vocab_size=config.vocab_size,
            rotary_percentage=0.0,
            parallel_residual=False,
            norm_class_name="LayerNorm",
            mlp_class_name="GptNeoxMLP",
            gelu_approximate="tanh",
            intermediate_size=4 * config.embed_dim,
        )
    ).eval()
    state = {"lm_head.weight": weights["transformer.wte.weight"]}
    for name, tensor in weights.items():
        if "wpe" in name:
            continue
        renamed = name
        for theirs_by in (LITGPT_LINEARS, LITGPT_NORMS):
            for published, litgpt in theirs_by.items():
                renamed = renamed.replace(f".{published}.", f".{litgpt}.")
        state[renamed] = linear(name, tensor)
    theirs.load_state_dict(state)
    theirs.lm_head.weight = theirs.transformer.wte.weight

    @torch.inference_mode()
    def run(ids: Tensor, count: int) -> Tensor:
        batch_size, length = ids.shape
        theirs.max_seq_length = length + count
        theirs.set_kv_cache(batch_size=batch_size)
        position, unseen = torch.arange(length), ids
        for _ in range(count):
            end = int(position[-1]) + 1
            logits = theirs(unseen, position, input_pos_maxp1=end)
            unseen = logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, unseen], dim=1)
            position = torch.tensor([end])
        theirs.clear_kv_cache()
        return ids

    return run


def linear(name: str, tensor: Tensor) -> Tensor:
    """A published weight as nn.Linear has it: the published class multiplies from the right."""
    transposed = any(f"{part}.weight" in name for part in LITGPT_LINEARS)
    return tensor.t().contiguous() if transposed else tensor
