"""The loss on data that is not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from llm.core.base_model import BaseModel
from llm.core.eval_mode import eval_mode
from llm.training.dataset import IGNORE_INDEX, ExampleSource, collate
from llm.training.loss import count_targets, next_token_loss
from llm.training.packing import attention_inputs
from llm.training.parallel import is_sharded
from llm.training.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """The loss over every target of a dataset.

    Args:
        total_loss: sum of -log p(target), in nats.
        num_targets: tokens predicted.
    """

    total_loss: float
    num_targets: int

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.total_loss / self.num_targets

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf


@torch.no_grad()
def validate(
    model: BaseModel,
    dataset: ExampleSource,
    *,
    batch_size: int,
    before_batch: Callable[[], None] | None = None,
) -> ValidationResult:
    """Predict every target of `dataset` once, in eval mode; no randomness is used.

    Ranks that train together share the batches.

    Args:
        model: each part comes back in the mode that it was in.
        dataset: examples, of any lengths.
        batch_size: examples a forward.
        before_batch: called before each forward; what it raises ends the validation.

    Raises:
        ValueError: the dataset has no targets.
    """
    ranks = Ranks.current()
    device = model.decoder.token_embeddings.weight.device
    total_loss, num_targets = 0.0, 0
    with eval_mode(model):
        for first in range(0, len(dataset), batch_size * ranks.world_size):
            # by all ranks, also by one that has no batch left
            if before_batch is not None:
                before_batch()
            start = first + batch_size * ranks.rank
            stop = min(start + batch_size, len(dataset))
            if start < stop:
                batch = collate([dataset[index] for index in range(start, stop)])
            elif is_sharded(model):
                # the others need this rank's share: a forward that counts for nothing
                batch = collate([dataset[0]])
                batch["labels"] = torch.full_like(batch["labels"], IGNORE_INDEX)
            else:
                continue
            num_targets += count_targets(batch["labels"])
            hidden_states = model.hidden_states(
                batch["input_ids"].to(device), **attention_inputs(batch, device)
            )
            loss = next_token_loss(hidden_states, model.lm_head.weight, batch["labels"].to(device))
            total_loss += loss.item()
    total_loss, all_targets = ranks.sum(total_loss, num_targets)
    if all_targets == 0:
        raise ValueError("the validation dataset has nothing to predict")
    return ValidationResult(total_loss=total_loss, num_targets=int(all_targets))


def validate_each(
    model: BaseModel,
    datasets: Mapping[str, ExampleSource],
    *,
    batch_size: int,
    before_batch: Callable[[], None] | None = None,
) -> dict[str, ValidationResult]:
    """`validate` on several datasets, by name.

    Raises:
        ValueError: a dataset has no targets; names it.
    """
    results = {}
    for name, dataset in datasets.items():
        try:
            results[name] = validate(
                model, dataset, batch_size=batch_size, before_batch=before_batch
            )
        except ValueError as error:
            raise ValueError(f"validation set {name}: {error}") from None
    return results
