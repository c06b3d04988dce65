"""The training loop."""

from __future__ import annotations

import dataclasses
import logging
import math
import platform
import textwrap
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from llm.core.base_model import BaseModel, check_range
from llm.core.device import choose_device
from llm.core.fast_linear import LINEAR_KERNELS, choose_linear, is_available, set_linear_kernel
from llm.data import rank_positions
from llm.generation import generate_text
from llm.tokenizers import BaseTokenizer
from llm.training.average import WeightAverage
from llm.training.checkpoint import (
    checkpoint_folder,
    list_checkpoints,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    save_model,
    set_aside,
)
from llm.training.config import TrainingConfig
from llm.training.dataset import Batch, ExampleSource, collate
from llm.training.dataset_checks import check_dataset
from llm.training.errors import (
    BadStepError,
    LossSpikeError,
    NonFiniteLossError,
    TrainingStoppedError,
)
from llm.training.loss import count_targets
from llm.training.metric_loggers import MetricLogger, MetricLoggers
from llm.training.optimizer import get_optimizer
from llm.training.parallel import is_sharded, reshard, whole
from llm.training.precision import autocast, next_loss_scale
from llm.training.random_state import random_state, restore_random_state, seed_rank
from llm.training.ranks import Ranks, device_of_rank
from llm.training.run_folder import FINAL_FOLDER, RunFolder
from llm.training.run_settings import check_settings
from llm.training.run_summary import RunSummary
from llm.training.scheduler import SCHEDULES, move_schedule
from llm.training.step_gradient import StepGradient
from llm.training.stop_signals import StopSignals
from llm.training.stream import ExampleStream, ShuffledStream
from llm.training.trainer_state import TrainerState
from llm.training.utilization import Utilization
from llm.training.validation import ValidationResult, validate_each

logger = logging.getLogger(__name__)

# The guard against leaps of the loss compares with a mean over about so many steps, and begins
# when there have been as many.
_MEAN_STEPS = 50


class _StopAskedError(Exception):
    """A signal came while the model was evaluated."""


