"""Rows added to the head's gradient are the gradient of tied embeddings."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from llm.core.token_embeddings import TokenEmbeddings
from llm.models.gpt import GPT, GPT2
from llm.training import next_token_loss
from llm.training.embedding_rows import rows_into_gradient

CONFIG = {
    "vocab_size": 50,
    "embed_dim": 32,
    "num_heads": 4,
    "num_layers": 2,
    "max_position_embeddings": 16,
    "dropout": 0.0,
}


def make(architecture=GPT2, **changes):
    torch.manual_seed(0)
    return architecture({**CONFIG, **changes})


def batches():
    # few distinct tokens, so that many come twice
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(7, (4, 16), generator=generator) for _ in range(2)]


def backward(model, ids):
    next_token_loss(model.hidden_states(ids), model.lm_head.weight, ids, num_targets=60).backward()


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("architecture", [GPT, GPT2])
@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False}])
@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_are_those_of_autograd(architecture, changes, recomputed):
    expected, model = make(architecture, **changes), make(architecture, **changes)
    for each in (expected, model):
        each.decoder.recompute_blocks = recomputed
    for ids in batches():  # the second is added to the first
        backward(expected, ids)
        with rows_into_gradient(model):
            backward(model, ids)
        for name, grad in gradients(expected).items():
            torch.testing.assert_close(gradients(model)[name], grad, rtol=1e-6, atol=1e-7)


def test_under_autocast_rows_are_added_in_float32():
    expected, model = make(), make()
    ids = batches()[0]
    with torch.autocast("cpu", torch.bfloat16):
        backward(expected, ids)
        with rows_into_gradient(model):
            backward(model, ids)
    weight = model.lm_head.weight
    assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(weight.grad, expected.lm_head.weight.grad, rtol=1e-6, atol=1e-7)


def test_a_loss_that_does_not_use_the_head_has_a_gradient_too():
    expected, model = make(), make()
    ids = batches()[0]
    expected.hidden_states(ids)[..., 0].sum().backward()
    with rows_into_gradient(model):
        model.hidden_states(ids)[..., 0].sum().backward()
    for name, grad in gradients(expected).items():
        torch.testing.assert_close(gradients(model)[name], grad, rtol=1e-6, atol=1e-7)


def test_the_logits_are_the_same_with_and_without_gradients():
    model = make()
    ids = batches()[0]
    expected = model(ids)
    with rows_into_gradient(model):
        assert torch.equal(model(ids), expected)
        with torch.no_grad():
            logits = model(ids)
    assert torch.equal(logits, expected)
    assert not logits.requires_grad


def test_embeddings_that_are_not_trained_have_no_gradient():
    model = make()
    model.decoder.token_embeddings.weight.requires_grad_(False)
    with rows_into_gradient(model):
        assert type(model.decoder.token_embeddings) is TokenEmbeddings
        backward(model, batches()[0])
    assert model.lm_head.weight.grad is None


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_hook_sees_the_whole_gradient(kind):
    expected, model = make(), make()
    ids = batches()[0]
    backward(expected, ids)
    seen = []
    weight = model.lm_head.weight
    handle = getattr(weight, kind)(
        lambda given: seen.append((given if given.grad is None else given.grad).clone())
    )
    with rows_into_gradient(model):
        backward(model, ids)
    torch.testing.assert_close(seen[-1], expected.lm_head.weight.grad, rtol=1e-6, atol=1e-7)
    handle.remove()
    with rows_into_gradient(model):
        assert type(model.decoder.token_embeddings) is not TokenEmbeddings


def test_a_class_of_its_own_is_left_alone():
    class Noisy(TokenEmbeddings):
        def forward(self, input):
            return 2 * super().forward(input)

    model = make()
    model.decoder.token_embeddings.__class__ = Noisy
    with rows_into_gradient(model):
        assert type(model.decoder.token_embeddings) is Noisy


def test_the_model_is_as_it_was_also_after_an_error():
    model = make()
    names = list(model.state_dict())

    def fail():
        with rows_into_gradient(model):
            assert type(model.decoder.token_embeddings) is not TokenEmbeddings
            assert list(model.state_dict()) == names
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert type(model.decoder.token_embeddings) is TokenEmbeddings


def test_there_is_no_second_matrix_of_the_vocabulary():
    model = make(vocab_size=20_000)
    matrix = model.lm_head.weight.nbytes
    ids = batches()[0]

    def matrices():
        model.zero_grad(set_to_none=True)
        loss = next_token_loss(model.hidden_states(ids), model.lm_head.weight, ids)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            loss.backward()
        sizes = [e.self_cpu_memory_usage for e in profiler.events()]
        return sum(size >= matrix for size in sizes)

    assert matrices() >= 1  # what this measures is there
    with rows_into_gradient(model):
        assert matrices() == 0
