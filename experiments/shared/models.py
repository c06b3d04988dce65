"""A tokenizer and a model as the scripts' settings describe them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.shared.configs import SPECIAL_TOKENS, ModelSettings, SimpleHFScript, TrainScript

if TYPE_CHECKING:
    import torch

    from hf_proxy import HFAdapter, HFTokenizerAdapter
    from llm.core.base_model import BaseModel
    from llm.core.config import ModelConfig
    from llm.tokenizers import BPETokenizer
    from llm.training import TrainingConfig


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


def model_config(settings: ModelSettings, vocab_size: int, **token_ids: int | None) -> ModelConfig:
    """The configuration of the architecture asked for."""
    from llm.models import ARCHITECTURES

    fields = {**vars(settings), **token_ids, "vocab_size": vocab_size}
    return ARCHITECTURES[fields.pop("model_type")].config.from_dict(fields)


def make_model(settings: ModelSettings, tokenizer: BPETokenizer) -> BaseModel:
    """A new model of the architecture asked for, with the tokenizer's vocabulary."""
    from llm.models import ARCHITECTURES

    config = model_config(
        settings,
        len(tokenizer),
        # a document begins after the end of another, as in GPT-2
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return ARCHITECTURES[settings.model_type].model(config)


def load_model(folder: Path, device: str) -> tuple[BaseModel, BPETokenizer]:
    """The model and tokenizer of a folder, on the device.

    Args:
        folder: of a trained model, or a published one.
        device: "auto" or PyTorch's name of one.

    Raises:
        OSError: a file is not there.
        ValueError: one is damaged, or there is no such device.
    """
    from llm.core.device import choose_device
    from llm.models import load_pretrained
    from llm.tokenizers import BPETokenizer

    chosen = choose_device(device)
    model, tokenizer = load_pretrained(folder), BPETokenizer.load(folder)
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ValueError(f"{folder} is damaged: {name} holds what is not a finite number")
    return model.to(chosen), tokenizer


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
    from llm.training import TrainingConfig

    device = choose_device(settings.training.device)
    # with AdamW, as in both scripts
    training = TrainingConfig(steps=settings.training.steps)
    check_model_memory(settings.model, settings.data.vocab_size, device, training)
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
    settings: ModelSettings, vocab_size: int, device: torch.device, training: TrainingConfig
) -> None:
    """Raise if training must run out of memory, whatever the batch.

    Args:
        settings: of the model, which is not built.
        vocab_size: of the tokenizer.
        device: whose memory.
        training: how it is trained.

    Raises:
        ValueError: the parameters need more than there is; says how much.
    """
    from llm.core.device import device_memory
    from llm.preflight import least_weight_bytes
    from llm.training.ranks import launched_ranks

    sizes = {
        name: getattr(settings, name)
        for name in ("embed_dim", "num_layers", "max_position_embeddings")
    }
    sizes["vocab_size"] = vocab_size
    config = model_config(settings, vocab_size)
    needed = least_weight_bytes(config, training, num_ranks=launched_ranks().world_size)
    memory = device_memory(device)
    if memory is not None and needed > memory:
        raise ValueError(
            f"{_listed(sizes)}: {config.num_parameters:,} parameters need {gigabytes(needed)} to "
            f"be trained, and the device {device} has {gigabytes(memory)}: make the model smaller"
        )


def check_step_memory(settings: TrainScript, device: torch.device) -> None:
    """Raise if the examples of a step cannot be in memory.

    Raises:
        ValueError: they need more than there is; says how much.
    """
    from llm.core.device import device_memory
    from llm.core.memory import machine_memory
    from llm.preflight import least_forward_bytes
    from llm.training import TrainingConfig

    model, training = settings.model, settings.training
    sizes = {
        "batch_size": training.batch_size,
        "accumulation_steps": training.accumulation_steps,
        "max_position_embeddings": model.max_position_embeddings,
    }
    if training.max_tokens:
        sizes["max_tokens"] = training.max_tokens
    batch = training.batch_size * model.max_position_embeddings
    config = model_config(model, settings.data.vocab_size)
    for needed, memory in (
        # ids and labels of the whole step
        (16 * batch * training.accumulation_steps, machine_memory()),
        (least_forward_bytes(config, TrainingConfig(**vars(training))), device_memory(device)),
    ):
        if memory is not None and needed > memory:
            raise ValueError(
                f"{_listed(sizes)}: a step needs at least {gigabytes(needed)}, and there are "
                f"{gigabytes(memory)}: make one of these smaller"
            )


def gigabytes(size: int) -> str:
    """A size in memory as text."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _listed(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())
