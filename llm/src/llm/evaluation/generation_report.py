"""What a model writes: how varied, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import torch
from tqdm import tqdm

from llm.core.base_model import BaseModel
from llm.core.config import check_count
from llm.evaluation.timed_generation import Latency, Sample, Speed, time_generation
from llm.evaluation.variety import Variety
from llm.tokenizers import BaseTokenizer


@dataclass(frozen=True, kw_only=True)
class GenerationReport:
    """Texts that a model wrote, and figures of them.

    Args:
        prompts: what was continued; no part of the variety.
        texts: continuations, without special tokens, those of a prompt together.
        variety: of the texts.
        speed: at which they came.
    """

    prompts: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    variety: Variety
    speed: Speed

    def to_dict(self) -> dict[str, Any]:
        """All of it by name, for JSON."""
        return asdict(self)

    def table(self) -> str:
        """The figures, a line each."""
        variety, speed = self.variety, self.speed
        distinct = map(_share, (variety.distinct_1, variety.distinct_2, variety.distinct_3))
        rows = {
            "texts": f"{variety.num_texts} of {len(self.prompts)} prompts, "
            f"{variety.num_empty} without words",
            "words": f"{variety.num_words:,}",
            "new tokens": f"{speed.new_tokens:,}",
            "distinct-1, -2, -3": ", ".join(distinct),
            "repetition-4": _share(variety.repetition_4),
            "self-BLEU": _share(variety.self_bleu),
            "tokens/s": f"{speed.tokens_per_second:,.1f}",
            "prefill tokens/s": f"{speed.prefill_tokens_per_second:,.1f}",
            "prefill, ms": _milliseconds(speed.prefill),
            "token, ms": _milliseconds(speed.token),
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def report_generation(
    model: BaseModel,
    tokenizer: BaseTokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    samples_per_prompt: int = 4,
    show_progress: bool = True,
    **options: Any,
) -> GenerationReport:
    """Have a model continue prompts, one text at a time, by its own generation loop.

    Before the clock runs, each prompt is once continued by two tokens, with random
    numbers of their own.

    Args:
        model: any model of this project, a prepared one too; run in eval mode.
        tokenizer: the one that it was trained with.
        prompts: texts, one at least; an empty one begins a document.
        max_new_tokens: of a text, ≥ 1.
        samples_per_prompt: texts of each prompt, ≥ 1; self-BLEU needs two.
        show_progress: a progress bar on stderr.
        options: those of `llm.generation.stream`: `do_sample`, `generator`...
            With a `drafter` several tokens come at a time, the later of them at once.

    Raises:
        ValueError: there are no prompts; several samples of a prompt would be the
            same, for `do_sample` is False; an argument is outside its range.
        TypeError: `prompts` is a single string.
    """
    if isinstance(prompts, str):
        raise TypeError("prompts is one string; give a list of texts, such as [prompt]")
    if not prompts:
        raise ValueError("there are no prompts to continue")
    check_count("max_new_tokens", max_new_tokens)
    check_count("samples_per_prompt", samples_per_prompt)
    if samples_per_prompt > 1 and options.get("do_sample", False) is False:
        raise ValueError(
            f"samples_per_prompt={samples_per_prompt} would be the same text again: give "
            "do_sample=True, or samples_per_prompt=1"
        )
    device = model.decoder.token_embeddings.weight.device
    unmeasured = {**options, "generator": torch.Generator(device).manual_seed(0)}
    for prompt in prompts:
        time_generation(model, tokenizer, prompt, max_new_tokens=2, **unmeasured)
    options["max_new_tokens"] = max_new_tokens
    samples: list[list[Sample]] = [[] for _ in prompts]
    total = len(prompts) * samples_per_prompt
    with tqdm(total=total, desc="generating", unit="text", disable=not show_progress) as bar:
        for prompt, of_prompt in zip(prompts, samples, strict=True):
            for _ in range(samples_per_prompt):
                of_prompt.append(time_generation(model, tokenizer, prompt, **options))
                bar.update()
    texts = tuple(tuple(sample.text for sample in of_prompt) for of_prompt in samples)
    return GenerationReport(
        prompts=tuple(prompts),
        texts=texts,
        variety=Variety.of(texts),
        speed=Speed.of(list(chain.from_iterable(samples))),
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _milliseconds(latency: Latency | None) -> str:
    if latency is None:
        return "-"
    return f"median {1000 * latency.median:.2f}, 95% within {1000 * latency.p95:.2f}"
