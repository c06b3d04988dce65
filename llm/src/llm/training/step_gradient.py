"""The gradient of one optimizer step, in as many forwards as the memory has room for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llm.core.base_model import BaseModel
from llm.core.fast_linear import FastLinear
from llm.training.config import TrainingConfig
from llm.training.dataset import Batch
from llm.training.embedding_rows import adds_rows, rows_into_gradient
from llm.training.errors import OutOfMemoryError
from llm.training.loss import next_token_loss
from llm.training.packing import attention_inputs
from llm.training.parallel import gradients_stay_here, is_sharded, replicate, shard
from llm.training.precision import autocast, check_precision, tf32
from llm.training.random_state import generator_states, set_generator_states
from llm.training.ranks import Ranks

logger = logging.getLogger(__name__)


class StepGradient:
    """Runs the batches of an optimizer step forward and backward.

    Args:
        model: on its device; shared among the ranks as the configuration says.
        config: how to train.
        device: of the model.

    Raises:
        ValueError: the device cannot train in the precision of the configuration.
    """

    def __init__(self, model: BaseModel, config: TrainingConfig, device: torch.device) -> None:
        check_precision(config.precision, device)
        self.ranks = Ranks.current()
        self.device = device
        self.max_tokens = config.max_tokens
        self._tf32 = config.tf32
        several = self.ranks.world_size > 1
        if several and config.parallel == "fsdp":
            shard(model)
        model.decoder.recompute_blocks = config.gradient_checkpointing
        self.loss_of_batch: nn.Module = LossOfBatch(model, config)
        if several and config.parallel == "ddp":
            self.loss_of_batch = replicate(self.loss_of_batch, device)
        self._model = model
        self._embeddings: Callable[[], AbstractContextManager[None]] = nullcontext
        if adds_rows(config, self.ranks.world_size):
            self._embeddings = partial(rows_into_gradient, model)
        self._is_exchanging = False

    def __call__(
        self, batches: Sequence[Batch], *, num_targets: int, loss_scale: float = 1.0
    ) -> Tensor:
        """Add the gradient of the mean loss to `.grad` of the parameters.

        Where memory runs out all is done again in smaller forwards, with the same
        randomness; `max_tokens` is then lower, and stays so.

        Args:
            batches: of this rank, one or more.
            num_targets: of all ranks' batches.
            loss_scale: which the gradient is multiplied by.

        Returns:
            This rank's share of the loss, in nats a token: a scalar on the device.

        Raises:
            OutOfMemoryError: there is no smaller forward, or other ranks wait already
                for what this one cannot give.
        """
        before = generator_states(self.device)
        while True:
            try:
                with tf32(self._tf32), self._embeddings():
                    return self._accumulate(batches, num_targets, loss_scale)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(batches, error)
            # outside of the handler, whose traceback holds what the forward had
            self._model.zero_grad(set_to_none=True)
            set_generator_states(before, self.device)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def compile_seconds(self, batch: Batch) -> float:
        """Have the model compiled for batches like this one; seconds that it took.

        Raises:
            ValueError: it cannot be compiled on this machine.
        """
        from torch._dynamo.exc import TorchDynamoException

        before = generator_states(self.device)
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            try:
                self([batch], num_targets=1)
            except TorchDynamoException as error:
                raise ValueError(
                    f"the model cannot be compiled here: {str(error).splitlines()[0]}; train "
                    "without compile"
                ) from error
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds.append(time.perf_counter() - started)
        self._model.zero_grad(set_to_none=True)
        set_generator_states(before, self.device)
        # without the work that every step has
        return max(0.0, seconds[0] - seconds[1])

    def lower_max_tokens(self, max_tokens: int) -> None:
        """Let a forward have no more than so many tokens; 0 says nothing."""
        self.max_tokens = min(filter(None, (self.max_tokens, max_tokens)), default=0)

    def agree(self) -> int:
        """Take the smallest `max_tokens` of the ranks, and return it."""
        for max_tokens in self.ranks.gather(self.max_tokens):
            self.lower_max_tokens(max_tokens)
        return self.max_tokens

    def _accumulate(self, batches: Sequence[Batch], num_targets: int, loss_scale: float) -> Tensor:
        total_loss = torch.zeros((), device=self.device)
        pieces = [piece for batch in batches for piece in self._pieces(batch)]
        for piece in pieces:
            # gradients go from rank to rank with those of the last piece
            last = piece is pieces[-1]
            with nullcontext() if last else gradients_stay_here(self.loss_of_batch):
                # of the whole step's targets, so that accumulation changes nothing
                loss = self._loss(piece, num_targets / loss_scale)
                self._is_exchanging = last and self.ranks.world_size > 1
                # the ranks' gradients are averaged, where this is to be a sum
                torch.autograd.backward(loss * self.ranks.world_size)
                self._is_exchanging = False
            total_loss += loss.detach()
        return total_loss / loss_scale

    def _pieces(self, batch: Batch) -> Iterator[Batch]:
        """Rows of a batch, as many at a time as `max_tokens` admits, at least one."""
        rows, length = batch["input_ids"].shape
        if is_sharded(self._model):
            # ranks that share the model run it equally often, however long their batches are
            length = self._model.config.max_position_embeddings
        step = max(1, self.max_tokens // length) if self.max_tokens else rows
        for start in range(0, rows, step):
            yield {name: tensor[start : start + step] for name, tensor in batch.items()}

    def _loss(self, batch: Batch, num_targets: float) -> Tensor:
        loss: Tensor = self.loss_of_batch(
            batch["input_ids"].to(self.device, non_blocking=True),
            batch["labels"].to(self.device, non_blocking=True),
            num_targets,
            **attention_inputs(batch, self.device),
        )
        return loss

    def _shrink(self, batches: Sequence[Batch], error: Exception) -> None:
        """Halve the largest forward."""
        rows, length = max(
            (piece["input_ids"].shape for batch in batches for piece in self._pieces(batch)),
            key=lambda shape: shape.numel(),
        )
        tried = f"memory ran out in a forward of {rows} × {length} tokens"
        if rows == 1:
            raise OutOfMemoryError(
                f"{tried}, and one example is the least: take a smaller model or context, "
                "precision='bf16' or gradient_checkpointing=True"
            ) from error
        if self._is_exchanging or is_sharded(self._model):
            raise OutOfMemoryError(
                f"{tried}, in which other ranks take part: set max_tokens to {rows // 2 * length} "
                "or less"
            ) from error
        self.max_tokens = rows // 2 * length
        logger.warning("%s: max_tokens is %d from now on", tried, self.max_tokens)


class LossOfBatch(nn.Module):
    """The forward from which the gradients come; to the processes that share it, the model.

    Args:
        model: whose loss.
        config: the precision, and whether to compile.
    """

    def __init__(self, model: BaseModel, config: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.precision = config.precision
        # the loss is one function already, and a loop besides
        self.hidden_states = (
            torch.compile(model.hidden_states) if config.compile else model.hidden_states
        )

    def forward(
        self, input_ids: Tensor, labels: Tensor, num_targets: float, **attention: Any
    ) -> Tensor:
        """The sum of the batch's losses, divided by `num_targets`."""
        with autocast(self.precision, input_ids.device):
            return next_token_loss(
                self.hidden_states(input_ids, **attention),
                self.model.lm_head.weight,
                labels,
                num_targets=num_targets,
                fast=isinstance(self.model.lm_head, FastLinear),
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device, or the machine, has no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # the CPU's allocator and Metal's raise a plain RuntimeError
    message = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in message or "MPS backend out of memory" in message
    )
