"""The baselines counted on one text and scored on another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from llm.core.config import check_count
from llm.data import Text
from llm.evaluation.baselines import Baseline, Bigram, Pairs, Uniform, Unigram
from llm.evaluation.encoded_text import EncodedText
from llm.evaluation.perplexity import TextScore
from llm.evaluation.text_model import TextModel
from llm.training.dataset import IGNORE_INDEX, ExampleSource
from llm.training.validation import ValidationResult

# tokens that are counted at a time, whatever the length of the documents
TOKENS = 1 << 20

BASELINES: Mapping[str, type[Baseline]] = {
    "uniform": Uniform,
    "unigram": Unigram,
    "bigram": Bigram,
}


def count_baselines(
    model: TextModel, documents: Iterable[Text], *, max_tokens: int | None = None
) -> dict[str, Baseline]:
    """Each baseline by name, of training text in the tokens that the model has for it.

    Args:
        model: encodes.
        documents: as in `evaluate_text`.
        max_tokens: the rest of the text is not read; None for all of it.
    """
    if max_tokens is not None:
        check_count("max_tokens", max_tokens)
    baselines = {name: baseline(model.vocab_size) for name, baseline in BASELINES.items()}
    done = 0
    for pairs in _gathered(_pairs_of_text(EncodedText(model, documents))):
        room = None if max_tokens is None else max_tokens - done
        for baseline in baselines.values():
            baseline.add(Pairs(*(ids[:room] for ids in pairs)))
        done += len(pairs.targets)
        if max_tokens is not None and done >= max_tokens:
            break
    return baselines


def evaluate_baselines(
    baselines: Mapping[str, Baseline], model: TextModel, documents: Iterable[Text]
) -> dict[str, TextScore]:
    """The score of each baseline on the very tokens that `evaluate_text` has the model predict.

    Raises:
        ValueError: there is no text.
    """
    text = EncodedText(model, documents)
    totals, num_targets = dict.fromkeys(baselines, 0.0), 0
    for pairs in _gathered(_pairs_of_text(text)):
        num_targets += len(pairs.targets)
        for name, baseline in baselines.items():
            totals[name] += float(baseline.nats(pairs).sum())
    if not num_targets:
        raise ValueError("there is no text to evaluate")
    return {
        name: TextScore(total_loss=total, num_targets=num_targets, num_bytes=text.num_bytes)
        for name, total in totals.items()
    }


def unigram_loss(
    train_dataset: ExampleSource, validation_dataset: ExampleSource, *, vocab_size: int
) -> ValidationResult:
    """Predict every validation target by how often it is a target in training.

    Args:
        train_dataset: what is counted.
        validation_dataset: what is predicted.
        vocab_size: V, above every token id.
    """
    unigram = Unigram(vocab_size)
    for pairs in _gathered(_pairs_of_examples(train_dataset)):
        unigram.add(pairs)
    total_loss, num_targets = 0.0, 0
    for pairs in _gathered(_pairs_of_examples(validation_dataset)):
        total_loss += float(unigram.nats(pairs).sum())
        num_targets += len(pairs.targets)
    return ValidationResult(total_loss=total_loss, num_targets=num_targets)


def _pairs_of_examples(dataset: ExampleSource) -> Iterator[Pairs]:
    for index in range(len(dataset)):
        example = dataset[index]
        before, targets = example["input_ids"][:-1].numpy(), example["labels"][1:].numpy()
        real = targets != IGNORE_INDEX
        yield Pairs(before[real], targets[real])


def _pairs_of_text(text: EncodedText) -> Iterator[Pairs]:
    for document in text:
        last = np.empty(0, dtype=np.int64)
        for ids in document:
            held = np.concatenate([last, ids])
            yield Pairs(held[:-1], held[1:])
            last = held[-1:]


def _gathered(stretches: Iterator[Pairs]) -> Iterator[Pairs]:
    """The same pairs, many at a time: a call of a baseline costs what its counts do."""
    held: list[Pairs] = []
    size = 0
    for pairs in stretches:
        held.append(pairs)
        size += len(pairs.targets)
        if size >= TOKENS:
            yield Pairs(*map(np.concatenate, zip(*held, strict=True)))
            held, size = [], 0
    if held:
        yield Pairs(*map(np.concatenate, zip(*held, strict=True)))
