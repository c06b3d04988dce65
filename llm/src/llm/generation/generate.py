"""The one generation loop, whole or as a stream."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from llm.core.attention_mask import check_attention_mask, extend_mask
from llm.core.base_model import BaseModel, check_range, check_tensor
from llm.core.config import build, check_count, check_flag
from llm.core.eval_mode import eval_mode
from llm.core.kv_cache import KVCache
from llm.generation.drafters import Choose, Drafter
from llm.generation.packed_linear import PackedLinear
from llm.generation.sampling import SamplingConfig, choose


def generate(model: BaseModel, input_ids: Tensor, **options: Any) -> Tensor:
    """Continue each row of `input_ids`.

    Args:
        model: any model of this project.
        input_ids: int64 (B, T).
        options: those of `stream`, `max_new_tokens` among them.

    Returns:
        int64 (B, T + N): the prompts and up to `max_new_tokens` new tokens;
        rows that ended early are filled with `pad_token_id`.
    """
    new_ids = list(stream(model, input_ids, **options))
    return torch.cat([input_ids, *(ids[:, None] for ids in new_ids)], dim=1)


def stream(
    model: BaseModel,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    attention_mask: Tensor | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    vocab_size: int | None = None,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
    drafter: Drafter | None = None,
    **sampling: Any,
) -> Iterator[Tensor]:
    """Yield the next token of each row, until all rows have ended.

    Past `max_position_embeddings` the window slides: each further token reads
    the last tokens that fit, encoded anew, for their positions have changed.
    That costs a forward over the whole window, and is warned of once.

    Args:
        model: any model of this project; it is run in eval mode.
        input_ids: int64 (B, T); shorter prompts are padded on the left.
        max_new_tokens: how many tokens to add at most, ≥ 0.
        attention_mask: (B, T), 0 where `input_ids` is padding.
        eos_token_id: a row ends with this token or any of these; None for the
            model's, () for none.
        pad_token_id: what follows in a row that has ended; None for the
            model's, or the first `eos_token_id`.
        vocab_size: choose among the ids below it; None for all of the model's.
            A model's vocabulary may be rounded up beyond the tokenizer's.
        generator: the source of randomness; None for PyTorch's global one.
        use_cache: keep keys and values instead of computing them again; the
            tokens are the same.
        drafter: guesses tokens ahead, for one forward to check several: a
            `PromptLookup` or a `DraftModel`. The tokens are those without it,
            the sampled ones of a seed too, unless two are so nearly alike that
            the rounding of a forward over one token or several decides. A batch
            goes on only as far as all its rows were guessed.
        sampling: the fields of `SamplingConfig`.

    Returns:
        An iterator of int64 (B,).

    Raises:
        ValueError: an argument is outside its range, or a prompt is empty or
            padded on the right.
    """
    # checked here and not in the generator below, which runs when first asked
    config = build(SamplingConfig, sampling)
    check_count("max_new_tokens", max_new_tokens, minimum=0)
    check_flag("use_cache", use_cache)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"generator={generator!r} must be a torch.Generator, or None")
    if vocab_size is None:
        vocab_size = model.config.vocab_size
    check_count("vocab_size", vocab_size)
    if vocab_size > model.config.vocab_size:
        raise ValueError(
            f"vocab_size={vocab_size} is more than the model's {model.config.vocab_size}: "
            "the tokenizer is another model's"
        )
    attention_mask = _check_prompt(input_ids, attention_mask, model.config.vocab_size)
    eos_ids = _eos_ids(model.config.eos_token_id if eos_token_id is None else eos_token_id)
    if pad_token_id is None:
        pad_token_id = model.config.pad_token_id
    if pad_token_id is None:
        pad_token_id = eos_ids[0] if eos_ids else 0
    for name, token_id in [*(("eos_token_id", i) for i in eos_ids), ("pad_token_id", pad_token_id)]:
        check_count(name, token_id, minimum=0)
        if token_id >= model.config.vocab_size:
            raise ValueError(f"{name} {token_id} is outside 0 to {model.config.vocab_size - 1}")
    end_ids = torch.tensor(eos_ids, dtype=torch.int64, device=input_ids.device)
    # less work for each operation, but what it touches cannot be trained, nor shared by FSDP
    is_prepared = isinstance(cast(nn.Module, model.lm_head), PackedLinear)
    mode = torch.inference_mode() if is_prepared else torch.no_grad()
    new_ids = mode(_stream)(
        model, input_ids, max_new_tokens, attention_mask, end_ids, pad_token_id,
        generator, use_cache, drafter, partial(choose, config=config, vocab_size=vocab_size),
    )  # fmt: skip
    # copies, made out here, can be trained on; what inference mode makes cannot
    return (ids.clone() for ids in new_ids)


def _stream(
    model: BaseModel,
    input_ids: Tensor,
    max_new_tokens: int,
    attention_mask: Tensor | None,
    end_ids: Tensor,
    pad_token_id: int,
    generator: torch.Generator | None,
    use_cache: bool,
    drafter: Drafter | None,
    choose_next: Choose,
) -> Iterator[Tensor]:
    batch_size, prompt_length = input_ids.shape
    end = prompt_length + max_new_tokens
    longest = model.config.max_position_embeddings
    cache = None
    if use_cache and prompt_length <= longest:
        cache = model.make_cache(batch_size, min(longest, end))
    draft = None if drafter is None else drafter.start(model, batch_size, min(longest, end))
    modules = list(model.modules())
    ended = torch.zeros(batch_size, dtype=torch.bool, device=input_ids.device)
    slid = False
    while (length := input_ids.shape[1]) < end:
        if length > longest:
            cache = None
            if not slid:
                slid = True
                warnings.warn(
                    f"the text is longer than max_position_embeddings={longest}: from here on "
                    "the model sees the last of it, encoded anew for each token",
                    stacklevel=4,
                )
        guesses = input_ids[:, :0]  # (B, K)
        # the last token comes of the logits after the draft, and needs no room
        if draft is not None and (room := min(end - 1, longest) - length) > 0:
            guesses = draft(
                input_ids, attention_mask, room=room, choose=choose_next, generator=generator
            )
        with eval_mode(modules):
            logits = _next_logits(model, input_ids, guesses, attention_mask, cache)  # (B, 1 + K, V)
        for place in range(logits.shape[1]):
            next_ids = choose_next(
                logits[:, place], input_ids, attention_mask=attention_mask, generator=generator
            )  # (B,)
            if len(end_ids):
                next_ids = next_ids.masked_fill(ended, pad_token_id)
            input_ids = torch.cat([input_ids, next_ids[:, None]], dim=1)
            attention_mask = extend_mask(attention_mask, 1)
            yield next_ids
            if len(end_ids):
                ended = ended | torch.isin(next_ids, end_ids)
                if bool(ended.all()):
                    return
            # the logits after a guess hold where every row has chosen it
            if place < guesses.shape[1] and not _agree(next_ids, guesses[:, place], ended):
                break
        if cache is not None and guesses.shape[1]:
            cache.truncate(input_ids.shape[1] - 1)


def _agree(next_ids: Tensor, guesses: Tensor, ended: Tensor) -> bool:
    """Whether each row, but for those that have ended, has chosen its guess; all (B,)."""
    return bool(((next_ids == guesses) | ended).all())


def _next_logits(
    model: BaseModel,
    input_ids: Tensor,
    guesses: Tensor,
    attention_mask: Tensor | None,
    cache: KVCache | None,
) -> Tensor:
    """Logits (B, 1 + K, V) of the token after `input_ids`, or the last that fit, and each guess."""
    longest = model.config.max_position_embeddings
    unseen = input_ids[:, -longest:] if cache is None else input_ids[:, cache.get_seq_length() :]
    if num_guesses := guesses.shape[1]:
        unseen = torch.cat([unseen, guesses], dim=1)
        attention_mask = extend_mask(attention_mask, num_guesses)
    if attention_mask is not None:
        attention_mask = attention_mask[:, -longest:]
    hidden_states = model.hidden_states(unseen, attention_mask=attention_mask, cache=cache)
    logits: Tensor = model.lm_head(hidden_states[:, -1 - num_guesses :])
    return logits


def _check_prompt(
    input_ids: Tensor, attention_mask: Tensor | None, vocab_size: int
) -> Tensor | None:
    """The attention mask, or None where nothing is padded."""
    check_tensor("input_ids", input_ids)
    if input_ids.dim() != 2 or input_ids.dtype != torch.int64:
        raise ValueError(
            "input_ids must be int64 of shape (batch, tokens), not "
            f"{input_ids.dtype} of shape {tuple(input_ids.shape)}"
        )
    if input_ids.numel() == 0:
        raise ValueError("the prompt holds no tokens: give at least one, such as <bos>")
    check_range("token id", input_ids.cpu(), vocab_size)
    if attention_mask is None:
        return None
    check_tensor("attention_mask", attention_mask)
    if attention_mask.dim() != 2:
        raise ValueError(
            f"attention_mask of shape {tuple(attention_mask.shape)} must be (batch, tokens)"
        )
    batch_size, length = input_ids.shape
    check_attention_mask(
        attention_mask, batch_size=batch_size, query_length=length, key_length=length
    )
    real = attention_mask.to(torch.bool)
    if bool(real.all()):
        return None
    if not bool(real[:, -1].all()):
        raise ValueError("a prompt ends in padding: pad on the left, so that it ends in its text")
    return attention_mask


def _eos_ids(eos_token_id: int | Sequence[int] | None) -> list[int]:
    if eos_token_id is None:
        return []
    # what is no list of ids is named by the check that follows
    return list(eos_token_id) if isinstance(eos_token_id, Sequence) else [eos_token_id]
