"""Smaller forwards, recomputed activations: the same step in less memory."""

import json
import logging
import resource
import subprocess
import sys

import pytest
import torch

from llm.training import OutOfMemoryError, Trainer, verify_resume
from llm.training.step_gradient import is_out_of_memory


def trainer_of(model, dataset, config, **options):
    return Trainer(model, dataset, config, show_progress=False, **options)


def out_of_memory_above(model, tokens, *, error=torch.OutOfMemoryError):
    """Let the model's forward fail with more tokens; the sizes that it was given."""
    plain, sizes = model.hidden_states, []

    def hidden_states(input_ids, **options):
        sizes.append(tuple(input_ids.shape))
        if input_ids.numel() > tokens:
            raise error("CUDA out of memory. Tried to allocate 2 GiB")
        return plain(input_ids, **options)

    model.hidden_states = hidden_states
    return sizes


def gradients(trainer):
    trainer.train_step()
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize("max_tokens", [1, 16, 33, 48, 1000])
def test_forwards_have_at_most_max_tokens_and_the_step_is_the_same(
    make_model, make_config, dataset, max_tokens
):
    model = make_model(dropout=0.0)
    sizes = out_of_memory_above(model, 10**9)
    settings = {"optimizer": "sgd", "batch_size": 4, "accumulation_steps": 2, "learning_rate": 1.0}
    small = gradients(trainer_of(model, dataset, make_config(max_tokens=max_tokens, **settings)))
    assert all(rows * length <= max(max_tokens, length) for rows, length in sizes)
    assert sum(rows for rows, _ in sizes) == 8
    whole = gradients(trainer_of(make_model(dropout=0.0), dataset, make_config(**settings)))
    for name, weight in whole.items():
        torch.testing.assert_close(small[name], weight, rtol=1e-5, atol=1e-7)


def test_where_memory_runs_out_the_step_is_made_again_in_halves(
    make_model, make_config, dataset, caplog, tmp_path
):
    model = make_model(dropout=0.2)
    sizes = out_of_memory_above(model, 40)
    config = make_config(batch_size=8, steps=6, save_every=3)
    trainer = trainer_of(model, dataset, config, run_folder=tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert [record.message for record in caplog.records] == [
        "memory ran out in a forward of 8 × 16 tokens: max_tokens is 64 from now on",
        "memory ran out in a forward of 4 × 16 tokens: max_tokens is 32 from now on",
    ]
    assert sizes[:3] == [(8, 16), (4, 16), (2, 16)]
    state = json.loads((tmp_path / "run/step-000006/trainer_state.json").read_text())
    assert state["max_tokens"] == 32
    # randomness too is that of a run which had the bound from the start
    bounded = trainer_of(
        make_model(dropout=0.2), dataset, make_config(batch_size=8, steps=6, max_tokens=32)
    )
    bounded.train()
    assert trainer.tokens == bounded.tokens
    for one, other in zip(model.parameters(), bounded.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_gradients_of_a_failed_attempt_do_not_count(make_model, make_config, dataset):
    """The second batch of a step is the one that does not fit."""
    model, plain = make_model(dropout=0.0), make_model(dropout=0.0)
    calls = []
    hidden_states = model.hidden_states

    def fails_once(input_ids, **options):
        calls.append(len(input_ids))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return hidden_states(input_ids, **options)

    model.hidden_states = fails_once
    settings = {"optimizer": "sgd", "accumulation_steps": 2, "learning_rate": 1.0}
    halved = gradients(trainer_of(model, dataset, make_config(**settings)))
    assert calls == [4, 4, 2, 2, 2, 2]
    whole = gradients(trainer_of(plain, dataset, make_config(**settings)))
    for name, weight in whole.items():
        torch.testing.assert_close(halved[name], weight, rtol=1e-5, atol=1e-7)


def test_the_smaller_forwards_are_kept_on_resume(make_model, make_config, dataset):
    def make(folder):
        model = make_model(dropout=0.2)
        out_of_memory_above(model, 40)
        return trainer_of(model, dataset, make_config(), run_folder=folder)

    verify_resume(make, steps=3)


def test_one_example_that_does_not_fit_is_an_error(make_model, make_config, dataset):
    model = make_model()
    out_of_memory_above(model, 10)
    with pytest.raises(OutOfMemoryError, match=r"1 × 16 tokens.*gradient_checkpointing"):
        trainer_of(model, dataset, make_config()).train()


def test_other_errors_are_not_taken_for_it(make_model, make_config, dataset):
    model = make_model()
    out_of_memory_above(model, 10, error=RuntimeError)
    with pytest.raises(RuntimeError, match="Tried to allocate"):
        trainer_of(model, dataset, make_config()).train()
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(MemoryError())


LIMITED = """
import resource, torch
from llm.models.gpt import GPT2
from llm.training import TextDataset, Trainer, TrainingConfig
torch.set_num_threads(1)
torch.manual_seed(0)
model = GPT2({"vocab_size": 256, "embed_dim": 64, "num_heads": 2, "num_layers": 4,
              "max_position_embeddings": 512, "dropout": 0.0})
dataset = TextDataset(torch.randint(0, 256, (60000,)), block_size=512)
def trainer(batch_size):
    config = TrainingConfig(steps=2, batch_size=batch_size, device="cpu")
    return Trainer(model, dataset, config, show_progress=False)
trainer(1).train_step()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20, used + 400 * 2**20))
large = trainer(64)
large.train()
wanted = sum(len(large.stream[index]["labels"]) - 1 for index in range(128))
print(large.gradient.max_tokens, large.tokens, wanted)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
def test_a_machine_that_runs_out_of_memory_trains_in_smaller_forwards():
    assert resource.RLIMIT_AS
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    max_tokens, tokens, wanted = map(int, done.stdout.split())
    assert 512 <= max_tokens < 64 * 512
    assert tokens == wanted
    assert "memory ran out in a forward of 64 × 512 tokens" in done.stderr


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_activations_give_the_same_bits(
    model_class, make_model, make_config, dataset, precision
):
    def train(recompute):
        model = make_model(model_class, dropout=0.3)
        calls = []
        model.decoder.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
        config = make_config(gradient_checkpointing=recompute, precision=precision)
        trainer_of(model, dataset, config).train()
        return model, len(calls)

    (plain, calls), (recomputed, more_calls) = train(False), train(True)
    assert more_calls == 2 * calls
    for one, other in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_recomputing_keeps_less_for_the_backward(make_model):
    def kept(recompute):
        model = make_model(num_layers=6, dropout=0.0)
        model.decoder.recompute_blocks = recompute
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            model.hidden_states(torch.zeros(2, 16, dtype=torch.long))
        return sum(sizes)

    assert kept(True) < kept(False) / 5


def test_generation_does_not_recompute(make_model):
    model = make_model().eval()
    ids = torch.zeros(1, 3, dtype=torch.long)
    expected = model.generate(ids, max_new_tokens=5)
    model.decoder.recompute_blocks = True
    assert torch.equal(model.generate(ids, max_new_tokens=5), expected)