class Trainer:
    """Trains a model on examples, into a run folder.

    The run folder gets `run.json` (what was run), `metrics.jsonl` (a line a log
    step), checkpoints `step-…/` and the trained model in `final/`. Nothing is
    written before `train` or `sample`; in the folder of a run that has been
    started, `resume` comes first.

    Args:
        model: moved to the device, and trained in place.
        train_dataset: `TextDataset`, or examples of any lengths in its format,
            shuffled anew each epoch; or an `ExampleStream`, which has an order of
            its own.
        config: how to train.
        validation_dataset: what to validate on, if anything: a dataset, or
            several by name, of which the first decides the best checkpoint.
        tokenizer: saved with the model, and needed for samples.
        sample_prompts: texts that samples continue.
        sample_options: how, as keywords of `llm.generation.generate_text`.
        run_folder: an empty or new folder, or that of a run to resume; None to
            write nothing.
        run_info: what else `run.json` should say, as JSON.
        loggers: what shows the metrics besides `metrics.jsonl`: "tensorboard",
            "trackio", or a `MetricLogger` of your own. One that fails is left out.
        show_progress: a progress bar on stderr.

    Raises:
        ValueError: an argument does not fit another; names both.
        MissingPackageError: a logger's package is not installed.
        FileExistsError: the run folder holds something that is no run.
    """

    def __init__(
        self,
        model: BaseModel,
        train_dataset: ExampleSource | ExampleStream,
        config: TrainingConfig,
        *,
        validation_dataset: ExampleSource | Mapping[str, ExampleSource] | None = None,
        tokenizer: BaseTokenizer | None = None,
        sample_prompts: Sequence[str] = (),
        sample_options: Mapping[str, Any] | None = None,
        run_folder: str | Path | None = None,
        run_info: Mapping[str, Any] | None = None,
        loggers: Sequence[str | MetricLogger] = (),
        show_progress: bool = True,
    ) -> None:
        self.ranks = Ranks.current()
        self.device = device_of_rank(choose_device(config.device))
        self.model = model.to(self.device)
        self.train_dataset = train_dataset
        self.validation_dataset = validation_dataset
        self.tokenizer = tokenizer
        self.sample_prompts = sample_prompts
        self.sample_options = {"max_new_tokens": 50, "do_sample": True, **(sample_options or {})}
        self.config = config
        self.show_progress = show_progress and self.ranks.is_main
        if config.sample_every and sample_prompts and tokenizer is None:
            raise ValueError(f"sample_every={config.sample_every} needs a tokenizer")
        if tokenizer is not None and len(tokenizer) > model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens and the model a vocabulary of "
                f"{model.config.vocab_size}"
            )
        if isinstance(sample_prompts, str):
            raise TypeError("sample_prompts is one string; give a list of strings")
        check_dataset("training", train_dataset, model.config)
        for name, dataset in self._validation_sets().items():
            check_dataset(name, dataset, model.config)
        self.stream = (
            train_dataset
            if isinstance(train_dataset, ExampleStream)
            else ShuffledStream(train_dataset, config.seed)
        )
        self.linear_kernel = self._use_linear_kernel(config.linear_kernel)
        # before the optimizer, which is to see the parameters as they are shared
        self.gradient = StepGradient(self.model, config, self.device)
        self.utilization = Utilization(model.config, config, self.device, self.ranks.world_size)
        self.average = WeightAverage(self.model, config.ema_decay) if config.ema_decay else None
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
        self.state = TrainerState()
        self.last_checkpoint: Path | None = None
        self.last_checkpoint_step: int | None = None
        self.run = None if run_folder is None else RunFolder(run_folder)
        self.run_info = run_info or {}
        self.loggers = MetricLoggers(loggers)
        if loggers and self.run is None:
            raise ValueError("loggers need a run_folder, whose metrics they show")
        self._is_run_open = False
        self._signals: StopSignals | None = None
        self._changes: dict[str, Any] = {}
        self._clock = time.perf_counter()
        if self.run is not None:
            # before a long run, not after it: can the model be saved at all?
            model.hf_format.config_to_hf(model.config)
            if self.ranks.is_main and not self.run.is_run:
                self.run.check_new()

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.state.step

    @property
    def tokens(self) -> int:
        """Tokens predicted."""
        return self.state.tokens

    def train(self, *, until: int | None = None) -> ValidationResult | None:
        """Train up to `config.steps`, validate, and write `final/`.

        Args:
            until: the step after which to save a checkpoint and return, for
                `resume` to go on; None for `config.steps`.

        Returns:
            The last validation, or None without a validation dataset or if
            there are steps left.

        Raises:
            BadStepError: the loss or its gradient is not a number, or has leapt,
                with `on_bad_step="stop"`. The weights are left as the step before
                made them, and so are the checkpoints.
            TrainingStoppedError: SIGTERM or SIGINT came; the step was finished, and a
                checkpoint written. A second signal does what it does elsewhere.
            FileExistsError: the folder holds a run that was not resumed.
            RunInUseError: another process writes into it.
            OutOfMemoryError: a step does not fit, in however small forwards.
            ValueError: the model cannot be compiled.
            OSError: the run cannot be written; the checkpoints are whole.
        """
        with self.writing(), StopSignals() as self._signals:
            self._clock = time.perf_counter()
            try:
                return self._train(until)
            finally:
                self._count_seconds()
                self._signals = None

    def _train(self, until: int | None) -> ValidationResult | None:
        config = self.config
        end = config.steps if until is None else min(until, config.steps)
        if self.step == 0:
            seed_rank(config.seed, self.ranks)
        self.model.train()
        if config.compile and self.step < end:
            seconds = self.gradient.compile_seconds(self._next_batches()[0])
            logger.info("compiled the model in %.0f s", seconds)
        speed = _Speed()
        bar = tqdm(
            total=config.steps, initial=self.step, unit="step", disable=not self.show_progress
        )
        with bar:
            if self.last_checkpoint_step == self.step < config.steps:
                # a checkpoint is written before what its step is due afterwards
                self._validate_and_sample()
            while self.step < end:
                _, grad_norm, num_targets = self.train_step()
                bar.update()
                speed.add(num_targets, self._examples_per_step)
                last = self.step == config.steps
                if last or self.step % config.log_every == 0:
                    bar.set_postfix_str(self._log(grad_norm, speed))
                    speed = _Speed()
                with speed.paused():
                    # saved before anything that may fail or take long
                    if self._due(config.save_every) or (last and config.save_every):
                        self._save_if_new()
                    if self._is_stop_asked():
                        self._stop()
                    if self.step < end:
                        self._validate_and_sample()
        if self.step < config.steps:
            self._save_if_new()
            return None
        if self.run is not None:
            with self._published_weights():
                save_model(self.run.path / FINAL_FOLDER, self.model, self.tokenizer)
        try:
            return None if self.validation_dataset is None else self.validate()
        except _StopAskedError:
            self._stop()

    def train_step(self) -> tuple[float, float, int]:
        """One optimizer step.

        Returns:
            Loss in nats a token, the gradient's norm before clipping, and the
            number of tokens predicted.
        """
        batches = self._next_batches()
        own_targets = sum(count_targets(batch["labels"]) for batch in batches)
        num_targets = int(self.ranks.sum(own_targets)[0])
        if num_targets == 0:
            raise ValueError(f"step {self.step + 1}: every label of its examples is ignored")
        scale = self.state.loss_scale if self.config.precision == "fp16" else 1.0
        own_loss = self.gradient(batches, num_targets=num_targets, loss_scale=scale)
        self.state.max_tokens = self.gradient.max_tokens
        loss, grad_norm = self.ranks.sum(own_loss.item())[0], self._clip(scale)
        bad = self._find_bad(loss, grad_norm)
        # of the scale, and not of the model
        overflow = math.isfinite(loss) and not math.isfinite(grad_norm) and scale > 1
        if bad is not None and self.config.on_bad_step == "stop" and not overflow:
            raise bad
        self.state.step += 1
        if bad is None:
            self.optimizer.step()
            self.state.add_step(loss, num_targets, mean_over=_MEAN_STEPS)
            if self.average is not None:
                self.average.update(self.model, self.state.good_steps)
        else:
            self.state.skipped_steps += 1
            if not overflow:
                logger.warning("%s: skipped", bad)
        if self.config.precision == "fp16":
            self.state.loss_scale, self.state.steps_at_loss_scale = next_loss_scale(
                scale, self.state.steps_at_loss_scale, overflow=overflow
            )
        move_schedule(self.schedule, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        return loss, grad_norm, num_targets

    def _clip(self, loss_scale: float) -> float:
        """Scale the gradient back, and down to `max_grad_norm`; its norm before that."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if loss_scale != 1:
            torch._foreach_mul_(gradients, 1 / loss_scale)
        norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.config.max_grad_norm or math.inf
        )
        return whole(norm).item()

    def validate(self) -> ValidationResult:
        """The loss on the validation dataset now; a checkpoint of this step may be the best.

        Of the averaged weights, if there are any, and in the precision of training.

        Returns:
            That of the first, if there are several.
        """
        if self.validation_dataset is None:
            raise ValueError("the trainer has no validation_dataset")
        with self._published_weights(), autocast(self.config.precision, self.device):
            results = validate_each(
                self.model,
                self._validation_sets(),
                batch_size=self.config.batch_size,
                before_batch=self._check_signals,
            )
        result = next(iter(results.values()))
        metrics: dict[str, Any] = {"validation_loss": result.loss}
        if len(results) > 1:
            metrics["validation_losses"] = {name: each.loss for name, each in results.items()}
        self._write_metrics(metrics)
        for name, each in results.items():
            logger.info("step %d: %s loss %.3f", self.step, name, each.loss)
        if self.last_checkpoint_step == self.step and result.loss < self.state.best_loss:
            self.state.best_loss, self.state.best_step = result.loss, self.step
        return result

    def sample(self) -> list[str]:
        """A continuation of each sample prompt now; training's randomness is left alone."""
        if self.tokenizer is None:
            raise ValueError("the trainer has no tokenizer to write samples with")
        with self.writing(), self._published_weights():
            return self._sample(self.tokenizer)

    def _sample(self, tokenizer: BaseTokenizer) -> list[str]:
        texts = []
        for prompt in self.sample_prompts:
            self._check_signals()
            # all that have a share of the model run it
            if not self.ranks.is_main and not is_sharded(self.model):
                continue
            generator = torch.Generator(self.device).manual_seed(self.config.seed)
            text = generate_text(
                self.model,
                tokenizer,
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
        """Write a checkpoint of this step; it is durable when this returns.

        Raises:
            FileExistsError: there is one already.
            OSError: it cannot be written; those there are, are whole.
        """
        if self.run is None:
            raise ValueError("the trainer has no run_folder to save into")
        self._count_seconds()
        with self.writing():
            self.state.random = random_state(self.device, self.ranks)
            self.state.max_tokens = self.gradient.agree()
            if self.ranks.is_main:
                self.state.metrics_bytes = self.run.flush_metrics()
            saved = save_checkpoint(
                self.run.path,
                model=self.model,
                tokenizer=self.tokenizer,
                optimizer=self.optimizer,
                state=self.state,
                average=self.average,
            )
            if self.ranks.is_main:
                logger.info("saved checkpoint %s", saved)
                prune_checkpoints(
                    self.run.path, keep=self.config.keep_checkpoints, best_step=self.state.best_step
                )
        self.last_checkpoint = checkpoint_folder(self.run.path, self.step)
        self.last_checkpoint_step = self.step
        return self.last_checkpoint

    def summary(self) -> RunSummary:
        """What came of the run up to now, and where it is; `print` shows it as text."""
        is_finished = self.step == self.config.steps
        return RunSummary.of(self.state, self.run, is_finished=is_finished)

    def resume(
        self, checkpoint: str | Path | None = None, *, allow_changed: Collection[str] = ()
    ) -> Path:
        """Go on with the run of the run folder: `train` then does what it would have done.

        On a CPU to the bit: weights, metrics and samples are those of a run that was
        never stopped. With more `steps` than before, the learning rate follows the
        longer schedule from here on. Metrics after the checkpoint are cut off; later
        checkpoints are set aside under another name.

        Args:
            checkpoint: a `step-…/` of the run; None for the newest that is whole.
            allow_changed: settings that may differ from those that the run was
                started with, such as "learning_rate".

        Returns:
            The checkpoint.

        Raises:
            FileNotFoundError: there is no run, or no checkpoint that is whole.
            ValueError: the settings, the data or the tokenizer are others than
                those of the run, or the checkpoint given is damaged or of another run.
            RunInUseError: another process writes into the folder.
        """
        if self.run is None:
            raise ValueError("the trainer has no run_folder to resume from")
        folder: Path
        chosen = None
        if self.ranks.is_main:
            folder = self._choose_checkpoint(checkpoint, allow_changed)
            chosen = folder, self.run.description().get("linear_kernel")
        folder, linear_kernel = self.ranks.from_main(chosen)
        if self.config.linear_kernel == "auto":
            self._keep_linear_kernel(linear_kernel)
        self.load_checkpoint(folder)
        if self.ranks.is_main:
            with self.run.writing():
                for later in list_checkpoints(self.run.path, after=self.step):
                    logger.warning("%s is later, and now %s", later, set_aside(later))
                self.run.cut_metrics(self.state.metrics_bytes)
                self.loggers.close()
                self._describe_resumed()
            logger.info("resumed from %s", folder)
        self._is_run_open = True
        return folder

    def load_checkpoint(self, folder: str | Path) -> None:
        """Take over a checkpoint of the same model, data and configuration.

        Raises:
            FileNotFoundError, ValueError: it is damaged or of another model.
        """
        folder = Path(folder)
        self.state = load_checkpoint(folder, self.model, self.optimizer, self.average)
        self.gradient.lower_max_tokens(self.state.max_tokens)
        move_schedule(self.schedule, self.step)
        restore_random_state(self.state.random, self.device, self.ranks)
        self.last_checkpoint, self.last_checkpoint_step = folder, self.step

    def _choose_checkpoint(
        self, checkpoint: str | Path | None, allow_changed: Collection[str]
    ) -> Path:
        """The checkpoint to resume from, after all that may speak against it."""
        assert self.run is not None
        self._changes = check_settings(self.run.description(), self._description(), allow_changed)
        with self.run.writing():
            self.run.remove_unfinished()
            if checkpoint is None:
                return self.run.newest_checkpoint()
        folder = Path(checkpoint)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder")
        if folder.resolve().parent != self.run.path.resolve():
            raise ValueError(f"{folder} is not a checkpoint of {self.run.path}")
        return folder

    def _use_linear_kernel(self, kernel: str) -> str:
        """Have all ranks' linear layers computed alike; returns how."""
        if self.device.type != "cpu" or self.config.precision != "fp32":
            kernel = "plain"
        chosen = choose_linear(kernel) if self.ranks.is_main else None
        return set_linear_kernel(self.model, self.ranks.from_main(chosen))

    def _keep_linear_kernel(self, recorded: object) -> None:
        """Go on with the run's own, for the probe may find otherwise this time."""
        if recorded == "fast" and not is_available():
            logger.warning(
                "the run's linear layers were oneDNN's, which is not here: they are PyTorch's from "
                "now on, and its numbers no more those of a run that was not interrupted"
            )
        elif recorded in LINEAR_KERNELS:
            self.linear_kernel = self._use_linear_kernel(recorded)

    def _describe_resumed(self) -> None:
        assert self.run is not None
        description = self.run.description()
        resumed = [*description.get("resumed", []), {"step": self.step, "changed": self._changes}]
        self.run.describe({**description, **self._description(), "resumed": resumed})

    def _validation_sets(self) -> Mapping[str, ExampleSource]:
        """What to validate on, by name."""
        if self.validation_dataset is None:
            return {}
        if isinstance(self.validation_dataset, Mapping):
            return self.validation_dataset
        return {"validation": self.validation_dataset}

    def _validate_and_sample(self) -> None:
        """What is due after this step, the last validation apart."""
        run = self.run if self.ranks.is_main else None
        metrics_bytes = 0 if run is None else run.flush_metrics()
        try:
            if self.validation_dataset is not None and self._due(self.config.validate_every):
                self.validate()
            if self.sample_prompts and self._due(self.config.sample_every):
                self.sample()
        except _StopAskedError:
            # all of it is done again on resume
            if run is not None:
                run.cut_metrics(metrics_bytes)
            self._stop()

    @contextmanager
    def _published_weights(self) -> Iterator[None]:
        """Where the model has the weights that are validated, sampled and published."""
        with nullcontext() if self.average is None else self.average.in_place(self.model):
            yield
            reshard(self.model)

    def _count_seconds(self) -> None:
        # of `train` alone
        if self._signals is not None:
            now = time.perf_counter()
            self.state.seconds += now - self._clock
            self._clock = now

    def _is_stop_asked(self) -> bool:
        # asked of all ranks at the same place; outside of `train` nobody asks
        if self._signals is None:
            return False
        return self.ranks.any(self._signals.received is not None)

    def _check_signals(self) -> None:
        if self._is_stop_asked():
            raise _StopAskedError

    def _stop(self) -> NoReturn:
        """Save what there is, and end as the signal asks."""
        assert self._signals is not None
        # another rank may have been told first
        received = next(filter(None, self.ranks.gather(self._signals.received)))
        self._save_if_new()
        where = f"resume from {self.last_checkpoint}" if self.run else "nothing was saved"
        raise TrainingStoppedError(f"{received.name} after step {self.step}: {where}", received)

    def _save_if_new(self) -> None:
        if self.run is not None and self.last_checkpoint_step != self.step:
            self.save_checkpoint()

    def _log(self, grad_norm: float, speed: _Speed) -> str:
        """Write a line of metrics about the steps since the last one, and sum it up."""
        state, learning_rate = self.state, self.schedule.get_last_lr()[0]
        tokens_per_second = speed.tokens_per_second
        loss = state.window_loss / state.window_targets if state.window_targets else None
        metrics = {
            "loss": loss,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm if math.isfinite(grad_norm) else None,
            "tokens_per_second": tokens_per_second,
            **self.utilization.metrics(speed.num_targets, speed.num_examples, tokens_per_second),
        }
        if state.skipped_steps:
            metrics["skipped_steps"] = state.skipped_steps
        self._write_metrics(metrics)
        state.window_loss, state.window_targets = 0.0, 0
        shown = "skipped" if loss is None else f"{loss:.3f}"
        return f"loss {shown}, lr {learning_rate:.1e}, {tokens_per_second:,.0f} tokens/s"

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _next_batches(self) -> list[Batch]:
        """The batches of the next optimizer step: a function of the seed and the step."""
        size = self.config.batch_size
        positions = rank_positions(
            self.step,
            self._examples_per_step,
            rank=self.ranks.rank,
            num_ranks=self.ranks.world_size,
            batch_size=size,
        )
        batches = [
            collate([self.stream[position] for position in positions[start : start + size]])
            for start in range(0, len(positions), size)
        ]
        for batch in batches:
            # here, on the CPU: on a GPU it would wait for the device
            check_range("token id", batch["input_ids"], self.model.config.vocab_size)
        return batches

    @property
    def _examples_per_step(self) -> int:
        config = self.config
        return config.batch_size * config.accumulation_steps * self.ranks.world_size

    def _find_bad(self, loss: float, grad_norm: float) -> BadStepError | None:
        """What is wrong with a step, before it touches the weights."""
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        ratio, mean = self.config.max_loss_ratio, self.state.mean_loss
        usual = self.state.step - self.state.skipped_steps >= _MEAN_STEPS
        if finite and not (ratio and usual and loss > ratio * mean):
            return None
        self.optimizer.zero_grad(set_to_none=True)
        kept = (
            f"the last good checkpoint is {self.last_checkpoint}"
            if self.last_checkpoint
            else "there is no checkpoint yet"
        )
        described = (
            f"step {self.step + 1}: loss {loss:g}, gradient norm {grad_norm:g} at learning rate "
            f"{self.schedule.get_last_lr()[0]:g}"
        )
        if not finite:
            return NonFiniteLossError(
                f"{described}; the weights were not touched, and {kept}; try a lower "
                "learning_rate or a longer warm-up"
            )
        return LossSpikeError(
            f"{described}; the loss before was about {mean:g}; the weights were not touched, and "
            f"{kept}"
        )

    def _write_metrics(self, values: Mapping[str, Any]) -> None:
        if self.run is None or not self.ranks.is_main:
            return
        line = {"step": self.step, "tokens": self.tokens, **values}
        with self.writing():
            self.run.append_metrics(line)
            self.loggers.log(self.run, line)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one writer of the run folder, if there is one, and start the run in it.

        `train`, `sample` and the like do so themselves; around several of them, this
        keeps the loggers open from one to the next.
        """
        if self.run is None or not self.ranks.is_main:
            yield
            return
        with self.run.writing(), self.loggers.closed_after():
            if not self._is_run_open:
                self.run.start(self._description())
                self._is_run_open = True
            yield

    def _description(self) -> dict[str, Any]:
        """What `run.json` says."""
        described: dict[str, Any] = {
            "train_dataset": self.train_dataset,
            "tokenizer": self.tokenizer,
        }
        for name, dataset in self._validation_sets().items():
            described[f"{name}_dataset"] = dataset
        fingerprints = {
            name: each.fingerprint()
            for name, each in described.items()
            if hasattr(each, "fingerprint")
        }
        return {
            "model": {"model_type": self.model.config.model_type, **self.model.config.to_dict()},
            "training": {
                **dataclasses.asdict(self.config),
                "examples_per_step": self._examples_per_step,
            },
            "seed": self.config.seed,
            "device": str(self.device),
            "linear_kernel": self.linear_kernel,
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("llm", "torch", "numpy")},
            },
            "fingerprints": fingerprints,
            **self.run_info,
        }


class _Speed:
    """Tokens and examples from one line of metrics to the next, and the time they took."""

    def __init__(self) -> None:
        self.num_targets = self.num_examples = 0
        self.started = time.perf_counter()

    def add(self, num_targets: int, num_examples: int) -> None:
        self.num_targets += num_targets
        self.num_examples += num_examples

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time that the block takes out of the speed."""
        began = time.perf_counter()
        yield
        self.started += time.perf_counter() - began

    @property
    def tokens_per_second(self) -> float:
        return self.num_targets / (time.perf_counter() - self.started)
