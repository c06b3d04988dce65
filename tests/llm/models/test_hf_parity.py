"""With copied weights, ours and transformers' models compute the same (float32, 1e-5)."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
import transformers

from llm.generation import generate

ATOL = 1e-5


@pytest.fixture
def compare(record_property):
    """Asserts |ours - theirs| <= 1e-5 and records the largest difference."""

    def check(ours, theirs, what="logits"):
        assert ours.shape == theirs.shape
        assert torch.isfinite(ours).all()
        difference = (ours - theirs).abs().max().item()
        record_property(f"max_abs_diff {what}", difference)
        assert theirs.abs().max() > 0.5, "too small a model to show a difference"
        assert difference <= ATOL

    return check


def padded_batch(model, random_ids, side):
    """(input_ids, attention_mask, position_ids) of three lengths within the context."""
    length = model.config.max_position_embeddings - 1
    ids = random_ids(model.config.vocab_size, 3, length, seed=7)
    mask = torch.ones_like(ids)
    for row, padding in enumerate((0, 5, length - 1)):
        if side == "left":
            mask[row, :padding] = 0
        elif padding:
            mask[row, -padding:] = 0
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)


def test_the_stock_models_are_not_trivial(pair, random_ids):
    """Different tokens, different positions and different histories give different logits."""
    _, stock, ours = pair
    ids = random_ids(ours.config.vocab_size, 1, 8)
    assert stock.config._attn_implementation == "eager"
    logits = stock(ids).logits[0]
    other = stock(ids.flip(1)).logits[0]
    assert (logits - other).abs().amax(-1).min() > 0.05


def test_equal_logits(pair, random_ids, compare):
    _, stock, ours = pair
    for length in (1, 2, ours.config.max_position_embeddings):
        ids = random_ids(ours.config.vocab_size, 3, length, seed=length)
        with torch.no_grad():
            compare(ours(ids), stock(ids).logits)


def test_equal_hidden_states(pair, random_ids):
    _, stock, ours = pair
    ids = random_ids(ours.config.vocab_size, 2, 15)
    with torch.no_grad():
        expected = stock.transformer(ids).last_hidden_state
        assert (ours.hidden_states(ids) - expected).abs().max().item() <= ATOL


@pytest.mark.parametrize("side", ["left", "right"])
def test_equal_logits_with_padding(pair, random_ids, compare, side):
    _, stock, ours = pair
    ids, mask, positions = padded_batch(ours, random_ids, side)
    real = mask.bool()
    with torch.no_grad():
        expected = stock(ids, attention_mask=mask, position_ids=positions).logits
        compare(ours(ids, attention_mask=mask)[real], expected[real])
        explicit = ours(ids, attention_mask=mask, position_ids=positions)
        compare(explicit[real], expected[real])


def test_equal_logits_at_given_positions(pair, random_ids, compare):
    _, stock, ours = pair
    context = ours.config.max_position_embeddings
    ids = random_ids(ours.config.vocab_size, 2, 9)
    positions = random_ids(context, 2, 9, seed=3)
    with torch.no_grad():
        compare(ours(ids, position_ids=positions), stock(ids, position_ids=positions).logits)


def their_steps(model_type, stock, ids, mask, positions, chunks):
    """Their logits step by step with their cache, or from the whole where there is none."""
    if model_type == "gpt":
        return stock(ids, attention_mask=mask, position_ids=positions).logits
    cache = transformers.DynamicCache(config=stock.config)
    outputs = [
        stock(
            ids[:, start:stop],
            attention_mask=mask[:, :stop],
            position_ids=positions[:, start:stop],
            past_key_values=cache,
            use_cache=True,
        ).logits
        for start, stop in chunks
    ]
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("kind", ["ours", "transformers"])
@pytest.mark.parametrize("padding", ["none", "left"])
def test_equal_logits_with_caches(pair, random_ids, compare, padding, kind):
    model_type, stock, ours = pair
    ids, mask, positions = padded_batch(ours, random_ids, "left")
    if padding == "none":
        mask = torch.ones_like(mask)
        positions = torch.arange(ids.shape[1]).expand_as(ids)
    length = ids.shape[1]
    edges = [0, 7, *range(8, length - 4), length]  # a prefill, single tokens, a last chunk
    chunks = list(itertools.pairwise(edges))
    cache = ours.make_cache(3, length) if kind == "ours" else transformers.DynamicCache()
    with torch.no_grad():
        outputs = [
            ours(
                ids[:, start:stop],
                attention_mask=None if padding == "none" else mask[:, :stop],
                cache=cache,
            )
            for start, stop in chunks
        ]
        expected = their_steps(model_type, stock, ids, mask, positions, chunks)
    real = mask.bool()
    compare(torch.cat(outputs, dim=1)[real], expected[real])


def labels_for(ids):
    """Some labels ignored, whole rows too; the first is never a target."""
    labels = ids.clone()
    labels[0, 3:6] = -100
    labels[1, :] = -100
    labels[2, -1] = -100
    return labels


def our_loss(model, ids, labels):
    """What transformers' loss is: the mean over targets that are not -100, shifted by one."""
    logits = model(ids)[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def test_equal_losses(pair, random_ids, record_property):
    _, stock, ours = pair
    ids = random_ids(ours.config.vocab_size, 3, 17)
    for labels in (ids, labels_for(ids)):
        with torch.no_grad():
            difference = our_loss(ours, ids, labels) - stock(ids, labels=labels).loss
        record_property("max_abs_diff loss", abs(difference.item()))
        assert abs(difference.item()) <= ATOL


def test_equal_gradients(pair, formats, random_ids, record_property):
    """Through the mapping, which thereby maps gradients as it maps weights."""
    model_type, stock, ours = pair
    stock, ours = copy.deepcopy(stock), copy.deepcopy(ours)
    ids = random_ids(ours.config.vocab_size, 3, ours.config.max_position_embeddings)
    labels = labels_for(ids)
    our_loss(ours, ids, labels).backward()
    stock(ids, labels=labels).loss.backward()
    gradients = {name: weight.grad for name, weight in ours.state_dict(keep_vars=True).items()}
    mapped = formats[model_type].weights_to_hf(ours.config, gradients)
    names = {name for name, _ in stock.named_parameters()}
    assert set(mapped) == names
    for name, parameter in stock.named_parameters():
        scale = parameter.grad.abs().max().item()
        assert scale > 0, name
        relative = (mapped[name] - parameter.grad).abs().max().item() / scale
        record_property("max_rel_diff gradient", relative)
        assert relative <= 1e-4, name


def test_weights_survive_the_way_there_and_back_to_the_bit(pair, formats):
    model_type, stock, ours = pair
    mapped = formats[model_type].weights_to_hf(ours.config, ours.state_dict())
    # tied tensors are stored once, as named_parameters lists them
    assert set(mapped) == {name for name, _ in stock.named_parameters()}
    for name, parameter in stock.named_parameters():
        assert mapped[name].dtype == parameter.dtype
        assert torch.equal(mapped[name], parameter), name
    again = formats[model_type].weights_from_hf(ours.config, mapped)
    assert set(again) == set(ours.state_dict())
    for name, weight in ours.state_dict().items():
        assert torch.equal(again[name], weight), name


def test_equal_greedy_continuations(pair, random_ids):
    _, stock, ours = pair
    context = ours.config.max_position_embeddings
    for length in (1, 4):
        ids = random_ids(ours.config.vocab_size, 3, length, seed=length)
        expected = stock.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=context - length,
            do_sample=False,
            pad_token_id=0,
        )
        assert torch.equal(generate(ours, ids, max_new_tokens=context - length), expected)
    assert len(set(expected[:, length:].flatten().tolist())) > 3, "too plain a continuation"


