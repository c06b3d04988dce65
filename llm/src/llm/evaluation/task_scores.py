"""The score of a task, whichever kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm.evaluation.choice_score import ChoiceScore, score_choices
from llm.evaluation.cloze_score import ClozeScore, score_cloze
from llm.evaluation.tasks import Choice, Cloze
from llm.evaluation.text_model import TextModel


def score_task(
    model: TextModel, examples: Sequence[Choice] | Sequence[Cloze], **options: Any
) -> ChoiceScore | ClozeScore:
    """`score_choices` or `score_cloze` of what `read_task` has read.

    Raises:
        TypeError: the examples are not all of one kind.
        ValueError: there are no examples, or as `log_likelihoods`.
    """
    choices = [example for example in examples if isinstance(example, Choice)]
    cloze = [example for example in examples if isinstance(example, Cloze)]
    if len(examples) not in (len(choices), len(cloze)):
        raise TypeError("the examples must be all Choice or all Cloze")
    if choices:
        return score_choices(model, choices, **options)
    return score_cloze(model, cloze, **options)
