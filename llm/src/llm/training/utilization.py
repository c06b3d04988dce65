"""How much of what the machine can compute a training makes use of."""

from __future__ import annotations

import torch

from llm.core.config import ModelConfig
from llm.core.flops import training_flops
from llm.core.peak_flops import peak_flops
from llm.training.config import TrainingConfig

# A CPU is measured once a run has gone on for so long: shorter ones are not held up for it.
MEASURE_AFTER_SECONDS = 10.0


class Utilization:
    """Model FLOPs utilisation: FLOPs of the model a second, by those of the devices.

    The model's are those that the mathematics asks for: what gradient checkpointing
    computes a second time does not count, and causal attention counts in full.

    Args:
        model: configuration of what is trained.
        training: how.
        device: of each rank.
        num_ranks: devices that train together; on a CPU, processes.

    Reference: Chowdhery et al., "PaLM", arXiv:2204.02311, section 4.1 and appendix B.
    """

    def __init__(
        self, model: ModelConfig, training: TrainingConfig, device: torch.device, num_ranks: int
    ) -> None:
        self._model = model
        self._training = training
        self._device = device
        self._num_ranks = num_ranks
        self._seconds = 0.0

    def metrics(
        self, num_targets: int, num_examples: int, tokens_per_second: float
    ) -> dict[str, float]:
        """`{"mfu": share}` of the steps since the last call, or nothing where no peak is known.

        Args:
            num_targets: tokens that the steps predicted, ≥ 1.
            num_examples: examples that they were in, ≥ 1.
            tokens_per_second: predicted, by all devices.
        """
        self._seconds += num_targets / tokens_per_second
        if self._device.type == "cpu" and self._seconds < MEASURE_AFTER_SECONDS:
            return {}
        peak = peak_flops(self._device, self._training.precision, tf32=self._training.tf32)
        if peak is None:
            return {}
        # the first token of each example is read, and not predicted
        length = 1 + round(num_targets / num_examples)
        flops = training_flops(self._model, length) * tokens_per_second
        return {"mfu": flops / (peak * self._num_ranks)}
