"""Floating-point operations that a device can do in a second: published, or measured."""

from __future__ import annotations

import math
import time
from functools import cache

import torch
import torch.nn.functional as F

from llm.core.fast_linear import fast_linear, is_available

# Dense peaks in TFLOP/s, sums in float32, by the name that CUDA gives the device. From NVIDIA's
# data sheets and architecture white papers; they print twice as much "with sparsity".
_A100 = {"bf16": 312.0, "fp16": 312.0, "tf32": 156.0, "fp32": 19.5}
_H100 = {"bf16": 989.4, "fp16": 989.4, "tf32": 494.7, "fp32": 66.9}
PUBLISHED_TFLOPS: dict[str, dict[str, float]] = {
    "Tesla V100-SXM2-16GB": {"fp16": 125.0, "fp32": 15.7},
    "Tesla V100-SXM2-32GB": {"fp16": 125.0, "fp32": 15.7},
    "Tesla T4": {"fp16": 65.0, "fp32": 8.1},
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA L4": {"bf16": 121.0, "fp16": 121.0, "tf32": 60.0, "fp32": 30.3},
    "NVIDIA L40S": {"bf16": 362.0, "fp16": 362.0, "tf32": 183.0, "fp32": 91.6},
    "NVIDIA H100 PCIe": {"bf16": 756.5, "fp16": 756.5, "tf32": 378.0, "fp32": 51.2},
    "NVIDIA H100 80GB HBM3": _H100,
    "NVIDIA H200": _H100,
    "NVIDIA GeForce RTX 3090": {"bf16": 71.0, "fp16": 71.0, "tf32": 35.6, "fp32": 35.6},
    "NVIDIA GeForce RTX 4090": {"bf16": 165.2, "fp16": 165.2, "tf32": 82.6, "fp32": 82.6},
}
# measured: the best of so many products of square matrices, after one that does not count
_WIDTH, _PRODUCTS = 1024, 5


def peak_flops(device: torch.device, precision: str, *, tf32: bool = False) -> float | None:
    """FLOP/s of a device in products of a precision; None where nobody knows.

    A GPU's is what its maker publishes, if its name is in `PUBLISHED_TFLOPS`; the CPU's is
    measured, once a process, with the threads that PyTorch has, in some 0.2 s.

    Args:
        device: which.
        precision: "fp32", "bf16" or "fp16".
        tf32: float32 products are those of NVIDIA's tensor cores.
    """
    if device.type == "cpu":
        return _measured(precision, torch.get_num_threads())
    if device.type != "cuda":
        return None
    of_precision = "tf32" if tf32 and precision == "fp32" else precision
    published = PUBLISHED_TFLOPS.get(torch.cuda.get_device_name(device), {}).get(of_precision)
    return None if published is None else published * 1e12


@cache
def _measured(precision: str, num_threads: int) -> float:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    # of no random numbers, which would move the generator of the training
    matrix = torch.full((_WIDTH, _WIDTH), 0.5, dtype=dtype)
    kernels = [F.linear, fast_linear] if precision == "fp32" and is_available() else [F.linear]
    best = math.inf
    with torch.no_grad():
        for kernel in kernels:
            kernel(matrix, matrix)
            for _ in range(_PRODUCTS):
                started = time.perf_counter_ns()
                kernel(matrix, matrix)
                best = min(best, time.perf_counter_ns() - started)
    return 2 * _WIDTH**3 / best * 1e9
