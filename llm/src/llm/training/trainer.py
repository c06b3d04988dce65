"""The training loop."""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import math
import platform
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from llm.core.base_model import BaseModel, check_range
from llm.core.config import check_choice, check_count, check_number, check_seed
from llm.core.device import choose_device
from llm.core.model_folder import write_json
from llm.generation import generate_text
from llm.tokenizers import BaseTokenizer
from llm.training.checkpoint import (
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    save_model,
)
from llm.training.dataset import Batch, ExampleSource, ShuffledOrder, TextDataset, collate
from llm.training.loss import count_targets, next_token_loss
from llm.training.optimizer import OPTIMIZERS, get_optimizer
from llm.training.scheduler import SCHEDULES
from llm.training.validation import ValidationResult, validate

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
RUN_FILE = "run.json"
FINAL_FOLDER = "final"


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is not a number; the weights are those of the step before."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train.

    Args:
        steps: optimizer steps.
        batch_size: examples a forward.
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
        save_every: steps from one checkpoint to the next; 0 for none.
        keep_checkpoints: the newest that are kept, ≥ 1, besides the best.
        seed: of the order of the data, dropout and samples.
        device: "auto", "cpu", "cuda", "mps" or any that PyTorch names.

    Raises:
        ValueError: a field is outside its range.
    """

    steps: int
    batch_size: int = 16
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
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation_steps", "log_every", "keep_checkpoints"):
            check_count(name, getattr(self, name))
        for name in ("validate_every", "sample_every", "save_every"):
            check_count(name, getattr(self, name), minimum=0)
        check_seed(self.seed)
        for name in ("learning_rate", "weight_decay", "max_grad_norm"):
            check_number(name, getattr(self, name), low=0, high=math.inf, inclusive=False)
        if self.learning_rate == 0:
            raise ValueError("learning_rate=0 would train nothing")
        for name in ("beta1", "beta2"):
            check_number(name, getattr(self, name), low=0, high=1, inclusive=False)
        for name in ("warmup_ratio", "min_learning_rate_ratio"):
            check_number(name, getattr(self, name), low=0, high=1, inclusive=True)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)


class Trainer:
    """Trains a model on examples, into a run folder.

    The run folder gets `run.json` (what was run), `metrics.jsonl` (a line a log
    step), checkpoints `step-…/` and the trained model in `final/`.

    Args:
        model: moved to the device, and trained in place.
        train_dataset: `TextDataset`, or examples of any lengths in its format.
        config: how to train.
        validation_dataset: what to validate on, if anything.
        tokenizer: saved with the model, and needed for samples.
        sample_prompts: texts that samples continue.
        sample_options: how, as keywords of `llm.generation.generate_text`.
        run_folder: an empty or new folder; None to write nothing.
        run_info: what else `run.json` should say, as JSON.
        show_progress: a progress bar on stderr.

    Raises:
        ValueError: an argument does not fit another; names both.
        FileExistsError: the run folder holds something.
    """

    def __init__(
        self,
        model: BaseModel,
        train_dataset: ExampleSource,
        config: TrainingConfig,
        *,
        validation_dataset: ExampleSource | None = None,
        tokenizer: BaseTokenizer | None = None,
        sample_prompts: Sequence[str] = (),
        sample_options: Mapping[str, Any] | None = None,
        run_folder: str | Path | None = None,
        run_info: Mapping[str, Any] | None = None,
        show_progress: bool = True,
    ) -> None:
        self.device = choose_device(config.device)
        self.model = model.to(self.device)
        self.train_dataset = train_dataset
        self.validation_dataset = validation_dataset
        self.tokenizer = tokenizer
        self.sample_prompts = sample_prompts
        self.sample_options = {"max_new_tokens": 50, "do_sample": True, **(sample_options or {})}
        self.config = config
        self.show_progress = show_progress
        if config.sample_every and sample_prompts and tokenizer is None:
            raise ValueError(f"sample_every={config.sample_every} needs a tokenizer")
        if tokenizer is not None and len(tokenizer) > model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens and the model a vocabulary of "
                f"{model.config.vocab_size}"
            )
        if isinstance(sample_prompts, str):
            raise TypeError("sample_prompts is one string; give a list of strings")
        self._check_dataset("training", train_dataset)
        if validation_dataset is not None:
            self._check_dataset("validation", validation_dataset)
        self.optimizer = get_optimizer(
            self.model,
            config.optimizer,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(config.beta1, config.beta2),
        )
        self.schedule = SCHEDULES[config.schedule](
            self.optimizer,
            warmup_steps=round(config.warmup_ratio * config.steps),
            total_steps=config.steps,
            min_ratio=config.min_learning_rate_ratio,
        )
        self.order = ShuffledOrder(len(train_dataset), config.seed)
        self.step = 0
        self.tokens = 0
        self.best_loss = math.inf
        self.best_step: int | None = None
        self.last_checkpoint: Path | None = None
        self.last_checkpoint_step: int | None = None
        self.run_folder = None if run_folder is None else Path(run_folder)
        if self.run_folder is not None:
            # before a long run, not after it: can the model be saved at all?
            model.hf_format.config_to_hf(model.config)
            self._start_run_folder(self.run_folder, run_info or {})

    def train(self) -> ValidationResult | None:
        """Train up to `config.steps`, validate, and write `final/`.

        Returns:
            The last validation, or None without a validation dataset.

        Raises:
            NonFiniteLossError: the loss or its gradient is not a number. The
                weights are left as the step before made them, and so are the
                checkpoints.
        """
        config = self.config
        if self.step == 0:
            torch.manual_seed(config.seed)
        self.model.train()
        window = _Window()
        bar = tqdm(
            total=config.steps, initial=self.step, unit="step", disable=not self.show_progress
        )
        with bar:
            if self.last_checkpoint_step == self.step:
                # a checkpoint is written before what its step is due afterwards
                self._validate_and_sample()
            while self.step < config.steps:
                loss, grad_norm, num_targets = self.train_step()
                bar.update()
                window.add(loss, num_targets)
                last = self.step == config.steps
                if last or self.step % config.log_every == 0:
                    learning_rate = self.schedule.get_last_lr()[0]
                    metrics = {
                        "loss": window.loss,
                        "learning_rate": learning_rate,
                        "grad_norm": grad_norm,
                        "tokens_per_second": window.tokens_per_second,
                    }
                    self._write_metrics(metrics)
                    bar.set_postfix_str(
                        f"loss {window.loss:.3f}, lr {learning_rate:.1e}, "
                        f"{window.tokens_per_second:,.0f} tokens/s"
                    )
                    window = _Window()
                with window.paused():
                    # saved before anything that may fail or take long
                    if self._due(config.save_every) and self.run_folder is not None:
                        self.save_checkpoint()
                    if not last:
                        self._validate_and_sample()
        if self.run_folder is not None:
            save_model(self.run_folder / FINAL_FOLDER, self.model, self.tokenizer)
        return None if self.validation_dataset is None else self.validate()

    def train_step(self) -> tuple[float, float, int]:
        """One optimizer step.

        Returns:
            Loss in nats a token, the gradient's norm before clipping, and the
            number of tokens predicted.
        """
        batches = self._next_batches()
        num_targets = sum(count_targets(batch["labels"]) for batch in batches)
        if num_targets == 0:
            raise ValueError(f"step {self.step + 1}: every label of its examples is ignored")
        total_loss = torch.zeros((), device=self.device)
        for batch in batches:
            input_ids = batch["input_ids"].to(self.device, non_blocking=True)
            labels = batch["labels"].to(self.device, non_blocking=True)
            hidden_states = self.model.hidden_states(input_ids)
            # of the whole step's targets, so that accumulation changes nothing
            loss = next_token_loss(
                hidden_states, self.model.lm_head.weight, labels, num_targets=num_targets
            )
            loss.backward()  # type: ignore[no-untyped-call]
            total_loss += loss.detach()
        grad_norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.config.max_grad_norm or math.inf
        )
        self._check_finite(total_loss, grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += num_targets
        return total_loss.item(), grad_norm.item(), num_targets

    def validate(self) -> ValidationResult:
        """The loss on the validation dataset now; a checkpoint of this step may be the best."""
        if self.validation_dataset is None:
            raise ValueError("the trainer has no validation_dataset")
        result = validate(self.model, self.validation_dataset, batch_size=self.config.batch_size)
        self._write_metrics({"validation_loss": result.loss})
        logger.info("step %d: validation loss %.3f", self.step, result.loss)
        if self.last_checkpoint_step == self.step and result.loss < self.best_loss:
            self.best_loss, self.best_step = result.loss, self.step
        return result

    def sample(self) -> list[str]:
        """A continuation of each sample prompt now; training's randomness is left alone."""
        if self.tokenizer is None:
            raise ValueError("the trainer has no tokenizer to write samples with")
        texts = []
        for prompt in self.sample_prompts:
            generator = torch.Generator(self.device).manual_seed(self.config.seed)
            text = generate_text(
                self.model,
                self.tokenizer,
                prompt,
                generator=generator,
                **self.sample_options,
            )
            self._write_metrics({"prompt": prompt, "sample": text})
            quoted = textwrap.indent(prompt + text, "  | ", lambda line: True)
            logger.info("step %d writes:\n%s", self.step, quoted)
            texts.append(text)
        return texts

    def save_checkpoint(self) -> Path:
        """Write a checkpoint of this step; it is durable when this returns."""
        if self.run_folder is None:
            raise ValueError("the trainer has no run_folder to save into")
        self.last_checkpoint = save_checkpoint(
            self.run_folder,
            step=self.step,
            model=self.model,
            tokenizer=self.tokenizer,
            optimizer=self.optimizer,
            trainer_state={
                "tokens": self.tokens,
                "best_loss": None if self.best_step is None else self.best_loss,
                "best_step": self.best_step,
                "schedule": self.schedule.state_dict(),
                "random": _random_state(self.device),
            },
        )
        self.last_checkpoint_step = self.step
        logger.info("saved checkpoint %s", self.last_checkpoint)
        prune_checkpoints(
            self.run_folder, keep=self.config.keep_checkpoints, best_step=self.best_step
        )
        return self.last_checkpoint

    def load_checkpoint(self, folder: str | Path) -> None:
        """Go on from a checkpoint of the same model, data and configuration.

        `train()` then does what it would have done had it never stopped, to the
        bit on a CPU.

        Raises:
            FileNotFoundError, ValueError: it is damaged or of another model.
        """
        folder = Path(folder)
        state = load_checkpoint(folder, self.model, self.optimizer)
        self.step, self.tokens = state["step"], state["tokens"]
        self.best_step = state["best_step"]
        self.best_loss = math.inf if self.best_step is None else state["best_loss"]
        self.schedule.load_state_dict(state["schedule"])
        for group, learning_rate in zip(
            self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True
        ):
            group["lr"] = learning_rate
        _restore_random_state(state["random"], self.device)
        self.last_checkpoint, self.last_checkpoint_step = folder, self.step

    def _check_dataset(self, name: str, dataset: ExampleSource) -> None:
        if len(dataset) == 0:
            raise ValueError(f"the {name} dataset is empty")
        if not isinstance(dataset, TextDataset):
            return
        longest, context = len(dataset[0]["input_ids"]), self.model.config.max_position_embeddings
        if longest > context:
            raise ValueError(
                f"the {name} dataset has blocks of {longest} tokens, more than the model's "
                f"max_position_embeddings={context}"
            )
        largest, vocab_size = int(dataset.token_ids.max()), self.model.config.vocab_size
        if largest >= vocab_size:
            raise ValueError(
                f"the {name} dataset has token id {largest}, outside the model's vocabulary of "
                f"{vocab_size}"
            )

    def _validate_and_sample(self) -> None:
        """What is due after this step, the last validation apart."""
        if self.validation_dataset is not None and self._due(self.config.validate_every):
            self.validate()
        if self.sample_prompts and self._due(self.config.sample_every):
            self.sample()

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _next_batches(self) -> list[Batch]:
        """The batches of the next optimizer step: a function of the seed and the step."""
        size = self.config.batch_size
        first = self.step * size * self.config.accumulation_steps
        batches = [
            collate([self.train_dataset[self.order[start + i]] for i in range(size)])
            for start in range(first, first + size * self.config.accumulation_steps, size)
        ]
        for batch in batches:
            # here, on the CPU: on a GPU it would wait for the device
            check_range("token id", batch["input_ids"], self.model.config.vocab_size)
        return batches

    def _check_finite(self, loss: Tensor, grad_norm: Tensor) -> None:
        if bool(torch.isfinite(loss)) and bool(torch.isfinite(grad_norm)):
            return
        self.optimizer.zero_grad(set_to_none=True)
        kept = (
            f"the last good checkpoint is {self.last_checkpoint}"
            if self.last_checkpoint
            else "there is no checkpoint yet"
        )
        raise NonFiniteLossError(
            f"step {self.step + 1}: loss {loss.item():g}, gradient norm {grad_norm.item():g} at "
            f"learning rate {self.schedule.get_last_lr()[0]:g}; the weights were not touched, and "
            f"{kept}; try a lower learning_rate or a longer warm-up"
        )

    def _write_metrics(self, values: Mapping[str, Any]) -> None:
        if self.run_folder is None:
            return
        line = json.dumps({"step": self.step, "tokens": self.tokens, **values}, ensure_ascii=False)
        with open(self.run_folder / METRICS_FILE, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _start_run_folder(self, folder: Path, run_info: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty: a run is never written over")
        fingerprints = {}
        if isinstance(self.train_dataset, TextDataset):
            fingerprints["train_dataset"] = self.train_dataset.fingerprint()
        if isinstance(self.validation_dataset, TextDataset):
            fingerprints["validation_dataset"] = self.validation_dataset.fingerprint()
        if self.tokenizer is not None:
            fingerprints["tokenizer"] = self.tokenizer.fingerprint()
        model_config = {"model_type": self.model.config.model_type, **self.model.config.to_dict()}
        run = {
            "model": model_config,
            "training": dataclasses.asdict(self.config),
            "seed": self.config.seed,
            "device": str(self.device),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("llm", "torch", "numpy")},
            },
            "fingerprints": fingerprints,
            **run_info,
        }
        write_json(folder / RUN_FILE, run)


