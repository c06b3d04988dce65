"""Run by test_crash_safety.py: kill a training run at each of its file operations, and resume it.

    python kill_at_every_operation.py FOLDER FIRST STRIDE

A child process is forked for each operation, ends there with `os._exit`, as a power cut would
have it, and another one resumes. Prints how many operations there are, and how many runs ended in
the bits of the run that nobody killed.
"""

import builtins
import os
import shutil
import sys
from pathlib import Path

import torch

from llm.models.gpt import GPT2
from llm.tokenizers import BPETokenizer
from llm.training import TextDataset, Trainer, TrainingConfig
from llm.training.resume_check import _outcome, _same
from llm.training.run_folder import RunFolder

OPERATIONS = {
    os: ["fsync", "rename", "replace", "open", "mkdir", "unlink", "rmdir", "truncate"],
    builtins: ["open"],
}


def make_trainer(folder, tokenizer, dataset):
    torch.manual_seed(0)
    model = GPT2(
        {
            "vocab_size": len(tokenizer),
            "embed_dim": 8,
            "num_heads": 2,
            "num_layers": 1,
            "max_position_embeddings": 16,
            "dropout": 0.1,
        }
    )
    config = TrainingConfig(
        steps=4,
        batch_size=2,
        log_every=1,
        save_every=1,
        validate_every=2,
        # a model more in each checkpoint
        ema_decay=0.9,
        device="cpu",
    )
    return Trainer(
        model,
        dataset,
        config,
        validation_dataset=dataset,
        tokenizer=tokenizer,
        run_folder=folder,
        show_progress=False,
    )


def count_operations(die_at):
    """Have each operation counted, and the process end at one of them; the counter."""
    done = [0]

    def wrap(function):
        def counted(*arguments, **keywords):
            done[0] += 1
            if done[0] == die_at:
                os._exit(9)
            return function(*arguments, **keywords)

        return counted

    for module, names in OPERATIONS.items():
        for name in names:
            setattr(module, name, wrap(getattr(module, name)))
    return done


def in_child(work):
    """What a forked process that does the work exits with."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder, first, stride):
    torch.set_num_threads(1)
    text = "The cat sat on the mat. Кошка сидела на окне. " * 4
    tokenizer = BPETokenizer()
    tokenizer.train([text], 300, show_progress=False)
    dataset = TextDataset.from_texts([text], tokenizer, block_size=16, show_progress=False)
    whole = make_trainer(folder / "whole", tokenizer, dataset)
    whole.train()
    expected = _outcome(whole)
    expected_final = (folder / "whole" / "final" / "model.safetensors").read_bytes()

    def count():
        done = count_operations(None)
        make_trainer(folder / "counted", tokenizer, dataset).train()
        (folder / "operations").write_text(str(done[0]))

    assert in_child(count) == 0
    operations = int((folder / "operations").read_text())

    tried = survived = 0
    for die_at in range(first, operations + 1, stride):
        run = folder / "run"

        def killed(die_at=die_at, run=run):
            count_operations(die_at)
            make_trainer(run, tokenizer, dataset).train()

        def go_on(run=run):
            trainer = make_trainer(run, tokenizer, dataset)
            if RunFolder(run).is_run:
                try:
                    trainer.resume()
                except FileNotFoundError:  # killed before the first checkpoint
                    shutil.rmtree(run)
                    trainer = make_trainer(run, tokenizer, dataset)
            elif run.exists():
                shutil.rmtree(run)
            trainer.train()
            outcome = _outcome(trainer)
            for name in expected:
                assert _same(outcome[name], expected[name]), name
            assert (run / "final" / "model.safetensors").read_bytes() == expected_final
            leftovers = [path.name for path in run.iterdir() if path.name.startswith(".")]
            assert not leftovers, leftovers

        assert in_child(killed) == 9, die_at
        tried += 1
        survived += in_child(go_on) == 0
        shutil.rmtree(run)
    print(f"{operations} operations, {survived} of {tried} survived")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
