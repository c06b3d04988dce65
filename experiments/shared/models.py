"""A tokenizer and a model as the scripts' settings describe them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from experiments.shared.configs import SPECIAL_TOKENS, ModelSettings, SimpleHFScript, TrainScript

if TYPE_CHECKING:
    import torch

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
        ValueError: there is no such device, its memory cannot hold the model, or a
            prompt cannot be continued.
    """
    import torch

    from hf_proxy import HFAdapter, HFTokenizerAdapter
    from llm.core.device import choose_device

    device = choose_device(settings.training.device)
    check_model_memory(settings.model, settings.data.vocab_size, device)
    tokenizer = train_tokenizer(texts, settings.data.vocab_size)
    for prompt in settings.generation.prompt:
        check_prompt(
            *(prompt, tokenizer, settings.model.max_position_embeddings),
            max_new_tokens=settings.generation.max_new_tokens,
        )
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


def check_prompt(
    prompt: str, tokenizer: BPETokenizer, context: int, *, max_new_tokens: int = 0
) -> None:
    """Raise before any work, not after it, if a prompt cannot be continued.

    Args:
        prompt: which.
        tokenizer: the model's.
        context: of the model, in tokens.
        max_new_tokens: that have to fit beside it; 0 where the context slides.

    Raises:
        ValueError: it has no tokens, or too many; names the prompt.
    """
    tokens = len(tokenizer.encode(prompt, add_special_tokens=False))
    room = context - max_new_tokens
    if not 0 < tokens <= room:
        beside = f"beside max_new_tokens={max_new_tokens} " if max_new_tokens else ""
        raise ValueError(
            f"the prompt {prompt[:40]!r} has {tokens} tokens: 1 to {room} fit {beside}in the "
            f"context of {context}"
        )


def check_model_memory(
    settings: ModelSettings, vocab_size: int, device: torch.device, *, adam: bool = True
) -> None:
    """Raise if training must run out of memory, whatever the batch.

    Args:
        settings: of the model, which is not built.
        vocab_size: of the tokenizer.
        device: whose memory.
        adam: the optimizer keeps two numbers for each weight.

    Raises:
        ValueError: the parameters need more than there is; says how much.
    """
    from llm.core.device import device_memory
    from llm.models import ARCHITECTURES

    sizes = {
        name: getattr(settings, name)
        for name in ("embed_dim", "num_layers", "max_position_embeddings")
    }
    sizes["vocab_size"] = vocab_size
    config = ARCHITECTURES[settings.model_type].config
    parameters = config(num_heads=settings.num_heads, **sizes).num_parameters
    # float32: each with its gradient
    needed, memory = parameters * (16 if adam else 8), device_memory(device)
    if memory is not None and needed > memory:
        raise ValueError(
            f"{_listed(sizes)}: {parameters:,} parameters need {_gigabytes(needed)} to be trained, "
            f"and the device {device} has {_gigabytes(memory)}: make the model smaller"
        )


def check_step_memory(settings: TrainScript, device: torch.device) -> None:
    """Raise if the examples of a step cannot be in memory.

    Raises:
        ValueError: they need more than there is; says how much.
    """
    from llm.core.device import device_memory
    from llm.core.memory import machine_memory

    model, training = settings.model, settings.training
    sizes = {
        "batch_size": training.batch_size,
        "accumulation_steps": training.accumulation_steps,
        "max_position_embeddings": model.max_position_embeddings,
    }
    batch = training.batch_size * model.max_position_embeddings
    forward = batch
    if training.max_tokens:
        sizes["max_tokens"] = training.max_tokens
        forward = min(batch, max(training.max_tokens, model.max_position_embeddings))
    # what a block at least keeps of each token for its backward: its input; and, unless they
    # are computed again, queries, keys, values, and the inner layer before and after the
    # activation
    kept = 1 if training.gradient_checkpointing else 12
    number_bytes = 4 if training.precision == "fp32" else 2
    for needed, memory in (
        # ids and labels of the whole step
        (16 * batch * training.accumulation_steps, machine_memory()),
        (number_bytes * kept * forward * model.embed_dim * model.num_layers, device_memory(device)),
    ):
        if memory is not None and needed > memory:
            raise ValueError(
                f"{_listed(sizes)}: a step needs at least {_gigabytes(needed)}, and there are "
                f"{_gigabytes(memory)}: make one of these smaller"
            )


def _listed(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
