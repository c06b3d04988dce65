"""Probes: right answers, no leaks, chance levels, and a model that learns one."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from llm.evaluation.probes import (
    AssociativeRecall,
    Copying,
    Induction,
    LengthExtrapolation,
    ModularAddition,
    answer_accuracy,
    answer_example,
    draw_examples,
    run_probe,
)
from llm.models.gpt import GPT, GPT2
from llm.training import TrainingConfig

PROBES = [
    AssociativeRecall(num_pairs=5, num_queries=4, num_symbols=7),
    Induction(length=6, num_queries=3, num_symbols=9),
    Copying(min_length=3, length=5, num_symbols=6),
    LengthExtrapolation(min_length=3, length=5, held_out_length=9, num_symbols=6),
    ModularAddition(modulus=31),
]
each_probe = pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)


def asked(example):
    """(what stands before an answer, the answer), for every answer of an example."""
    tokens, labels = example["input_ids"].tolist(), example["labels"].tolist()
    assert len(tokens) == len(labels)
    assert all(label in (-100, token) for token, label in zip(tokens, labels, strict=True))
    return [(tokens[:t], tokens[t]) for t, label in enumerate(labels) if label != -100]


# Each solver is given what stands before an answer, and not the example's making. It returns
# the answers that guessing chooses from, and the right one.


def solve_recall(probe, before):
    context = before[: 2 * probe.num_pairs]
    pairs = {context[i]: context[i + 1] for i in range(0, len(context), 2)}
    return set(pairs.values()), pairs[before[-1]]


def solve_induction(probe, before):
    context = before[: probe.length]
    return set(context[1:]), context[context.index(before[-1]) + 1]


def solve_copying(probe, before):
    separator = before.index(probe.num_symbols)
    return set(range(probe.num_symbols)), before[len(before) - separator - 1]


def solve_addition(probe, before):
    a, plus, b, equals = before
    assert (plus, equals) == (probe.modulus, probe.modulus + 1)
    count = a
    for _ in range(b):
        count = 0 if count == probe.modulus - 1 else count + 1
    return set(range(probe.modulus)), count


SOLVERS = {
    "associative recall": solve_recall,
    "induction": solve_induction,
    "copying": solve_copying,
    "length extrapolation": solve_copying,
    "modular addition": solve_addition,
}


@each_probe
def test_every_answer_is_what_a_solver_finds(probe):
    train, held_out = draw_examples(probe, num_train=150, num_held_out=150, seed=3)
    for example in [*train, *held_out]:
        assert asked(example)
        for before, answer in asked(example):
            assert solve_answer(probe, before) == answer


def solve_answer(probe, before):
    return SOLVERS[probe.name](probe, before)[1]


@each_probe
def test_chance_is_what_a_uniform_predictor_scores(probe):
    """The choice is among the answers that the context leaves open; to four deviations."""
    rng = np.random.default_rng(0)
    _, held_out = draw_examples(probe, num_train=1, num_held_out=500, seed=1)
    right = number = 0
    for example in held_out:
        for before, answer in asked(example):
            choices = sorted(SOLVERS[probe.name](probe, before)[0])
            assert answer in choices
            right += int(rng.choice(choices) == answer)
            number += 1
    deviation = math.sqrt(probe.chance * (1 - probe.chance) / number)
    assert abs(right / number - probe.chance) < 4 * deviation


@pytest.mark.parametrize("probe", PROBES[:2], ids=lambda probe: probe.name)
def test_every_place_of_the_context_is_asked_about_alike(probe):
    """Else a model could score by the place alone; to five deviations."""
    _, held_out = draw_examples(probe, num_train=1, num_held_out=1000, seed=2)
    pairs = probe.name == "associative recall"
    places = range(1, 2 * probe.num_pairs, 2) if pairs else range(1, probe.length)
    counts = dict.fromkeys(places, 0)
    for example in held_out:
        for before, answer in asked(example):
            counts[before[: places[-1] + 1].index(answer)] += 1
    number, share = sum(counts.values()), 1 / len(places)
    assert share == probe.chance
    for count in counts.values():
        assert abs(count - number * share) < 5 * math.sqrt(number * share * (1 - share))


@each_probe
def test_examples_fit_what_the_probe_says_of_them(probe):
    train, held_out = draw_examples(probe, num_train=300, num_held_out=300, seed=0)
    examples = [*train, *held_out]
    assert max(len(example["input_ids"]) for example in examples) == probe.max_length
    tokens = torch.cat([example["input_ids"] for example in examples])
    assert sorted(set(tokens.tolist())) == list(range(probe.vocab_size))
    assert {tensor.dtype for e in examples for tensor in e.values()} == {torch.int64}


@each_probe
def test_no_example_comes_twice_and_none_held_out_is_trained_on(probe):
    train, held_out = draw_examples(probe, num_train=400, num_held_out=300, seed=5)
    assert (len(train), len(held_out)) == (400, 300)
    sequences = [tuple(e["input_ids"].tolist()) for e in [*train, *held_out]]
    assert len(set(sequences)) == 700


@each_probe
def test_examples_are_a_function_of_the_seed(probe):
    def drawn(seed, num_train=20):
        parts = draw_examples(probe, num_train=num_train, num_held_out=20, seed=seed)
        return [[e["input_ids"].tolist() for e in part] for part in parts]

    assert drawn(1) == drawn(1)
    assert drawn(1)[0] != drawn(2)[0]
    assert drawn(1)[1] != drawn(2)[1]
    # more to train on leaves the score's examples alone, and begins alike
    assert drawn(1, num_train=25)[1] == drawn(1)[1]
    assert drawn(1, num_train=25)[0][:20] == drawn(1)[0]


def test_length_extrapolation_scores_only_longer_strings_than_it_trains():
    probe = LengthExtrapolation(min_length=2, length=4, held_out_length=7)
    train, held_out = draw_examples(probe, num_train=200, num_held_out=200, seed=0)
    assert {len(asked(example)) for example in train} == {2, 3, 4}
    assert {len(asked(example)) for example in held_out} == {5, 6, 7}


def test_all_examples_of_a_small_probe_can_be_had_and_one_more_is_an_error():
    probe = ModularAddition(modulus=7)
    train, held_out = draw_examples(probe, num_train=40, num_held_out=9, seed=0)
    pairs = {(e["input_ids"][0].item(), e["input_ids"][2].item()) for e in [*train, *held_out]}
    assert len(pairs) == 49
    with pytest.raises(ValueError, match=r"num_train=41.*num_held_out=9.*modular addition.*49"):
        draw_examples(probe, num_train=41, num_held_out=9, seed=0)


@pytest.mark.parametrize(
    ("probe_class", "fields", "named"),
    [
        (AssociativeRecall, {"num_pairs": 1}, "num_pairs=1"),
        (AssociativeRecall, {"num_pairs": 9, "num_symbols": 8}, "num_symbols=8"),
        (AssociativeRecall, {"num_queries": 0}, "num_queries=0"),
        (Induction, {"length": 2}, "length=2"),
        (Induction, {"length": 9, "num_symbols": 8}, "num_symbols=8"),
        (Copying, {"min_length": 0}, "min_length=0"),
        (Copying, {"min_length": 5, "length": 4}, "length=4"),
        (Copying, {"num_symbols": 1}, "num_symbols=1"),
        (LengthExtrapolation, {"length": 8, "held_out_length": 8}, "held_out_length=8"),
        (ModularAddition, {"modulus": 1.5}, "modulus=1.5"),
    ],
)
def test_a_probe_out_of_range_names_the_field(probe_class, fields, named):
    with pytest.raises(ValueError, match=named):
        probe_class(**fields)


@pytest.fixture
def model_for():
    def make(probe, model_class=GPT2, **changes):
        torch.manual_seed(0)
        config = {
            "vocab_size": probe.vocab_size,
            "embed_dim": 32,
            "num_heads": 2,
            "num_layers": 2,
            "max_position_embeddings": probe.max_length,
            "dropout": 0.0,
        }
        return model_class({**config, **changes})

    return make


def test_answer_accuracy_counts_the_likeliest_token_before_each_answer(model_for):
    probe = Copying(min_length=1, length=4, num_symbols=5)
    examples, _ = draw_examples(probe, num_train=30, num_held_out=1, seed=0)
    model = model_for(probe).train()
    right = number = 0
    with torch.no_grad():
        for example in examples:
            for before, answer in asked(example):
                number += 1
                right += int(model(torch.tensor([before]))[0, -1].argmax() == answer)
    assert 0 < right < number
    for batch_size in (1, 7, 100):
        assert answer_accuracy(model, examples, batch_size=batch_size) == (right / number, number)
    assert model.training


def test_answer_accuracy_without_answers_is_an_error(model_for):
    with pytest.raises(ValueError, match="no answers"):
        answer_accuracy(model_for(ModularAddition()), [answer_example([1, 2, 3], [])], batch_size=1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"vocab_size": 30}, r"vocab_size=31.*30"),
        ({"max_position_embeddings": 4}, r"max_position_embeddings=5.*4"),
    ],
)
def test_a_model_that_is_too_small_is_an_error_before_training(model_for, changes, named):
    probe = ModularAddition(modulus=29)
    config = TrainingConfig(steps=1, device="cpu")
    with pytest.raises(ValueError, match=named):
        run_probe(model_for(probe, **changes), probe, config, num_train=4, num_held_out=4)


@pytest.mark.parametrize("model_class", [pytest.param(GPT, marks=pytest.mark.slow), GPT2])
def test_a_model_learns_to_copy_and_the_score_is_of_examples_it_has_not_seen(
    model_for, model_class
):
    probe = Copying(min_length=3, length=3, num_symbols=6)
    config = TrainingConfig(
        steps=200, batch_size=32, learning_rate=5e-3, weight_decay=0.01, device="cpu"
    )
    untrained = dataclasses.replace(config, steps=1, learning_rate=1e-9)
    options = {"num_train": 150, "num_held_out": 60, "show_progress": False}
    before = run_probe(model_for(probe, model_class), probe, untrained, **options)
    after = run_probe(model_for(probe, model_class), probe, config, **options)
    assert before.num_answers == after.num_answers == 180
    assert before.chance == after.chance == pytest.approx(1 / 6)
    # the deviation of 180 guesses is 0.028
    assert abs(before.accuracy - 1 / 6) < 0.15
    assert after.accuracy > 0.9
    assert after.train_accuracy > 0.9


def test_labels_that_do_not_follow_a_rule_leave_the_score_at_chance(model_for):
    """What is learnt by heart does not count: held-out answers are not in training."""

    class RandomAnswers(ModularAddition):
        name = "random answers"

        def example(self, rng):
            a, plus, b, equals, _ = super().example(rng)["input_ids"].tolist()
            answer = np.random.default_rng([a, b]).integers(self.modulus)
            return answer_example([a, plus, b, equals, answer], [4])

    probe = RandomAnswers(modulus=12)
    config = TrainingConfig(steps=150, batch_size=32, learning_rate=5e-3, device="cpu")
    score = run_probe(
        *(model_for(probe), probe, config), num_train=32, num_held_out=100, show_progress=False
    )
    assert score.train_accuracy > 0.95
    assert score.accuracy < score.chance + 4 * math.sqrt(score.chance / 100)
