"""The filters against their definitions, against transformers' processors, and as frequencies."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process

from llm.generation import SamplingConfig
from llm.generation.sampling import (
    apply_repetition_penalty,
    apply_temperature,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    sample,
)

INF = math.inf
quick = settings(max_examples=60, deadline=None)

# multiples of 1/16 are exact in float32, so that equal means equal
logit = st.integers(-160, 160).map(lambda i: i / 16)
distinct = st.lists(logit, min_size=1, max_size=30, unique=True)
any_logits = st.lists(logit, min_size=1, max_size=30)


def kept(filtered, row):
    """The indices that a filter kept, unchanged; the others must be -inf."""
    (result,) = filtered.tolist()
    assert all(value in (-INF, given) for value, given in zip(result, row, strict=True))
    return {i for i, value in enumerate(result) if value != -INF}


def probabilities(row):
    weights = [math.exp(value - max(row)) for value in row]
    return [weight / math.fsum(weights) for weight in weights]


@quick
@given(distinct, st.integers(1, 40))
def test_top_k_keeps_the_k_largest(row, k):
    largest = sorted(range(len(row)), key=lambda i: -row[i])[:k]
    assert kept(keep_top_k(torch.tensor([row]), k), row) == set(largest)


@quick
@given(any_logits, st.integers(1, 40))
def test_top_k_with_ties_keeps_at_least_k_and_nothing_smaller(row, k):
    indices = kept(keep_top_k(torch.tensor([row]), k), row)
    assert len(indices) >= min(k, len(row))
    kth = sorted(row, reverse=True)[min(k, len(row)) - 1]
    assert all(row[i] >= kth for i in indices)
    assert all(i in indices for i in range(len(row)) if row[i] > kth)


@quick
@given(distinct, st.floats(0.01, 1.0))
def test_top_p_keeps_the_smallest_set_that_reaches_p(row, p):
    p_of = probabilities(row)
    order = sorted(range(len(row)), key=lambda i: -row[i])
    expected, total = set(), 0.0
    for i in order:
        if total >= p:
            break
        assume(abs(total - p) > 1e-5)  # rounding may decide that one
        expected.add(i)
        total += p_of[i]
    assume(abs(total - p) > 1e-5 or p == 1.0)
    assert kept(keep_top_p(torch.tensor([row]), p), row) == expected


@quick
@given(any_logits, st.floats(1e-6, 1.0))
def test_top_p_keeps_a_likeliest_token_and_reaches_p(row, p):
    indices = kept(keep_top_p(torch.tensor([row]), p), row)
    assert any(row[i] == max(row) for i in indices)
    assert math.fsum(probabilities(row)[i] for i in indices) >= p - 1e-5
    assert all(row[i] >= row[j] for i in indices for j in set(range(len(row))) - indices)


@quick
@given(any_logits, st.floats(0.0, 1.0))
def test_min_p_keeps_what_is_at_least_that_fraction_of_the_likeliest(row, p):
    p_of = probabilities(row)
    threshold = p * max(p_of)
    assume(all(abs(value - threshold) > 1e-6 or value == max(p_of) for value in p_of))
    expected = {i for i, value in enumerate(p_of) if value >= threshold}
    assert kept(keep_min_p(torch.tensor([row]), p), row) == expected


def test_limits_that_exclude_nothing_change_nothing():
    """The tail of a large vocabulary survives rounding in the cumulative sum."""
    logits = torch.randn(3, 50257, generator=torch.Generator().manual_seed(0)) * 4
    assert torch.equal(keep_top_k(logits, 50257), logits)
    assert torch.equal(keep_top_k(logits, 10**6), logits)
    assert torch.equal(keep_top_p(logits, 1.0), logits)
    assert torch.equal(keep_min_p(logits, 0.0), logits)


def test_the_tightest_limits_keep_the_likeliest_token_alone():
    logits = torch.randn(5, 100, generator=torch.Generator().manual_seed(0))
    alone = torch.full_like(logits, -INF).scatter(1, logits.argmax(-1, keepdim=True), 1) == 1
    for filtered in (keep_top_k(logits, 1), keep_top_p(logits, 1e-6), keep_min_p(logits, 1.0)):
        assert torch.equal(filtered > -INF, alone)


@pytest.mark.parametrize(
    "apply",
    [lambda x: keep_top_k(x, 3), lambda x: keep_top_p(x, 0.6), lambda x: keep_min_p(x, 0.2)],
)
def test_filters_treat_rows_apart_and_leave_their_input_alone(apply):
    logits = torch.randn(6, 20, generator=torch.Generator().manual_seed(0)) * 2
    given_logits = logits.clone()
    together = apply(logits)
    assert torch.equal(logits, given_logits)
    assert torch.equal(together, torch.cat([apply(row[None]) for row in logits]))
    assert (together == -INF).any()


@pytest.mark.parametrize(
    "apply",
    [lambda x: keep_top_k(x, 4), lambda x: keep_top_p(x, 0.9), lambda x: keep_min_p(x, 0.01)],
)
def test_filters_never_bring_back_what_is_removed(apply):
    logits = torch.randn(8, 20, generator=torch.Generator().manual_seed(0))
    logits[:, ::2] = -INF
    logits[0, 1:] = -INF
    logits[0, 0] = 1.0
    filtered = apply(logits)
    assert not torch.isnan(filtered).any()
    assert (filtered[logits == -INF] == -INF).all()
    assert (filtered > -INF).any(-1).all()


# ---------------------------------------------------------- repetition, temperature


@quick
@given(st.lists(logit, min_size=4, max_size=12), st.floats(0.2, 4.0), st.data())
def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_once(
    row, penalty, data
):
    tokens = data.draw(st.lists(st.integers(0, len(row) - 1), min_size=1, max_size=8))
    mask = data.draw(st.lists(st.integers(0, 1), min_size=len(tokens), max_size=len(tokens)))
    seen = {token for token, real in zip(tokens, mask, strict=True) if real}
    expected = [
        value if i not in seen else (value / penalty if value > 0 else value * penalty)
        for i, value in enumerate(row)
    ]
    logits = torch.tensor([row])
    got = apply_repetition_penalty(
        logits, torch.tensor([tokens]), penalty, attention_mask=torch.tensor([mask])
    )
    assert logits.tolist() == [row]
    assert got[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_temperature_divides():
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(apply_temperature(logits, 0.25), logits * 4)
    assert torch.equal(apply_temperature(logits, 1.0), logits)


# ------------------------------------------------------- transformers' processors


def random_case(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 60, generator=generator) * 3
    ids = torch.randint(60, (4, 15), generator=generator)
    return logits, ids


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("value", [1, 5, 59, 60])
def test_top_k_is_transformers(value, seed):
    logits, ids = random_case(seed)
    assert torch.equal(
        keep_top_k(logits, value), logits_process.TopKLogitsWarper(value)(ids, logits)
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("value", [0.01, 0.3, 0.5, 0.9, 0.99])
def test_top_p_is_transformers(value, seed):
    logits, ids = random_case(seed)
    assert torch.equal(
        keep_top_p(logits, value), logits_process.TopPLogitsWarper(value)(ids, logits)
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("value", [0.0, 0.01, 0.1, 0.7])
def test_min_p_is_transformers(value, seed):
    logits, ids = random_case(seed)
    assert torch.equal(
        keep_min_p(logits, value), logits_process.MinPLogitsWarper(value)(ids, logits)
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("value", [0.7, 1.0, 1.3])
def test_repetition_penalty_is_transformers(value, seed):
    logits, ids = random_case(seed)
    expected = logits_process.RepetitionPenaltyLogitsProcessor(value)(ids, logits)
    torch.testing.assert_close(apply_repetition_penalty(logits, ids, value), expected)


PIPELINES = [
    {"temperature": 0.7},
    {"top_k": 7},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"temperature": 1.6, "top_k": 12, "top_p": 0.7},
    {"temperature": 0.5, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 2.0, "top_k": 10, "top_p": 0.85, "min_p": 0.2},
]


def their_distribution(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    ids = torch.zeros(logits.shape[0], 1, dtype=torch.int64)
    processors = logits_process.LogitsProcessorList()
    processors.append(logits_process.TemperatureLogitsWarper(temperature))
    if top_k is not None:
        processors.append(logits_process.TopKLogitsWarper(top_k))
    if top_p is not None:
        processors.append(logits_process.TopPLogitsWarper(top_p))
    if min_p is not None:
        processors.append(logits_process.MinPLogitsWarper(min_p))
    return processors(ids, logits).softmax(-1)


@pytest.mark.parametrize("settings_", PIPELINES, ids=str)
def test_sampled_frequencies_are_those_of_transformers_pipeline(settings_, chi_square_p):
    """Repetition penalty aside, in transformers' order: temperature, top-k, top-p, min-p."""
    logits = torch.randn(1, 25, generator=torch.Generator().manual_seed(3)) * 1.2
    config = SamplingConfig(do_sample=True, **settings_)
    tokens = sample(logits.expand(40_000, -1), config, torch.Generator().manual_seed(0))
    assert tokens.shape == (40_000,)
    assert tokens.dtype == torch.int64
    counts = tokens.bincount(minlength=25)
    assert chi_square_p(counts, their_distribution(logits, **settings_)[0]) > 1e-3


