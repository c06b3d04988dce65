"""Train small GPT and GPT-2 on every probe, and print what they score.

    uv run python benchmarks/probes.py
    uv run python benchmarks/probes.py --only "modular addition" --model gpt2

Both have two layers of four heads and the same training, whose settings stand below. A score is
the share of held-out answers that are right, and in brackets that of examples trained on. All
took 43 minutes of a core that others used too, most of them for recall and induction.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch

from llm.evaluation.probes import (
    AssociativeRecall,
    Copying,
    Induction,
    LengthExtrapolation,
    ModularAddition,
    Probe,
    ProbeScore,
    run_probe,
)
from llm.models import ARCHITECTURES
from llm.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Case:
    """A probe, and how to train on it."""

    probe: Probe
    steps: int
    batch_size: int
    num_train: int
    embed_dim: int = 64
    learning_rate: float = 2e-3
    num_held_out: int = 500
    weight_decay: float = 0.1


CASES = [
    # the two that need a circuit of two layers stay at chance for long, and narrower models longer
    Case(
        probe=AssociativeRecall(),
        embed_dim=128,
        steps=2000,
        batch_size=64,
        num_train=128_000,
        learning_rate=1e-3,
    ),
    Case(
        probe=Induction(),
        embed_dim=128,
        steps=2000,
        batch_size=64,
        num_train=128_000,
        learning_rate=1e-3,
    ),
    Case(probe=Copying(), steps=1000, batch_size=32, num_train=32_000),
    Case(probe=LengthExtrapolation(), steps=1000, batch_size=32, num_train=32_000),
    # three of ten sums are held out
    Case(
        probe=ModularAddition(),
        steps=2000,
        batch_size=256,
        num_train=588,
        num_held_out=253,
        weight_decay=1.0,
    ),
]


def score(model_type: str, case: Case, seed: int) -> ProbeScore:
    """Train a fresh model on the case."""
    torch.manual_seed(seed)
    model = ARCHITECTURES[model_type].model(
        {
            "vocab_size": case.probe.vocab_size,
            "embed_dim": case.embed_dim,
            "num_heads": 4,
            "num_layers": 2,
            "max_position_embeddings": case.probe.max_length,
            "dropout": 0.0,
        }
    )
    config = TrainingConfig(
        steps=case.steps,
        batch_size=case.batch_size,
        learning_rate=case.learning_rate,
        weight_decay=case.weight_decay,
        warmup_ratio=0.1,
        seed=seed,
        device="cpu",
    )
    return run_probe(
        *(model, case.probe, config),
        num_train=case.num_train,
        num_held_out=case.num_held_out,
        seed=seed,
    )


def main() -> None:
    """Print a row of Markdown for each probe and model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[case.probe.name for case in CASES], help="one probe")
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), help="one architecture")
    parser.add_argument("--seed", type=int, default=0, help="of examples, weights and order")
    options = parser.parse_args()
    if options.seed < 0:
        parser.error("--seed must be at least 0")
    torch.set_num_threads(1)
    print("| Probe | chance | model | held out (trained on) | seconds |")
    print("|---|---|---|---|---|")
    for case in CASES:
        if options.only not in (None, case.probe.name):
            continue
        for model_type in [options.model] if options.model else sorted(ARCHITECTURES):
            started = time.perf_counter()
            result = score(model_type, case, options.seed)
            print(
                f"| {case.probe.name} | {result.chance:.3f} | {model_type} | "
                f"{result.accuracy:.3f} ({result.train_accuracy:.3f}) | "
                f"{time.perf_counter() - started:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
