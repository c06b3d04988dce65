"""Several processes train the model that one would."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm.models.gpt import GPT2
from llm.training import Ranks, joined_ranks, verify_checkpoint
from llm.training.ranks import device_of_rank, launched_ranks
from tests.script_processes import run_ranks, run_torchrun, succeeded

WORKER = Path(__file__).with_name("train_on_ranks.py")
# metrics of the clock
TIMED = ("tokens_per_second", "mfu")
make_trainer = runpy.run_path(str(WORKER))["make_trainer"]


def train_on(num_ranks, folder, *, start=run_ranks, **settings):
    """What ranks leave that train with these settings; None if they stop before the end."""
    succeeded(start(num_ranks, WORKER, folder, json.dumps(settings)))
    return None if "until" in settings else left_by(folder)


def left_by(folder):
    lines = [
        {name: value for name, value in json.loads(line).items() if name not in TIMED}
        for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    ]
    return load_file(folder / "final" / "model.safetensors"), lines


def assert_close(left, right, *, of_lines, of_weights):
    (left_weights, left_lines), (right_weights, right_lines) = left, right
    for name, weight in left_weights.items():
        other = right_weights[name]
        if name.endswith("c_attn.bias"):
            # softmax does not see a bias of the keys: its gradient is rounding alone, which Adam
            # scales up to a step
            weight, other = (torch.cat([*each.chunk(3)[::2]]) for each in (weight, other))
        assert (weight - other).abs().max() <= of_weights * other.abs().max(), name
    assert len(left_lines) == len(right_lines)
    for one, other in zip(left_lines, right_lines, strict=True):
        if "sample" in one:
            assert one == other
        else:
            assert one == pytest.approx(other, rel=of_lines)


@pytest.mark.slow
def test_two_ranks_train_as_one_with_accumulation(tmp_path):
    make_trainer(tmp_path / "one", accumulation_steps=2).train()
    one = left_by(tmp_path / "one")
    # one sum of two gradients
    two = train_on(2, tmp_path / "two", start=run_torchrun)
    assert_close(two, one, of_lines=1e-6, of_weights=1e-6)
    # three, with more accumulation; the last batch of validation is not one of all ranks
    make_trainer(tmp_path / "six", accumulation_steps=6, steps=20).train()
    three = train_on(3, tmp_path / "three", accumulation_steps=2, steps=20)
    # sums of six in another order: Adam's steps see the rounding of the smallest gradients
    assert_close(three, left_by(tmp_path / "six"), of_lines=1e-6, of_weights=1e-5)


@pytest.mark.slow
def test_ranks_resume_to_the_same_bits_and_another_number_of_them_goes_on(tmp_path):
    whole = train_on(2, tmp_path / "whole", dropout=0.2, steps=12, save_every=5)
    settings = {"dropout": 0.2, "steps": 12, "save_every": 5}
    train_on(2, tmp_path / "two", until=7, **settings)
    weights, lines = train_on(2, tmp_path / "two", resume=True, **settings)
    for name, weight in whole[0].items():
        assert torch.equal(weights[name], weight)
    assert lines == whole[1]
    # the examples of a step are the same: one process, with accumulation in place of ranks
    alone = make_trainer(tmp_path / "two", accumulation_steps=2, dropout=0.2, steps=14)
    alone.resume()
    alone.train()
    assert alone.step == 14
    with pytest.raises(ValueError, match=r"examples_per_step was 4 and is 2"):
        make_trainer(tmp_path / "two", dropout=0.2, steps=14).resume()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"max_tokens": 16}, {"ema_decay": 0.9, "gradient_checkpointing": True}]
)
def test_ranks_that_share_the_weights_train_as_one(tmp_path, changes):
    make_trainer(tmp_path / "one", accumulation_steps=2, **changes).train()
    shared = train_on(2, tmp_path / "two", parallel="fsdp", **changes)
    assert_close(shared, left_by(tmp_path / "one"), of_lines=1e-6, of_weights=1e-6)
    saved = tmp_path / "two" / "step-000050"
    verify_checkpoint(saved)
    # a share each, of what only training needs; the model is whole
    assert len(list((saved / "optimizer").iterdir())) == 2
    assert (saved / "ema" / "model.safetensors").exists() == ("ema_decay" in changes)
    assert GPT2.from_pretrained(saved).config == GPT2.from_pretrained(tmp_path / "two/final").config


@pytest.mark.slow
def test_no_rank_writes_its_share_before_the_place_of_a_checkpoint_is_cleared(tmp_path):
    train_on(2, tmp_path, parallel="fsdp", steps=2, late_main=True)
    saved = tmp_path / "step-000002"
    verify_checkpoint(saved)
    assert len(list((saved / "optimizer").iterdir())) == 2


@pytest.mark.slow
def test_shared_weights_resume_to_the_same_bits_and_on_other_numbers_of_ranks(tmp_path):
    settings = {"dropout": 0.2, "ema_decay": 0.9, "steps": 12, "save_every": 5}
    whole = train_on(2, tmp_path / "whole", parallel="fsdp", **settings)
    train_on(2, tmp_path / "two", parallel="fsdp", until=7, **settings)
    weights, lines = train_on(2, tmp_path / "two", parallel="fsdp", resume=True, **settings)
    for name, weight in whole[0].items():
        assert torch.equal(weights[name], weight)
    assert lines == whole[1]
    # on one rank, on two with whole weights, and from one to two with shares; without dropout,
    # which differs by rank
    settings["dropout"] = 0.0
    alone = {**settings, "accumulation_steps": 2}
    make_trainer(tmp_path / "one", **alone).train(until=7)
    make_trainer(tmp_path / "never-stopped", **alone).train()
    expected = left_by(tmp_path / "never-stopped")
    train_on(2, tmp_path / "fsdp", parallel="fsdp", until=7, **settings)
    shutil.copytree(tmp_path / "fsdp", tmp_path / "fsdp-on-one")
    shutil.copytree(tmp_path / "fsdp", tmp_path / "fsdp-on-ddp")
    resumed = make_trainer(tmp_path / "fsdp-on-one", **alone)
    resumed.resume()
    resumed.train()
    outcomes = [
        left_by(tmp_path / "fsdp-on-one"),
        train_on(2, tmp_path / "fsdp-on-ddp", resume=True, **settings),
        train_on(2, tmp_path / "one", parallel="fsdp", resume=True, **settings),
    ]
    for outcome in outcomes:
        assert_close(outcome, expected, of_lines=1e-6, of_weights=1e-6)


def test_alone_everything_is_free(monkeypatch):
    ranks = Ranks.current()
    assert ranks == Ranks(0, 1)
    assert ranks.is_main
    assert ranks.sum(1.5, 2) == [1.5, 2]
    assert ranks.any(True) is True
    assert ranks.any(False) is False
    assert ranks.gather("a") == ["a"]
    assert ranks.from_main("a") == "a"
    ranks.meet()
    for device in ("cpu", "meta"):
        assert device_of_rank(torch.device(device)) == torch.device(device)
    with joined_ranks(torch.device("cpu")) as joined:
        assert joined == ranks
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="WORLD_SIZE, which torchrun sets"):
        launched_ranks()