def test_the_chi_square_test_notices_a_wrong_distribution(chi_square_p):
    logits = torch.randn(1, 25, generator=torch.Generator().manual_seed(3)) * 1.2
    config = SamplingConfig(do_sample=True, temperature=0.9)
    tokens = sample(logits.expand(40_000, -1), config, torch.Generator().manual_seed(0))
    assert chi_square_p(tokens.bincount(minlength=25), logits.softmax(-1)[0]) < 1e-6


# ------------------------------------------------------------------------- sample


def test_greedy_takes_the_largest():
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample(logits, SamplingConfig(), None), logits.argmax(-1))


@pytest.mark.parametrize(
    "settings_", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sampling_among_one_token_is_greedy(settings_, dtype):
    """In half precision too, where dividing by a small temperature would overflow."""
    logits = (torch.arange(30).float()[torch.randperm(30)] / 4).expand(200, -1).to(dtype)
    config = SamplingConfig(do_sample=True, **settings_)
    tokens = sample(logits, config, torch.Generator().manual_seed(0))
    assert torch.equal(tokens, logits.argmax(-1))


def test_the_generator_alone_decides():
    logits = torch.randn(200, 30, generator=torch.Generator().manual_seed(0))
    config = SamplingConfig(do_sample=True)
    state = torch.get_rng_state()
    first, again, other = (
        sample(logits, config, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_generator_the_global_seed_decides():
    logits = torch.randn(200, 30, generator=torch.Generator().manual_seed(0))
    config = SamplingConfig(do_sample=True)
    tokens = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        tokens.append(sample(logits, config, None))
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0], tokens[2])


def test_rows_are_sampled_independently():
    tokens = sample(
        torch.zeros(4000, 2), SamplingConfig(do_sample=True), torch.Generator().manual_seed(0)
    )
    pairs = (2 * tokens[:-1] + tokens[1:]).bincount(minlength=4) / 3999
    assert ((pairs - 0.25).abs() < 0.04).all()


def test_sampling_leaves_the_logits_alone():
    logits = torch.randn(3, 30, generator=torch.Generator().manual_seed(0))
    given_logits = logits.clone()
    config = SamplingConfig(do_sample=True, temperature=0.5, top_k=5, top_p=0.5, min_p=0.1)
    sample(logits, config, torch.Generator().manual_seed(0))
    assert torch.equal(logits, given_logits)


# ------------------------------------------------------------------- SamplingConfig


def test_the_defaults_are_greedy_and_filter_nothing():
    config = SamplingConfig()
    assert (config.do_sample, config.temperature, config.repetition_penalty) == (False, 1.0, 1.0)
    assert (config.top_k, config.top_p, config.min_p) == (None, None, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0),
        ("temperature", -0.5),
        ("temperature", math.nan),
        ("top_k", 0),
        ("top_k", -1),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_p", -0.1),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", math.nan),
    ],
)
def test_an_impossible_value_is_an_error_naming_field_and_value(field, value):
    with pytest.raises(ValueError, match=rf"(?s){field}.*{value}"):
        SamplingConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 1e-3), ("top_k", 1), ("top_p", 1.0), ("min_p", 0.0), ("min_p", 1.0)],
)
def test_the_limits_themselves_are_allowed(field, value):
    config = SamplingConfig(do_sample=True, **{field: value})
    assert getattr(config, field) == value


def test_a_sampling_config_is_frozen():
    with pytest.raises(AttributeError):
        SamplingConfig().temperature = 0.5


@pytest.mark.parametrize(
    "idle", [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}]
)
def test_what_greedy_would_ignore_is_refused(idle):
    (name,) = idle
    with pytest.raises(ValueError, match=rf"{name}=.* needs do_sample=True"):
        SamplingConfig(**idle)
    SamplingConfig(repetition_penalty=1.3, top_p=1.0, min_p=0.0)
