"""What the scripts can be told: TOML files, every value of which is also a flag."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_origin, get_type_hints

import tyro

from experiments.shared.console import check_arguments, parse_arguments
from llm.core.config import build, check_choice, check_count, check_flag, check_number, check_seed
from llm.core.files import read_bytes, read_json

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "experiments" / "configs"
CHECKPOINTS = REPOSITORY / "checkpoints"

# what --resume means without a value
NEWEST = "newest"

SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")

# a larger count, rate or limit is a slip of the finger: it would run for years, or out of memory
MOST = 10**9
# streamed text that nobody reads to its end
MOST_NEW_TOKENS = 10**6

Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The architecture and its size.

    Args:
        model_type: Architecture.
        embed_dim: Residual width.
        num_heads: Attention heads; divides the width.
        num_layers: Decoder blocks.
        max_position_embeddings: Context, in tokens.
        dropout: Probability in [0, 1).
    """

    model_type: Annotated[Literal["gpt", "gpt2"], tyro.conf.arg(name="model")]
    embed_dim: int
    num_heads: int
    num_layers: int
    max_position_embeddings: int
    dropout: float

    def __post_init__(self) -> None:
        check_choice("model", self.model_type, ("gpt", "gpt2"))
        for name in ("embed_dim", "num_heads", "num_layers"):
            check_size(name, getattr(self, name))
        check_size("max_position_embeddings", self.max_position_embeddings, minimum=2)
        check_number("dropout", self.dropout, low=0, high=1, inclusive=False)
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim={self.embed_dim} is not divisible by num_heads={self.num_heads}"
            )


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Text and tokenizer.

    Args:
        data: Files, folders and globs of UTF-8 text; none for the Python
            language reference, which is on every machine.
        vocab_size: Tokens of the vocabulary, at least 260.
        validation_fraction: Share of the text that is not trained on.
        split: How it is chosen: whole documents, the end of the text, or
            documents if there are ten or more.
        shards: Folder that prepare_data.py wrote, in place of data: its text is
            tokenized, held out and read from the disk.
        document_mask: Attention stays inside documents; of shards only.
    """

    data: tuple[str, ...]
    vocab_size: int
    validation_fraction: float
    split: Literal["auto", "document", "position"]
    shards: str = ""
    document_mask: bool = False

    def __post_init__(self) -> None:
        if self.shards and self.data:
            raise ValueError("--data and --shards exclude one another")
        if self.document_mask and not self.shards:
            raise ValueError("--document-mask needs --shards, which know where documents end")
        check_size("vocab_size", self.vocab_size, minimum=256 + len(SPECIAL_TOKENS))
        check_number(
            "validation_fraction", self.validation_fraction, low=0, high=1, inclusive=False
        )
        if self.validation_fraction == 0:
            raise ValueError("validation_fraction=0 leaves nothing to validate on")
        check_choice("split", self.split, ("auto", "document", "position"))


@dataclass(frozen=True, kw_only=True)
class HFDataSettings:
    """Text and tokenizer.

    Args:
        data: Files, folders and globs of UTF-8 text; none for sentences in
            English and Russian that come with the scripts.
        dataset: Dataset of the HuggingFace hub, by its id, in place of data;
            streamed, the one thing here that uses the network.
        dataset_config: Its configuration, where it has several.
        text_field: Its column of text.
        max_documents: Texts to take from it.
        vocab_size: Tokens of the vocabulary, at least 260.
        validation_fraction: Share of the text that is not trained on.
    """

    data: tuple[str, ...]
    dataset: str
    dataset_config: str
    text_field: str
    max_documents: int
    vocab_size: int
    validation_fraction: float

    def __post_init__(self) -> None:
        if self.data and self.dataset:
            raise ValueError("--data and --dataset exclude one another")
        check_size("max_documents", self.max_documents)
        check_size("vocab_size", self.vocab_size, minimum=256 + len(SPECIAL_TOKENS))
        check_number(
            "validation_fraction", self.validation_fraction, low=0, high=1, inclusive=False
        )
        if self.validation_fraction == 0:
            raise ValueError("validation_fraction=0 leaves nothing to validate on")


@dataclass(frozen=True, kw_only=True)
class HFTrainingSettings:
    """What a loop around a HuggingFace model needs to know.

    Args:
        steps: Optimizer steps.
        batch_size: Examples a forward.
        learning_rate: At the top of the schedule.
        weight_decay: Of every weight.
        warmup_ratio: Share of the steps in which the learning rate rises.
        max_grad_norm: Longer gradients are scaled down to it.
        log_every: Steps from one line to the next.
        seed: Of the weights, the order of the data and dropout.
        device: "auto" takes CUDA, then MPS, then the CPU.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_ratio: float
    max_grad_norm: float
    log_every: int
    seed: int
    device: str

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every"):
            check_size(name, getattr(self, name))
        # numpy's generator, which the Trainer seeds too, takes no more
        check_count("seed", self.seed, minimum=0, maximum=2**32 - 1)
        for name in ("learning_rate", "weight_decay", "max_grad_norm"):
            check_number(name, getattr(self, name), low=0, high=MOST, inclusive=True)
        check_number("warmup_ratio", self.warmup_ratio, low=0, high=1, inclusive=True)
        check_device(self.device)
        if self.learning_rate == 0:
            raise ValueError("learning_rate=0 would train nothing")


