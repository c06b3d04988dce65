"""Linear layers with their weights laid out once for the processor: forward only.

A token needs each weight once, so that generation waits for memory: fewer bytes
of a weight, or the same bytes in the order in which they are read, are faster.

The kernels are PyTorch's own, but not all of them are public. Each class asks
for those that it needs, and is not made where they are missing.
"""

from __future__ import annotations

import warnings
import weakref
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

# Numbers of a weight below which a core's cache holds it.
SMALL_WEIGHT = 2**19


class PackedLinear(nn.Module):
    """y = x Wᵀ + b, with a copy of W in a form of its own.

    The bias is shared with the layer that it was made of, the weight is not:
    `check_current` says whether it still is that layer's.

    Args:
        linear: the layer to make it of; it is left as it is.

    Raises:
        ValueError: this PyTorch, or this processor, has no kernel for it.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.check_support()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        # weak, so that whoever needs the packed model alone can let go of the other
        self._source = weakref.ref(linear)
        self._weight = weakref.ref(linear.weight)
        self._version = linear.weight._version
        self._first_row = linear.weight[0].detach().clone()
        self.eval()

    @classmethod
    def check_support(cls) -> None:
        """Raise ValueError where it cannot run."""

    def multiply(self, x: Tensor) -> Tensor:
        """(..., in) times the packed weight, and the bias: (..., out)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), float32.

        Raises:
            ValueError: a gradient is asked for, or x is of another width.
        """
        if x.requires_grad:
            raise ValueError(
                "a model prepared for generation has no gradients: call it under torch.no_grad()"
            )
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x of shape {tuple(x.shape)} must be (..., {self.in_features})")
        # not all kernels take a vector
        return self.multiply(x) if x.dim() > 1 else self.multiply(x[None])[0]

    def is_one_row(self, x: Tensor) -> bool:
        """Whether x (..., in) is that of one token."""
        return x.numel() == self.in_features

    @torch.no_grad()
    def check_current(self) -> None:
        """Raise ValueError if the weight has changed since, or the layer has another bias."""
        source, weight = self._source(), self._weight()
        if source is None and weight is None:
            return
        if (
            weight is None
            or (source is not None and source.weight is not weight)
            or (source is not None and source.bias is not self.bias)
            or weight._version != self._version
            # fused optimizers change weights and not their version
            or not torch.equal(weight[0], self._first_row)
        ):
            raise ValueError(
                "the model's weights have changed since it was prepared for generation: "
                "prepare it again"
            )

    def _save_to_state_dict(self, *_: object) -> None:
        raise ValueError("a model prepared for generation is not for saving: save the model itself")

    def _load_from_state_dict(self, *_: object) -> None:
        raise ValueError("a model prepared for generation takes no weights: load and prepare anew")

    def extra_repr(self) -> str:
        """What printing a model says of it."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class Float32Linear(PackedLinear):
    """Full precision: in oneDNN's blocks, or, for one row of a small layer, transposed.

    Each copy is made when it is first needed.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self._plain = linear.weight.detach()
        self._small = linear.weight.numel() < SMALL_WEIGHT

    @classmethod
    def check_support(cls) -> None:
        """Raise ValueError unless oneDNN is there."""
        _check_onednn()

    @cached_property
    def _transposed(self) -> Tensor:
        return self._plain.t().contiguous()  # (in, out)

    @cached_property
    def _blocked(self) -> Tensor:
        return _onednn_blocks(self._plain)

    def multiply(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if not (self._small and self.is_one_row(x)):
            return _onednn_linear(x, self._blocked, self.bias)
        if self.bias is None:
            return x @ self._transposed
        y = torch.addmm(self.bias, x.view(1, -1), self._transposed)
        return y.view(*x.shape[:-1], -1)


class BFloat16Linear(PackedLinear):
    """W, x and W x rounded to bfloat16, in oneDNN's blocks; products are summed in float32."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self._blocked = _onednn_blocks(linear.weight.detach().bfloat16())

    @classmethod
    def check_support(cls) -> None:
        """Raise ValueError unless oneDNN computes in bfloat16 here."""
        _check_onednn()
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise ValueError("dtype=torch.bfloat16: this processor has no kernels for it")

    def multiply(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        y = _onednn_linear(x.bfloat16(), self._blocked, None).float()
        return y if self.bias is None else y.add_(self.bias)


class Float16Linear(PackedLinear):
    """W rounded to float16; x, b and the sum are float32 (FBGEMM).

    As many bytes as bfloat16, and a fraction of its error.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        limit = torch.finfo(torch.float16).max
        if bool((linear.weight.detach().abs() > limit).any()):
            raise ValueError(f"a weight is beyond ±{limit:g}, float16's range: use another dtype")
        weight = linear.weight.detach().float().contiguous()
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight, None)

    @classmethod
    def check_support(cls) -> None:
        """Raise ValueError unless FBGEMM is there."""
        _check_fbgemm("dtype=torch.float16")

    def multiply(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        y = cast(Tensor, torch.ops.quantized.linear_dynamic_fp16.default(x, self._packed))
        return y if self.bias is None else y.add_(self.bias)


class Int8Linear(PackedLinear):
    """W = diag(scale) Q, Q of int8, a scale for each output; x is rounded to 8 bits as it comes.

    The kernel (FBGEMM) has one scale for all of x. So each row is brought to the
    range [-1, 1] before, and back after: a token with outliers, such as the first
    of a text, costs the others nothing.

    Reference: Dettmers et al., "LLM.int8()", arXiv:2208.07339, section 3,
    vector-wise quantization.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        weight = linear.weight.detach().float()
        # the kernel keeps this tensor, which is the layer's own
        bias = None if linear.bias is None else linear.bias.detach().float()
        scales = (weight.abs().amax(dim=1) / 127).clamp(min=torch.finfo().tiny)  # (out,)
        quantized = (weight / scales[:, None]).round().to(torch.int8)
        with warnings.catch_warnings():
            # these tensors will go one day; `check_support` then says so
            warnings.filterwarnings("ignore", message=r"(?s).*quantized tensor creation")
            self._packed = torch.ops.quantized.linear_prepack(
                torch._make_per_channel_quantized_tensor(
                    quantized, scales.double(), torch.zeros_like(scales, dtype=torch.int64), 0
                ),
                bias,
            )

    @classmethod
    def check_support(cls) -> None:
        """Raise ValueError unless FBGEMM is there."""
        _check_fbgemm('quantize="int8"')

    def multiply(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if self.is_one_row(x):
            return cast(Tensor, torch.ops.quantized.linear_dynamic.default(x, self._packed))
        high, low = x.amax(dim=-1, keepdim=True), x.amin(dim=-1, keepdim=True)
        largest = torch.maximum(high, -low).clamp_(min=torch.finfo().tiny)  # (..., 1)
        y: Tensor = torch.ops.quantized.linear_dynamic.default(x / largest, self._packed)
        if self.bias is None:
            return y.mul_(largest)
        # the kernel has added the bias to what is yet to be scaled: largest (y - b) + b
        return torch.lerp(self.bias.detach(), y, largest, out=y)


def _check_onednn() -> None:
    operators = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    if not torch._C._has_mkldnn or not all(hasattr(torch.ops.mkldnn, name) for name in operators):
        raise ValueError("this PyTorch has no oneDNN to pack weights for: generate without")


def _onednn_blocks(weight: Tensor) -> Tensor:
    # the layout depends on the rows to come; that for eight serves one and hundreds as well
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 8))


def _onednn_linear(x: Tensor, blocked: Tensor, bias: Tensor | None) -> Tensor:
    y = torch.ops.mkldnn._linear_pointwise.default(x.contiguous(), blocked, bias, "none", [], "")
    return cast(Tensor, y)


def _check_fbgemm(what: str) -> None:
    operators = ("linear_prepack", "linear_prepack_fp16", "linear_dynamic", "linear_dynamic_fp16")
    engines = torch.backends.quantized
    if (
        # the engine that packs is the one that PyTorch is set to
        engines.engine not in ("x86", "fbgemm")
        or not all(hasattr(torch.ops.quantized, name) for name in operators)
        or not hasattr(torch, "_make_per_channel_quantized_tensor")
    ):
        raise ValueError(
            f"{what} needs FBGEMM, which is on x86 processors; the quantized engine of this "
            f"PyTorch is {engines.engine}"
        )
