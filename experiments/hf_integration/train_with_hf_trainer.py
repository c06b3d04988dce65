r"""Train a model of ours with transformers' Trainer and `datasets`.

    uv run python experiments/hf_integration/train_with_hf_trainer.py
    uv run python experiments/hf_integration/train_with_hf_trainer.py --data book.txt --steps 1000
    uv run python experiments/hf_integration/train_with_hf_trainer.py \
        --dataset Salesforce/wikitext --dataset-config wikitext-2-raw-v1

The run is left in checkpoints/<run>/: checkpoint-N/ are the Trainer's, final/
is a folder that transformers opens without this project.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.shared.configs import HFTrainerScript, HFTrainerSettings, load_settings
from experiments.shared.console import run_script
from experiments.shared.hf_data import encode, read_texts
from experiments.shared.hf_results import save, show, what_next
from experiments.shared.models import make_hf_model
from experiments.shared.runs import new_run_folder, removed_if_empty

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainingArguments

SCRIPT = "experiments/hf_integration/train_with_hf_trainer.py"


def main(arguments: list[str]) -> None:
    """Train, validate, export, continue the prompts."""
    settings = load_settings(HFTrainerScript, "hf_trainer.toml", arguments, prog=SCRIPT)
    source, train_texts, validation_texts = read_texts(settings.data, settings.training.seed)
    run_folder = new_run_folder(settings.run, "hf-trainer")
    print(f"Text: {source}, {len(train_texts)} texts to train on, {len(validation_texts)} not")
    with removed_if_empty(run_folder):
        # what follows needs torch and transformers, which take a moment to load
        from transformers import DataCollatorForLanguageModeling, Trainer

        hf_model, hf_tokenizer = make_hf_model(settings, train_texts)
        context = settings.model.max_position_embeddings
        num_proc = settings.training.num_proc
        trainer = Trainer(
            model=hf_model,
            args=training_arguments(settings.training, run_folder, hf_model.device),
            train_dataset=encode(train_texts, hf_tokenizer, context, num_proc=num_proc),
            eval_dataset=encode(validation_texts, hf_tokenizer, context, num_proc=num_proc),
            data_collator=DataCollatorForLanguageModeling(hf_tokenizer, mlm=False),
            processing_class=hf_tokenizer,
        )
        trainer.train()
        report(trainer)
        save(hf_model, hf_tokenizer, run_folder, settings)
        show(hf_model, hf_tokenizer, settings.generation)
        what_next(run_folder)


def training_arguments(
    settings: HFTrainerSettings, run_folder: Path, device: torch.device
) -> TrainingArguments:
    """The Trainer's own settings."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(run_folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation_steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup_ratio * settings.steps),
        max_grad_norm=settings.max_grad_norm,
        logging_steps=settings.log_every,
        eval_strategy="steps",
        eval_steps=settings.validate_every,
        save_steps=settings.save_every,
        save_total_limit=settings.keep_checkpoints,
        seed=settings.seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        # nothing is sent anywhere
        report_to="none",
        # named only where it is asked for: its name changes in transformers 6
        **({"gradient_checkpointing": True} if settings.gradient_checkpointing else {}),
    )


def report(trainer: Trainer) -> None:
    """Print the losses before and after."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    final = trainer.evaluate()["eval_loss"]
    if losses:
        print(f"Training loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last")
    print(f"Validation loss {final:.3f}\n")


if __name__ == "__main__":
    run_script(main)
