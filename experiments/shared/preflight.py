"""What a training run needs, said before it: in a line, or as a table."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from experiments.shared.models import gigabytes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from llm.core.config import ModelConfig
    from llm.preflight import StepTimes, TrainingMemory
    from llm.training import TrainingConfig


class RandomExamples:
    """Examples of random ids, for the time of a step, which does not depend on them.

    Args:
        vocab_size: V.
        length: tokens of each.
        num_examples: how many.
    """

    def __init__(self, vocab_size: int, length: int, num_examples: int) -> None:
        self.vocab_size, self.length, self.num_examples = vocab_size, length, num_examples

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        import torch

        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(self.vocab_size, (self.length,), generator=generator)
        return {"input_ids": ids, "labels": ids}


class Plan:
    """What a run needs, worked out from its settings.

    Args:
        config: of the model.
        training: how.
        device: of each process.
        num_ranks: processes.
        is_built: whether this process has the weights already.
    """

    def __init__(
        self,
        config: ModelConfig,
        training: TrainingConfig,
        device: torch.device,
        num_ranks: int,
        *,
        is_built: bool = False,
    ) -> None:
        from llm.core.device import device_memory
        from llm.core.memory import process_memory
        from llm.preflight import forward_flops, training_flops, training_memory

        length = config.max_position_embeddings
        examples = training.batch_size * training.accumulation_steps * num_ranks
        self.config, self.training, self.device = config, training, device
        self.tokens = training.steps * examples * (length - 1)
        self.forward_flops = forward_flops(config, length)
        self.training_flops = training_flops(config, length)
        self.memory: TrainingMemory = training_memory(
            config, training, device=device.type, num_ranks=num_ranks
        )
        self.available = device_memory(device)
        # processes on a CPU share its memory, and what they have of libraries counts
        on_cpu = device.type == "cpu"
        self.processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if on_cpu else 1
        counted = self.memory.weights + self.memory.averaged_weights if is_built else 0
        self.libraries = max(0, (process_memory() or 0) - counted) if on_cpu else 0

    @property
    def needed(self) -> int:
        """Bytes on the device."""
        return self.processes * (self.memory.total + self.libraries)

    def line(self) -> str:
        """The short form."""
        return (
            f"Needs: {flops(self.training_flops)} a token, "
            f"{flops(self.training_flops * self.tokens)} for {self.tokens:,} tokens; about "
            f"{self._of_available()}"
        )

    def table(self) -> str:
        """The long form: parameters, operations and memory."""
        counts, memory = self.config.parameters, self.memory
        again = "the token embeddings" if self.config.tie_embeddings else f"{counts.head:,}"
        each = " a process" if self.processes > 1 else ""
        rows = [
            ("Parameters", f"{counts.total:,}"),
            ("  token embeddings", f"{counts.token_embeddings:,}"),
            ("  position embeddings", f"{counts.position_embeddings:,}"),
            ("  attention", f"{counts.attention:,}"),
            ("  feed-forward", f"{counts.feed_forward:,}"),
            ("  norms", f"{counts.norms:,}"),
            ("  head", again),
            ("  all but embeddings and head", f"{counts.without_embeddings:,}"),
            ("Operations", ""),
            ("  a token, forward", flops(self.forward_flops)),
            ("  a token, forward and backward", flops(self.training_flops)),
            (f"  the run, {self.tokens:,} tokens", flops(self.training_flops * self.tokens)),
            (f"Memory{each}, at its peak", gigabytes(memory.total + self.libraries)),
            ("  weights", gigabytes(memory.weights)),
            ("  gradients at that time", gigabytes(memory.gradients)),
            (f"  optimizer, {self.training.optimizer}", gigabytes(memory.optimizer)),
            ("  averaged weights", gigabytes(memory.averaged_weights)),
            ("  activations", gigabytes(memory.activations)),
            ("  the operation under way", gigabytes(memory.working)),
            ("  freed, and held by the allocator", gigabytes(memory.heap)),
            ("  Python and its libraries", gigabytes(self.libraries)),
        ]
        return as_table(rows)

    def check(self) -> str:
        """That it fits, in words.

        Raises:
            ValueError: it does not; says how much there is.
        """
        if self.available is not None and self.needed > self.available:
            raise ValueError(
                f"the run does not fit in memory: it needs about {self._of_available()}; take a "
                "smaller --batch-size or --max-tokens, --gradient-checkpointing, --precision bf16, "
                "or a smaller model"
            )
        return f"The run fits: it needs about {self._of_available()}"

    def _of_available(self) -> str:
        there = "" if self.available is None else f"; {self.device} has {gigabytes(self.available)}"
        return f"{gigabytes(self.needed)} of memory{there}"


def time_rows(times: StepTimes, steps: int, of_what: str) -> str:
    """What five steps say about the run."""
    seconds = times.run_seconds(steps)
    rows = [
        (f"Time, by {len(times.seconds)} steps on {of_what}", ""),
        ("  tokens a second", f"{times.tokens_per_second:,.0f}"),
        ("  the run, but for validation", duration(seconds)),
    ]
    return as_table(rows)


def as_table(rows: list[tuple[str, str]]) -> str:
    """Names on the left, values on the right."""
    return "\n".join(f"{name:36}{value:>22}".rstrip() for name, value in rows)


def flops(count: float) -> str:
    """Operations as text: 1,500,000 are 1.5 MFLOP."""
    power = min(6, int(math.log10(count)) // 3) if count >= 1 else 0
    return f"{count / 1000**power:,.1f} {['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}FLOP"


def duration(seconds: float) -> str:
    """A time as text: 3661 are "1 h 1 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days:,} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
