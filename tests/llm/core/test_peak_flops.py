"""What a device can do in a second: known by its name, or measured without a trace."""

import itertools

import pytest
import torch

from llm.core import peak_flops as module
from llm.core.peak_flops import PUBLISHED_TFLOPS, peak_flops


@pytest.fixture
def unmeasured():
    module._measured.cache_clear()
    yield
    module._measured.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    def name(text):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: text)
        return torch.device("cuda")

    return name


def test_a_gpu_is_known_by_its_name(gpu):
    device = gpu("NVIDIA A100-SXM4-80GB")
    assert peak_flops(device, "bf16") == 312e12
    assert peak_flops(device, "fp32") == 19.5e12
    assert peak_flops(device, "fp32", tf32=True) == 156e12
    assert peak_flops(device, "bf16", tf32=True) == 312e12


def test_what_nobody_publishes_is_not_guessed(gpu):
    assert peak_flops(gpu("NVIDIA H900"), "bf16") is None
    # it has no bfloat16
    assert peak_flops(gpu("Tesla T4"), "bf16") is None
    assert peak_flops(torch.device("mps"), "fp32") is None


def test_tensor_cores_double_from_one_precision_to_the_next():
    for peaks in PUBLISHED_TFLOPS.values():
        assert peaks["fp16"] >= 1.9 * peaks.get("tf32", 0)
        assert peaks.get("tf32", peaks["fp32"]) >= peaks["fp32"]


def test_the_cpu_is_measured_by_the_fastest_of_its_products(unmeasured, monkeypatch):
    ticks = itertools.count()
    # a product takes from one tick to the next
    monkeypatch.setattr(module.time, "perf_counter_ns", lambda: next(ticks) * 10_000_000)
    assert peak_flops(torch.device("cpu"), "fp32") == pytest.approx(2 * 1024**3 / 0.01)


def test_the_cpu_is_measured_once_and_without_randomness(unmeasured):
    state, cpu = torch.get_rng_state(), torch.device("cpu")
    peak = peak_flops(cpu, "fp32")
    assert torch.equal(torch.get_rng_state(), state)
    assert peak_flops(cpu, "fp32") == peak
    assert module._measured.cache_info()[:2] == (1, 1)  # hits, misses
    # a machine of this century, and none of the next
    assert 1e8 < peak < 1e15
