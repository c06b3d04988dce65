"""How well a model foresees the end of a text, by log-likelihood."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llm.evaluation.log_likelihood import log_likelihoods
from llm.evaluation.metrics import standard_error
from llm.evaluation.tasks import Cloze, example_names
from llm.evaluation.text_model import TextModel


@dataclass(frozen=True, kw_only=True)
class ClozeScore:
    """How well the answers were foreseen; standard errors as those of `ChoiceScore`.

    Args:
        num_examples: texts.
        acc: share whose every token is the likeliest one, in [0, 1].
        acc_stderr: its standard error.
        loss: mean of -log p(answer), in nats: of answers, not of tokens.
        loss_stderr: its standard error.
    """

    num_examples: int
    acc: float
    acc_stderr: float | None
    loss: float
    loss_stderr: float | None

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    @property
    def perplexity_stderr(self) -> float | None:
        """`perplexity` · `loss_stderr`, to first order (the delta method)."""
        return None if self.loss_stderr is None else self.perplexity * self.loss_stderr

    def to_dict(self) -> dict[str, Any]:
        """All of it by name, for JSON, in which what is infinite is None."""
        derived = {"perplexity": self.perplexity, "perplexity_stderr": self.perplexity_stderr}
        finite = {k: None if v is None or math.isinf(v) else v for k, v in derived.items()}
        return {**asdict(self), **finite}


def score_cloze(
    model: TextModel, examples: Sequence[Cloze], *, delimiter: str = " ", **options: Any
) -> ClozeScore:
    """Cloze by log-likelihood, as lm-evaluation-harness scores LAMBADA.

    The delimiter is foretold with the answer.

    Args:
        model: of `text_model` or `hf_proxy.hf_text_model`.
        examples: texts and their ends.
        delimiter: stands between context and answer.
        options: those of `log_likelihoods`, but for `names`.

    Raises:
        ValueError: there are no examples, or as `log_likelihoods` (names the example).

    Reference: Paperno et al., "The LAMBADA dataset", arXiv:1606.06031.
    """
    names = example_names(examples)
    pairs = [(example.context, delimiter + example.answer) for example in examples]
    found = log_likelihoods(model, pairs, names=names, **options)
    right = [int(each.is_greedy) for each in found]
    losses = [-each.value for each in found]
    return ClozeScore(
        num_examples=len(found),
        acc=statistics.fmean(right),
        acc_stderr=standard_error(right),
        loss=statistics.fmean(losses),
        loss_stderr=standard_error(losses),
    )