@dataclass(frozen=True, kw_only=True)
class HFTrainerSettings(HFTrainingSettings):
    """The same, and what transformers' Trainer can do besides.

    Args:
        accumulation_steps: Forwards an optimizer step.
        validate_every: Steps from one validation to the next.
        save_every: Steps from one checkpoint to the next.
        keep_checkpoints: Newest checkpoints that are kept.
        gradient_checkpointing: Compute activations twice, to keep fewer.
        num_proc: Processes that encode the text.
    """

    accumulation_steps: int
    validate_every: int
    save_every: int
    keep_checkpoints: int
    gradient_checkpointing: bool
    num_proc: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("accumulation_steps", "validate_every", "save_every", "keep_checkpoints"):
            check_size(name, getattr(self, name))
        check_size("num_proc", self.num_proc)
        if ":" in self.device:
            raise ValueError(
                f"device={self.device!r}: the Trainer takes the first; set CUDA_VISIBLE_DEVICES"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The fields of `llm.training.TrainingConfig`.

    Args:
        steps: Optimizer steps.
        batch_size: Examples a forward.
        max_tokens: A forward takes fewer examples if it would have more tokens; 0
            for no bound. Where memory runs out it is halved. The examples of an
            optimizer step stay the same.
        accumulation_steps: Forwards an optimizer step.
        optimizer: Update rule.
        learning_rate: At the top of the schedule.
        weight_decay: Of matrices.
        beta1: Decay of the Adams' mean of gradients.
        beta2: Decay of the Adams' mean of squared gradients.
        schedule: How the learning rate falls after the warm-up.
        warmup_ratio: Share of the steps in which it rises first.
        min_learning_rate_ratio: Where it ends, as a share of the top.
        max_grad_norm: Longer gradients are scaled down to it; 0 for never.
        log_every: Steps from one line of metrics to the next.
        validate_every: Steps from one validation to the next; 0 for the last only.
        sample_every: Steps from one sample of text to the next; 0 for none.
        save_every: Steps from one checkpoint to the next; 0 for none.
        keep_checkpoints: Newest checkpoints that are kept, besides the best; at
            least 2.
        on_bad_step: What a loss that is not finite, or leaps, does: end the
            training, or have the step left out and counted.
        max_loss_ratio: A loss so many times the mean of the last 50 steps leaps;
            0 for never.
        precision: Of products; weights and optimizer are fp32.
        tf32: Faster, coarser fp32 products on NVIDIA's GPUs.
        compile: Run the model through torch.compile, which takes a while at first.
        gradient_checkpointing: Compute activations twice, to keep fewer.
        linear_kernel: Of fp32 products on a CPU: PyTorch's (plain), oneDNN's (fast),
            or the one that a short probe finds faster.
        ema_decay: Publish the moving average of the weights that forgets with
            this factor a step, such as 0.999; 0 for the weights themselves.
        parallel: What the processes of torchrun share: the examples (ddp), or also
            weights, gradients and optimizer (fsdp).
        seed: Of the weights, the order of the data, dropout and samples.
        device: "auto" takes CUDA, then MPS, then the CPU.
    """

    steps: int
    batch_size: int
    max_tokens: int
    accumulation_steps: int
    optimizer: Literal["adamw", "adam", "sgd"]
    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    schedule: Literal["cosine", "linear"]
    warmup_ratio: float
    min_learning_rate_ratio: float
    max_grad_norm: float
    log_every: int
    validate_every: int
    sample_every: int
    save_every: int
    keep_checkpoints: int
    on_bad_step: Literal["stop", "skip"]
    max_loss_ratio: float
    precision: Literal["fp32", "bf16", "fp16"]
    tf32: bool
    compile: bool
    gradient_checkpointing: bool
    linear_kernel: Literal["auto", "fast", "plain"]
    ema_decay: float
    parallel: Literal["ddp", "fsdp"]
    seed: int
    device: str

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation_steps", "log_every"):
            check_size(name, getattr(self, name))
        check_size("keep_checkpoints", self.keep_checkpoints, minimum=2)
        check_choice("on_bad_step", self.on_bad_step, ("stop", "skip"))
        check_number("max_loss_ratio", self.max_loss_ratio, low=0, high=MOST, inclusive=True)
        for name in ("validate_every", "sample_every", "save_every", "max_tokens"):
            check_size(name, getattr(self, name), minimum=0)
        check_choice("precision", self.precision, ("fp32", "bf16", "fp16"))
        check_choice("linear_kernel", self.linear_kernel, ("auto", "fast", "plain"))
        check_choice("parallel", self.parallel, ("ddp", "fsdp"))
        check_seed(self.seed)
        for name in ("learning_rate", "weight_decay", "max_grad_norm"):
            check_number(name, getattr(self, name), low=0, high=MOST, inclusive=True)
        for name in ("beta1", "beta2", "ema_decay"):
            check_number(name, getattr(self, name), low=0, high=1, inclusive=False)
        for name in ("warmup_ratio", "min_learning_rate_ratio"):
            check_number(name, getattr(self, name), low=0, high=1, inclusive=True)
        check_device(self.device)
        check_choice("optimizer", self.optimizer, ("adamw", "adam", "sgd"))
        check_choice("schedule", self.schedule, ("cosine", "linear"))
        if self.learning_rate == 0:
            raise ValueError("learning_rate=0 would train nothing")


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How text is continued.

    Args:
        prompt: What to continue: one or more texts, in any language.
        max_new_tokens: Longest continuation.
        do_sample: Draw tokens; otherwise take the likeliest.
        temperature: Divides the logits; below 1 is safer, above wilder.
        top_k: Keep that many likeliest tokens; 0 for all.
        top_p: Keep the likeliest tokens that hold this probability; 1 for all.
        min_p: Keep tokens this likely compared with the likeliest; 0 for all.
        repetition_penalty: Above 1 makes repetition less likely.
        stop: The continuation ends before any of these.
    """

    prompt: tuple[str, ...]
    max_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    stop: tuple[str, ...]

    def __post_init__(self) -> None:
        check_count("max_new_tokens", self.max_new_tokens, maximum=MOST_NEW_TOKENS)
        check_size("top_k", self.top_k, minimum=0)
        # the limits of llm.generation.SamplingConfig
        for name in ("temperature", "repetition_penalty"):
            check_number(name, getattr(self, name), low=1e-6, high=1e6, inclusive=True)
        for name in ("top_p", "min_p"):
            check_number(name, getattr(self, name), low=0, high=1, inclusive=True)
        if self.top_p == 0:
            raise ValueError("top_p=0 would keep no token")
        if "" in self.prompt:
            raise ValueError("the prompt '' has 0 tokens: give the beginning of a text")
        if "" in self.stop:
            raise ValueError("a stop string is empty")

    def options(self) -> dict[str, Any]:
        """The keywords of `llm.generation.generate_text`."""
        options = {
            "max_new_tokens": self.max_new_tokens,
            "stop": self.stop,
            "do_sample": self.do_sample,
            "repetition_penalty": self.repetition_penalty,
        }
        if self.do_sample:
            options["temperature"] = self.temperature
            options["top_k"] = self.top_k or None
            options["top_p"], options["min_p"] = self.top_p, self.min_p
        return options

    def hf_options(self) -> dict[str, Any]:
        """The keywords of transformers' `generate`; with a stop, it wants the tokenizer too."""
        options: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": self.do_sample,
            "repetition_penalty": self.repetition_penalty,
        }
        if self.do_sample:
            options["temperature"] = self.temperature
            # 0 and 1 are its names for "all"
            options["top_k"], options["top_p"] = self.top_k, self.top_p
            options["min_p"] = self.min_p or None
        if self.stop:
            options["stop_strings"] = list(self.stop)
        return options


