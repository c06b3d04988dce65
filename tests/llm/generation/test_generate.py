"""Every way of generating equals the plain loop."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F

from llm.core import one_query_attention
from llm.generation import generate, prepare, stream


@pytest.fixture
def model(model_type, make_talkative):
    return make_talkative(model_type)


@pytest.fixture
def ids(model, random_ids):
    """Four prompts of five tokens."""
    return random_ids(model.config.vocab_size, 4, 5)


def room(model, ids):
    """Tokens that still fit into the context."""
    return model.config.max_position_embeddings - ids.shape[1]


# ------------------------------------------------------------------------- greedy


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_is_the_plain_loop(model, ids, plain_loop, use_cache):
    steps = room(model, ids)
    expected = plain_loop(model, ids, steps)
    got = generate(model, ids, max_new_tokens=steps, use_cache=use_cache)
    assert got.dtype == torch.int64
    assert torch.equal(got, expected)
    assert torch.equal(model.generate(ids, max_new_tokens=steps, use_cache=use_cache), expected)
    assert len(set(got[:, 5:].flatten().tolist())) > 5, "the continuation must not be trivial"


def test_a_prompt_of_one_token(model, ids, plain_loop):
    expected = plain_loop(model, ids[:, :1], 10)
    assert torch.equal(generate(model, ids[:, :1], max_new_tokens=10), expected)


def test_a_batch_is_its_rows(model, ids):
    together = generate(model, ids, max_new_tokens=10)
    for row in range(len(ids)):
        alone = generate(model, ids[row : row + 1], max_new_tokens=10)
        assert torch.equal(together[row : row + 1], alone)


@pytest.mark.parametrize("padding", [0, 3])
def test_attention_made_for_a_long_past_writes_the_same_text(
    model, ids, plain_loop, monkeypatch, padding
):
    steps, mask = 12, torch.ones_like(ids)
    mask[1, :padding] = 0
    expected = plain_loop(model, ids, steps, mask)
    calls = []
    bags = one_query_attention._bags
    monkeypatch.setattr(one_query_attention, "MIN_KEYS", 1)
    monkeypatch.setattr(one_query_attention, "_bags", lambda *at: calls.append(at) or bags(*at))
    for each in (prepare(model), model):
        got = generate(each, ids, attention_mask=mask, max_new_tokens=steps)
        assert torch.equal(got, expected)
        assert len(calls) == (steps - 1) * model.config.num_layers
        calls.clear()


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("penalty", [1.0, 1.8])
def test_left_padded_prompts_continue_as_they_would_alone(
    model, random_ids, left_pad, use_cache, penalty
):
    """The padding token is a token of the vocabulary too: being padding costs it nothing."""
    rows = [random_ids(model.config.vocab_size, 1, n, seed=n)[0] for n in (7, 1, 4)]
    expected = [
        generate(model, row[None], max_new_tokens=10, repetition_penalty=penalty)[0, len(row) :]
        for row in rows
    ]
    # a token that the short prompt's continuation has early
    padded, mask = left_pad(rows, pad_token_id=expected[1][0].item())
    got = generate(
        model,
        padded,
        attention_mask=mask,
        max_new_tokens=10,
        use_cache=use_cache,
        repetition_penalty=penalty,
    )
    assert torch.equal(got[:, :7], padded)
    assert torch.equal(got[:, 7:], torch.stack(expected))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32])
def test_the_mask_may_be_boolean_or_whole_numbers(model, random_ids, left_pad, plain_loop, dtype):
    rows = random_ids(model.config.vocab_size, 2, 6)
    padded, mask = left_pad([rows[0], rows[1, :3]])
    got = generate(model, padded, attention_mask=mask.to(dtype), max_new_tokens=8)
    assert torch.equal(got, plain_loop(model, padded, 8, mask))


def test_the_cache_encodes_each_token_once(model, ids, count_tokens):
    lengths = count_tokens(model)
    generate(model, ids, max_new_tokens=6)
    assert lengths == [5, 1, 1, 1, 1, 1]
    lengths.clear()
    generate(model, ids, max_new_tokens=6, use_cache=False)
    assert lengths == [5, 6, 7, 8, 9, 10]


def test_repetition_penalty_is_applied_to_prompt_and_continuation(model, ids):
    """The plain loop with the penalty written out."""
    expected = ids
    for _ in range(10):
        logits = model(expected)[:, -1].detach()
        for row in range(len(ids)):
            for token in set(expected[row].tolist()):
                value = logits[row, token]
                logits[row, token] = value / 1.5 if value > 0 else value * 1.5
        expected = torch.cat([expected, logits.argmax(-1, keepdim=True)], dim=1)
    got = generate(model, ids, max_new_tokens=10, repetition_penalty=1.5)
    assert torch.equal(got, expected)
    assert not torch.equal(got, generate(model, ids, max_new_tokens=10))


def test_it_runs_in_bfloat16(model, ids, plain_loop):
    low = copy.deepcopy(model).to(torch.bfloat16)
    got = generate(low, ids, max_new_tokens=room(low, ids))
    assert got.shape == (4, low.config.max_position_embeddings)
    assert torch.equal(got[:, :6], plain_loop(low, ids, 1))


def test_it_runs_under_autocast(model, ids):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = generate(model, ids, max_new_tokens=8)
    assert got.shape == (4, 13)


# ---------------------------------------------------------------- past the context


@pytest.fixture
def recorded():
    """Every warning raised while the test runs."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("length", [3, "context", "longer"])
