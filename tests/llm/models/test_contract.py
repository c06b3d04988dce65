"""What every registered architecture promises, whatever it is made of."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from transformers import DynamicCache

from llm.core.base_model import BaseModel
from llm.models import ARCHITECTURES, load_pretrained

ATOL = 1e-5


def close(actual, expected, atol=ATOL):
    assert torch.isfinite(actual).all()
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@pytest.fixture
def model(model_type, make_model):
    return make_model(model_type)


@pytest.fixture
def ids(model, random_ids):
    """(B, T) that fill the context."""
    return random_ids(model.config.vocab_size, 3, model.config.max_position_embeddings)


# ----------------------------------------------------------------- the forward


def test_logits_are_the_head_applied_to_the_hidden_states(model, ids):
    hidden = model.hidden_states(ids)
    assert hidden.shape == (*ids.shape, model.config.embed_dim)
    logits = model(ids)
    assert logits.shape == (*ids.shape, model.config.vocab_size)
    close(logits, hidden @ model.decoder.token_embeddings.weight.T)


def test_a_model_is_a_base_model_with_the_interfaces_parameter_names(model):
    assert isinstance(model, BaseModel)
    names = {"token_embeddings.weight", "position_embeddings.weight"}
    for i in range(model.config.num_layers):
        for part in (
            "attention.qkv_proj",
            "attention.out_proj",
            "attention_norm",
            "feed_forward.up_proj",
            "feed_forward.down_proj",
            "feed_forward_norm",
        ):
            names |= {f"blocks.{i}.{part}.weight", f"blocks.{i}.{part}.bias"}
    if model.config.model_type == "gpt2":
        names |= {"final_norm.weight", "final_norm.bias"}
    assert set(model.state_dict()) == {f"decoder.{name}" for name in names} | {"lm_head.weight"}


def test_num_parameters_counts_tied_weights_once(model_type, tiny):
    architecture = ARCHITECTURES[model_type]
    tied = architecture.model(tiny(model_type))
    untied = architecture.model(tiny(model_type, tie_embeddings=False))
    unique = {
        id(parameter): parameter.numel() for parameter in tied.state_dict(keep_vars=True).values()
    }
    assert tied.num_parameters() == sum(unique.values())
    head = tied.config.vocab_size * tied.config.embed_dim
    assert untied.num_parameters() == tied.num_parameters() + head


def test_changing_a_token_changes_its_logits_and_later_ones_only(model, ids):
    before = model(ids)
    for t in range(ids.shape[1]):
        changed = ids.clone()
        changed[:, t] = (changed[:, t] + 1) % model.config.vocab_size
        difference = (model(changed) - before).abs().amax(-1)  # (B, T)
        assert (difference[:, :t] <= 1e-6).all()
        assert (difference[:, t:] > 1e-4).all()


def test_no_gradient_flows_from_a_logit_to_a_later_token(model, ids):
    embedded = []
    model.decoder.token_embeddings.register_forward_hook(
        lambda module, args, output: embedded.append(output.detach().requires_grad_())
        or embedded[-1]
    )
    t = ids.shape[1] // 2
    model(ids)[:, t].sum().backward()
    gradient = embedded[0].grad.abs().amax(-1)
    assert (gradient[:, t + 1 :] == 0).all()
    assert (gradient[:, : t + 1] > 0).all()


def test_the_order_of_tokens_matters(model, ids):
    swapped = ids.clone()
    swapped[:, [0, 1]] = torch.tensor([3, 5])
    other = swapped.clone()
    other[:, [0, 1]] = torch.tensor([5, 3])
    assert ((model(swapped)[:, -1] - model(other)[:, -1]).abs().amax(-1) > 1e-4).all()


def test_positions_are_arange_unless_given(model, ids):
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    close(model(ids, position_ids=positions), model(ids))
    shifted = model(ids[:, :5], position_ids=positions[:, 3:8])
    assert ((shifted - model(ids[:, :5])).abs().amax(-1) > 1e-4).all()


def test_batched_is_single(model, ids):
    batched = model(ids)
    for row in range(ids.shape[0]):
        close(model(ids[row : row + 1])[0], batched[row])


def test_a_shorter_sequence_has_the_logits_of_the_longer_ones_start(model, ids):
    full = model(ids)
    for length in (1, 2, 7):
        close(model(ids[:, :length]), full[:, :length])


# ------------------------------------------------------------------- the cache


def chunks_of(length, size):
    return [(start, min(start + size, length)) for start in range(0, length, size)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
@pytest.mark.parametrize("kind", ["ours", "transformers"])
def test_cached_is_uncached_in_chunks_of_any_size(model, ids, size, kind):
    batch_size, length = ids.shape
    cache = model.make_cache(batch_size, length) if kind == "ours" else DynamicCache()
    outputs = []
    for start, stop in chunks_of(length, size):
        assert cache.get_seq_length() == start
        outputs.append(model(ids[:, start:stop], cache=cache))
    assert cache.get_seq_length() == length
    close(torch.cat(outputs, dim=1), model(ids))


def test_a_long_prefill_then_single_tokens(model, ids):
    batch_size, length = ids.shape
    cache = model.make_cache(batch_size, length + 3)  # more room than needed
    outputs = [model(ids[:, :9], cache=cache)]
    outputs += [model(ids[:, t : t + 1], cache=cache) for t in range(9, length)]
    close(torch.cat(outputs, dim=1), model(ids))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("kind", ["ours", "transformers"])
def test_cached_is_uncached_with_left_padding(model, ids, left_pad, size, kind):
    """A first chunk may be padding alone, for a row or for all of them."""
    padded, mask = left_pad([ids[0, :11], ids[1, :4], ids[2, :8]])
    padded = F.pad(padded, (2, 0))
    mask = F.pad(mask, (2, 0))
    length = padded.shape[1]
    cache = model.make_cache(3, length) if kind == "ours" else DynamicCache()
    outputs = [
        model(padded[:, start:stop], attention_mask=mask[:, :stop], cache=cache)
        for start, stop in chunks_of(length, size)
    ]
    logits = torch.cat(outputs, dim=1)
    assert torch.isfinite(logits).all()
    close(logits[mask.bool()], model(padded, attention_mask=mask)[mask.bool()])
    close(logits[1, -4:], model(ids[1:2, :4])[0])


@pytest.mark.parametrize("size", [1, 3, 4])
def test_cached_is_uncached_with_a_ready_mask_and_positions(model, ids, left_pad, size):
    padded, mask = left_pad([ids[0, :9], ids[1, :4]])
    ready, positions = ready_mask(mask), positions_of(mask)
    cache = model.make_cache(2, 9)
    outputs = [
        model(
            padded[:, start:stop],
            attention_mask=ready[:, :, start:stop, :stop],
            position_ids=positions[:, start:stop],
            cache=cache,
        )
        for start, stop in chunks_of(9, size)
    ]
    real = mask.bool()
    close(torch.cat(outputs, dim=1)[real], model(padded, attention_mask=mask)[real])


def test_caches_do_not_share_state(model, ids):
    first, second = model.make_cache(3, 6), model.make_cache(3, 6)
    model(ids[:, :4], cache=first)
    assert second.get_seq_length() == 0
    model(ids.flip(1)[:, :3], cache=second)
    close(model(ids[:, 4:6], cache=first), model(ids[:, :6])[:, 4:])


def test_a_cache_has_the_dtype_of_the_model(model_type, make_model):
    model = make_model(model_type).to(torch.bfloat16)
    cache = model.make_cache(1, 4)
    model(torch.tensor([[1, 2]]), cache=cache)
    keys = torch.zeros(
        1, model.config.num_heads, 1, model.config.embed_dim // model.config.num_heads
    )
    got, _ = cache.update(keys.bfloat16(), keys.bfloat16(), 0)
    assert got.dtype == torch.bfloat16


# ------------------------------------------------------------------- the masks


def ready_mask(mask):
    """(B, S) -> (B, 1, S, S) by its definition; a padding query sees itself."""
    batch_size, length = mask.shape
    ready = torch.zeros(batch_size, 1, length, length, dtype=torch.bool)
    for b in range(batch_size):
        for t in range(length):
            for s in range(t + 1):
                ready[b, 0, t, s] = bool(mask[b, s]) or s == t
    return ready


def positions_of(mask):
    return (mask.cumsum(-1) - 1).clamp(min=0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.int32])
def test_left_padded_is_unpadded(model, ids, left_pad, dtype):
    rows = [ids[0, :10], ids[1, :3], ids[2, :1]]
    padded, mask = left_pad(rows, pad_token_id=5)
    logits = model(padded, attention_mask=mask.to(dtype))
    assert torch.isfinite(logits).all()
    for b, row in enumerate(rows):
        close(logits[b, -len(row) :], model(row[None])[0])


def test_right_padded_is_unpadded(model, ids):
    rows = [ids[0, :10], ids[1, :3], ids[2, :1]]
    padded = torch.full((3, 10), 5)
    mask = torch.zeros(3, 10, dtype=torch.int64)
    for b, row in enumerate(rows):
        padded[b, : len(row)] = row
        mask[b, : len(row)] = 1
    logits = model(padded, attention_mask=mask)
    assert torch.isfinite(logits).all()
    for b, row in enumerate(rows):
        close(logits[b, : len(row)], model(row[None])[0])


def test_what_stands_in_the_padding_does_not_matter(model, ids, left_pad):
    rows = [ids[0, :10], ids[1, :3]]
    padded, mask = left_pad(rows, pad_token_id=0)
    other, _ = left_pad(rows, pad_token_id=7)
    real = mask.bool()
    a, b = model(padded, attention_mask=mask), model(other, attention_mask=mask)
    close(a[real], b[real], atol=1e-6)


def test_a_mask_of_ones_changes_nothing(model, ids):
    close(model(ids, attention_mask=torch.ones_like(ids)), model(ids))


def test_padding_leaves_gradients_finite_and_equal(model_type, make_model, ids, left_pad):
    """A fully masked softmax row would poison every weight with NaN."""
    padded_model, plain_model = make_model(model_type), make_model(model_type)
    padded, mask = left_pad([ids[0, :4], torch.empty(0, dtype=torch.int64), ids[1, :9]])
    padded_model(padded, attention_mask=mask)[mask.bool()].square().sum().backward()
    for row in (ids[0:1, :4], ids[1:2, :9]):
        plain_model(row).square().sum().backward()
    for (name, a), b in zip(padded_model.named_parameters(), plain_model.parameters(), strict=True):
        assert torch.isfinite(a.grad).all(), name
        scale = b.grad.abs().max().item()
        assert (a.grad - b.grad).abs().max().item() <= 1e-4 * scale, name


def test_a_ready_mask_is_the_padding_mask(model, ids, left_pad):
    padded, mask = left_pad([ids[0, :10], ids[1, :3], ids[2, :1]])
    by_padding = model(padded, attention_mask=mask)
    by_ready = model(padded, attention_mask=ready_mask(mask), position_ids=positions_of(mask))
    real = mask.bool()
    close(by_ready[real], by_padding[real])


def test_a_document_mask_keeps_packed_documents_apart(model, ids):
    lengths = [5, 1, 6]
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    slots = torch.arange(12)
    ready = (documents[:, None] == documents) & (slots[:, None] >= slots)
    positions = torch.cat([torch.arange(n) for n in lengths])
    packed = model(ids[:1, :12], attention_mask=ready[None, None], position_ids=positions[None])
    for document, logits in zip(ids[0, :12].split(lengths), packed[0].split(lengths), strict=True):
        close(logits, model(document[None])[0])


# ------------------------------------------------------------------ the errors


@pytest.fixture
def no_kernel_may_run(model):
    """Fails the test when any submodule of the model runs."""

    def refuse(module, args):
        pytest.fail(f"{type(module).__name__} ran before the inputs were checked")

    handles = [
        module.register_forward_pre_hook(refuse) for name, module in model.named_modules() if name
    ]
    yield
    for handle in handles:
        handle.remove()


def raises_with(*numbers):
    """ValueError whose message has every one of the numbers or words."""
    return pytest.raises(
        ValueError, match="(?s)" + "".join(rf"(?=.*(?<!\w){n}(?!\w))" for n in numbers)
    )


@pytest.mark.parametrize("offset", [0, 1, 1000])
@pytest.mark.usefixtures("no_kernel_may_run")
def test_an_id_beyond_the_vocabulary(model, ids, offset):
    size = model.config.vocab_size
    ids[1, 4] = size + offset
    with raises_with(size + offset, f"({size}|{size - 1})"):
        model(ids)


@pytest.mark.usefixtures("no_kernel_may_run")
def test_a_negative_id(model, ids):
    size = model.config.vocab_size
    ids[1, 4] = -100
    with raises_with("-100", f"({size}|{size - 1})"):
        model(ids)


@pytest.mark.usefixtures("no_kernel_may_run")
def test_a_sequence_longer_than_the_context(model, ids):
    limit = model.config.max_position_embeddings
    with raises_with(limit + 1, limit):
        model(F.pad(ids, (0, 1)))


def test_a_sequence_longer_than_the_context_with_its_past(model, ids):
    limit = model.config.max_position_embeddings
    cache = model.make_cache(3, limit + 10)
    model(ids[:, : limit - 2], cache=cache)
    with raises_with(limit + 1, limit):
        model(ids[:, :3], cache=cache)
    assert cache.get_seq_length() == limit - 2
    close(model(ids[:, limit - 2 :], cache=cache), model(ids)[:, limit - 2 :])


def test_an_overfilled_cache(model, ids):
    cache = model.make_cache(3, 6)
    model(ids[:, :5], cache=cache)
    with raises_with(6, "(5|7)"):
        model(ids[:, 5:7], cache=cache)
    assert cache.get_seq_length() == 5


def test_a_cache_of_another_batch_size(model, ids):
    cache = model.make_cache(2, 6)
    with raises_with(2, 3):
        model(ids[:, :5], cache=cache)


@pytest.mark.usefixtures("no_kernel_may_run")
@pytest.mark.parametrize("shape", [(6,), (1, 2, 3), ()])
def test_ids_of_the_wrong_rank(model, shape):
    with pytest.raises(ValueError, match="input_ids"):
        model(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.usefixtures("no_kernel_may_run")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_ids_of_the_wrong_dtype(model, ids, dtype):
    with pytest.raises(ValueError, match=rf"(?s)input_ids.*{str(dtype).split('.')[1]}"):
        model(ids.to(dtype))


@pytest.mark.usefixtures("no_kernel_may_run")
@pytest.mark.parametrize(
    "shape",
    [
        (3, 7),
        (3, 9),
        (2, 8),
        (8,),
        (3, 8, 8),
        (3, 1, 8, 7),
        (3, 1, 7, 8),
        (3, 1, 8, 9),
        (3, 5, 8, 8),
        (2, 1, 8, 8),
    ],
)
def test_a_mask_of_the_wrong_shape(model, ids, shape):
    with pytest.raises(ValueError, match=rf"(?s)mask.*{shape[-1]}"):
        model(ids[:, :8], attention_mask=torch.ones(shape, dtype=torch.bool))


def test_a_mask_without_the_past(model, ids):
    cache = model.make_cache(3, 8)
    model(ids[:, :5], cache=cache)
    with raises_with(3, 8):
        model(ids[:, 5:8], attention_mask=torch.ones(3, 3, dtype=torch.int64), cache=cache)


@pytest.mark.usefixtures("no_kernel_may_run")
@pytest.mark.parametrize("shape", [(3, 8), (3, 1, 8, 8)])
def test_a_mask_of_the_wrong_dtype(model, ids, shape):
    with pytest.raises(ValueError, match=r"(?s)mask.*float32"):
        model(ids[:, :8], attention_mask=torch.ones(shape))


@pytest.mark.usefixtures("no_kernel_may_run")
def test_a_ready_mask_must_be_boolean(model, ids):
    """An additive mask of zeros and ones, taken for a boolean one, would be its opposite."""
    with pytest.raises(ValueError, match=r"(?s)mask.*int64"):
        model(ids[:, :8], attention_mask=torch.ones(3, 1, 8, 8, dtype=torch.int64))


@pytest.mark.usefixtures("no_kernel_may_run")
def test_positions_beyond_the_context(model, ids):
    limit = model.config.max_position_embeddings
    positions = torch.arange(8).expand(3, -1) + limit - 7
    with raises_with(limit):
        model(ids[:, :8], position_ids=positions)


@pytest.mark.usefixtures("no_kernel_may_run")
@pytest.mark.parametrize("shape", [(3, 7), (2, 8), (3, 1, 8)])
def test_positions_of_the_wrong_shape(model, ids, shape):
    with pytest.raises(ValueError, match=r"(?s)position_ids"):
        model(ids[:, :8], position_ids=torch.zeros(shape, dtype=torch.int64))


# -------------------------------------------------------------------- training


def next_token_loss(model, ids):
    return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def test_a_new_model_knows_nothing(model_type, tiny, random_ids):
    torch.manual_seed(0)
    model = ARCHITECTURES[model_type].model(tiny(model_type)).eval()
    ids = random_ids(model.config.vocab_size, 8, 16)
    assert next_token_loss(model, ids).item() == pytest.approx(
        math.log(model.config.vocab_size), abs=0.15
    )


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_gets_gradient(model_type, make_model, ids, tied):
    model = make_model(model_type, tie_embeddings=tied)
    next_token_loss(model, ids).backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_tiny_batch_overfits(model_type, tiny, random_ids):
    torch.manual_seed(0)
    model = ARCHITECTURES[model_type].model(tiny(model_type)).train()
    ids = random_ids(model.config.vocab_size, 2, 12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(150):
        optimizer.zero_grad()
        loss = next_token_loss(model, ids)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    predicted = model.eval()(ids)[:, :-1].argmax(-1)
    assert torch.equal(predicted, ids[:, 1:])


DROPOUTS = ["dropout", "embedding_dropout", "attention_dropout", "residual_dropout"]


@pytest.mark.parametrize("kind", DROPOUTS)
def test_each_dropout_acts_in_training_and_only_there(model_type, make_model, ids, kind):
    model = make_model(model_type, **{"dropout": 0.0, kind: 0.4})
    plain = make_model(model_type)(ids)
    close(model(ids), plain, atol=0)
    model.train()
    torch.manual_seed(0)
    first, second = model(ids), model(ids)
    assert (first - plain).abs().max() > 1e-3
    assert (first - second).abs().max() > 1e-3
    torch.manual_seed(0)
    close(model(ids), first, atol=0)


def test_residual_dropout_drops_what_attention_and_feed_forward_add(model_type, make_model, ids):
    model = make_model(model_type, residual_dropout=0.4).train()
    dropped = []
    for block in model.decoder.blocks:
        for part in (block.attention, block.feed_forward):
            part.register_forward_hook(lambda *call: dropped.append(call[-1] == 0))
    torch.manual_seed(0)
    model(ids)
    assert len(dropped) == 2 * model.config.num_layers
    for zeros in dropped:
        assert 0.35 < zeros.float().mean() < 0.45


def test_dropout_sets_the_three_places_that_are_not_set(model_type, make_model, ids):
    """dropout=0.4 with all three places set to 0 is no dropout at all."""
    model = make_model(
        model_type, dropout=0.4, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0
    )
    close(model.train()(ids), make_model(model_type)(ids), atol=0)


def test_without_dropout_training_mode_changes_nothing(model, ids):
    expected = model(ids)
    close(model.train()(ids), expected, atol=0)


# ----------------------------------------------------------- state and devices


def test_the_state_is_its_parameters_alone(model):
    assert list(model.buffers()) == []


def test_a_deep_copy_is_equal_independent_and_tied(model, ids):
    expected = model(ids)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(ids), expected)
    assert twin.lm_head.weight is twin.decoder.token_embeddings.weight
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert torch.equal(model(ids), expected)


def is_tied(model):
    return model.lm_head.weight is model.decoder.token_embeddings.weight


def test_tied_weights_are_one_tensor_whatever_happens(model, tmp_path):
    assert is_tied(model)
    model.load_state_dict(model.state_dict())
    assert is_tied(model)
    assert is_tied(model.to(torch.float64))
    model.to(torch.float32).save_pretrained(tmp_path)
    assert is_tied(type(model).from_pretrained(tmp_path))
    assert is_tied(load_pretrained(tmp_path))


def test_untied_weights_are_two_tensors_before_and_after_a_load(
    model_type, make_model, ids, tmp_path
):
    model = make_model(model_type, tie_embeddings=False)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    for each in (model, loaded):
        assert not is_tied(each)
        assert not torch.equal(each.lm_head.weight, each.decoder.token_embeddings.weight)
    assert torch.equal(loaded(ids), model(ids))


def test_saved_and_loaded_has_the_same_logits_to_the_bit(model, ids, tmp_path):
    model.save_pretrained(tmp_path)
    for loaded in (type(model).from_pretrained(tmp_path), load_pretrained(tmp_path)):
        assert type(loaded) is type(model)
        assert loaded.config == model.config
        assert torch.equal(loaded.eval()(ids), model(ids))


def test_a_loaded_model_can_be_trained_and_saved_where_it_came_from(model, ids, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path).train()
    next_token_loss(loaded, ids).backward()
    with torch.no_grad():
        for name, parameter in loaded.named_parameters():
            assert parameter.grad.abs().max() > 0, name
            parameter -= 0.1 * parameter.grad
    loaded.save_pretrained(tmp_path)
    again = load_pretrained(tmp_path)
    assert torch.equal(again(ids), loaded.eval()(ids))
    assert not torch.equal(again(ids), model(ids))


def test_a_state_dict_moves_between_models(model_type, make_model, ids):
    model, other = make_model(model_type, seed=0), make_model(model_type, seed=1)
    assert not torch.equal(model(ids), other(ids))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(ids), other(ids))


def test_bfloat16_is_close_to_float32(model, ids):
    expected = model(ids)
    low = copy.deepcopy(model).to(torch.bfloat16)
    logits = low(ids)
    assert logits.dtype == torch.bfloat16
    error = (logits.float() - expected).abs().max() / expected.abs().max()
    assert error < 0.05  # eight bits of mantissa, a few layers
    cache = low.make_cache(3, ids.shape[1])
    cached = torch.cat([low(chunk, cache=cache) for chunk in ids.split(5, dim=1)], dim=1)
    assert (cached.float() - expected).abs().max() / expected.abs().max() < 0.05


def test_autocast_works_with_and_without_a_cache(model, ids):
    expected = model(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = model(ids)
        cache = model.make_cache(3, ids.shape[1])
        cached = torch.cat([model(chunk, cache=cache) for chunk in ids.split(5, dim=1)], dim=1)
    for logits in (plain, cached):
        assert (logits.float() - expected).abs().max() / expected.abs().max() < 0.05


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_without_a_graph_break_is_eager(model, ids, left_pad, backend):
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    close(compiled(ids), model(ids))
    padded, mask = left_pad([ids[0, :10], ids[1, :3]])
    close(compiled(padded, attention_mask=mask), model(padded, attention_mask=mask))


def test_the_compiled_gradient_is_the_eager_one(model_type, make_model, ids):
    torch._dynamo.reset()
    eager, other = make_model(model_type), make_model(model_type)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    next_token_loss(eager, ids).backward()
    next_token_loss(compiled, ids).backward()
    for (name, a), b in zip(eager.named_parameters(), other.parameters(), strict=True):
        scale = a.grad.abs().max().item()
        assert (a.grad - b.grad).abs().max().item() <= 1e-4 * scale, name


def test_what_is_not_zero_in_a_padding_mask_is_a_real_token(make_model, model_type):
    model = make_model(model_type)
    ids = torch.tensor([[3, 4, 5, 6]])
    expected = model(ids, attention_mask=torch.tensor([[0, 1, 1, 1]]))
    for mask in (torch.tensor([[0, 2, 2, 2]]), torch.tensor([[0, 255, 255, 255]]).byte()):
        assert torch.equal(model(ids, attention_mask=mask), expected)


def test_positions_that_are_not_whole_numbers_are_refused(make_model, model_type):
    with pytest.raises(ValueError, match=r"position_ids of torch\.float32"):
        make_model(model_type)(torch.tensor([[3, 4]]), position_ids=torch.tensor([[0.0, 1.0]]))
