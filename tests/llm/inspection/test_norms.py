"""Norms of weights and gradients, against plain sums and `backward`."""

import math

import pytest
import torch
import torch.nn.functional as F

from llm.inspection import gradient_norms, weight_norms


def norm(tensor):
    return math.sqrt(sum(x * x for x in tensor.detach().double().flatten().tolist()))


@pytest.fixture
def batch(random_ids):
    ids = random_ids(300, 3, 9)
    labels = ids.clone()
    labels[0, 5:] = -100
    return {"input_ids": ids, "labels": labels}


def test_weight_norms_are_those_of_every_parameter(model):
    norms = weight_norms(model)
    expected = {name: norm(parameter) for name, parameter in model.named_parameters()}
    assert dict(zip(norms.names, norms.norms.tolist(), strict=True)) == pytest.approx(
        expected, rel=1e-5
    )


def test_layers_are_the_blocks_and_the_parts_around_them(make_model, model_type):
    tied = weight_norms(make_model(model_type))
    untied = weight_norms(make_model(model_type, tie_embeddings=False))
    blocks = {"gpt": ["block 0", "block 1"], "gpt2": ["block 0", "block 1", "block 2"]}
    ends = {"gpt": [], "gpt2": ["final_norm"]}
    parts = [
        *("token_embeddings", "position_embeddings"),
        *blocks[model_type],
        *ends[model_type],
    ]
    assert list(tied.by_layer()) == parts
    assert list(untied.by_layer()) == [*parts, "lm_head"]
    for layer, got in untied.by_layer().items():
        members = [
            each
            for each, name in zip(untied.norms.tolist(), untied.names, strict=True)
            if f".{layer}.".replace("block ", "blocks.") in f".{name}."
        ]
        assert got == pytest.approx(math.hypot(*members), rel=1e-12)
    total = math.hypot(*untied.by_layer().values())
    assert total == pytest.approx(math.hypot(*untied.norms.tolist()))


def test_gradient_norms_are_those_of_the_mean_loss(model, batch):
    model.train()
    with torch.no_grad():
        norms = gradient_norms(model, batch)
    model.eval()
    logits = model(batch["input_ids"])[:, :-1].flatten(0, 1)
    F.cross_entropy(logits, batch["labels"][:, 1:].flatten(), ignore_index=-100).backward()
    expected = {name: norm(parameter.grad) for name, parameter in model.named_parameters()}
    got = dict(zip(norms.names, norms.norms.tolist(), strict=True))
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert min(expected.values()) > 0


def test_frozen_parameters_have_no_gradient(model, batch):
    frozen = model.decoder.blocks[0].requires_grad_(False)
    names = gradient_norms(model, batch).names
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert list(names) == trained
    assert len(trained) == len(list(model.parameters())) - len(list(frozen.parameters()))
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable"):
        gradient_norms(model, batch)


def test_a_batch_without_targets_is_an_error(model, batch):
    batch["labels"].fill_(-100)
    with pytest.raises(ValueError, match="nothing to predict"):
        gradient_norms(model, batch)
