"""A new model's weights have the published distribution."""

import math

import pytest
import torch

from llm.models import ARCHITECTURES

CONFIG = {
    "vocab_size": 500,
    "embed_dim": 128,
    "num_heads": 4,
    "num_layers": 8,
    "max_position_embeddings": 256,
}
SCALED = ("attention.out_proj.weight", "feed_forward.down_proj.weight")


def expected_std(model, name):
    std = model.config.initializer_range
    if model.config.model_type == "gpt2" and name.endswith(SCALED):
        return std / math.sqrt(2 * model.config.num_layers)
    return std


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("initializer_range", [0.02, 0.1])
def test_matrices_are_normal_with_the_published_std(model_type, initializer_range, tied):
    torch.manual_seed(0)
    model = ARCHITECTURES[model_type].model(
        {**CONFIG, "initializer_range": initializer_range, "tie_embeddings": tied}
    )
    matrices = {name: p for name, p in model.named_parameters() if p.dim() == 2}
    assert len(matrices) == 4 * CONFIG["num_layers"] + (2 if tied else 3)
    for name, weight in matrices.items():
        std = expected_std(model, name)
        error = 1 / math.sqrt(weight.numel())
        assert abs(weight.mean().item()) < 5 * error * std, name
        assert weight.std().item() == pytest.approx(std, rel=5 * error / math.sqrt(2)), name
        kurtosis = (weight / weight.std()).pow(4).mean().item()
        assert kurtosis == pytest.approx(3, abs=5 * error * math.sqrt(24)), name


def test_biases_are_zero_and_norms_the_identity(model_type):
    model = ARCHITECTURES[model_type].model(CONFIG)
    vectors = {name: p for name, p in model.named_parameters() if p.dim() == 1}
    assert vectors
    for name, vector in vectors.items():
        assert torch.equal(vector, torch.full_like(vector, float(name.endswith("weight")))), name


def test_the_seed_decides_the_weights(model_type):
    def build(seed):
        torch.manual_seed(seed)
        return ARCHITECTURES[model_type].model(CONFIG).state_dict()

    first, second, other = build(0), build(0), build(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(
        first["decoder.token_embeddings.weight"], other["decoder.token_embeddings.weight"]
    )


def test_norm_eps_reaches_every_norm(model_type):
    model = ARCHITECTURES[model_type].model({**CONFIG, "norm_eps": 0.125})
    norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == 2 * CONFIG["num_layers"] + (model_type == "gpt2")
    assert {norm.eps for norm in norms} == {0.125}
