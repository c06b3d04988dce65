"""How well a model does multiple choice, by log-likelihood."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llm.evaluation.log_likelihood import LogLikelihood, log_likelihoods
from llm.evaluation.metrics import standard_error
from llm.evaluation.tasks import Choice, example_names
from llm.evaluation.text_model import TextModel

# what a log-likelihood is divided by, so that long choices are not at a disadvantage
LENGTHS: dict[str, Callable[[str], int]] = {
    "acc": lambda choice: 1,
    "acc_norm": len,
    "acc_bytes": lambda choice: len(choice.encode("utf-8")),
}


@dataclass(frozen=True, kw_only=True)
class ChoiceScore:
    """Shares of questions answered rightly, in [0, 1].

    A standard error is that of the mean over the questions, as if they were drawn
    independently: s / √n, with s² of n - 1 degrees of freedom. One question has none.

    Args:
        num_examples: questions, n.
        chance: what guessing gives.
        acc: by the likeliest choice.
        acc_stderr: its standard error.
        acc_norm: by the highest log-likelihood a character (code point) of the choice.
        acc_norm_stderr: its standard error.
        acc_bytes: by the highest log-likelihood a byte of it in UTF-8.
        acc_bytes_stderr: its standard error.
    """

    num_examples: int
    chance: float
    acc: float
    acc_stderr: float | None
    acc_norm: float
    acc_norm_stderr: float | None
    acc_bytes: float
    acc_bytes_stderr: float | None

    def to_dict(self) -> dict[str, Any]:
        """All of it by name, for JSON."""
        return asdict(self)


def score_choices(
    model: TextModel, examples: Sequence[Choice], *, delimiter: str = " ", **options: Any
) -> ChoiceScore:
    """Multiple choice by log-likelihood, as lm-evaluation-harness scores it.

    Of choices that are equally likely, the first counts as chosen. The length
    that normalizes is that of the choice without the delimiter.

    Args:
        model: of `text_model` or `hf_proxy.hf_text_model`.
        examples: questions.
        delimiter: stands between context and choice.
        options: those of `log_likelihoods`, but for `names`.

    Raises:
        ValueError: there are no examples, or as `log_likelihoods` (names the example).

    Reference: Gao et al., "A framework for few-shot language model evaluation"
    (lm-evaluation-harness); Brown et al., arXiv:2005.14165, section 2.4, for
    normalizing by length.
    """
    names = example_names(examples)
    found = log_likelihoods(
        model,
        [
            (example.context, delimiter + choice)
            for example in examples
            for choice in example.choices
        ],
        names=[name for name, each in zip(names, examples, strict=True) for _ in each.choices],
        **options,
    )
    values = iter(found)
    right: dict[str, list[int]] = {name: [] for name in LENGTHS}
    for example in examples:
        of_example: list[LogLikelihood] = [next(values) for _ in example.choices]
        for name, length in LENGTHS.items():
            scores = [
                each.value / length(choice)
                for each, choice in zip(of_example, example.choices, strict=True)
            ]
            right[name].append(int(scores.index(max(scores)) == example.answer))
    return ChoiceScore(
        num_examples=len(examples),
        chance=statistics.fmean(1 / len(example.choices) for example in examples),
        acc=statistics.fmean(right["acc"]),
        acc_stderr=standard_error(right["acc"]),
        acc_norm=statistics.fmean(right["acc_norm"]),
        acc_norm_stderr=standard_error(right["acc_norm"]),
        acc_bytes=statistics.fmean(right["acc_bytes"]),
        acc_bytes_stderr=standard_error(right["acc_bytes"]),
    )
