"""A tokenizer and a model as the scripts' settings describe them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from experiments.shared.configs import SPECIAL_TOKENS, ModelSettings, SimpleHFScript

if TYPE_CHECKING:
    from hf_proxy import HFAdapter, HFTokenizerAdapter
    from llm.core.base_model import BaseModel
    from llm.tokenizers import BPETokenizer


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, show_progress: bool = True
) -> BPETokenizer:
    """A byte-level BPE tokenizer of the training texts."""
    from llm.tokenizers import BPETokenizer

    tokenizer = BPETokenizer()
    tokenizer.train(
        texts,
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=show_progress,
    )
    return tokenizer


def make_model(settings: ModelSettings, tokenizer: BPETokenizer) -> BaseModel:
    """A new model of the architecture asked for, with the tokenizer's vocabulary."""
    from llm.models import ARCHITECTURES

    fields = dict(vars(settings))
    architecture = ARCHITECTURES[fields.pop("model_type")]
    return architecture.model(
        {
            **fields,
            "vocab_size": len(tokenizer),
            # a document begins after the end of another, as in GPT-2
            "bos_token_id": tokenizer.eos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )


def make_hf_model(
    settings: SimpleHFScript, texts: Iterable[str]
) -> tuple[HFAdapter, HFTokenizerAdapter]:
    """A tokenizer of the texts and a new model, on its device, both wrapped for HuggingFace.

    Raises:
        ValueError: there is no such device, or a prompt cannot be continued.
    """
    import torch

    from hf_proxy import HFAdapter, HFTokenizerAdapter
    from llm.core.device import choose_device

    device = choose_device(settings.training.device)
    tokenizer = train_tokenizer(texts, settings.data.vocab_size)
    check_prompts(settings, tokenizer)
    torch.manual_seed(settings.training.seed)
    model = make_model(settings.model, tokenizer).to(device)
    print(f"Model: {settings.model.model_type}, {model.num_parameters():,} parameters, on {device}")
    hf_tokenizer = HFTokenizerAdapter(
        tokenizer,
        model_max_length=settings.model.max_position_embeddings,
        # as the model has it: a text begins after the end of another
        bos_token=tokenizer.eos_token,
    )
    return HFAdapter.from_llm_model(model), hf_tokenizer


def check_prompts(settings: SimpleHFScript, tokenizer: BPETokenizer) -> None:
    """Raise before the training, not after it, if a prompt cannot be continued.

    Raises:
        ValueError: it has no tokens, or too many; names the prompt.
    """
    room = settings.model.max_position_embeddings - settings.generation.max_new_tokens
    for prompt in settings.generation.prompt:
        tokens = len(tokenizer.encode(prompt, add_special_tokens=False))
        if not 0 < tokens <= room:
            raise ValueError(
                f"the prompt {prompt[:40]!r} has {tokens} tokens: 1 to {room} fit beside "
                f"max_new_tokens={settings.generation.max_new_tokens} in the context"
            )