class _Window:
    """Loss and speed from one line of metrics to the next."""

    def __init__(self) -> None:
        self.total_loss = 0.0
        self.num_targets = 0
        self.started = time.perf_counter()

    def add(self, loss: float, num_targets: int) -> None:
        self.total_loss += loss * num_targets
        self.num_targets += num_targets

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time that the block takes out of the speed."""
        began = time.perf_counter()
        yield
        self.started += time.perf_counter() - began

    @property
    def loss(self) -> float:
        return self.total_loss / self.num_targets

    @property
    def tokens_per_second(self) -> float:
        return self.num_targets / (time.perf_counter() - self.started)


def _random_state(device: torch.device) -> dict[str, str]:
    """The state of every generator that training draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return {
        name: base64.b64encode(state.numpy().tobytes()).decode() for name, state in states.items()
    }


def _restore_random_state(states: Mapping[str, str], device: torch.device) -> None:
    decoded = {
        name: torch.frombuffer(bytearray(base64.b64decode(state)), dtype=torch.uint8)
        for name, state in states.items()
    }
    torch.set_rng_state(decoded["cpu"])
    # a checkpoint of another kind of device has no state of this one
    if device.type == "cuda" and "cuda" in decoded:
        torch.cuda.set_rng_state(decoded["cuda"], device)
    if device.type == "mps" and "mps" in decoded:
        torch.mps.set_rng_state(decoded["mps"])
