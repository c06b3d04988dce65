"""Run by test_ranks.py, through torchrun: train a small model into a run folder.

    torchrun --nproc-per-node 2 -- train_on_ranks.py FOLDER JSON

The JSON has fields of the training configuration, and "until", "resume", "dropout" and
"late_main": the main rank is late to clear the place of a checkpoint, where others may make none.
"""

import json
import os
import shutil
import sys
import time

import torch

from llm.models.gpt import GPT2
from llm.tokenizers import BPETokenizer
from llm.training import TextDataset, Trainer, TrainingConfig, joined_ranks


def make_trainer(folder, *, dropout=0.0, **changes):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    # the last example is shorter, and the last batch of a validation one rank's alone
    dataset = TextDataset(torch.randint(0, 50, (645,), generator=generator), block_size=16)
    tokenizer = BPETokenizer()
    tokenizer.train(["ab"], vocab_size=257, show_progress=False)
    model = GPT2(
        {
            "vocab_size": 257,
            "embed_dim": 16,
            "num_heads": 2,
            "num_layers": 2,
            "max_position_embeddings": 16,
            "dropout": dropout,
        }
    )
    settings = {"steps": 50, "batch_size": 2, "log_every": 1, "device": "cpu", "warmup_ratio": 0.2}
    settings.update(save_every=20, validate_every=10, sample_every=10)
    config = TrainingConfig(**{**settings, **changes})
    return Trainer(
        model,
        dataset,
        config,
        validation_dataset=dataset,
        tokenizer=tokenizer,
        sample_prompts=["ab"],
        sample_options={"max_new_tokens": 20},
        run_folder=folder,
        show_progress=False,
    )


def make_main_late(ranks):
    delete, make = shutil.rmtree, os.mkdir

    def delete_late(*arguments, **options):
        time.sleep(0.5)
        delete(*arguments, **options)

    def make_within(path, *arguments, **options):
        assert not os.fspath(path).endswith(".tmp"), f"rank {ranks.rank} makes {path}"
        make(path, *arguments, **options)

    if ranks.is_main:
        shutil.rmtree = delete_late
    else:
        os.mkdir = make_within


def main(folder, settings):
    until, resume = settings.pop("until", None), settings.pop("resume", False)
    late_main = settings.pop("late_main", False)
    with joined_ranks(torch.device("cpu")) as ranks:
        if late_main:
            make_main_late(ranks)
        trainer = make_trainer(folder, **settings)
        if resume:
            trainer.resume()
        trainer.train(until=until)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