@dataclass(frozen=True, kw_only=True)
class TrainScript:
    """Train a tokenizer and a GPT on text, and save them as a run.

    With --debug, a mistake is shown with its traceback.

    Args:
        config: TOML file that holds the defaults below.
        run: Name of the run, a new folder of checkpoints/; empty for the
            model and the time.
        log: What shows the metrics besides metrics.jsonl; several are possible.
            The logs lie in the run's folder.
        resume: Go on with a run, with the settings that it was started with:
            alone, with the newest checkpoint of --run or of the newest run; or
            with the checkpoint that it names, a folder step-….
        allow_changed: Settings that may differ on resuming, such as
            learning_rate.
        overwrite: Delete the run that has the name of --run.
        verify_resume: Prove that stopping and resuming changes no bit, on a few
            steps, and train nothing.
        dry_run: Print what the run would need, and how long it would take by five
            of its steps, and write nothing.
    """

    config: Path
    run: str
    model: ModelSettings
    data: DataSettings
    training: TrainingSettings
    generation: GenerationSettings
    log: tuple[Literal["tensorboard", "trackio"], ...] = ()
    resume: str = ""
    allow_changed: tuple[str, ...] = ()
    overwrite: bool = False
    verify_resume: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_run_name(self.run)
        for name in self.log:
            check_choice("log", name, ("tensorboard", "trackio"))
        if len(set(self.log)) < len(self.log):
            raise ValueError(f"log={list(self.log)} names one twice")
        if self.resume and (self.overwrite or self.verify_resume):
            raise ValueError("--resume goes with neither --overwrite nor --verify-resume")
        if self.dry_run and (self.resume or self.overwrite or self.verify_resume):
            raise ValueError(
                "--dry-run goes with none of --resume, --overwrite and --verify-resume"
            )
        if self.allow_changed and not self.resume:
            raise ValueError("--allow-changed goes with --resume: a new run may have any settings")
        if self.overwrite and not self.run:
            raise ValueError("--overwrite needs --run, the name of what to delete")


