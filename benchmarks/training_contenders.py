"""What `training.py` compares: one GPT-2, trained by this project and by others.

Each contender is a model with the same weights, and the step that its own training script would
make: forward, backward, clip, AdamW. bfloat16 is autocast.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.core.fast_linear import set_linear_kernel
from llm.models.gpt import GPT2, GPT2Config
from llm.training import TrainingConfig, get_optimizer
from llm.training.step_gradient import StepGradient


@dataclass(frozen=True)
class Shape:
    """A size of model and batch."""

    embed_dim: int
    num_heads: int
    num_layers: int
    context: int
    vocab_size: int
    batch_size: int

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.batch_size * self.context

    @property
    def config(self) -> GPT2Config:
        """Of our own model."""
        return GPT2Config(
            vocab_size=self.vocab_size,
            embed_dim=self.embed_dim,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            max_position_embeddings=self.context,
            dropout=0.0,
        )


SHAPES = {
    "S": Shape(256, 4, 4, 128, 8192, 16),
    "M": Shape(384, 6, 6, 256, 8192, 8),
    "L": Shape(768, 12, 12, 1024, 50257, 1),
    "tiny": Shape(32, 2, 2, 16, 100, 2),
}

Loss = Callable[[Tensor], Tensor]


def forward_and_backward(loss_of: Loss, bf16: bool) -> Loss:
    """The loss of token ids (B, T); the model's parameters get its gradient."""

    def gradient(ids: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of(ids)
        loss.backward()
        return loss

    return gradient


@dataclass
class Contender:
    """A model, what makes the gradient of its loss and returns the loss, and its optimizer."""

    name: str
    model: nn.Module
    gradient: Loss
    optimizer: torch.optim.Optimizer
    bf16: bool

    def step(self, ids: Tensor) -> tuple[float, float]:
        """Train on a batch; the loss, and the gradient's norm before clipping."""
        loss = self.gradient(ids)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item(), norm.item()


def our_model(shape: Shape) -> GPT2:
    """The model whose weights all have."""
    torch.manual_seed(0)
    return GPT2(shape.config)


def ours(shape: Shape, bf16: bool, kernel: str = "auto") -> Contender:
    """Our own model, loss and optimizer."""
    model = our_model(shape)
    set_linear_kernel(model, kernel)
    config = TrainingConfig(steps=1, precision="bf16" if bf16 else "fp32", device="cpu")
    step_gradient = StepGradient(model, config, torch.device("cpu"))

    def gradient(ids: Tensor) -> Tensor:
        num_targets = ids.shape[0] * (ids.shape[1] - 1)
        return step_gradient([{"input_ids": ids, "labels": ids}], num_targets=num_targets)

    return Contender("ours", model, gradient, get_optimizer(model), bf16)


def transformers_model(attention: str) -> Callable[[Shape, bool], Contender]:
    """GPT-2 of transformers; the HF Trainer's optimizer is the fused AdamW too."""

    def make(shape: Shape, bf16: bool) -> Contender:
        import transformers

        with tempfile.TemporaryDirectory() as folder:
            our_model(shape).save_pretrained(folder)
            model = transformers.GPT2LMHeadModel.from_pretrained(
                folder, attn_implementation=attention
            ).train()

        def loss(ids: Tensor) -> Tensor:
            return model(input_ids=ids, labels=ids, use_cache=False).loss

        return Contender(
            f"transformers {attention}", model, forward_and_backward(loss, bf16), adamw(model), bf16
        )

    return make


def nanogpt(folder: Path) -> Callable[[Shape, bool], Contender]:
    """A clone of karpathy/nanoGPT, with GPT-2's form of GELU; its own AdamW, not fused."""

    def make(shape: Shape, bf16: bool) -> Contender:
        sys.path.insert(0, str(folder))
        try:
            from model import GPT, GPTConfig
        finally:
            sys.path.remove(str(folder))
        config = GPTConfig(
            block_size=shape.context,
            vocab_size=shape.vocab_size,
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
            n_embd=shape.embed_dim,
        )
        with contextlib.redirect_stdout(io.StringIO()):
            model = GPT(config)
            optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
        for block in model.transformer.h:
            block.mlp.gelu = nn.GELU(approximate="tanh")
        load(model, our_model(shape), NANOGPT_NAMES)

        def loss(ids: Tensor) -> Tensor:
            targets = F.pad(ids[:, 1:], (0, 1), value=-1)
            return model(ids, targets)[1]

        return Contender("nanoGPT", model, forward_and_backward(loss, bf16), optimizer, bf16)

    return make


def litgpt(folder: Path) -> Callable[[Shape, bool], Contender]:
    """Lightning's litgpt. It has no learned positions, and here no rotary ones: it counts less."""

    def make(shape: Shape, bf16: bool) -> Contender:
        # last: of what we have ourselves, it asks for other versions
        sys.path.append(str(folder))
        try:
            from litgpt import GPT, Config
        finally:
            sys.path.remove(str(folder))
        config = Config(
            block_size=shape.context,
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
            n_embd=shape.embed_dim,
            vocab_size=shape.vocab_size,
            padded_vocab_size=shape.vocab_size,
            intermediate_size=4 * shape.embed_dim,
            rotary_percentage=0.0,
            parallel_residual=False,
            bias=True,
            lm_head_bias=False,
            norm_class_name="LayerNorm",
            mlp_class_name="GptNeoxMLP",
            gelu_approximate="tanh",
        )
        model = GPT(config)
        model.lm_head.weight = model.transformer.wte.weight
        load(model, our_model(shape), LITGPT_NAMES)

        def loss(ids: Tensor) -> Tensor:
            logits = model(ids)[:, :-1]
            return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

        return Contender("litgpt", model, forward_and_backward(loss, bf16), adamw(model), bf16)

    return make


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """PyTorch's, with the settings that all have."""
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)


