"""Peak memory of training, worked out from the configurations of model and training."""

from __future__ import annotations

from dataclasses import dataclass

from llm.core.config import ModelConfig, check_count
from llm.core.processor_cache import numbers_in_caches
from llm.preflight.activations import NUMBER_BYTES, block_bytes, outside_bytes
from llm.training.config import TrainingConfig
from llm.training.embedding_rows import adds_rows
from llm.training.loss import chunk_size
from llm.training.optimizer import STATES_PER_WEIGHT

# What glibc keeps of freed memory, fitted to what benchmarks/memory.py measures: a share of what
# comes and goes in a step. Where blocks are computed again holes are many: so many times what a
# block has, and a few pieces of 32 MiB, above which pieces go back to the system at once.
HEAP_SHARE = 0.18
HEAP_BLOCKS = 1.3
HEAP_PIECES = 3 * 2**25


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes of one process in training, when it has most.

    Args:
        weights: float32.
        optimizer: what it remembers of each weight.
        averaged_weights: of `ema_decay`.
        gradients: those that exist at the peak, which need not be all.
        activations: what the blocks keep for the backward, 16-bit copies of the
            weights among it.
        working: what one operation or block needs at that time: the loss' logits, or
            a block's backward.
        heap: what a CPU's allocator holds of memory that was freed.
    """

    weights: int
    optimizer: int
    averaged_weights: int
    gradients: int
    activations: int
    working: int
    heap: int

    @property
    def total(self) -> int:
        """The peak."""
        held = self.weights + self.optimizer + self.averaged_weights
        return held + self.gradients + self.activations + self.working + self.heap


def training_memory(
    config: ModelConfig,
    training: TrainingConfig,
    *,
    device: str = "cpu",
    sequence_length: int | None = None,
    num_ranks: int = 1,
) -> TrainingMemory:
    """The memory of a training at its peak, within 20% on a CPU (`benchmarks/memory.py`).

    A step has three moments that can be it: the loss, when all activations are there;
    the last block's backward, with the head's gradient besides; and the first
    block's, with nearly all gradients. What the libraries themselves take, the data and
    masks are not counted.

    Args:
        config: of the model.
        training: batch size, precision and what else decides.
        device: its type, such as "cpu" or "cuda"; measured on the CPU only.
        sequence_length: of the examples, T; None for `max_position_embeddings`.
        num_ranks: which, with `parallel = "fsdp"`, have a share each of weights,
            gradients and optimizer, and gather those of a block; not measured.

    Raises:
        ValueError: the length is none, or longer than the model takes.
    """
    longest = config.max_position_embeddings
    length = longest if sequence_length is None else sequence_length
    check_count("sequence_length", length, maximum=longest)
    rows = forward_rows(training, length)
    tokens, size = rows * length, NUMBER_BYTES[training.precision]
    weights, head = 4 * config.num_parameters, 4 * config.vocab_size * config.embed_dim
    block = block_bytes(config, rows, length, precision=training.precision, device=device)
    states = 4 * tokens * config.embed_dim  # one (B, T, C) in float32
    copies = 0 if size == 4 else size * config.multiplied_weights
    kept = outside_bytes(config, tokens, device=device)
    kept += config.num_layers * (states if training.gradient_checkpointing else block)
    # gradients of a forward before this one
    several = training.accumulation_steps > 1 or rows < training.batch_size
    before = weights if several else 0

    # beside its input and the gradient of that
    loss = _loss_bytes(config, training, rows * (length - 1), device)
    at_loss = before, kept + copies, 2 * states + loss
    # of the activations that a block keeps, a third has its gradient at a time
    backward = size * tokens * config.kept_numbers.products // 3
    backward += block if training.gradient_checkpointing else 0
    # an accelerator, and one of several ranks, scales the head's gradient out of place
    scaled = 0 if device == "cpu" and num_ranks == 1 else head
    at_last = before, kept + copies, states + head + max(scaled, backward)
    # and that of the embeddings at the end, unless rows are added to the head's
    one = copies // config.num_layers + block + states
    is_one = device == "cpu" and config.tie_embeddings and adds_rows(training, num_ranks)
    at_first = weights, one, states + (0 if is_one else head)
    gradients, activations, working = max(at_loss, at_last, at_first, key=sum)
    shares = num_ranks if training.parallel == "fsdp" else 1
    if shares > 1:
        working += head + weights // config.num_layers
    gradients, weights = gradients // shares, weights // shares
    heap = round(HEAP_SHARE * (activations + working))
    if training.gradient_checkpointing:
        heap = round(HEAP_BLOCKS * block) + min(HEAP_PIECES, activations + working)
    return TrainingMemory(
        weights=weights,
        optimizer=STATES_PER_WEIGHT[training.optimizer] * weights,
        averaged_weights=weights if training.ema_decay else 0,
        gradients=gradients,
        activations=activations,
        working=working,
        heap=heap if device == "cpu" else 0,
    )


def forward_rows(training: TrainingConfig, length: int) -> int:
    """Examples of `length` tokens that one forward has at most."""
    if not training.max_tokens:
        return training.batch_size
    return min(training.batch_size, max(1, training.max_tokens // length))


def _loss_bytes(config: ModelConfig, training: TrainingConfig, targets: int, device: str) -> int:
    """What the loss makes of its last chunk, and the head's gradient."""
    size = NUMBER_BYTES[training.precision]
    weight = config.vocab_size * config.embed_dim
    rows = chunk_size(targets, config.vocab_size, device)
    numbers = rows * config.vocab_size
    # logits in the precision of training, which become their gradients
    logits = size * numbers
    # logarithms of probabilities, and of 16-bit logits a float32 copy: a CPU's of a part at a time
    part = numbers if device != "cpu" else min(numbers, max(numbers_in_caches(), config.vocab_size))
    softmax = 4 * part * (1 if size == 4 else 2)
    # of oneDNN's product, and an accelerator's, a second one before it is added, or its rows are
    # made contiguous
    is_whole = device != "cpu" or (size == 4 and training.linear_kernel != "plain")
    product = size * (weight if is_whole else min(weight, numbers_in_caches()))
    copy = 0 if size == 4 else size * weight
    before = 4 * weight if targets > rows else 0
    return copy + logits + max(before + softmax, 4 * weight + product)
