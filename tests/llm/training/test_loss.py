"""The chunked loss is cross entropy, and its gradients are autograd's."""

import pytest
import torch
import torch.nn.functional as F

from llm.core import fast_linear as fast_linear_module
from llm.training import count_targets, next_token_loss
from llm.training import loss as loss_module
from llm.training.loss import chunk_size


@pytest.fixture(params=[(1, 1), (5, 1), (5, 30), (512, 30), (512, 2**18)])
def sizes(request, monkeypatch):
    chunk_size, cached_numbers = request.param
    monkeypatch.setattr(loss_module, "CHUNK_SIZE", chunk_size)
    monkeypatch.setattr(loss_module, "numbers_in_caches", lambda: cached_numbers)


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 7, 4, dtype=dtype, generator=generator, requires_grad=True)
    weight = torch.randn(11, 4, dtype=dtype, generator=generator, requires_grad=True)
    labels = torch.randint(0, 11, (3, 7), generator=generator)
    labels[0, 3:] = -100
    labels[2] = -100
    return hidden, weight, labels


def plain_loss(hidden, weight, labels):
    logits = hidden @ weight.t()
    return F.cross_entropy(
        logits[:, :-1].reshape(-1, 11), labels[:, 1:].reshape(-1), reduction="sum"
    )


