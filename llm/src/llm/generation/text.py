"""Text in, text out: the loop with a tokenizer at both ends."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from llm.core.base_model import BaseModel
from llm.core.config import default
from llm.generation.generate import stream
from llm.tokenizers import BaseTokenizer


def generate_text(model: BaseModel, tokenizer: BaseTokenizer, prompt: str, **options: Any) -> str:
    """The text that continues `prompt`; the options are those of `stream_text`."""
    return "".join(stream_text(model, tokenizer, prompt, **options))


def stream_text(
    model: BaseModel,
    tokenizer: BaseTokenizer,
    prompt: str,
    *,
    stop: str | Sequence[str] = (),
    **options: Any,
) -> Iterator[str]:
    """Yield the text that continues `prompt`, in pieces, as it is made.

    A piece never ends inside a character, nor where a stop string may have
    begun.

    Args:
        model: any model of this project.
        tokenizer: the one that the model was trained with.
        prompt: any text; an empty one begins a document.
        stop: the text ends before the first of these; none may be empty.
        options: those of `llm.generation.stream`, `max_new_tokens` among them.

    Returns:
        An iterator of strings.

    Raises:
        ValueError: the prompt holds no tokens, a stop string is empty, or as
            `stream`.
    """
    stops = [stop] if not isinstance(stop, Sequence) or isinstance(stop, str) else list(stop)
    if not all(isinstance(each, str) for each in stops):
        raise ValueError(f"stop={stop!r} must be text, or a list of texts")
    if "" in stops:
        raise ValueError("a stop string is empty")
    ids = encode_prompt(tokenizer, prompt)
    device = model.decoder.token_embeddings.weight.device
    input_ids = torch.tensor([ids], device=device)
    tokens = stream(model, input_ids, vocab_size=len(tokenizer), **options)
    return _until_stop(_decode(tokenizer, tokens), stops)


def encode_prompt(tokenizer: BaseTokenizer, prompt: str) -> list[int]:
    """The ids that a model continues; an empty prompt begins a document.

    Raises:
        ValueError: the prompt is empty, and the tokenizer has nothing to begin after.
    """
    # the template may end the text with <eos>, which is not how a prompt goes on
    if ids := tokenizer.encode(prompt, add_special_tokens=False):
        return ids
    # after <eos> a document begins; <bos> need not have been trained on
    first_id = default(tokenizer.eos_token_id, tokenizer.bos_token_id)
    if first_id is None:
        raise ValueError("the prompt is empty, and the tokenizer has no <eos> to begin after")
    return [first_id]


def _decode(tokenizer: BaseTokenizer, tokens: Iterator[torch.Tensor]) -> Iterator[str]:
    """Text of the tokens, each character once all of its bytes are there."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for ids in tokens:
        yield decoder.decode(tokenizer.decode_bytes(ids.tolist(), skip_special_tokens=True))
    yield decoder.decode(b"", final=True)


def _until_stop(pieces: Iterator[str], stops: list[str]) -> Iterator[str]:
    """The pieces up to the first stop string, holding back what may begin one."""
    held = ""
    for piece in pieces:
        held += piece
        found = [held.index(stop) for stop in stops if stop in held]
        if found:
            held = held[: min(found)]
            break
        # the longest end of the text that is the beginning of a stop string
        keep = max(
            (n for stop in stops for n in range(1, len(stop)) if held.endswith(stop[:n])), default=0
        )
        ready, held = held[: len(held) - keep], held[len(held) - keep :]
        if ready:
            yield ready
    if held:
        yield held
