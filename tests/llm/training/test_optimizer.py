"""get_optimizer and the schedules."""

import math

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from llm.training import cosine_schedule, get_optimizer, linear_schedule


def test_matrices_decay_and_vectors_do_not(make_model):
    model = make_model()
    optimizer = get_optimizer(model, weight_decay=0.3)
    decays = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(decays) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        expected = 0.3 if parameter.dim() == 2 else 0.0
        assert decays[id(parameter)] == expected, name
        assert (parameter.dim() == 2) == (name.endswith("weight") and "norm" not in name)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.9), weight_decay=0.2)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.9), weight_decay=0.2)),
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.2)),
    ],
)
def test_the_named_optimizer_moves_as_pytorchs_own(name, plain):
    def trained(make):
        layer = torch.nn.Linear(3, 2, bias=False)
        torch.nn.init.constant_(layer.weight, 0.5)
        optimizer = make(layer)
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
        return layer.weight.detach()

    ours = trained(
        lambda layer: get_optimizer(
            layer, name, learning_rate=0.1, weight_decay=0.2, betas=(0.8, 0.9)
        )
    )
    torch.testing.assert_close(ours, trained(lambda layer: plain(layer.parameters())))


def test_frozen_parameters_are_left_out(make_model):
    model = make_model()
    model.decoder.token_embeddings.requires_grad_(False)
    optimized = [p for g in get_optimizer(model).param_groups for p in g["params"]]
    assert all(p is not model.decoder.token_embeddings.weight for p in optimized)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "adamx"}, "adamx.*adamw, adam, sgd"),
        ({"learning_rate": -1}, "learning_rate=-1"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
    ],
)
def test_bad_arguments_are_refused(make_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        get_optimizer(make_model(), **arguments)


def test_nothing_trainable_is_refused():
    with pytest.raises(ValueError, match="no trainable parameters"):
        get_optimizer(torch.nn.Linear(2, 2).requires_grad_(False))


def rates(schedule, **arguments):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule(optimizer, **arguments)
    seen = []
    for _ in range(arguments["total_steps"]):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


def test_cosine_by_its_formula():
    got = rates(cosine_schedule, warmup_steps=4, total_steps=12, min_ratio=0.1)
    warm = [2.0 * (i + 1) / 4 for i in range(4)]
    down = [2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi * i / 8)) / 2) for i in range(9)]
    assert got == pytest.approx(warm + down)
    assert got[-1] == pytest.approx(0.2)


def test_linear_falls_as_transformers_own():
    ours = rates(linear_schedule, warmup_steps=0, total_steps=10)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, 10)
    theirs = []
    for _ in range(11):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert ours == pytest.approx(theirs)


def test_a_schedule_may_be_all_warm_up():
    assert rates(cosine_schedule, warmup_steps=3, total_steps=3)[:3] == pytest.approx(
        [2 / 3, 4 / 3, 2]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warmup_steps": 5, "total_steps": 4}, "warmup_steps=5 is more than total_steps=4"),
        ({"warmup_steps": -1, "total_steps": 4}, "warmup_steps=-1"),
        ({"warmup_steps": 0, "total_steps": 0}, "total_steps=0"),
        ({"warmup_steps": 0, "total_steps": 4, "min_ratio": 2}, "min_ratio=2"),
    ],
)
def test_bad_schedules_are_refused(arguments, message):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=message):
        linear_schedule(optimizer, **arguments)
