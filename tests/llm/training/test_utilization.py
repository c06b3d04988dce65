"""Model FLOPs utilisation: the numbers of the paper's definition, where a peak is known."""

import json

import pytest
import torch

from llm.core.flops import training_flops
from llm.models.gpt import GPT2Config
from llm.training import Trainer, TrainingConfig
from llm.training import utilization as module
from llm.training.utilization import Utilization

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def peak(monkeypatch):
    def be(value):
        monkeypatch.setattr(module, "peak_flops", lambda device, precision, *, tf32: value)

    return be


def test_it_is_the_models_operations_by_the_devices(peak):
    peak(100e12)
    config = GPT2Config.gpt2_small()
    training = TrainingConfig(steps=1, gradient_checkpointing=True)
    # 50,000 tokens a second at 1024 are 42.7 TFLOP/s: of two devices of 100 each
    share = Utilization(config, training, GPU, 2).metrics(1023 * 16, 16, 50_000)["mfu"]
    assert share == training_flops(config, 1024) * 50_000 / 200e12
    assert share == pytest.approx(6 * 124e6 * 50_000 / 200e12, rel=0.2)


def test_an_unknown_peak_is_not_logged(peak):
    peak(None)
    utilization = Utilization(GPT2Config.gpt2_small(), TrainingConfig(steps=1), GPU, 1)
    assert utilization.metrics(1000, 10, 10.0) == {}


def test_a_short_run_on_a_cpu_is_not_held_up(peak):
    peak(1e12)
    utilization = Utilization(GPT2Config.gpt2_small(), TrainingConfig(steps=1), CPU, 1)
    assert utilization.metrics(1000, 10, 250.0) == {}
    assert utilization.metrics(1000, 10, 250.0) == {}
    assert utilization.metrics(1000, 10, 250.0).keys() == {"mfu"}


def test_a_run_logs_it_beside_its_speed(
    make_model, dataset, make_config, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "MEASURE_AFTER_SECONDS", 0)
    run = tmp_path / "run"
    trainer = Trainer(
        *(make_model(), dataset, make_config()),
        run_folder=run,
        tokenizer=tokenizer,
        show_progress=False,
    )
    trainer.train()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    logged = [line for line in lines if "tokens_per_second" in line]
    peak = module.peak_flops(CPU, "fp32")
    # one of the text's blocks, its last, is shorter than the others
    least, most = (training_flops(trainer.model.config, length) for length in (12, 16))
    assert len(logged) == 4
    for line in logged:
        assert 0 < line["mfu"] < 1
        assert least <= line["mfu"] * peak / line["tokens_per_second"] <= most * (1 + 1e-9)
