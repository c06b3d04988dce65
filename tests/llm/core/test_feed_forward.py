"""down(activation(up(x))), with each activation written out."""

import math

import pytest
import torch

from llm.core.feed_forward import FeedForward

ACTIVATIONS = {
    "gelu_tanh": lambda x: 0.5
    * x
    * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_it_is_the_equation(shaken, activation):
    layer = shaken(FeedForward(embed_dim=4, intermediate_dim=9, activation=activation), std=1.0)
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    hidden = layer.up_proj(x)
    assert hidden.shape == (2, 3, 9)
    hidden = hidden.detach().double().apply_(ACTIVATIONS[activation]).float()
    torch.testing.assert_close(layer(x), layer.down_proj(hidden), atol=1e-5, rtol=0)


def test_dropout_acts_in_training_only():
    layer = FeedForward(embed_dim=64, intermediate_dim=8, activation="relu", dropout=0.5)
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    expected = layer.eval()(x)
    torch.manual_seed(0)
    got = layer.train()(x)
    dropped = got == 0
    assert 0.4 < dropped.float().mean() < 0.6
    torch.testing.assert_close(got[~dropped], 2 * expected[~dropped])