def test_past_the_context_the_window_slides(
    model, random_ids, plain_loop, recorded, length, use_cache
):
    context = model.config.max_position_embeddings
    length = {"context": context, "longer": context + 7}.get(length, length)
    ids = random_ids(model.config.vocab_size, 2, length)
    steps = max(context - length, 0) + 9
    got = generate(model, ids, max_new_tokens=steps, use_cache=use_cache)
    assert torch.equal(got, plain_loop(model, ids, steps))
    assert len(recorded) == 1
    assert str(context) in str(recorded[0].message)


def test_every_call_past_the_context_warns_once(model, ids, recorded):
    for calls in (1, 2, 3):
        generate(model, ids, max_new_tokens=room(model, ids) + 4)
        assert len(recorded) == calls
    list(stream(model, ids, max_new_tokens=room(model, ids) + 4))
    assert len(recorded) == 4
    assert recorded[-1].filename == __file__


def test_within_the_context_nothing_warns(model, ids, recorded):
    generate(model, ids, max_new_tokens=room(model, ids))
    assert recorded == []


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_the_window_of_left_padded_prompts_slides_with_its_mask(
    model, random_ids, left_pad, plain_loop, use_cache
):
    context = model.config.max_position_embeddings
    rows = random_ids(model.config.vocab_size, 3, context - 2)
    padded, mask = left_pad([rows[0], rows[1, :3], rows[2, : context // 2]])
    steps = context + 5
    got = generate(model, padded, attention_mask=mask, max_new_tokens=steps, use_cache=use_cache)
    assert torch.equal(got, plain_loop(model, padded, steps, mask))


@pytest.mark.filterwarnings("ignore")
def test_repetition_penalty_remembers_what_left_the_window(make_scripted):
    """The first token of the prompt is out of sight at the end, and still penalised."""
    model = make_scripted([2, 2, 2, 2, 2, 2, 2, 1], vocab_size=4, context=8)
    with torch.no_grad():
        model.lm_head.weight[0, 7] = 0.5  # the second choice
    prompt = torch.tensor([[1, 3, 3, 3, 3, 3, 3, 3, 3, 3]])
    assert generate(model, prompt, max_new_tokens=1)[0, -1] == 1
    assert generate(model, prompt, max_new_tokens=1, repetition_penalty=1e4)[0, -1] == 0


# ---------------------------------------------------------------------------- eos


def rows_until(free, eos_ids, pad):
    """What each row should be: up to and with its first eos, then padding, to the longest."""
    lists = []
    for row in free.tolist():
        ends = [i for i, token in enumerate(row) if token in eos_ids]
        lists.append(row[: ends[0] + 1] if ends else row)
    longest = max(map(len, lists))
    return torch.tensor([row + [pad] * (longest - len(row)) for row in lists])


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("several", [False, True])
def test_each_row_ends_at_its_first_eos_and_the_loop_with_the_last(
    model, ids, count_tokens, use_cache, several
):
    free = generate(model, ids, max_new_tokens=13)[:, 5:]
    choices = [[a, b] if several else [a] for a in free[0].tolist() for b in free[1].tolist()]
    seen = set()
    lengths = count_tokens(model)
    for eos_ids in choices[::3]:
        lengths.clear()
        got = generate(
            model,
            ids,
            max_new_tokens=13,
            eos_token_id=eos_ids if several else eos_ids[0],
            pad_token_id=2,
            use_cache=use_cache,
        )
        expected = rows_until(free, eos_ids, pad=2)
        assert torch.equal(got[:, 5:], expected)
        assert len(lengths) == expected.shape[1]
        seen.add(expected.shape[1])
    assert len(seen) > 1, "no case ended early"


def test_all_rows_done_ends_the_loop(model, ids, count_tokens):
    free = generate(model, ids, max_new_tokens=13)[:, 5:]
    first = sorted(set(free[:, 0].tolist()))
    lengths = count_tokens(model)
    got = generate(model, ids, max_new_tokens=13, eos_token_id=first, pad_token_id=0)
    assert torch.equal(got[:, 5:], free[:, :1])
    assert len(lengths) == 1


@pytest.mark.parametrize("eos_in_prompt", [0, 4])
def test_an_eos_in_the_prompt_ends_nothing(make_scripted, eos_in_prompt):
    model = make_scripted([5, 6, 7, 8], prompt_length=5, vocab_size=9)
    prompt = torch.zeros(1, 5, dtype=torch.int64)
    prompt[0, eos_in_prompt] = 3
    got = generate(model, prompt, max_new_tokens=4, eos_token_id=3)
    assert got[0, 5:].tolist() == [5, 6, 7, 8]


def test_eos_and_padding_default_to_the_configurations(make_scripted):
    prompt = torch.zeros(1, 1, dtype=torch.int64)
    script = [5, 6, 3, 7, 8]
    model = make_scripted(script, vocab_size=9, eos_token_id=3, pad_token_id=4)
    assert generate(model, prompt, max_new_tokens=5)[0, 1:].tolist() == [5, 6, 3]
    assert generate(model, prompt, max_new_tokens=5, eos_token_id=())[0, 1:].tolist() == script
    assert generate(model, prompt, max_new_tokens=5, eos_token_id=6)[0, 1:].tolist() == [5, 6]
    assert generate(model, prompt, max_new_tokens=5, eos_token_id=(8, 6))[0, 1:].tolist() == [5, 6]
    assert generate(model, prompt, max_new_tokens=5, eos_token_id=[7])[0, 1:].tolist() == script[:4]
    never = make_scripted(script, vocab_size=9)
    assert generate(never, prompt, max_new_tokens=5)[0, 1:].tolist() == script


@pytest.mark.parametrize(
    ("configured", "given", "expected"),
    [(None, None, "first eos"), (1, None, 1), (None, 2, 2), (1, 2, 2), (1, 0, 0)],
)
def test_finished_rows_are_padded_with_the_padding_id(
    model_type, make_talkative, ids, configured, given, expected
):
    model = make_talkative(model_type, pad_token_id=configured)
    free = generate(model, ids, max_new_tokens=13)[:, 5:]
    eos_ids = [free[0, 3].item(), free[1, 1].item()]
    padding = eos_ids[0] if expected == "first eos" else expected
    options = {} if given is None else {"pad_token_id": given}
    got = generate(model, ids, max_new_tokens=13, eos_token_id=eos_ids, **options)
    assert torch.equal(got[:, 5:], rows_until(free, eos_ids, padding))
    assert (got[:, 5:] != free[:, : got.shape[1] - 5]).any(), "no row was padded"


def test_eos_with_left_padding(model, random_ids, left_pad):
    rows = random_ids(model.config.vocab_size, 3, 6)
    padded, mask = left_pad([rows[0], rows[1, :2], rows[2, :4]])
    free = generate(model, padded, attention_mask=mask, max_new_tokens=12)[:, 6:]
    eos = free[1, 4].item()
    got = generate(
        model, padded, attention_mask=mask, max_new_tokens=12, eos_token_id=eos, pad_token_id=0
    )
    assert torch.equal(got[:, 6:], rows_until(free, [eos], 0))


# ----------------------------------------------------------------------- sampling

SAMPLING = {"do_sample": True, "temperature": 1.3, "top_k": 20, "top_p": 0.95}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("steps", [8, 30])
def test_the_same_seed_gives_the_same_text_with_and_without_a_cache(model, ids, steps):
    first, again, uncached, other = (
        generate(
            model,
            ids,
            max_new_tokens=steps,
            generator=seeded(seed),
            use_cache=use_cache,
            **SAMPLING,
        )
        for seed, use_cache in ((0, True), (0, True), (0, False), (1, True))
    )
    assert torch.equal(first, again)
    assert torch.equal(first, uncached)
    assert not torch.equal(first, other)


def test_a_generator_leaves_the_global_one_alone(model, ids):
    state = torch.get_rng_state()
    generate(model, ids, max_new_tokens=5, generator=seeded(), **SAMPLING)
    generate(model, ids, max_new_tokens=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_sampling_with_top_k_1_is_greedy(model, ids):
    greedy = generate(model, ids, max_new_tokens=10)
    got = generate(model, ids, max_new_tokens=10, do_sample=True, top_k=1, temperature=3.0)
    assert torch.equal(got, greedy)


def test_two_sampled_tokens_have_the_models_joint_distribution(
    model_type, make_talkative, chi_square_p
):
    model = make_talkative(model_type, vocab_size=5)
    prompt = torch.tensor([[1, 3, 0]])
    with torch.no_grad():
        first = (model(prompt)[0, -1] / 2).softmax(-1)
        both = torch.stack(
            [
                first[token] * (model(F.pad(prompt, (0, 1), value=token))[0, -1] / 2).softmax(-1)
                for token in range(5)
            ]
        )
    got = generate(
        model,
        prompt.expand(20_000, -1),
        max_new_tokens=2,
        do_sample=True,
        temperature=2.0,
        generator=seeded(),
    )
    counts = (5 * got[:, 3] + got[:, 4]).bincount(minlength=25)
    assert chi_square_p(counts, both.flatten()) > 1e-3


# ------------------------------------------------------------------------- stream


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("steps", [0, 1, 9, 30])
@pytest.mark.parametrize("options", [{}, {"use_cache": False}, SAMPLING], ids=str)
def test_a_stream_is_generate(model, ids, steps, options):
    free = generate(model, ids, max_new_tokens=steps, generator=seeded(), **options)
    eos = free[0, -1].item()
    for more in ({"eos_token_id": ()}, {"eos_token_id": eos, "pad_token_id": 1}):
        expected = generate(model, ids, max_new_tokens=steps, generator=seeded(), **options, **more)
        tokens = list(
            stream(model, ids, max_new_tokens=steps, generator=seeded(), **options, **more)
        )
        assert all(token.shape == (4,) for token in tokens)
        got = torch.stack(tokens, dim=1) if tokens else ids[:, :0]
        assert torch.equal(got, expected[:, 5:])


def test_a_stream_computes_a_token_when_it_is_asked_for(model, ids, count_tokens):
    lengths = count_tokens(model)
    tokens = stream(model, ids, max_new_tokens=9)
    assert lengths == []
    for asked in (1, 2, 3):
        next(tokens)
        assert len(lengths) == asked


def test_a_stream_leaves_the_callers_gradient_mode_alone(model, ids):
    weight = torch.ones(1, requires_grad=True)
    for _ in stream(model, ids, max_new_tokens=3):
        assert torch.is_grad_enabled()
        assert (weight * 2).requires_grad
    assert torch.is_grad_enabled()


def test_tokens_kept_from_a_stream_stay_what_they_were(model, ids):
    kept, copies = [], []
    for token in stream(model, ids, max_new_tokens=6):
        kept.append(token)
        copies.append(token.clone())
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


# ------------------------------------------------------------------ modes and state


@pytest.mark.parametrize("training", [True, False])
def test_it_runs_in_eval_mode_and_restores_the_mode(model_type, make_talkative, ids, training):
    expected = generate(make_talkative(model_type), ids, max_new_tokens=10)
    model = make_talkative(model_type, dropout=0.6).train(training)
    assert torch.equal(generate(model, ids, max_new_tokens=10), expected)
    assert all(module.training == training for module in model.modules())
    assert len(list(stream(model, ids, max_new_tokens=3))) == 3
    assert all(module.training == training for module in model.modules())


def test_a_part_of_the_model_in_another_mode_is_left_in_it(model, ids):
    """A frozen block, in eval mode while the rest trains, is not put into training."""
    model.train()
    model.decoder.blocks[0].eval()
    generate(model, ids, max_new_tokens=3)
    assert model.training
    assert model.decoder.blocks[1].training
    assert not any(module.training for module in model.decoder.blocks[0].modules())


def test_a_stream_closed_early_restores_the_mode(model, ids):
    model.train()
    tokens = stream(model, ids, max_new_tokens=9)
    next(tokens)
    tokens.close()
    assert all(module.training for module in model.modules())


def test_an_error_on_the_way_restores_the_mode(model, ids):
    model.train()

    def explode(module, args):
        raise RuntimeError("boom")

    handle = model.decoder.blocks[-1].register_forward_pre_hook(explode)
    with pytest.raises(RuntimeError, match="boom"):
        generate(model, ids, max_new_tokens=3)
    handle.remove()
    assert all(module.training for module in model.modules())


def test_it_computes_no_gradient(model, ids):
    recorded = []
    model.lm_head.register_forward_hook(lambda *call: recorded.append(call[-1].requires_grad))
    generate(model, ids, max_new_tokens=3)
    assert recorded == [False, False, False]


def test_what_it_returns_can_be_trained_on(model, ids):
    got = generate(model, ids, max_new_tokens=4)
    tokens = list(stream(model, ids, max_new_tokens=2))
    assert not any(tensor.is_inference() for tensor in [got, *tokens])
    F.cross_entropy(model(got)[:, :-1].flatten(0, 1), got[:, 1:].flatten()).backward()
    assert model.decoder.token_embeddings.weight.grad.abs().max() > 0


def test_what_it_is_given_is_left_alone(model, random_ids, left_pad):
    rows = random_ids(model.config.vocab_size, 2, 6)
    padded, mask = left_pad([rows[0], rows[1, :3]])
    given_ids, given_mask = padded.clone(), mask.clone()
    generate(model, padded, attention_mask=mask, max_new_tokens=5)
    assert torch.equal(padded, given_ids)
    assert torch.equal(mask, given_mask)


def test_two_calls_share_nothing(model, ids):
    first = generate(model, ids, max_new_tokens=6)
    generate(model, ids.flip(0), max_new_tokens=9)
    assert torch.equal(generate(model, ids, max_new_tokens=6), first)


def test_two_streams_may_be_interleaved(model, ids):
    a, b = stream(model, ids[:2], max_new_tokens=6), stream(model, ids[2:], max_new_tokens=6)
    pairs = list(zip(a, b, strict=True))
    got = torch.stack([torch.cat(pair) for pair in pairs], dim=1)
    assert torch.equal(got, generate(model, ids, max_new_tokens=6)[:, 5:])


# ------------------------------------------------------------------------- errors


def test_no_new_tokens_returns_the_prompt(model, ids, count_tokens):
    lengths = count_tokens(model)
    assert torch.equal(generate(model, ids, max_new_tokens=0), ids)
    assert lengths == []


BOTH = pytest.mark.parametrize(
    "run",
    [generate, lambda *args, **options: list(stream(*args, **options))],
    ids=["generate", "stream"],
)


@BOTH
def test_a_negative_number_of_tokens(model, ids, run):
    with pytest.raises(ValueError, match=r"(?s)max_new_tokens.*-1"):
        run(model, ids, max_new_tokens=-1)


@BOTH
@pytest.mark.parametrize("shape", [(1, 0), (0, 3)])
def test_an_empty_prompt(model, run, shape):
    with pytest.raises(
        ValueError, match=r"empty|at least one|no tokens|(0.*input_ids|input_ids.*0)"
    ):
        run(model, torch.zeros(shape, dtype=torch.int64), max_new_tokens=3)


@BOTH
@pytest.mark.parametrize("row", [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0, 1, 1, 0, 0]])
def test_a_right_padded_prompt(model, ids, run, row):
    mask = torch.ones_like(ids)
    mask[2] = torch.tensor(row)
    with pytest.raises(ValueError, match=r"(?i)left"):
        run(model, ids, attention_mask=mask, max_new_tokens=3)


@BOTH
def test_a_row_of_padding_alone(model, ids, run):
    mask = torch.ones_like(ids)
    mask[2] = 0
    with pytest.raises(ValueError, match=r"(?i)padding"):
        run(model, ids, attention_mask=mask, max_new_tokens=3)


@BOTH
@pytest.mark.parametrize("shape", [(4, 4), (4, 6), (3, 5), (5,)])
def test_a_mask_of_another_shape(model, ids, run, shape):
    with pytest.raises(ValueError, match=rf"(?s)mask.*{shape[-1]}"):
        run(model, ids, attention_mask=torch.ones(shape, dtype=torch.int64), max_new_tokens=3)


@BOTH
def test_an_id_beyond_the_vocabulary(model, ids, run):
    ids[1, 2] = 777
    with pytest.raises(ValueError, match="777"):
        run(model, ids, max_new_tokens=3)


@BOTH
@pytest.mark.parametrize("shape", [(5,), (1, 1, 5)])
def test_a_prompt_of_the_wrong_rank(model, run, shape):
    with pytest.raises(ValueError, match="input_ids"):
        run(model, torch.zeros(shape, dtype=torch.int64), max_new_tokens=3)


@BOTH
def test_a_prompt_of_the_wrong_dtype(model, ids, run):
    with pytest.raises(ValueError, match="float"):
        run(model, ids.float(), max_new_tokens=3)


@BOTH
@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", 0), ("top_k", 0), ("top_p", 1.5), ("min_p", -1.0), ("repetition_penalty", 0)],
)
def test_an_impossible_sampling_value(model, ids, run, option, value):
    with pytest.raises(ValueError, match=rf"(?s){option}.*{value}"):
        run(model, ids, max_new_tokens=3, do_sample=True, **{option: value})


@BOTH
def test_a_misspelt_option(model, ids, run):
    with pytest.raises((ValueError, TypeError), match="temprature"):
        run(model, ids, max_new_tokens=3, do_sample=True, temprature=0.5)


def test_a_misspelt_option_of_the_method(model, ids):
    with pytest.raises((ValueError, TypeError), match="max_tokens"):
        model.generate(ids, max_new_tokens=3, max_tokens=3)


def test_mistakes_of_a_stream_are_raised_by_the_call(model, ids):
    """Not by the first `next`, far from the mistake."""
    with pytest.raises(ValueError, match="max_new_tokens"):
        stream(model, ids, max_new_tokens=-1)


def test_only_ids_below_vocab_size_are_chosen(make_model, model_type):
    model = make_model(model_type)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        model.decoder.token_embeddings.weight[30:] = (
            model.decoder.token_embeddings.weight[:1] * 0 + 3
        )
    for options in ({}, {"do_sample": True, "temperature": 50.0}):
        generator = torch.Generator().manual_seed(0)
        new = generate(model, ids, max_new_tokens=15, vocab_size=30, generator=generator, **options)
        assert int(new.max()) < 30
    expected = ids
    for _ in range(15):
        with torch.no_grad():
            best = model(expected)[:, -1, :30].argmax(-1, keepdim=True)
        expected = torch.cat([expected, best], dim=1)
    assert torch.equal(generate(model, ids, max_new_tokens=15, vocab_size=30), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 0.5}, "no field 'temprature'; did you mean 'temperature'"),
        ({"eos_token_id": [1.7]}, r"eos_token_id=1\.7"),
        ({"eos_token_id": 10_000}, "eos_token_id 10000"),
        ({"pad_token_id": 1.7}, r"pad_token_id=1\.7"),
        ({"vocab_size": 0}, "vocab_size=0"),
    ],
)
def test_a_wrong_option_is_named(make_model, model_type, options, message):
    with pytest.raises(ValueError, match=message):
        generate(make_model(model_type), torch.tensor([[1]]), max_new_tokens=1, **options)
