"""Linear layers by the faster of a CPU's two libraries, chosen by a short probe.

PyTorch multiplies float32 matrices on a CPU by Intel's MKL, which leaves an
AMD core in part idle; oneDNN, which PyTorch carries as well and uses for
bfloat16, fills it, at full float32 precision. `set_linear_kernel` sends the
linear layers of any model there, their gradients too.

Only dense float32 matrices of some size go that way. Other dtypes, devices
and tensor subclasses, autocast and `torch.compile` keep PyTorch's own path.

Reference: oneDNN, "Matrix Multiplication" and "Inner Product" primitives,
https://uxlfoundation.github.io/oneDNN/.
"""

from __future__ import annotations

import time
from functools import cache
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.core.config import check_choice

LINEAR_KERNELS = ("auto", "fast", "plain")

# Multiplications below which a call costs more than the product saves: 1024 rows, 256 × 256.
MIN_PRODUCT = 2**26
# How much faster the probe must find it. Nearer a tie it would answer now this, now that, and two
# runs of one seed would differ in their last bits; a whole step gains little there anyway.
MARGIN = 1.4


def choose_linear(kernel: str = "auto") -> str:
    """Which kernel linear layers should have here: "fast" or "plain".

    The two round differently, and the probe is a measurement: what must be
    repeated to the bit records the answer, and gives it instead of "auto", as the
    Trainer does.

    Args:
        kernel: "fast" or "plain" to have that one, "auto" to measure once a
            process which is faster here, in some 0.2 s.

    Raises:
        ValueError: `kernel` is another word.
        RuntimeError: "fast" was asked of a PyTorch that has no such operator.
    """
    check_choice("linear kernel", kernel, LINEAR_KERNELS)
    if kernel == "fast" and not is_available():
        raise RuntimeError(
            f'PyTorch {torch.__version__} on this machine has no oneDNN product: take "auto" or '
            '"plain"'
        )
    if kernel == "auto":
        return "fast" if is_available() and _is_faster(torch.get_num_threads()) else "plain"
    return kernel


def set_linear_kernel(model: nn.Module, kernel: str = "auto") -> str:
    """Let every `nn.Linear` of a model take a kernel; their names and weights stay as they are.

    Subclasses of `nn.Linear` are left alone: they have kernels of their own.

    Args:
        model: changed in place, and changed back by "plain".
        kernel: as for `choose_linear`.

    Returns:
        "fast" or "plain".
    """
    chosen = choose_linear(kernel)
    for layer in model.modules():
        if type(layer) in (nn.Linear, FastLinear):
            layer.__class__ = FastLinear if chosen == "fast" else nn.Linear
    return chosen


class FastLinear(nn.Linear):
    """`nn.Linear` by `fast_linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return fast_linear(input, self.weight, self.bias)


def fast_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, by oneDNN where that is possible and pays."""
    if not _fits(input, weight, bias):
        return F.linear(input, weight, bias)
    rows = input.flatten(0, -2)  # (N, K)
    return _product(rows, weight, bias).view(*input.shape[:-1], len(weight))


def transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """The product aᵀ · b, for a (N, M) and b (N, K), by oneDNN where that is possible and pays.

    Returns:
        (M, K), its columns contiguous in place of its rows if that took less time.
    """
    if not _fits(a.t(), b.t(), None):
        return a.t() @ b
    return _transposed_product(a, b)


@cache
def is_available() -> bool:
    """Whether PyTorch has oneDNN's product here, and it computes what it should.

    The operator is the one that `torch.compile` makes of linear layers; it is
    not public, so that another version may lack or change it.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    a, b, bias = (torch.randn(shape, generator=generator) for shape in ((70, 96), (80, 96), (80,)))
    exact = F.linear(a.double(), b.double(), bias.double())
    try:
        ours = _onednn(a, b, bias)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return ours.shape == exact.shape and bool((ours - exact).norm() <= 1e-6 * exact.norm())


def _onednn(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """The product a · bᵀ + bias, for a (N, K) and b (M, K)."""
    if not (b.is_contiguous() or b.t().is_contiguous()):
        # of any other layout, such as an expanded one, oneDNN has only a plain loop
        b = b.contiguous()
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return product


class _Product(torch.autograd.Function):
    """`_onednn` with gradients, which are products again, and so have gradients."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        return _onednn(a, b, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, b, _ = inputs
        ctx.save_for_backward(a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (grad,) = grads
        a, b = ctx.saved_tensors
        grad_a = grad_b = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_a = _product(grad, b.t(), None)
        if ctx.needs_input_grad[1]:
            grad_b = _transposed_product(grad, a)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0)
        return grad_a, grad_b, grad_bias


def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = _Product.apply(a, b, bias)
    return product


def _transposed_product(a: Tensor, b: Tensor) -> Tensor:
    # of two that lie the wrong way the first is copied: let it be the narrower one
    if a.shape[1] < b.shape[1]:
        return _product(a.t(), b.t(), None)
    return _product(b.t(), a.t(), None).t()


def _fits(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    operands = (input, weight) if bias is None else (input, weight, bias)
    return (
        not torch.compiler.is_compiling()
        and all(
            type(x) in (Tensor, nn.Parameter)
            and x.dtype == torch.float32
            and x.layout == torch.strided
            and x.device.type == "cpu"
            for x in operands
        )
        and not torch.is_autocast_enabled("cpu")
        and weight.dim() == 2
        and input.dim() >= 2
        and input.shape[-1] == weight.shape[1]
        and (bias is None or bias.shape == weight.shape[:1])
        and input.numel() * len(weight) >= MIN_PRODUCT
    )


@cache
def _is_faster(num_threads: int) -> bool:
    """Forward and backward of a layer of 512 × 1024, both ways, in turns."""
    generator = torch.Generator().manual_seed(0)
    x, weight, grad = (
        torch.randn(shape, generator=generator).requires_grad_()
        for shape in ((512, 512), (1024, 512), (512, 1024))
    )
    ratios = []
    with torch.enable_grad():
        for _ in range(7):
            seconds = []
            for linear in (F.linear, fast_linear):
                began = time.perf_counter()
                torch.autograd.grad(linear(x, weight), (x, weight), grad)
                seconds.append(time.perf_counter() - began)
            ratios.append(seconds[0] / seconds[1])
    # in the first round the kernels are made
    return median(ratios[1:]) >= MARGIN