@dataclass(frozen=True, kw_only=True)
class GenerateScript:
    """Continue text with a model that was trained here.

    With --debug, a mistake is shown with its traceback.

    Args:
        config: TOML file that holds the defaults below.
        run: Name or folder of the run; empty for the newest with a model.
        compare: Continue each prompt with several strategies, in place of
            the ones below.
        interactive: Ask for prompts, in place of --prompt.
        seed: Of sampling.
        device: "auto" takes CUDA, then MPS, then the CPU.
    """

    config: Path
    run: str
    compare: bool
    interactive: bool
    seed: int
    device: str
    generation: GenerationSettings

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_device(self.device)
        if not self.generation.prompt and not self.interactive:
            raise ValueError("there is nothing to continue: give --prompt or --interactive")


@dataclass(frozen=True, kw_only=True)
class EvaluateScript:
    """Say how good trained models are, on one text, in units that compare.

    With --debug, a mistake is shown with its traceback.

    Args:
        config: TOML file that holds the defaults below.
        run: Name or folder of the run, or a model folder; empty for the newest
            run with a model.
        compare: Other runs, evaluated on the same text.
        data: Files, folders and globs of UTF-8 text; none for the text that
            the run was validated on.
        tasks: JSONL files of multiple-choice or cloze examples, one a line.
        out: Folder of evaluation.json and report.html; empty for the run's.
        stride: Tokens from one window to the next; 0 for half the context.
        batch_size: Windows a forward.
        seed: Of the samples.
        device: "auto" takes CUDA, then MPS, then the CPU.
    """

    config: Path
    run: str
    compare: tuple[str, ...]
    data: tuple[str, ...]
    tasks: tuple[str, ...]
    out: str
    stride: int
    batch_size: int
    seed: int
    device: str
    generation: GenerationSettings

    def __post_init__(self) -> None:
        check_size("stride", self.stride, minimum=0)
        check_size("batch_size", self.batch_size)
        check_seed(self.seed)
        check_device(self.device)
        if not self.generation.prompt:
            raise ValueError("there is nothing to continue: give --prompt")
        if self.generation.stop:
            raise ValueError("samples are compared at one length: --stop does not go with them")