def test_equal_greedy_continuations_that_end(pair, random_ids):
    """Each row ends at its first eos; transformers pads the rest in the same way."""
    _, stock, ours = pair
    ids = random_ids(ours.config.vocab_size, 4, 3, seed=5)
    free = generate(ours, ids, max_new_tokens=12)[:, 3:]
    for eos in (free[0, 4].item(), [free[1, 2].item(), free[2, 6].item()]):
        expected = stock.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=1,
        )
        got = generate(ours, ids, max_new_tokens=12, eos_token_id=eos, pad_token_id=1)
        assert torch.equal(got, expected)


def test_equal_greedy_continuations_of_left_padded_prompts(cached_pair, random_ids, left_pad):
    """gpt2 alone: transformers' openai-gpt gives padded prompts the wrong positions."""
    for shape in range(4):
        stock, ours = cached_pair("gpt2", shape)
        rows = random_ids(ours.config.vocab_size, 3, 7, seed=shape)
        ids, mask = left_pad([rows[0], rows[1, :2], rows[2, :4]])
        expected = stock.generate(
            ids, attention_mask=mask, max_new_tokens=10, do_sample=False, pad_token_id=0
        )
        got = generate(ours, ids, attention_mask=mask, max_new_tokens=10)
        assert torch.equal(got, expected)


def test_equal_greedy_continuations_with_a_repetition_penalty(pair, random_ids):
    _, stock, ours = pair
    ids = random_ids(ours.config.vocab_size, 3, 4)
    expected = stock.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=14,
        do_sample=False,
        repetition_penalty=1.7,
        pad_token_id=0,
    )
    got = generate(ours, ids, max_new_tokens=14, repetition_penalty=1.7)
    assert torch.equal(got, expected)
