"""Training with the fast kernel of linear layers, and going on with it."""

import json

import pytest
import torch
from torch import nn

from llm.core import fast_linear as module
from llm.core.fast_linear import FastLinear
from llm.training import Trainer, verify_resume

pytestmark = pytest.mark.skipif(
    not module.is_available(), reason="this PyTorch has no oneDNN product"
)


@pytest.fixture(autouse=True)
def _every_size(monkeypatch):
    monkeypatch.setattr(module, "MIN_PRODUCT", 1)


@pytest.fixture
def probe(monkeypatch):
    """Says what the probe will find from now on."""
    return lambda is_faster: monkeypatch.setattr(module, "_is_faster", lambda _: is_faster)


@pytest.fixture
def make_trainer(make_model, dataset, tokenizer, make_config, model_class):
    def make(folder=None, **changes):
        return Trainer(
            make_model(model_class),
            dataset,
            make_config(**changes),
            validation_dataset=dataset,
            tokenizer=tokenizer,
            run_folder=folder,
            show_progress=False,
        )

    return make


def recorded(folder):
    return json.loads((folder / "run.json").read_text("utf-8"))["linear_kernel"]


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def kinds(model):
    return {type(layer) for layer in model.modules() if isinstance(layer, nn.Linear)}


def weights(trainer):
    return torch.cat([weight.flatten() for weight in trainer.model.state_dict().values()])


def test_a_run_is_the_same_by_either_kernel_but_for_rounding(make_trainer, tmp_path):
    for kernel, kind in (("fast", FastLinear), ("plain", nn.Linear)):
        trainer = make_trainer(tmp_path / kernel, linear_kernel=kernel, optimizer="sgd")
        trainer.train()
        assert kinds(trainer.model) == {kind}
        assert recorded(tmp_path / kernel) == kernel
    torch.testing.assert_close(
        torch.tensor(losses(tmp_path / "fast")),
        torch.tensor(losses(tmp_path / "plain")),
        rtol=1e-6,
        atol=0,
    )


def test_the_head_is_computed_by_it_too(make_trainer, monkeypatch):
    shapes = []
    onednn = module._onednn
    monkeypatch.setattr(
        module, "_onednn", lambda a, b, bias: (shapes.append(b.shape), onednn(a, b, bias))[1]
    )
    trainer = make_trainer(linear_kernel="fast", steps=1)
    trainer.train()
    assert trainer.model.lm_head.weight.shape in shapes


@pytest.mark.parametrize("first", [True, False])
def test_a_run_keeps_its_kernel_whatever_the_probe_finds_later(
    make_trainer, tmp_path, probe, first
):
    probe(first)
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    make_trainer(tmp_path / "run").train(until=2)
    probe(not first)
    resumed = make_trainer(tmp_path / "run")
    resumed.resume()
    resumed.train()
    assert recorded(tmp_path / "run") == ("fast" if first else "plain")
    assert torch.equal(weights(resumed), weights(whole))
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_the_proof_of_resume_holds_with_it(make_trainer):
    verify_resume(lambda folder: make_trainer(folder, linear_kernel="fast"), steps=2)


def test_another_kernel_is_another_setting(make_trainer, tmp_path):
    make_trainer(tmp_path / "run", linear_kernel="fast").train(until=1)
    other = make_trainer(tmp_path / "run", linear_kernel="plain")
    with pytest.raises(ValueError, match="linear_kernel was fast and is plain"):
        other.resume()
    other.resume(allow_changed=["linear_kernel"])
    other.train()
    assert recorded(tmp_path / "run") == "plain"


def test_where_it_is_missing_a_run_goes_on_and_says_so(
    make_trainer, tmp_path, probe, monkeypatch, caplog
):
    probe(True)
    make_trainer(tmp_path / "run").train(until=1)
    # as on a PyTorch without oneDNN
    monkeypatch.setattr(module, "is_available", lambda: False)
    monkeypatch.setattr("llm.training.trainer.is_available", lambda: False)
    resumed = make_trainer(tmp_path / "run")
    resumed.resume()
    resumed.train()
    assert "oneDNN's, which is not here" in caplog.text
    assert recorded(tmp_path / "run") == "plain"


def test_16_bits_have_kernels_of_their_own(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path / "run", linear_kernel="fast", precision="bf16", steps=1)
    trainer.train()
    assert kinds(trainer.model) == {nn.Linear}
    assert recorded(tmp_path / "run") == "plain"


def test_an_unknown_kernel_is_named(make_config):
    with pytest.raises(ValueError, match="linear_kernel='quick' is not one of"):
        make_config(linear_kernel="quick")
