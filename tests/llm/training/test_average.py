"""The moving average of the weights: what it is, and where it is used."""

import json

import pytest
import torch
from safetensors.torch import load_file

from llm.models.gpt import GPT2
from llm.training import Trainer, verify_checkpoint, verify_resume
from llm.training.average import WeightAverage


def trainer_of(model, dataset, config, **options):
    return Trainer(model, dataset, config, show_progress=False, **options)


def test_it_is_the_sum_that_its_definition_says(make_model):
    model, history = make_model(), []
    average = WeightAverage(model, 0.6)
    expected = model.lm_head.weight.detach().clone().double()
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 12):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        average.update(model, step)
        decay = min(0.6, (1 + step) / (10 + step))
        history.append(decay)
        expected = decay * expected + (1 - decay) * model.lm_head.weight.detach().double()
    assert history[0] < 0.2
    assert history[-1] == 0.571428571428571428
    name = "decoder.token_embeddings.weight"
    torch.testing.assert_close(average.weights[name].double(), expected, rtol=1e-5, atol=1e-6)


def test_it_is_validated_sampled_and_published_and_the_weights_train_on(
    make_model, make_config, dataset, tokenizer, tmp_path
):
    def train(folder, **changes):
        trainer = trainer_of(
            make_model(),
            dataset,
            make_config(steps=20, save_every=10, validate_every=10, sample_every=10, **changes),
            validation_dataset=dataset,
            tokenizer=tokenizer,
            sample_prompts=["The"],
            sample_options={"max_new_tokens": 3, "do_sample": False},
            run_folder=tmp_path / folder,
        )
        return trainer, trainer.train()

    (plain, _), (averaged, result) = train("plain"), train("ema", ema_decay=0.9)
    for one, other in zip(plain.model.parameters(), averaged.model.parameters(), strict=True):
        assert torch.equal(one, other)
    average = {k: v.clone() for k, v in averaged.average.weights.items()}
    final = GPT2.from_pretrained(tmp_path / "ema" / "final")
    for name, weight in final.named_parameters():
        assert torch.equal(weight, average[name])
    saved = tmp_path / "ema" / "step-000020"
    verify_checkpoint(saved)
    for name, weight in GPT2.from_pretrained(saved / "ema").named_parameters():
        assert torch.equal(weight, average[name])
    own = load_file(saved / "model.safetensors")
    kept = load_file(tmp_path / "plain" / "step-000020" / "model.safetensors")
    assert all(torch.equal(own[name], kept[name]) for name in kept)
    # the loss that is reported is the published model's
    check = trainer_of(final, dataset, make_config(), validation_dataset=dataset)
    assert check.validate().loss == result.loss
    lines = (tmp_path / "ema" / "metrics.jsonl").read_text("utf-8").splitlines()
    validations = [x["validation_loss"] for x in map(json.loads, lines) if "validation_loss" in x]
    assert validations[-1] == result.loss


def test_the_weights_come_back_when_validation_fails(make_model, make_config, dataset):
    trainer = trainer_of(
        make_model(), dataset, make_config(ema_decay=0.5), validation_dataset=dataset
    )
    trainer.train_step()
    before = [p.clone() for p in trainer.model.parameters()]

    def fail():
        raise KeyError

    trainer._check_signals = fail
    with pytest.raises(KeyError):
        trainer.validate()
    assert all(map(torch.equal, before, trainer.model.parameters()))


def test_it_is_resumed_to_the_bit(make_model, make_config, dataset):
    def make(folder):
        config = make_config(ema_decay=0.7, validate_every=1)
        return trainer_of(
            make_model(), dataset, config, validation_dataset=dataset, run_folder=folder
        )

    verify_resume(make, steps=3)


def test_a_damaged_average_is_noticed_and_a_new_one_begins_with_the_weights(
    make_model, make_config, dataset, tmp_path
):
    def make(**changes):
        return trainer_of(
            make_model(), dataset, make_config(save_every=2, **changes), run_folder=tmp_path / "run"
        )

    make(ema_decay=0.9).train(until=2)
    with pytest.raises(ValueError, match=r"ema_decay was 0.9 and is 0.5"):
        make(ema_decay=0.5).resume()
    file = tmp_path / "run" / "step-000002" / "ema" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"ema/model.safetensors is damaged"):
        make(ema_decay=0.9).resume(tmp_path / "run" / "step-000002")
    file.unlink()
    with pytest.raises(ValueError, match=r"ema/model.safetensors is missing"):
        make(ema_decay=0.9).resume(tmp_path / "run" / "step-000002")


def test_an_average_may_begin_later(make_model, make_config, dataset, tmp_path):
    def make(**changes):
        return trainer_of(
            make_model(), dataset, make_config(**changes), run_folder=tmp_path / "run"
        )

    make().train(until=2)
    later = make(ema_decay=0.9)
    later.resume(allow_changed=["ema_decay"])
    for name, parameter in later.model.named_parameters():
        assert torch.equal(later.average.weights[name], parameter)
