"""Training a model on a probe, and scoring it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llm.core.base_model import BaseModel
from llm.core.config import check_count
from llm.core.eval_mode import eval_mode
from llm.evaluation.probes.probe import Probe, draw_examples
from llm.training.config import TrainingConfig
from llm.training.dataset import IGNORE_INDEX, ExampleSource, collate
from llm.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class ProbeScore:
    """What a model makes of a probe.

    Args:
        accuracy: share of the held-out answers that are right, in [0, 1].
        train_accuracy: the same of examples that were trained on, as many as are
            held out or fewer: much above `accuracy`, it means learning by heart.
        chance: what guessing would score.
        num_answers: held-out answers.
    """

    accuracy: float
    train_accuracy: float
    chance: float
    num_answers: int


def run_probe(
    model: BaseModel,
    probe: Probe,
    config: TrainingConfig,
    *,
    num_train: int,
    num_held_out: int,
    seed: int = 0,
    show_progress: bool = True,
) -> ProbeScore:
    """Train a model on a probe and score it on examples that it has not seen.

    Args:
        model: trained in place, on the device of `config`.
        probe: the task.
        config: how to train; its seed decides the order of the examples.
        num_train: different examples to train on, ≥ 1.
        num_held_out: different examples to score, ≥ 1, none of which is trained on.
        seed: decides the examples.
        show_progress: a progress bar on stderr.

    Raises:
        ValueError: the model is too small for the probe, or the probe has not so many
            examples; or as `Trainer.train`.
    """
    for ours, needed in (
        ("vocab_size", probe.vocab_size),
        ("max_position_embeddings", probe.max_length),
    ):
        if (has := getattr(model.config, ours)) < needed:
            raise ValueError(f"the probe {probe.name} needs {ours}={needed}, the model has {has}")
    train, held_out = draw_examples(
        probe, num_train=num_train, num_held_out=num_held_out, seed=seed
    )
    Trainer(model, train, config, show_progress=show_progress).train()
    accuracy, num_answers = answer_accuracy(model, held_out, batch_size=config.batch_size)
    train_accuracy, _ = answer_accuracy(model, train[: len(held_out)], batch_size=config.batch_size)
    return ProbeScore(
        accuracy=accuracy,
        train_accuracy=train_accuracy,
        chance=probe.chance,
        num_answers=num_answers,
    )


@torch.no_grad()
def answer_accuracy(
    model: BaseModel, examples: ExampleSource, *, batch_size: int
) -> tuple[float, int]:
    """The share of answers that the model finds likeliest, and the number of answers.

    Each is predicted from what really comes before it, earlier answers included.

    Args:
        model: each part comes back in the mode that it was in.
        examples: with the labels of the answers, and -100 elsewhere.
        batch_size: examples a forward, ≥ 1.

    Raises:
        ValueError: `batch_size` is outside its range, or the examples have no answers.
    """
    check_count("batch_size", batch_size)
    device = model.decoder.token_embeddings.weight.device
    num_right = num_answers = 0
    with eval_mode(model):
        for start in range(0, len(examples), batch_size):
            stop = min(start + batch_size, len(examples))
            batch = collate([examples[index] for index in range(start, stop)])
            # position t predicts label t + 1
            guesses = model(batch["input_ids"].to(device))[:, :-1].argmax(-1).cpu()  # (B, T-1)
            answers = batch["labels"][:, 1:]
            num_right += int((guesses == answers).sum())
            num_answers += int((answers != IGNORE_INDEX).sum())
    if num_answers == 0:
        raise ValueError("the examples have no answers")
    return num_right / num_answers, num_answers