@dataclass(frozen=True, kw_only=True)
class SimpleHFScript:
    """Train a model of ours, wrapped for HuggingFace, in a loop of a few lines.

    With --debug, a mistake is shown with its traceback.

    Args:
        config: TOML file that holds the defaults below.
        run: Name of the run, a new folder of checkpoints/; empty for one with
            the time.
    """

    config: Path
    run: str
    model: ModelSettings
    data: HFDataSettings
    training: HFTrainingSettings
    generation: GenerationSettings

    def __post_init__(self) -> None:
        check_run_name(self.run)
        if self.generation.max_new_tokens >= self.model.max_position_embeddings:
            raise ValueError(
                f"max_new_tokens={self.generation.max_new_tokens} leaves no room for a prompt in "
                f"max_position_embeddings={self.model.max_position_embeddings}"
            )


@dataclass(frozen=True, kw_only=True)
class HFTrainerScript(SimpleHFScript):
    """Train a model of ours with transformers' Trainer.

    With --debug, a mistake is shown with its traceback.
    """

    training: HFTrainerSettings


def load_settings(
    script: type[Section], default_config: str, arguments: Sequence[str], *, prog: str
) -> Section:
    """The settings of a script: from its TOML file, then from the command line.

    Args:
        script: `TrainScript` or `GenerateScript`.
        default_config: the file of `experiments/configs/` that is read unless
            the arguments name another with `--config`.
        arguments: of the command line.
        prog: how the script was called.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not TOML, or a value is unknown, missing, or outside
            its range.
        SystemExit: `--help` was asked for, and printed.
    """
    check_arguments(arguments)
    arguments = _spell_out(arguments)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", type=Path, default=CONFIGS / default_config)
    try:
        path = finder.parse_known_args(arguments)[0].config
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}; {prog} --help lists the options") from None
    return parse_arguments(script, read_config(path, script), arguments, prog=prog)


def load_resumed_settings(run_folder: Path, arguments: Sequence[str], *, prog: str) -> TrainScript:
    """The settings that a run was started with, then those of the command line.

    Raises:
        FileNotFoundError: it is no run.
        ValueError: its `run.json` is damaged or of another script, or an argument
            is wrong.
    """
    path = run_folder / "run.json"
    if any(argument == "--config" or argument.startswith("--config=") for argument in arguments):
        raise ValueError("--resume takes the settings of the run: --config does not go with it")
    content = read_json(path)
    try:
        sections = {}
        for name, kind in get_type_hints(TrainScript).items():
            if dataclasses.is_dataclass(kind) and isinstance(content.get(name), dict):
                # the run says more than was asked for, such as what a text's fingerprint is
                fields = [field.name for field in dataclasses.fields(kind)]
                sections[name] = {key: content[name][key] for key in fields if key in content[name]}
        top = {"config": path, "run": "", "log": content.get("log", [])}
        settings = _build(TrainScript, {**top, **sections}, "the file")
    except ValueError as error:
        raise ValueError(f"{path} is not of a run to resume: {error}") from None
    return parse_arguments(TrainScript, settings, _spell_out(arguments), prog=prog)


