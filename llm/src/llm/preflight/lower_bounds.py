"""What a training takes at the very least: a machine that has less must fail."""

from __future__ import annotations

from llm.core.config import ModelConfig
from llm.preflight.activations import NUMBER_BYTES
from llm.preflight.training_memory import forward_rows
from llm.training.config import TrainingConfig
from llm.training.optimizer import STATES_PER_WEIGHT


def least_weight_bytes(config: ModelConfig, training: TrainingConfig, *, num_ranks: int = 1) -> int:
    """Weights and gradients, what the optimizer remembers, and averaged weights, for one rank.

    All are float32, and exist together when the optimizer moves the weights.

    Args:
        config: of the model.
        training: how.
        num_ranks: which, with `parallel = "fsdp"`, have a share each.
    """
    numbers = 2 + STATES_PER_WEIGHT[training.optimizer] + (training.ema_decay > 0)
    shares = num_ranks if training.parallel == "fsdp" else 1
    return 4 * numbers * config.num_parameters // shares


def least_forward_bytes(config: ModelConfig, training: TrainingConfig) -> int:
    """What the blocks keep of the largest forward, of examples as long as the context.

    Of blocks that are computed again, or that a compiler may compute again in part,
    their inputs alone.
    """
    length = config.max_position_embeddings
    tokens = length * forward_rows(training, length)
    again = training.gradient_checkpointing or training.compile
    kept = config.embed_dim if again else config.kept_numbers.products
    return NUMBER_BYTES[training.precision] * tokens * config.num_layers * kept
