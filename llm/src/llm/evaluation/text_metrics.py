"""How varied texts are: figures of words, which compare across tokenizers."""

from __future__ import annotations

import math
import statistics
import unicodedata
from collections import Counter
from collections.abc import Sequence

import regex  # type: ignore[import-untyped]

from llm.core.config import check_count

# letters with their accents, digits and underscores; or one mark of punctuation
_WORD = regex.compile(r"[\w\p{M}]+|[^\w\p{M}\s]")
NUM_ORDERS = 4
# what stands for no match at all of an order: Chen and Cherry (2014), method 1
EPSILON = 0.1


def words(text: str) -> list[str]:
    """Words and marks of punctuation, of any script, in Unicode's composed form (NFC).

    Case counts. A script that puts no spaces between words gives a word a phrase.
    """
    found: list[str] = _WORD.findall(unicodedata.normalize("NFC", text))
    return found


def ngrams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """The runs of n words, in order; none where there are fewer words."""
    check_count("n", n)
    return [tuple(text[start : start + n]) for start in range(len(text) - n + 1)]


def distinct_n(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Distinct n-grams of all texts by the number of their n-grams, in (0, 1].

    It falls as texts grow, so that only texts of like number and length compare.

    Args:
        texts: words of each.
        n: ≥ 1.

    Returns:
        The share; None where no text has n words.

    Reference: Li et al., "A Diversity-Promoting Objective Function for Neural
    Conversation Models", arXiv:1510.03055, section 5, where the number of words
    divides.
    """
    found = [ngram for text in texts for ngram in ngrams(text, n)]
    return len(set(found)) / len(found) if found else None


def repetition_n(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Share of a text's n-grams that it has had before, in [0, 1): mean over the texts.

    Args:
        texts: words of each; those with fewer than n do not count.
        n: ≥ 1.

    Returns:
        The mean of 1 - distinct / all; None where no text has n words.

    Reference: Welleck et al., "Neural Text Generation with Unlikelihood Training",
    arXiv:1908.04319, section 6, seq-rep-n.
    """
    shares = [distinct_n([text], n) for text in texts]
    repeated = [1 - share for share in shares if share is not None]
    return statistics.fmean(repeated) if repeated else None


def bleu(text: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """How much of a text's 1- to 4-grams is in the references, in [0, 1].

    The geometric mean of the clipped precisions, times exp(1 - r/c) where c words
    are fewer than the r of the reference closest in length. An order of which
    nothing matches counts as 0.1 matches; a text that shares no word has 0.

    Args:
        text: its words.
        references: words of each, one at least.

    Reference: Papineni et al., "BLEU" (ACL 2002), section 2; Chen and Cherry, "A
    Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU" (WMT
    2014), method 1.
    """
    log_precision = 0.0
    for n in range(1, NUM_ORDERS + 1):
        counts = Counter(ngrams(text, n))
        allowed: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            allowed |= Counter(ngrams(reference, n))
        matches = (counts & allowed).total()
        if n == 1 and not matches:
            return 0.0
        log_precision += math.log((matches or EPSILON) / max(counts.total(), 1))
    # of two as close, the shorter
    closest = min(map(len, references), key=lambda length: (abs(length - len(text)), length))
    brevity = min(1 - closest / len(text), 0)
    return math.exp(brevity + log_precision / NUM_ORDERS)


def self_bleu(texts: Sequence[Sequence[str]]) -> float | None:
    """The mean BLEU of each text against all others, in [0, 1]: 1 where they are the same.

    Args:
        texts: words of each.

    Returns:
        The mean; None of fewer than two texts.

    Reference: Zhu et al., "Texygen", arXiv:1802.01886, section 3.
    """
    if len(texts) < 2:
        return None
    return statistics.fmean(
        bleu(text, [*texts[:index], *texts[index + 1 :]]) for index, text in enumerate(texts)
    )