def read_config(path: Path, script: type[Section]) -> Section:
    """The settings that a TOML file describes, strictly.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `load_settings`; names the file and the section.
    """
    try:
        content_bytes = read_bytes(path)
    except OSError as error:
        # of the system's own messages, the name comes twice
        what = f"{path} cannot be read: {error.strerror}" if error.strerror else error
        raise type(error)(f"--config {what}") from None
    except ValueError as error:
        raise ValueError(f"--config {error}") from None
    try:
        content = tomllib.loads(content_bytes.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    except RecursionError:
        raise ValueError(f"{path} is not read: its TOML is nested too deeply") from None
    try:
        if "config" in content:
            raise ValueError("the file has no field 'config': it is the one that --config names")
        return _build(script, {"config": path, **content}, "the file")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _spell_out(arguments: Sequence[str]) -> list[str]:
    """Give --resume the value that it has when it stands alone."""
    spelled = list(arguments)
    for index, argument in enumerate(arguments):
        alone = index + 1 == len(arguments) or arguments[index + 1].startswith("--")
        if argument == "--resume" and alone:
            spelled[index] = f"--resume={NEWEST}"
    return spelled


def relative(path: Path) -> Path:
    """The path from here, where that is shorter to read."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def check_size(name: str, value: object, *, minimum: int = 1) -> None:
    """Raise unless `value` is a whole number from `minimum` to `MOST`."""
    check_count(name, value, minimum=minimum, maximum=MOST)


def check_type(name: str, value: object, kind: object) -> None:
    """Raise unless a value of a file is of its field's type; numbers check themselves."""
    texts = value if isinstance(value, tuple) else (value,)
    if any(isinstance(text, str) and "\0" in text for text in texts):
        raise ValueError(f"{name}={value!r} must be text without a NUL character")
    if kind is str and not isinstance(value, str):
        raise ValueError(f"{name}={value!r} must be text, in quotes")
    if kind is bool:
        check_flag(name, value)
    if get_origin(kind) is tuple and not (
        isinstance(value, tuple) and all(isinstance(text, str) for text in value)
    ):
        raise ValueError(f"{name}={value!r} must be a list of texts")


def check_device(device: object) -> None:
    """Raise unless it is the name of a device, here or elsewhere."""
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ValueError(f"device={device!r} is not one of auto, cpu, cuda, cuda:N, mps")


def check_run_name(name: str) -> None:
    """Raise unless it is a plain folder name, or empty."""
    if (name and Path(name).name != name) or name == ".." or not name.isprintable():
        raise ValueError(f"run={name!r} must be a plain name: a run is a folder of checkpoints/")
    if len(name.encode()) > 255:
        raise ValueError(f"run={name[:20]!r}… is too long for a folder's name: at most 255 bytes")


def _build(section: type[Section], values: Mapping[str, Any], place: str) -> Section:
    """A settings class from TOML: tables become settings, arrays tuples."""
    types = get_type_hints(section)
    fields = {}
    for name, value in values.items():
        if isinstance(value, dict) and dataclasses.is_dataclass(types.get(name)):
            value = _build(types[name], value, f"[{name}]")
        elif dataclasses.is_dataclass(types.get(name)):
            raise ValueError(f"{name} must be a table, [{name}]")
        fields[name] = tuple(value) if isinstance(value, list) else value
        check_type(name, fields[name], types.get(name))
    return build(section, fields, name=place)
