"""Train a model of ours as a HuggingFace model, in a loop of a few lines.

    uv run python experiments/hf_integration/simple_hf_training.py
    uv run python experiments/hf_integration/simple_hf_training.py --data book.txt --steps 1000

The run is left in checkpoints/<run>/: final/ is a folder that transformers
opens without this project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.shared.configs import HFTrainingSettings, SimpleHFScript, load_settings
from experiments.shared.console import run_script
from experiments.shared.hf_data import encode, read_texts
from experiments.shared.hf_results import save, show, what_next
from experiments.shared.models import make_hf_model
from experiments.shared.runs import new_run_folder, removed_if_empty

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_proxy import HFAdapter, HFTokenizerAdapter

SCRIPT = "experiments/hf_integration/simple_hf_training.py"


def main(arguments: list[str]) -> None:
    """Train, export, continue the prompts."""
    settings = load_settings(SimpleHFScript, "hf_simple.toml", arguments, prog=SCRIPT)
    source, train_texts, validation_texts = read_texts(settings.data, settings.training.seed)
    run_folder = new_run_folder(settings.run, "hf-simple")
    print(f"Text: {source}, {len(train_texts)} texts to train on, {len(validation_texts)} not")
    with removed_if_empty(run_folder):
        # this loads torch and transformers, which takes a moment
        hf_model, hf_tokenizer = make_hf_model(settings, train_texts)
        context = settings.model.max_position_embeddings
        train(hf_model, hf_tokenizer, encode(train_texts, hf_tokenizer, context), settings.training)
        print(
            f"Validation loss {evaluate(hf_model, hf_tokenizer, validation_texts, context):.3f}\n"
        )
        save(hf_model, hf_tokenizer, run_folder, settings)
        show(hf_model, hf_tokenizer, settings.generation)
        what_next(run_folder)


def train(
    model: HFAdapter, tokenizer: HFTokenizerAdapter, examples: Dataset, settings: HFTrainingSettings
) -> None:
    """The loop: a batch, the loss that the model returns, a step."""
    import torch
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = get_linear_schedule_with_warmup(
        optimizer, round(settings.warmup_ratio * settings.steps), settings.steps
    )
    batches = forever(batches_of(examples, tokenizer, settings.batch_size, settings.seed))
    model.train()
    for step in range(1, settings.steps + 1):
        batch = next(batches).to(model.device)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % settings.log_every == 0 or step in (1, settings.steps):
            print(f"step {step:5}  loss {loss.item():.3f}")


def batches_of(
    examples: Dataset, tokenizer: HFTokenizerAdapter, batch_size: int, seed: int | None
) -> Any:
    """Padded batches with labels; shuffled with a seed, in order without one."""
    import torch
    from transformers import DataCollatorForLanguageModeling

    return torch.utils.data.DataLoader(
        examples,
        batch_size=batch_size,
        shuffle=seed is not None,
        generator=None if seed is None else torch.Generator().manual_seed(seed),
        collate_fn=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )


def forever(batches: Any) -> Any:
    """The batches, again and again."""
    while True:
        yield from batches


def evaluate(
    model: HFAdapter, tokenizer: HFTokenizerAdapter, texts: list[str], context: int
) -> float:
    """Mean loss of a token, in nats."""
    import torch

    total, targets = 0.0, 0
    model.eval()
    with torch.no_grad():
        for batch in batches_of(encode(texts, tokenizer, context), tokenizer, 16, None):
            batch = batch.to(model.device)
            count = int((batch["labels"][:, 1:] != -100).sum())
            total += model(**batch).loss.item() * count
            targets += count
    return total / targets


if __name__ == "__main__":
    run_script(main)
