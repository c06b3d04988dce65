"""Train a byte-level BPE tokenizer and a GPT on text.

    uv run python experiments/llm_only/train_gpt_bpe.py
    uv run python experiments/llm_only/train_gpt_bpe.py --data book.txt notes/ --run mine
    uv run python experiments/llm_only/train_gpt_bpe.py --dry-run
    uv run python experiments/llm_only/train_gpt_bpe.py --resume
    uv run torchrun --nproc-per-node 2 experiments/llm_only/train_gpt_bpe.py
    uv run python experiments/llm_only/train_gpt_bpe.py --help

The run is left in checkpoints/<run>/: final/ is a model folder that `llm` and
transformers both open.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.shared.configs import (
    NEWEST,
    TrainScript,
    load_resumed_settings,
    load_settings,
)
from experiments.shared.console import is_main_process, is_restarted, run_script, show_log
from experiments.shared.data import BUILT_IN, fingerprint, read_documents, split_documents
from experiments.shared.models import (
    check_model_memory,
    check_prompt,
    check_step_memory,
    make_model,
    model_config,
    train_tokenizer,
)
from experiments.shared.plots import plot_losses
from experiments.shared.preflight import Plan, RandomExamples, time_rows
from experiments.shared.runs import find_model, find_run, new_run_folder, removed_if_empty

if TYPE_CHECKING:
    import torch

    from llm.tokenizers import BPETokenizer
    from llm.training import PackedDocuments, TextDataset, Trainer, ValidationResult

SCRIPT = "experiments/llm_only/train_gpt_bpe.py"


class Texts(NamedTuple):
    """What is trained on, and what is validated on."""

    train: list[str]
    validation: list[str]


def main(arguments: list[str]) -> None:
    """Train, and say what came of it."""
    settings, run_folder, checkpoint = read_arguments(arguments)
    if settings.log:
        # a package that is missing is said before the work, not after it
        from llm.training.metric_loggers import MetricLoggers

        MetricLoggers(settings.log)
    texts = None if settings.data.shards else read_texts(settings)
    new = None
    if run_folder is None and is_main_process() and not settings.dry_run:
        new = run_folder = new_run_folder(
            settings.run, settings.model.model_type, overwrite=may_overwrite(settings)
        )
    if texts is not None:
        source = ", ".join(settings.data.data) or BUILT_IN
        train_size, validation_size = (sum(map(len, side)) for side in texts)
        print(
            f"Text: {source}, {train_size:,} characters to train on, {validation_size:,} to "
            "validate"
        )

    # what follows needs torch, which takes a moment to load
    from llm.core.device import choose_device
    from llm.training import TrainingConfig, joined_ranks

    with removed_if_empty(new):
        # before the work, not after it
        device = choose_device(settings.training.device)
        if settings.dry_run:
            with joined_ranks(device) as ranks:
                dry_run(settings, device, ranks.world_size)
            return
        training = TrainingConfig(**vars(settings.training))
        check_model_memory(settings.model, settings.data.vocab_size, device, training)
        check_step_memory(settings, device)
        with joined_ranks(device) as ranks:
            run_folder = ranks.from_main(run_folder)
            assert run_folder is not None  # the main process has one
            train(settings, run_folder, checkpoint, texts)


def may_overwrite(settings: TrainScript) -> bool:
    """Whether a run that has the name may go: it was said, or is what a dead process left."""
    return settings.overwrite or (is_restarted() and bool(settings.run))


def dry_run(settings: TrainScript, device: torch.device, num_ranks: int) -> None:
    """Print what the run needs, and after five of its steps how long it takes.

    Raises:
        ValueError: it does not fit in memory.
    """
    from llm.models import ARCHITECTURES
    from llm.preflight import time_steps
    from llm.training import Trainer, TrainingConfig

    training = TrainingConfig(**vars(settings.training))
    examples = training.batch_size * training.accumulation_steps * num_ranks
    dataset: PackedDocuments | RandomExamples
    if settings.data.shards:
        shards = Path(settings.data.shards)
        tokenizer = tokenizer_of_shards(shards)
        dataset = packed_documents(shards / "train", tokenizer, settings)
        config, source = model_config(settings.model, len(tokenizer)), "the shards"
    else:
        # a tokenizer takes longer to train than the steps, and changes nothing here but the ids
        config = model_config(settings.model, settings.data.vocab_size)
        length, source = config.max_position_embeddings, "random ids"
        dataset = RandomExamples(config.vocab_size, length, 6 * examples)
    plan = Plan(config, training, device, num_ranks)
    print(f"Dry run of {settings.model.model_type} on {device}: nothing is written\n")
    print(plan.table(), flush=True)
    fits = plan.check()
    check_step_memory(settings, device)
    model = ARCHITECTURES[settings.model.model_type].model(config)
    times = time_steps(Trainer(model, dataset, training, show_progress=False))
    print(time_rows(times, training.steps, source))
    print(f"\n{fits}")


def train(
    settings: TrainScript, run_folder: Path, checkpoint: Path | None, texts: Texts | None
) -> None:
    """Train or go on training, and leave all that the run folder has."""
    import torch

    from llm.training import TextDataset, Trainer, TrainingConfig, delete_run, verify_resume

    shards = Path(settings.data.shards)
    if settings.resume:
        tokenizer = load_tokenizer(run_folder, checkpoint)
    elif texts is None:
        tokenizer = tokenizer_of_shards(shards)
    else:
        tokenizer = train_tokenizer(
            texts.train, settings.data.vocab_size, show_progress=is_main_process()
        )
    train_dataset: TextDataset | PackedDocuments
    validation_dataset: TextDataset | PackedDocuments
    if texts is None:
        train_dataset = packed_documents(shards / "train", tokenizer, settings)
        validation_dataset = packed_documents(shards / "validation", tokenizer, settings)
    else:
        context = settings.model.max_position_embeddings
        train_dataset = make_dataset("training", texts.train, tokenizer, context)
        validation_dataset = make_dataset("validation", texts.validation, tokenizer, context)

    for prompt in settings.generation.prompt:
        check_prompt(prompt, tokenizer, settings.model.max_position_embeddings)
    if not settings.resume and may_overwrite(settings) and is_main_process():
        # not before all that may be wrong with the settings was looked at
        delete_run(run_folder)
        run_folder.mkdir()

    def make_trainer(run_folder: Path) -> Trainer:
        torch.manual_seed(settings.training.seed)
        return Trainer(
            make_model(settings.model, tokenizer),
            train_dataset,
            TrainingConfig(**vars(settings.training)),
            validation_dataset=validation_dataset,
            tokenizer=tokenizer,
            sample_prompts=settings.generation.prompt,
            sample_options=settings.generation.options(),
            run_folder=run_folder,
            run_info=describe(settings, texts),
            loggers=() if settings.verify_resume else settings.log,
            show_progress=not settings.verify_resume,
        )

    trainer = make_trainer(run_folder)
    announce(trainer, train_dataset, tokenizer)
    if settings.verify_resume:
        steps = min(3, settings.training.steps)
        verify_resume(make_trainer, steps=steps)
        print(f"Resuming is exact: {steps} steps, stopped after each, gave the same bits")
        return
    show_log()
    if settings.resume:
        trainer.resume(checkpoint, allow_changed=settings.allow_changed)
        if trainer.step == trainer.config.steps:
            print(f"The run is finished after {trainer.step} steps: give more with --steps")
            return
    # one writer, and its logs open, from the first sample to the last
    with trainer.writing():
        if not settings.resume:
            trainer.sample()
        validation = trainer.train()
        print()
        # by all processes, which may share the model; the main one writes
        trainer.sample()
    assert validation is not None  # there is a validation dataset
    if is_main_process():
        print()
        if isinstance(train_dataset, TextDataset) and isinstance(validation_dataset, TextDataset):
            assert texts is not None
            report(validation, train_dataset, validation_dataset, tokenizer, texts.validation)
        else:
            print(f"On the validation shards: {validation.loss:.3f} nats a token")
        plot = plot_losses(run_folder)
        print(f"\n{trainer.summary()}\n  {plot.name:16}the losses, drawn")
        what_next(settings.log, run_folder)


def read_arguments(arguments: list[str]) -> tuple[TrainScript, Path | None, Path | None]:
    """The settings, and of a run to resume its folder, and the checkpoint if one is named."""
    settings = load_settings(TrainScript, "gpt_small.toml", arguments, prog=SCRIPT)
    if is_restarted() and not settings.resume:
        # by torchrun: the run that the dead processes wrote goes on
        with contextlib.suppress(FileNotFoundError):
            find_model(settings.run, train_command=SCRIPT)
            arguments = [*arguments, f"--resume={NEWEST}"]
            settings = load_settings(TrainScript, "gpt_small.toml", arguments, prog=SCRIPT)
    if not settings.resume:
        return settings, None, None
    if settings.resume == NEWEST:
        run_folder, checkpoint = find_run(settings.run, train_command=SCRIPT), None
    else:
        checkpoint = Path(settings.resume)
        if not checkpoint.is_dir():
            raise FileNotFoundError(f"--resume {checkpoint} is not a folder")
        run_folder = checkpoint.parent
    return load_resumed_settings(run_folder, arguments, prog=SCRIPT), run_folder, checkpoint


def load_tokenizer(run_folder: Path, checkpoint: Path | None) -> BPETokenizer:
    """The tokenizer of a run, which the trainer compares with the one that it began with.

    Raises:
        FileNotFoundError: no checkpoint has it.
    """
    from llm.tokenizers import BPETokenizer
    from llm.training import list_checkpoints

    for folder in [checkpoint] if checkpoint else reversed(list_checkpoints(run_folder)):
        # a damaged one is named by the trainer, which goes on from an older one
        with contextlib.suppress(OSError, ValueError):
            return BPETokenizer.load(folder)
    raise FileNotFoundError(
        f"{checkpoint or run_folder} has no checkpoint to resume from; start again with --overwrite"
    )


def read_texts(settings: TrainScript) -> Texts:
    """The text of --data, split."""
    return Texts(
        *split_documents(
            read_documents(settings.data.data),
            validation_fraction=settings.data.validation_fraction,
            by=settings.data.split,
            seed=settings.training.seed,
        )
    )


def tokenizer_of_shards(folder: Path) -> BPETokenizer:
    """The tokenizer beside shards, with which they were made.

    Raises:
        FileNotFoundError: the folder is not one of shards.
    """
    from llm.tokenizers import BPETokenizer

    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"--shards {folder} has no tokenizer.json: prepare_data.py writes such a folder"
        )
    return BPETokenizer.load(folder)


def packed_documents(
    folder: Path, tokenizer: BPETokenizer, settings: TrainScript
) -> PackedDocuments:
    """Blocks of the context's length of shards.

    Raises:
        FileNotFoundError: there are no shards.
        ValueError: they are damaged, or of another tokenizer.
    """
    from llm.data import TokenShards
    from llm.training import PackedDocuments

    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} does not exist: prepare_data.py writes it, validation/ with "
            "--validation-fraction"
        )
    shards = TokenShards(folder)
    if shards.index.tokenizer_sha256 != tokenizer.fingerprint():
        raise ValueError(f"{folder} was made with another tokenizer")
    if folder.name == "train":
        check_length(str(folder), shards.num_tokens, settings.model.max_position_embeddings)
    dataset = PackedDocuments(
        shards,
        block_size=settings.model.max_position_embeddings,
        seed=settings.training.seed,
        document_mask=settings.data.document_mask,
    )
    # reads where every document begins: damage there is found before a run is
    dataset[0]
    return dataset


def make_dataset(name: str, texts: list[str], tokenizer: BPETokenizer, context: int) -> TextDataset:
    """Blocks of the context's length that make every token a target once.

    Raises:
        ValueError: the texts are too short; says which, and what to do.
    """
    from llm.training import TextDataset

    try:
        dataset = TextDataset.from_texts(
            texts,
            tokenizer,
            block_size=context,
            stride=context - 1,
            show_progress=is_main_process(),
        )
    except ValueError as error:
        raise ValueError(
            f"the {name} text is too short: {error}; give more text, or another "
            "--validation-fraction"
        ) from None
    if name == "training":
        check_length(f"the {name} text", dataset.num_tokens, context)
    return dataset


def check_length(what: str, num_tokens: int, context: int) -> None:
    """Raise if there is less to train on than the model can see at a time."""
    if num_tokens < context:
        raise ValueError(
            f"{what} has {num_tokens} tokens, less than one context of {context}: give more text, "
            "or a smaller --max-position-embeddings"
        )


def describe(settings: TrainScript, texts: Texts | None) -> dict[str, object]:
    """What run.json says beside the model and the training."""
    data: dict[str, object] = {**vars(settings.data)}
    if texts is not None:
        data["train_sha256"] = fingerprint(texts.train)
        data["validation_sha256"] = fingerprint(texts.validation)
    return {"data": data, "generation": vars(settings.generation), "log": settings.log}


def announce(
    trainer: Trainer, dataset: TextDataset | PackedDocuments, tokenizer: BPETokenizer
) -> None:
    """Say what is about to be trained on what."""
    config = trainer.config
    tokens = dataset.num_tokens
    example = min(dataset.block_size, tokens) - 1
    ranks = trainer.ranks.world_size
    examples = config.batch_size * config.accumulation_steps * ranks
    epochs = config.steps * examples / len(dataset)
    print(f"Tokenizer: {len(tokenizer):,} tokens; {tokens:,} tokens to train on")
    print(
        f"Model: {type(trainer.model).__name__}, {trainer.model.num_parameters():,} parameters, "
        f"on {trainer.device}" + (f", {ranks} processes" if ranks > 1 else "")
    )
    print(
        f"Training: {config.steps:,} steps of {examples} × {example} tokens, "
        f"{epochs:.1f} times through the text"
    )
    plan = Plan(trainer.model.config, config, trainer.device, ranks, is_built=True)
    print(f"{plan.line()}\n")


def report(
    validation: ValidationResult,
    train_dataset: TextDataset,
    validation_dataset: TextDataset,
    tokenizer: BPETokenizer,
    validation_texts: list[str],
) -> None:
    """Print the validation loss beside that of a unigram model of the same tokens."""
    from llm.evaluation import bits_per_byte, unigram_loss

    unigram = unigram_loss(train_dataset, validation_dataset, vocab_size=len(tokenizer))
    # every token is predicted but the first, whose bytes do not count either
    num_bytes = sum(len(text.encode("utf-8")) for text in validation_texts)
    num_bytes -= len(tokenizer.decode_bytes(validation_dataset.token_ids[:1]))
    print(f"{'On the validation text':24}{'nats/token':>12}{'perplexity':>12}{'bits/byte':>12}")
    for name, result in {"this model": validation, "unigram model": unigram}.items():
        bits = bits_per_byte(result.total_loss, num_bytes)
        print(f"  {name:22}{result.loss:12.3f}{result.perplexity:12.1f}{bits:12.3f}")


def what_next(logs: Sequence[str], run_folder: Path) -> None:
    """Print what to try with the trained model."""
    generate = "uv run python experiments/llm_only/generate_gpt_bpe.py"
    show = {
        "tensorboard": f"uv run tensorboard --logdir {shlex.quote(str(run_folder.parent))}",
        "trackio": f"TRACKIO_DIR={shlex.quote(str(run_folder / 'trackio'))} uv run trackio show",
    }
    print("\nTry next:")
    for log in logs:
        print(f"  {show[log]}")
    print(f"""\
  {generate} --prompt "The statement"
  {generate} --compare
  {generate} --interactive
  uv run python experiments/llm_only/evaluate.py
  uv run python {SCRIPT} --model gpt2 --steps 1000
  uv run python {SCRIPT} --data YOUR_TEXT.txt""")


if __name__ == "__main__":
    run_script(main)
