"""The fast kernel of linear layers computes what the plain one does."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llm.core import fast_linear as module
from llm.core.fast_linear import FastLinear, choose_linear, fast_linear, set_linear_kernel
from llm.models.gpt import GPT, GPT2
from llm.training import next_token_loss

pytestmark = pytest.mark.skipif(
    not module.is_available(), reason="this PyTorch has no oneDNN product"
)


@pytest.fixture(autouse=True)
def _every_size(monkeypatch):
    monkeypatch.setattr(module, "MIN_PRODUCT", 1)


@pytest.fixture
def calls(monkeypatch):
    """The shapes of the products that oneDNN computed."""
    shapes = []
    onednn = module._onednn

    def counted(a, b, bias):
        shapes.append((*a.shape, len(b)))
        return onednn(a, b, bias)

    monkeypatch.setattr(module, "_onednn", counted)
    return shapes


def just(linear, *operands):
    return linear(*operands)


def random(*shape, requires_grad=True):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).requires_grad_(requires_grad)


def assert_close(ours, plain):
    assert ours.shape == plain.shape
    assert ours.dtype == plain.dtype
    assert (ours - plain).norm() <= 1e-6 * plain.norm()


def output_and_gradients(linear, function, inputs):
    output = function(linear, *inputs)
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    grads = torch.autograd.grad(output, wanted, random(*output.shape, requires_grad=False))
    return output, *grads


def assert_same(function, *inputs):
    plain = output_and_gradients(F.linear, function, inputs)
    ours = output_and_gradients(fast_linear, function, inputs)
    assert len(ours) == len(plain)
    for a, b in zip(ours, plain, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize(
    ("rows", "width", "outputs"),
    [((64,), 32, 48), ((33,), 7, 91), ((3, 5), 17, 1), ((2, 3, 4), 65, 64), ((1,), 1, 1)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_of_every_shape(rows, width, outputs, bias, calls):
    inputs = random(*rows, width), random(outputs, width), random(outputs) if bias else None
    assert_same(just, *inputs)
    # the output and both gradients
    assert len(calls) == 3


@pytest.mark.parametrize("subset", range(1, 8))
def test_gradients_of_any_subset(subset, calls):
    wanted = [bool(subset & bit) for bit in (1, 2, 4)]
    shapes = [(20, 12), (18, 12), (18,)]
    assert_same(
        just,
        *(random(*s, requires_grad=grad) for s, grad in zip(shapes, wanted, strict=True)),
    )
    assert len(calls) == 1 + wanted[0] + wanted[1]


def test_matrices_that_are_not_contiguous():
    assert_same(lambda linear, x, w: linear(x.t(), w.t()), random(12, 20), random(12, 18))
    assert_same(
        lambda linear, x, w: linear(x[:, ::2], w[::3, 1::2]), random(20, 24), random(30, 24)
    )
    assert_same(
        lambda linear, x, w: linear(x, w).sum((0, 1), keepdim=True), random(4, 5, 6), random(7, 6)
    )


def test_an_expanded_gradient_is_no_slow_path(calls):
    x, weight = random(20, 12), random(18, 12)
    fast_linear(x, weight).sum().backward()
    assert_close(x.grad, weight.sum(0).expand(20, -1))


def test_an_empty_batch_is_plain(calls):
    x, weight = random(0, 12), random(18, 12)
    assert_same(just, x, weight, random(18))
    assert not calls


def test_one_weight_used_twice_in_a_graph():
    weight = random(16, 16)
    assert_same(lambda linear, x, w: linear(linear(x, w).tanh(), w), random(10, 16), weight)


def test_gradients_of_gradients():
    def penalty(linear, x, w):
        (grad,) = torch.autograd.grad(linear(x, w).tanh().sum(), x, create_graph=True)
        return grad * x

    assert_same(penalty, random(10, 16), random(8, 16))


def test_small_products_are_plain(calls, monkeypatch):
    monkeypatch.setattr(module, "MIN_PRODUCT", 10 * 16 * 8 + 1)
    fast_linear(random(10, 16), random(8, 16))
    assert not calls
    fast_linear(random(11, 16), random(8, 16))
    assert calls


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_plain(dtype, calls):
    x, weight = random(10, 16).to(dtype), random(8, 16).to(dtype)
    assert torch.equal(fast_linear(x, weight), F.linear(x, weight))
    assert not calls


def test_autocast_is_plain_and_what_it_leaves_alone_is_fast(calls):
    x, weight = random(10, 16), random(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert fast_linear(x, weight).dtype == torch.bfloat16
        assert not calls
        with torch.autocast("cpu", enabled=False):
            assert fast_linear(x, weight).dtype == torch.float32
    assert len(calls) == 1


@pytest.mark.parametrize("error_of", ["shape", "dtype", "bias"])
def test_mistakes_get_the_plain_error(error_of):
    wrong = {
        "shape": (random(10, 15), random(8, 16)),
        "dtype": (random(10, 16).double(), random(8, 16)),
        "bias": (random(10, 16), random(8, 16), random(9)),
    }[error_of]
    with pytest.raises(RuntimeError) as plain:
        F.linear(*wrong)
    with pytest.raises(RuntimeError) as ours:
        fast_linear(*wrong)
    assert str(ours.value) == str(plain.value)


def test_a_vector_and_keywords_are_taken_as_elsewhere(calls):
    x, weight, bias = random(16), random(8, 16), random(8)
    assert torch.equal(fast_linear(x, weight), F.linear(x, weight))
    assert not calls
    assert fast_linear(input=x[None], weight=weight, bias=bias).shape == (1, 8)
    assert calls


def test_the_same_call_gives_the_same_bits():
    x, weight, bias = random(300, 100), random(200, 100), random(200)
    first = output_and_gradients(fast_linear, just, (x, weight, bias))
    for _ in range(5):
        again = output_and_gradients(fast_linear, just, (x, weight, bias))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(threads, calls):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same(just, random(200, 64), random(96, 64), random(96))
    finally:
        torch.set_num_threads(before)
    assert len(calls) == 3


def test_compiled_code_is_plain(calls):
    layer = nn.Linear(16, 8)
    x = random(10, 16)
    expected = layer(x)
    set_linear_kernel(layer, "fast")
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), expected)
    assert not calls


CONFIG = {
    "vocab_size": 50,
    "embed_dim": 32,
    "num_heads": 4,
    "num_layers": 2,
    "max_position_embeddings": 16,
    "dropout": 0.0,
}


def gradients(model, kernel):
    ids = torch.randint(50, (4, 16), generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    assert set_linear_kernel(model, kernel) == kernel
    hidden = model.hidden_states(ids)
    next_token_loss(hidden, model.lm_head.weight, ids, num_targets=60).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("architecture", [GPT, GPT2])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("recomputed", [True, False])
def test_every_gradient_of_a_model(architecture, tied, recomputed, calls):
    torch.manual_seed(0)
    model = architecture({**CONFIG, "tie_embeddings": tied})
    model.decoder.recompute_blocks = recomputed
    plain = gradients(model, "plain")
    assert not calls
    fast = gradients(model, "fast")
    # four projections a block: forward, perhaps again, and both gradients
    assert len(calls) == 2 * 4 * (4 if recomputed else 3)
    for name, grad in plain.items():
        # those of the keys' biases are zero but for rounding
        scale = max(grad.norm(), 1e-3 * max(g.norm() for g in plain.values()))
        assert (fast[name] - grad).norm() <= 1e-5 * scale, name
        assert fast[name].stride() == grad.stride()


def test_a_model_keeps_its_weights_names_and_copies(calls):
    model = GPT2(CONFIG)
    before = copy.deepcopy(model.state_dict())
    parameters = list(model.parameters())
    set_linear_kernel(model, "fast")
    assert type(model.lm_head) is FastLinear
    assert isinstance(model.lm_head, nn.Linear)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    ids = torch.arange(16)[None]
    logits = model(ids)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        calls.clear()
        assert torch.equal(copied(ids), logits)
        assert calls
    set_linear_kernel(model, "plain")
    assert type(model.lm_head) is nn.Linear


def test_several_processes(calls):
    torch.manual_seed(0)
    plain = GPT2(CONFIG)
    fast = copy.deepcopy(plain)
    set_linear_kernel(fast, "fast")
    ids = torch.arange(32).view(2, 16)
    plain(ids).logsumexp(-1).mean().backward()
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        nn.parallel.DistributedDataParallel(fast)(ids).logsumexp(-1).mean().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert calls
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-8)


def test_layers_with_kernels_of_their_own_are_left_alone():
    class Scaled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    model = nn.Sequential(Scaled(4, 4), nn.Linear(4, 4))
    set_linear_kernel(model, "fast")
    assert [type(layer) for layer in model] == [Scaled, FastLinear]


def test_the_choice(monkeypatch):
    assert choose_linear("fast") == "fast"
    assert choose_linear("plain") == "plain"
    for faster, kernel in ((True, "fast"), (False, "plain")):
        monkeypatch.setattr(module, "_is_faster", lambda threads, faster=faster: faster)
        assert choose_linear("auto") == kernel
    with pytest.raises(ValueError, match="linear kernel"):
        choose_linear("fastest")


def test_the_probe_measures_once(monkeypatch):
    module._is_faster.cache_clear()
    first = choose_linear("auto")
    monkeypatch.setattr(module, "_onednn", None)
    assert choose_linear("auto") == first
    module._is_faster.cache_clear()


def test_the_probe_leaves_the_random_numbers_alone():
    module._is_faster.cache_clear()
    module.is_available.cache_clear()
    torch.manual_seed(3)
    expected = torch.randn(3)
    torch.manual_seed(3)
    choose_linear("auto")
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize("broken", ["raises", "wrong"])
def test_an_operator_that_is_not_there_is_noticed(broken, monkeypatch):
    def onednn(a, b, bias):
        if broken == "raises":
            raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute")
        return F.linear(a.bfloat16(), b.bfloat16(), bias.bfloat16()).float()

    monkeypatch.setattr(module, "_onednn", onednn)
    module.is_available.cache_clear()
    assert choose_linear("auto") == "plain"
    with pytest.raises(RuntimeError, match='take "auto" or "plain"'):
        choose_linear("fast")
    monkeypatch.undo()
    module.is_available.cache_clear()
