"""Training in 16 bits: what is computed in which type, and how the loss is scaled."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from llm.training import (
    NonFiniteLossError,
    Trainer,
    TrainingConfig,
    next_token_loss,
    verify_resume,
)
from llm.training.precision import check_precision, next_loss_scale, tf32

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def losses(run_folder):
    lines = (run_folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@pytest.mark.parametrize("precision", HALF)
def test_the_loss_under_autocast_is_that_of_rounded_inputs(precision):
    """Against plain cross entropy of the same rounded factors, in float64."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 700, 16, generator=generator, requires_grad=True)
    weight = torch.randn(40, 16, generator=generator, requires_grad=True)
    labels = torch.randint(0, 40, (2, 700), generator=generator)
    labels[0, 5:9] = -100
    with torch.autocast("cpu", dtype=HALF[precision]):
        loss = next_token_loss(hidden, weight, labels, num_targets=1390)
    loss.backward()
    assert loss.dtype == hidden.grad.dtype == weight.grad.dtype == torch.float32

    rounded = [t.detach().to(HALF[precision]).double().requires_grad_() for t in (hidden, weight)]
    logits = rounded[0][:, :-1] @ rounded[1].t()
    exact = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum") / 1390
    exact.backward()
    # the logits and what flows back are rounded once more, to 8 or 11 bits
    bound = {"bf16": 2e-2, "fp16": 3e-3}[precision]
    assert loss.item() == pytest.approx(exact.item(), rel=bound / 10)
    for got, expected in zip((hidden.grad, weight.grad), rounded, strict=True):
        assert (got - expected.grad).norm() < bound * expected.grad.norm()


@pytest.mark.parametrize("precision", HALF)
def test_weights_and_optimizer_stay_in_float32_and_training_follows_float32(
    make_model, make_config, dataset, tmp_path, precision
):
    for name in ("fp32", precision):
        config = make_config(steps=30, precision=name, save_every=30, learning_rate=3e-3)
        Trainer(
            make_model(dropout=0.0),
            dataset,
            config,
            run_folder=tmp_path / name,
            show_progress=False,
        ).train()
    saved = tmp_path / precision / "step-000030"
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert {tensor.dtype for tensor in load_file(saved / file).values()} == {torch.float32}
    exact, rounded = losses(tmp_path / "fp32"), losses(tmp_path / precision)
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.01)
    assert rounded[-1] < rounded[0] - 0.5


def test_products_are_in_the_precision_that_was_asked_for(make_model, make_config, dataset):
    for precision, dtype in {"fp32": torch.float32, **HALF}.items():
        model, seen = make_model(), set()
        for block in model.decoder.blocks:
            block.attention.qkv_proj.register_forward_hook(
                lambda module, inputs, output, seen=seen: seen.add(output.dtype)
            )
        trainer = Trainer(
            model,
            dataset,
            make_config(precision=precision),
            validation_dataset=dataset,
            show_progress=False,
        )
        trainer.train_step()
        trainer.validate()
        assert seen == {dtype}


def test_small_gradients_survive_half_precision(make_model, make_config, dataset):
    """The loss of many targets has gradients below the range of float16; the scale saves them."""
    model = make_model(dropout=0.0)
    trainer = Trainer(model, dataset, make_config(precision="fp16"), show_progress=False)
    batch = trainer._next_batches()[0]
    gradients = {}
    for scale in (1.0, 2.0**16):
        trainer.gradient([batch], num_targets=10**7, loss_scale=scale)
        gradients[scale] = model.decoder.blocks[0].attention.qkv_proj.weight.grad / scale
        model.zero_grad()
    exact = Trainer(make_model(dropout=0.0), dataset, make_config(), show_progress=False)
    exact.gradient([batch], num_targets=10**7)
    expected = exact.model.decoder.blocks[0].attention.qkv_proj.weight.grad

    def error(gradient):
        return ((gradient - expected).norm() / expected.norm()).item()

    assert error(gradients[2.0**16]) < 0.01
    assert error(gradients[1.0]) > 0.1


def test_an_overflow_halves_the_scale_and_leaves_the_step_out(make_model, make_config, dataset):
    model = make_model(dropout=0.0)
    trainer = Trainer(model, dataset, make_config(precision="fp16", steps=9), show_progress=False)
    trainer.state.loss_scale = 2.0**40
    before = {name: p.clone() for name, p in model.named_parameters()}
    trainer.train_step()
    assert trainer.state.loss_scale == 2.0**39
    assert trainer.state.skipped_steps == trainer.step == 1
    assert trainer.tokens == 0
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    trainer.state.loss_scale = 2.0**10
    loss, grad_norm, _ = trainer.train_step()
    assert trainer.state.skipped_steps == 1
    # the norm is that of the gradient, whatever the scale
    plain = Trainer(make_model(dropout=0.0), dataset, make_config(steps=9), show_progress=False)
    plain.state.step = 1
    assert plain.train_step()[:2] == pytest.approx((loss, grad_norm), rel=0.01)


def test_a_loss_that_is_no_number_is_not_blamed_on_the_scale(make_model, make_config, dataset):
    model = make_model()
    torch.nn.init.constant_(model.decoder.token_embeddings.weight, math.nan)
    trainer = Trainer(model, dataset, make_config(precision="fp16"), show_progress=False)
    with pytest.raises(NonFiniteLossError, match=r"step 1: loss nan"):
        trainer.train()


def test_the_scale_follows_the_rule():
    scale, steps = next_loss_scale(2.0**16, 0, overflow=False)
    assert (scale, steps) == (2.0**16, 1)
    assert next_loss_scale(2.0**16, 1999, overflow=False) == (2.0**17, 0)
    assert next_loss_scale(2.0**16, 1999, overflow=True) == (2.0**15, 0)
    assert next_loss_scale(1.0, 5, overflow=True) == (1.0, 0)
    assert next_loss_scale(2.0**24, 1999, overflow=False) == (2.0**24, 0)


@pytest.mark.parametrize("precision", HALF)
def test_it_resumes_to_the_same_bits(make_model, make_config, dataset, precision):
    def make(folder):
        trainer = Trainer(
            make_model(dropout=0.2),
            dataset,
            make_config(precision=precision, ema_decay=0.9, max_tokens=20),
            validation_dataset=dataset,
            run_folder=folder,
            show_progress=False,
        )
        # overflows in the first steps, so that the scale is part of what is resumed
        trainer.state.loss_scale = 2.0**37
        return trainer

    verify_resume(make, steps=4)


def test_a_device_without_16_bits_is_refused():
    with pytest.raises(ValueError, match=r"'bf16' is not to be had on meta"):
        check_precision("bf16", torch.device("meta"))
    check_precision("fp32", torch.device("meta"))


def test_tf32_is_switched_for_training_alone():
    switch = torch.backends.cuda.matmul
    before = switch.allow_tf32
    with tf32(False):
        assert switch.allow_tf32 == before
    with tf32(True):
        assert switch.allow_tf32
    assert switch.allow_tf32 == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("precision", "float16"),
        ("precision", 16),
        ("tf32", 1),
        ("compile", "yes"),
        ("gradient_checkpointing", None),
        ("ema_decay", 1.0),
        ("ema_decay", math.nan),
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("parallel", "tensor"),
    ],
)
def test_other_values_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        TrainingConfig(steps=1, **{field: value})