NANOGPT_NAMES = {
    "decoder.token_embeddings": "transformer.wte",
    "decoder.position_embeddings": "transformer.wpe",
    "decoder.final_norm": "transformer.ln_f",
    "decoder.blocks": "transformer.h",
    "attention_norm": "ln_1",
    "feed_forward_norm": "ln_2",
    "attention.qkv_proj": "attn.c_attn",
    "attention.out_proj": "attn.c_proj",
    "feed_forward.up_proj": "mlp.c_fc",
    "feed_forward.down_proj": "mlp.c_proj",
}
LITGPT_NAMES = {
    **NANOGPT_NAMES,
    "attention_norm": "norm_1",
    "feed_forward_norm": "norm_2",
    "attention.qkv_proj": "attn.qkv",
    "attention.out_proj": "attn.proj",
    "feed_forward.up_proj": "mlp.fc",
    "feed_forward.down_proj": "mlp.proj",
}


def load(model: nn.Module, source: GPT2, names: dict[str, str]) -> None:
    """Copy our weights into a model that calls them otherwise."""
    theirs = dict(model.named_parameters(remove_duplicate=False))
    copied = set()
    for name, weight in source.state_dict().items():
        for ours_, other in names.items():
            name = name.replace(ours_, other)
        if name in theirs:
            theirs[name].data.copy_(weight)
            copied.add(name)
    if missing := theirs.keys() - copied:
        raise ValueError(f"{type(model).__module__}: no weights for {sorted(missing)}")


class DifferenceError(Exception):
    """Two contenders do not compute the same."""


def check_equal(contenders: list[Contender], shape: Shape, ids: Tensor) -> None:
    """Compare the first loss and gradient of all with ours in float32.

    Raises:
        DifferenceError: they differ by more than rounding does.
    """
    reference = ours(shape, bf16=False, kernel="plain")
    without_positions = ours(shape, bf16=False, kernel="plain")
    without_positions.model.decoder.position_embeddings.weight.data.zero_()
    expected = reference.step(ids)
    del reference
    expected_without = without_positions.step(ids)[0]
    del without_positions
    for contender in contenders:
        loss, norm = contender.step(ids)
        tolerance = 1e-2 if contender.bf16 else 1e-5
        wanted = expected_without if contender.name == "litgpt" else expected[0]
        if not math.isclose(loss, wanted, rel_tol=tolerance):
            raise DifferenceError(f"{contender.name}: the first loss is {loss}, not {wanted}")
        if contender.name != "litgpt" and not math.isclose(
            norm, expected[1], rel_tol=10 * tolerance
        ):
            raise DifferenceError(f"{contender.name}: its gradient is {norm}, not {expected[1]}")