@pytest.mark.usefixtures("sizes")
def test_loss_and_gradients_are_those_of_cross_entropy():
    hidden, weight, labels = inputs()
    exact_hidden = hidden.detach().double().requires_grad_()
    exact_weight = weight.detach().double().requires_grad_()
    loss = next_token_loss(hidden, weight, labels) / 3
    exact = plain_loss(exact_hidden, exact_weight, labels) / 3
    loss.backward()
    exact.backward()
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(hidden.grad.double(), exact_hidden.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad.double(), exact_weight.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("sizes")
def test_bfloat16_is_as_near_as_its_rounding():
    hidden, weight, labels = inputs(torch.bfloat16)
    exact_hidden = hidden.detach().double().requires_grad_()
    exact_weight = weight.detach().double().requires_grad_()
    loss = next_token_loss(hidden, weight, labels)
    exact = plain_loss(exact_hidden, exact_weight, labels)
    loss.backward()
    exact.backward()
    torch.testing.assert_close(loss.double(), exact, rtol=1e-2, atol=0)
    for ours, theirs in (
        (hidden.grad, exact_hidden.grad),
        (weight.grad, exact_weight.grad),
    ):
        assert (ours.double() - theirs).norm() <= 0.01 * theirs.norm()


def test_one_token_has_no_loss_and_no_gradient():
    hidden, weight, labels = inputs()
    loss = next_token_loss(hidden[:, :1], weight, labels[:, :1], num_targets=1)
    loss.backward()
    assert loss.item() == 0
    assert torch.count_nonzero(hidden.grad) == torch.count_nonzero(weight.grad) == 0


def test_a_graph_that_is_kept_gives_its_gradients_again():
    hidden, weight, labels = inputs()
    loss = next_token_loss(hidden, weight, labels)
    loss.backward(retain_graph=True)
    first = hidden.grad.clone(), weight.grad.clone()
    loss.backward()
    torch.testing.assert_close((hidden.grad / 2, weight.grad / 2), first)
    (3 * next_token_loss(hidden, weight, labels)).backward()
    torch.testing.assert_close((hidden.grad / 5, weight.grad / 5), first)


@pytest.mark.parametrize("chunk_rows", [5, 512])
@pytest.mark.parametrize(("vocab_size", "embed_dim"), [(11, 4), (4, 11)])
def test_the_fast_products_give_the_same(
    chunk_rows, vocab_size, embed_dim, onednn_calls, monkeypatch
):
    monkeypatch.setattr(loss_module, "CHUNK_SIZE", chunk_rows)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 7, embed_dim, generator=generator)
    head = torch.randn(vocab_size, embed_dim, generator=generator)
    labels = torch.randint(vocab_size, (3, 7), generator=generator)
    results = []
    for fast in (False, True):
        hidden, weight = values.clone().requires_grad_(), head.clone().requires_grad_()
        loss = next_token_loss(hidden, weight, labels, num_targets=6, fast=fast)
        loss.backward()
        assert weight.grad.is_contiguous()
        results.append((loss.detach(), hidden.grad, weight.grad))
        chunks = -(-18 // chunk_rows)
        assert len(onednn_calls) == (3 * chunks if fast else 0)
    for plain, fast in zip(*results, strict=True):
        assert (fast - plain).norm() <= 1e-6 * plain.norm()


@pytest.mark.parametrize("fast", [False, True])
def test_double_precision_and_half_keep_their_own_kernels(fast, monkeypatch):
    monkeypatch.setattr(fast_linear_module, "MIN_PRODUCT", 1)
    for dtype in (torch.float64, torch.bfloat16):
        hidden, weight, labels = inputs(dtype)
        expected_hidden, expected_weight, _ = inputs(dtype)
        next_token_loss(hidden, weight, labels, fast=fast).backward()
        next_token_loss(expected_hidden, expected_weight, labels).backward()
        torch.testing.assert_close(hidden.grad, expected_hidden.grad)
        torch.testing.assert_close(weight.grad, expected_weight.grad)


@pytest.fixture
def onednn_calls(monkeypatch):
    if not fast_linear_module.is_available():
        pytest.skip("this PyTorch has no oneDNN product")
    monkeypatch.setattr(fast_linear_module, "MIN_PRODUCT", 1)
    calls = []
    product = fast_linear_module._onednn
    monkeypatch.setattr(
        fast_linear_module, "_onednn", lambda *a: calls.append(a[0].shape) or product(*a)
    )
    return calls


@pytest.mark.parametrize("num_rows", [0, 1, 2, 127, 512, 513, 1023, 2032, 10_000])
@pytest.mark.parametrize("vocab_size", [2, 8192, 50257, 2**18])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_chunks_are_equal_and_not_too_large(num_rows, vocab_size, device):
    size = chunk_size(num_rows, vocab_size, device)
    most = 256 if device == "cpu" and vocab_size > 2**15 else 512
    assert 1 <= size <= most
    chunks = -(-num_rows // size)
    assert chunks == -(-num_rows // most)
    assert num_rows - (chunks - 1) * size > size - max(chunks, 1) if num_rows else size == 1


def test_the_shift_happens_once():
    # a model that is certain the next token is the current one plus one
    weight = torch.eye(6) * 100
    ids = torch.tensor([[0, 1, 2, 3]])
    hidden = F.one_hot(ids + 1, 6).float()
    assert next_token_loss(hidden, weight, ids).item() == pytest.approx(0, abs=1e-6)


def test_ignored_labels_get_no_gradient():
    hidden, weight, labels = inputs()
    next_token_loss(hidden, weight, labels).backward()
    assert torch.count_nonzero(hidden.grad[2]) == 0
    assert torch.count_nonzero(hidden.grad[0, 2:]) == 0
    assert torch.count_nonzero(hidden.grad[0, :2]) > 0
    assert torch.count_nonzero(hidden.grad[:, -1]) == 0


def test_targets_are_counted_after_the_shift():
    _, _, labels = inputs()
    assert count_targets(labels) == 2 + 6 + 0
    assert count_targets(torch.tensor([[1, 2, 3]])) == 2
    assert count_targets(torch.tensor([[-100, 2, 3]])) == 2


def test_bfloat16_is_summed_in_float32():
    hidden, weight, labels = inputs(torch.bfloat16)
    loss = next_token_loss(hidden, weight, labels)
    assert loss.dtype == torch.float32
    loss.backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_a_frozen_head_or_trunk_is_respected():
    hidden, weight, labels = inputs()
    next_token_loss(hidden.detach(), weight, labels).backward()
    assert weight.grad is not None
    weight.grad = None
    next_token_loss(hidden, weight.detach(), labels).backward()
    assert weight.grad is None
    assert hidden.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_of_all_logits_is_made(dtype, monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK_SIZE", 4)
    monkeypatch.setattr(loss_module, "numbers_in_caches", lambda: 2000)
    largest = dict.fromkeys([torch.float32, torch.bfloat16], 0)

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor) and tensor.dtype in largest:
                    largest[tensor.dtype] = max(largest[tensor.dtype], tensor.numel())
            return result

    hidden = torch.randn(4, 9, 2, dtype=dtype, requires_grad=True)
    weight = torch.randn(1000, 2, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 1000, (4, 9))
    with Watch():
        next_token_loss(hidden, weight, labels).backward()
    assert largest[dtype] == 4 * 1000
    # of 16-bit logits a part at a time is in float32, and the weight's gradient
    assert largest[torch.float32] == (4 * 1000 if dtype == torch.float32 else 2000)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients_are_as_near_as_the_dtype_allows(dtype):
    # summed before they are scaled, these would be beyond float16
    hidden = torch.full((1, 8193, 2), 10.0, dtype=dtype, requires_grad=True)
    weight = torch.zeros(4, 2, dtype=dtype, requires_grad=True)
    labels = torch.ones(1, 8193, dtype=torch.int64)
    next_token_loss(hidden, weight, labels, num_targets=8192).backward()
    expected = torch.tensor([[2.5], [-7.5], [2.5], [2.5]]).expand(4, 2)
    torch.testing.assert_close(weight.grad.float(), expected, rtol=5e-3, atol=0)


def test_a_divisor_scales_the_loss_and_its_gradients():
    hidden, weight, labels = inputs()
    (next_token_loss(hidden, weight, labels) / 8).backward()
    expected = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    loss = next_token_loss(hidden, weight, labels, num_targets=8)
    loss.backward()
    assert loss.item() == pytest.approx(next_token_loss(hidden, weight, labels).item() / 8)
    torch.testing.assert_close((hidden.grad, weight.grad), expected)


def test_a_second_derivative_is_refused_rather_than_wrong():
    hidden, weight, labels = inputs()
    loss = next_token_loss(hidden, weight, labels) ** 2
    (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
