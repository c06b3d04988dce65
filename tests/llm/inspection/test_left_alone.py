"""Inspection leaves a model as it was, also where it fails."""

import pytest
import torch

from llm.inspection import (
    attention_maps,
    embedding_neighbours,
    gradient_norms,
    logit_lens,
    token_losses,
    weight_norms,
)

BATCH = {"input_ids": torch.tensor([[1, 2, 3]]), "labels": torch.tensor([[1, 2, 3]])}
FORWARD = {
    "attention_maps": lambda model, tokenizer: attention_maps(model, tokenizer, "Кошка sat"),
    "logit_lens": lambda model, tokenizer: logit_lens(model, tokenizer, "Кошка sat"),
    "token_losses": lambda model, tokenizer: token_losses(model, tokenizer, "Кошка sat"),
    "gradient_norms": lambda model, tokenizer: gradient_norms(model, BATCH),
}
EVERY = {
    **FORWARD,
    "neighbours": lambda model, tokenizer: embedding_neighbours(model, tokenizer, 3),
    "weight_norms": lambda model, tokenizer: weight_norms(model),
}


def state(model):
    """Modes, hooks, gradients and weights of every part."""
    modules = list(model.modules())
    hooks = [
        [list(module._forward_hooks), list(module._forward_pre_hooks), list(module._backward_hooks)]
        for module in modules
    ]
    gradients = [None if p.grad is None else p.grad.tolist() for p in model.parameters()]
    needs = [p.requires_grad for p in model.parameters()]
    weights = [p.tolist() for p in model.parameters()]
    return [module.training for module in modules], hooks, gradients, needs, weights


@pytest.fixture
def lived_in(model):
    """In train mode but for a part, with gradients, one of them missing."""
    model.train()
    model.decoder.blocks[0].eval()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    model.decoder.position_embeddings.weight.grad = None
    return model


@pytest.mark.parametrize("name", EVERY)
def test_a_model_is_left_as_it_was(lived_in, tokenizer, name):
    before, was_recording = state(lived_in), torch.is_grad_enabled()
    EVERY[name](lived_in, tokenizer)
    assert state(lived_in) == before
    assert torch.is_grad_enabled() == was_recording


@pytest.mark.parametrize("name", FORWARD)
def test_a_model_is_left_as_it_was_by_an_error(lived_in, tokenizer, name):
    def fail(*args):
        raise RuntimeError("in the last block")

    lived_in.decoder.blocks[-1].register_forward_hook(fail)
    before = state(lived_in)
    with pytest.raises(RuntimeError, match="in the last block"):
        FORWARD[name](lived_in, tokenizer)
    assert state(lived_in) == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", FORWARD)
def test_a_model_in_training_is_read_without_dropout(model, tokenizer, name):
    def arrays(result):
        return [v.tolist() for v in vars(result).values() if hasattr(v, "tolist")]

    expected = arrays(FORWARD[name](model, tokenizer))
    got = arrays(FORWARD[name](model.train(), tokenizer))
    assert str(got) == str(expected)
