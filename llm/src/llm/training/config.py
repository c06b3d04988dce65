"""How to train."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llm.core.config import check_choice, check_count, check_flag, check_number, check_seed
from llm.core.fast_linear import LINEAR_KERNELS
from llm.training.optimizer import OPTIMIZERS
from llm.training.precision import PRECISIONS
from llm.training.scheduler import SCHEDULES


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train.

    Args:
        steps: optimizer steps.
        batch_size: examples a forward.
        max_tokens: a forward takes fewer examples if it would have more tokens,
            padding included; 0 for no bound. Where memory runs out the trainer
            halves it. The examples of an optimizer step stay the same.
        accumulation_steps: forwards an optimizer step; the gradient is that of
            one batch of batch_size · accumulation_steps examples.
        optimizer: "adamw", "adam" or "sgd".
        learning_rate: at the top of the schedule, > 0.
        weight_decay: of matrices, ≥ 0.
        beta1: decay of the Adams' mean of gradients, in [0, 1).
        beta2: decay of the Adams' mean of squared gradients, in [0, 1).
        schedule: "cosine" or "linear", after the warm-up.
        warmup_ratio: share of the steps in which the learning rate rises, in
            [0, 1].
        min_learning_rate_ratio: where the schedule ends, as a share of
            `learning_rate`, in [0, 1].
        max_grad_norm: longer gradients are scaled down to it; 0 for never.
        log_every: steps from one line of metrics to the next.
        validate_every: steps from one validation to the next; 0 for none but
            the last.
        sample_every: steps from one sample of text to the next; 0 for none.
        save_every: steps from one checkpoint to the next, the last step having
            one too; 0 for none.
        keep_checkpoints: the newest that are kept, ≥ 2, besides the best.
        on_bad_step: what a loss or gradient that is not finite does, or a loss
            that leaps: "stop" raises, "skip" leaves the step out and counts it.
        max_loss_ratio: a loss so many times the mean of some 50 steps before is
            a leap; 0 for never.
        precision: of the products in forward, backward and validation: "fp32",
            "bf16" or "fp16". Weights and optimizer are float32.
        tf32: on NVIDIA's GPUs, let float32 products round their factors to 10
            bits.
        compile: run the model through `torch.compile`.
        gradient_checkpointing: keep the input of each block only, and compute
            the rest a second time in the backward.
        linear_kernel: of fp32 products on a CPU: "plain" is PyTorch's, "fast"
            oneDNN's, "auto" the one that a short probe finds faster. A resumed run
            keeps what it began with.
        ema_decay: in [0, 1); validate, sample and publish the moving average of
            the weights that forgets with this factor a step; 0 for the weights.
        parallel: what several processes share: "ddp" the examples, "fsdp" also
            weights, gradients and optimizer.
        seed: of the order of the data, dropout and samples.
        device: "auto", "cpu", "cuda", "mps" or any that PyTorch names.

    Raises:
        ValueError: a field is outside its range.
    """

    steps: int
    batch_size: int = 16
    max_tokens: int = 0
    accumulation_steps: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    schedule: str = "cosine"
    warmup_ratio: float = 0.0
    min_learning_rate_ratio: float = 0.1
    max_grad_norm: float = 1.0
    log_every: int = 10
    validate_every: int = 0
    sample_every: int = 0
    save_every: int = 0
    keep_checkpoints: int = 2
    on_bad_step: str = "stop"
    max_loss_ratio: float = 0.0
    precision: str = "fp32"
    tf32: bool = False
    compile: bool = False
    gradient_checkpointing: bool = False
    linear_kernel: str = "auto"
    ema_decay: float = 0.0
    parallel: str = "ddp"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation_steps", "log_every"):
            check_count(name, getattr(self, name))
        # should the newest be damaged, there is another
        check_count("keep_checkpoints", self.keep_checkpoints, minimum=2)
        for name in ("validate_every", "sample_every", "save_every", "max_tokens"):
            check_count(name, getattr(self, name), minimum=0)
        check_seed(self.seed)
        for name in ("learning_rate", "weight_decay", "max_grad_norm", "max_loss_ratio"):
            check_number(name, getattr(self, name), low=0, high=math.inf, inclusive=False)
        if self.learning_rate == 0:
            raise ValueError("learning_rate=0 would train nothing")
        for name in ("beta1", "beta2", "ema_decay"):
            check_number(name, getattr(self, name), low=0, high=1, inclusive=False)
        for name in ("warmup_ratio", "min_learning_rate_ratio"):
            check_number(name, getattr(self, name), low=0, high=1, inclusive=True)
        for name in ("tf32", "compile", "gradient_checkpointing"):
            check_flag(name, getattr(self, name))
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("linear_kernel", self.linear_kernel, LINEAR_KERNELS)
        check_choice("parallel", self.parallel, ("ddp", "fsdp"))
        check_choice("on_bad_step", self.on_bad_step, ("stop", "skip"))
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
