"""How varied the texts are that a model writes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from llm.evaluation.text_metrics import distinct_n, repetition_n, self_bleu, words


@dataclass(frozen=True, kw_only=True)
class Variety:
    """Figures of words, not of tokens, so that they compare across tokenizers.

    What words are, `llm.evaluation.text_metrics.words` says. Texts without any count
    in `num_empty` alone; what cannot be told of so few is None.

    Args:
        num_texts: those without words too.
        num_empty: texts without words.
        num_words: of all texts.
        distinct_1: share of words that are different, over all texts, in (0, 1].
        distinct_2: the same of two words in a row.
        distinct_3: the same of three.
        repetition_4: share of a text's four words in a row that it has had before,
            in [0, 1), mean over the texts.
        self_bleu: BLEU of a text against the others of its prompt, in [0, 1], 1
            where they are the same: mean over a prompt's, then over the prompts.
    """

    num_texts: int
    num_empty: int
    num_words: int
    distinct_1: float | None
    distinct_2: float | None
    distinct_3: float | None
    repetition_4: float | None
    self_bleu: float | None

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]]) -> Variety:
        """Of texts, those of a prompt together."""
        by_prompt = [[found for text in each if (found := words(text))] for each in texts]
        spoken = list(chain.from_iterable(by_prompt))
        alike = [share for each in by_prompt if (share := self_bleu(each)) is not None]
        num_texts = sum(map(len, texts))
        return cls(
            num_texts=num_texts,
            num_empty=num_texts - len(spoken),
            num_words=sum(map(len, spoken)),
            distinct_1=distinct_n(spoken, 1),
            distinct_2=distinct_n(spoken, 2),
            distinct_3=distinct_n(spoken, 3),
            repetition_4=repetition_n(spoken, 4),
            self_bleu=statistics.fmean(alike) if alike else None,
        )
