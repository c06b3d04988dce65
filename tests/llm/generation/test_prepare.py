"""A prepared model answers as the model does, and is told apart when the model has moved on."""

import gc

import pytest
import torch

from llm.core.fast_linear import is_available, set_linear_kernel
from llm.generation import PromptLookup, generate, packed_linear, prepare, stream
from llm.generation.packed_linear import (
    BFloat16Linear,
    Float16Linear,
    Float32Linear,
    Int8Linear,
    PackedLinear,
)

# relative error of a product with normal weights: half a unit of rounding, some times over
PACKED = {Float32Linear: 1e-6, BFloat16Linear: 4e-3, Float16Linear: 3e-4, Int8Linear: 1.2e-2}
WAYS = [{}, {"dtype": torch.bfloat16}, {"dtype": torch.float16}, {"quantize": "int8"}]


@pytest.fixture
def model(model_type, make_talkative):
    return make_talkative(model_type)


@pytest.fixture
def ids(model, random_ids):
    return random_ids(model.config.vocab_size, 4, 5)


@pytest.mark.parametrize("small_weight", [0, packed_linear.SMALL_WEIGHT])
@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("sizes", [(96, 160), (160, 96), (33, 70), (1, 1)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3,), (2, 5), (1, 70)], ids=str)
@torch.no_grad()
def test_a_packed_layer_is_the_layer(packed, sizes, bias, shape, small_weight, monkeypatch):
    monkeypatch.setattr(packed_linear, "SMALL_WEIGHT", small_weight)
    torch.manual_seed(0)
    linear = torch.nn.Linear(*sizes, bias=bias)
    x = torch.randn(*shape, sizes[0])
    expected, got = linear(x), packed(linear)(x)
    assert got.dtype == torch.float32
    assert got.shape == expected.shape
    assert (got - expected).norm() <= PACKED[packed] * expected.norm() + 1e-6


