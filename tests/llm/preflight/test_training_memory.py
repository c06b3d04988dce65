"""The memory of a step, worked out, is what its tensors have at their most."""

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from llm.models import ARCHITECTURES
from llm.models.gpt import GPT2Config, GPTConfig
from llm.preflight import training_memory
from llm.training import Trainer, TrainingConfig

SHAPES = {
    "deep": {"vocab_size": 1000, "embed_dim": 96, "num_layers": 6, "max_position_embeddings": 64},
    "wide": {"vocab_size": 8000, "embed_dim": 64, "num_layers": 2, "max_position_embeddings": 128},
    "long": {"vocab_size": 300, "embed_dim": 64, "num_layers": 3, "max_position_embeddings": 256},
}


class Examples:
    """Random ids."""

    def __init__(self, config):
        generator = torch.Generator().manual_seed(0)
        shape = (8, config.max_position_embeddings)
        self.ids = torch.randint(config.vocab_size, shape, generator=generator)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def most_bytes(trainer, path):
    """What the tensors of a third step have at their most, beyond what was there before it."""
    for _ in range(2):
        trainer.train_step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer.train_step()
    profiler.export_chrome_trace(str(path))
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e["name"] == "[memory]"]
    held, most = 0, 0
    for event in sorted(events, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most


@pytest.mark.parametrize(
    ("model_type", "shape", "options"),
    [
        ("gpt", "deep", {"batch_size": 8}),
        ("gpt2", "deep", {"batch_size": 1, "precision": "bf16"}),
        ("gpt", "deep", {"batch_size": 4, "max_tokens": 128}),
        ("gpt2", "deep", {"batch_size": 2, "accumulation_steps": 2, "optimizer": "sgd"}),
        ("gpt2", "wide", {"batch_size": 8, "precision": "bf16", "dropout": 0.1}),
        ("gpt", "wide", {"batch_size": 1, "ema_decay": 0.9}),
        ("gpt2", "wide", {"batch_size": 8, "gradient_checkpointing": True}),
        ("gpt", "long", {"batch_size": 4, "dropout": 0.1}),
        ("gpt2", "long", {"batch_size": 4, "dropout": 0.1, "gradient_checkpointing": True}),
        ("gpt", "long", {"batch_size": 4, "dropout": 0.1, "precision": "bf16"}),
    ],
)
def test_a_step_has_as_much_as_was_worked_out(tmp_path, model_type, shape, options):
    architecture = ARCHITECTURES[model_type]
    options = {**options}
    dropout = options.pop("dropout", 0.0)
    config = architecture.config(num_heads=4, dropout=dropout, **SHAPES[shape])
    training = TrainingConfig(steps=9, device="cpu", linear_kernel="plain", **options)
    memory = training_memory(config, training)
    held = memory.weights + memory.optimizer + memory.averaged_weights
    trainer = Trainer(architecture.model(config), Examples(config), training, show_progress=False)
    most = most_bytes(trainer, tmp_path / "trace.json")
    assert memory.total - memory.heap - held == pytest.approx(most, rel=0.1)
    states = sum(
        tensor.nbytes
        for state in trainer.optimizer.state.values()
        for tensor in state.values()
        if torch.is_tensor(tensor) and tensor.dim()
    )
    averaged = (
        0 if trainer.average is None else sum(w.nbytes for w in trainer.average.weights.values())
    )
    assert memory.weights == sum(p.nbytes for p in trainer.model.parameters())
    assert (memory.optimizer, memory.averaged_weights) == (states, averaged)


def test_what_is_asked_for_less_takes_less():
    config = GPT2Config.gpt2_small()

    def total(device="cpu", **options):
        training = TrainingConfig(steps=1, **{"batch_size": 8, **options})
        return training_memory(config, training, device=device).total

    assert total(precision="bf16") < total()
    assert total(gradient_checkpointing=True) < total()
    assert total(batch_size=4) < total()
    assert total(max_tokens=2048) < total()
    assert total(optimizer="sgd") < total() < total(ema_decay=0.9)
    shared = TrainingConfig(steps=1, batch_size=1, parallel="fsdp")
    alone, four = (training_memory(config, shared, num_ranks=ranks) for ranks in (1, 4))
    assert (four.weights, four.optimizer) == (alone.weights // 4, alone.optimizer // 4)
    assert four.total < alone.total == total(batch_size=1)
    # there, dropout keeps bytes and attention with it no pairs of tokens
    assert total(device="cuda") < total()


def test_a_length_that_the_model_does_not_take_is_named():
    training = TrainingConfig(steps=1)
    for length in (0, 513, 2.0):
        with pytest.raises(ValueError, match=r"sequence_length=.* at most 512"):
            training_memory(GPTConfig.gpt1(), training, sequence_length=length)