def test_what_a_prepared_model_writes_can_be_trained_on(model, ids):
    fast = prepare(model)
    got = generate(fast, ids, max_new_tokens=4)
    tokens = list(stream(fast, ids, max_new_tokens=2))
    assert not any(tensor.is_inference() for tensor in [got, *tokens])
    model(got).sum().backward()
    # its copies of the weights, made in the first text, serve outside of a text too
    with torch.no_grad():
        torch.testing.assert_close(fast(ids), model(ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_dropout_takes_no_call_and_drops_nothing(model, ids):
    fast = prepare(model)
    assert not any(type(part) is torch.nn.Dropout for part in fast.modules())
    assert torch.equal(fast.train()(ids), fast.eval()(ids))
    assert any(type(part) is torch.nn.Dropout for part in model.modules())


@pytest.mark.parametrize("packed", PACKED)
@torch.no_grad()
def test_a_vector_is_a_row_and_another_width_is_refused(packed):
    torch.manual_seed(0)
    layer = packed(torch.nn.Linear(64, 128))
    x = torch.randn(3, 64)
    assert torch.equal(layer(x[0]), layer(x[:1])[0])
    # what a model gives to its head: a slice with gaps
    wide = torch.randn(2, 5, 64)[:, -1:]
    torch.testing.assert_close(layer(wide), layer(wide.contiguous()))
    with pytest.raises(ValueError, match=r"\(64, 1\).*64"):
        layer(x[0][:, None])


@torch.no_grad()
def test_int8_rounds_each_token_by_itself():
    """A token with values a thousand times as large leaves the others' precision alone."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(256, 256)
    x = torch.randn(6, 256)
    x[0] *= 1000
    error = (Int8Linear(linear)(x) - linear(x)).norm(dim=1) / linear(x).norm(dim=1)
    assert error.max() < 1.2e-2


def test_int8_takes_what_needs_no_gradient():
    linear = torch.nn.Linear(8, 4)
    for x in (torch.randn(1, 8), torch.randn(3, 8)):
        assert not Int8Linear(linear)(x).requires_grad


@torch.no_grad()
def test_int8_takes_zeros():
    linear = torch.nn.Linear(8, 4)
    linear.weight[1] = 0
    for x in (torch.zeros(1, 8), torch.zeros(3, 8), torch.ones(2, 8)):
        torch.testing.assert_close(Int8Linear(linear)(x), linear(x), atol=2e-2, rtol=2e-2)


@torch.no_grad()
def test_float32_gives_the_same_logits_and_tokens(model, ids):
    fast = prepare(model)
    torch.testing.assert_close(fast(ids), model(ids), atol=1e-5, rtol=1e-5)
    assert type(fast) is type(model)
    expected = generate(model, ids, max_new_tokens=12)
    assert torch.equal(generate(fast, ids, max_new_tokens=12), expected)
    assert torch.equal(fast.generate(ids, max_new_tokens=12, drafter=PromptLookup()), expected)


@pytest.mark.parametrize("way", WAYS[1:], ids=str)
@torch.no_grad()
def test_fewer_bits_give_nearly_the_same_distribution(model, ids, way):
    exact, rounded = model(ids).log_softmax(-1), prepare(model, **way)(ids).log_softmax(-1)
    divergence = (exact.exp() * (exact - rounded)).sum(-1)
    assert 0 < divergence.mean() < 2e-3


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_cache_and_embeddings_stay_in_float32(model, ids, way):
    fast = prepare(model, **way)
    assert fast.make_cache(1, 4).keys.dtype == torch.float32
    assert fast.decoder.token_embeddings.weight is model.decoder.token_embeddings.weight
    assert generate(fast, ids, max_new_tokens=6).shape == (4, 11)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_model_is_left_alone(model, ids, way):
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = model.eval()(ids)
    model.train()
    generate(prepare(model, **way), ids, max_new_tokens=6)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(model.eval()(ids), logits)
    logits.sum().backward()
    assert model.decoder.blocks[0].attention.qkv_proj.weight.grad.abs().max() > 0


@pytest.mark.parametrize("change", ["step", "in place", "load", "assign", "replace", "bias"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_weights_that_changed_are_noticed(model, ids, way, change):
    fast = prepare(model, **way)
    generate(fast, ids, max_new_tokens=2)
    layer = model.decoder.blocks[-1].feed_forward.up_proj
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if change == "step":
        model(ids).sum().backward()
        torch.optim.AdamW(model.parameters(), fused=True).step()
    elif change == "in place":
        with torch.no_grad():
            layer.weight[0, 0] += 1
    elif change == "replace":
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
    elif change == "bias":
        layer.bias = torch.nn.Parameter(layer.bias.detach() + 1)
    else:
        model.load_state_dict(state, assign=change == "assign")
    with pytest.raises(ValueError, match=r"changed since it was prepared.* again"):
        generate(fast, ids, max_new_tokens=2)
    generate(prepare(model, **way), ids, max_new_tokens=2)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("way", WAYS, ids=str)
@torch.no_grad()
def test_biases_that_changed_are_followed(model, ids, way, rows):
    ids = ids[:rows, : 1 if rows == 1 else None]
    fast = prepare(model, **way)
    before = fast(ids)
    for part in model.modules():
        if isinstance(part, torch.nn.Linear) and part.bias is not None:
            part.bias += torch.randn_like(part.bias)
    assert not torch.allclose(fast(ids), before, atol=1e-2)
    assert torch.equal(fast(ids), prepare(model, **way)(ids))


def test_it_lives_without_the_model(model_type, make_talkative, random_ids):
    model = make_talkative(model_type)
    ids = random_ids(model.config.vocab_size, 2, 4)
    fast, int8 = prepare(model), prepare(model, quantize="int8")
    expected = [generate(each, ids, max_new_tokens=6) for each in (model, int8)]
    del model
    gc.collect()
    for each, text in zip((fast, int8), expected, strict=True):
        assert torch.equal(generate(each, ids, max_new_tokens=6), text)


@pytest.mark.skipif(not is_available(), reason="this PyTorch has no oneDNN product")
def test_every_layer_of_a_model_as_the_trainer_leaves_it_is_packed(model):
    expected = sum(type(part) is torch.nn.Linear for part in model.modules())
    set_linear_kernel(model, "fast")
    packed = sum(isinstance(part, PackedLinear) for part in prepare(model).modules())
    assert packed == expected > 0


def test_it_asks_for_no_gradients(model, ids):
    with pytest.raises(ValueError, match=r"no gradients.*no_grad"):
        prepare(model)(ids)


def test_it_cannot_be_prepared_again_or_saved(model, tmp_path):
    fast = prepare(model)
    with pytest.raises(ValueError, match="prepare the one"):
        prepare(fast)
    with pytest.raises(ValueError, match="prepared"):
        fast.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int3"}, "int3.*int8"),
        ({"dtype": torch.float64}, r"float64.*float32.*bfloat16"),
        ({"dtype": torch.bfloat16, "quantize": "int8"}, "leave out dtype"),
    ],
)
def test_what_it_cannot_do_is_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(model, **options)


def test_a_model_of_another_dtype_is_refused(model):
    with pytest.raises(ValueError, match=r"bfloat16 on cpu.*float32"):
        prepare(model.bfloat16())


def test_a_weight_beyond_float16_is_refused(model):
    with torch.no_grad():
        model.decoder.blocks[0].attention.out_proj.weight[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"65504.*another dtype"):
        prepare(model, dtype=torch.float16)


def test_a_missing_kernel_is_an_error_and_not_another_kernel(model, monkeypatch):
    monkeypatch.setattr(torch._C, "_has_mkldnn", False)
    with pytest.raises(ValueError, match="no oneDNN"):
        prepare(model)
    with pytest.raises(ValueError, match="no oneDNN"):
        prepare(model, dtype=torch.bfloat16)
    monkeypatch.delattr(torch, "_make_per_channel_quantized_tensor")
    with pytest.raises(ValueError, match=r"int8.*FBGEMM"):
        prepare(model, quantize="int8")
