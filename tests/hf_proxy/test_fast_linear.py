"""The fast kernel of linear layers under transformers' wrapping and PEFT's adapters."""

import pytest
import torch

from hf_proxy import HFAdapter
from llm.core import fast_linear as module
from llm.core.fast_linear import FastLinear, set_linear_kernel
from llm.models.gpt import GPT2

pytestmark = pytest.mark.skipif(
    not module.is_available(), reason="this PyTorch has no oneDNN product"
)

CONFIG = {
    "vocab_size": 50,
    "embed_dim": 32,
    "num_heads": 4,
    "num_layers": 2,
    "max_position_embeddings": 16,
    "dropout": 0.0,
}


@pytest.fixture(autouse=True)
def _every_size(monkeypatch):
    monkeypatch.setattr(module, "MIN_PRODUCT", 1)


@pytest.fixture
def adapter():
    torch.manual_seed(0)
    return HFAdapter.from_llm_model(GPT2(CONFIG))


def loss_and_gradients(model):
    ids = torch.arange(32).view(2, 16)
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), grads


def assert_same(model):
    plain_loss, plain = loss_and_gradients(model)
    assert set_linear_kernel(model, "fast") == "fast"
    loss, fast = loss_and_gradients(model)
    torch.testing.assert_close(loss, plain_loss, rtol=1e-6, atol=0)
    assert fast.keys() == plain.keys()
    largest = max(grad.norm() for grad in plain.values())
    for name, grad in plain.items():
        assert (fast[name] - grad).norm() <= 1e-5 * max(grad.norm(), 1e-3 * largest), name


def test_an_adapter_of_transformers(adapter):
    assert_same(adapter)
    kinds = [type(m) for m in adapter.modules() if isinstance(m, torch.nn.Linear)]
    assert kinds == [FastLinear] * 9


@pytest.mark.parametrize("kernel_first", [True, False])
def test_lora_finds_the_layers_and_trains_the_same(adapter, kernel_first):
    peft = pytest.importorskip("peft")
    if kernel_first:
        set_linear_kernel(adapter, "fast")
    torch.manual_seed(0)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False
    )
    model = peft.get_peft_model(adapter, config)
    layers = [m for m in model.modules() if isinstance(m, peft.tuners.lora.Linear)]
    assert len(layers) == 8
    if kernel_first:
        assert all(type(layer.base_layer) is FastLinear for layer in layers)
        set_linear_kernel(model, "plain")
    assert_same(model)
    before = model(input_ids=torch.arange(16)[None]).logits
    merged = model.merge_and_unload()
    torch.testing.assert_close(
        merged(input_ids=torch.arange(16)[None]).logits, before, rtol=1e-4, atol=1e-5
    )


def test_what_is_saved_is_the_same(adapter, tmp_path):
    adapter.save_pretrained(tmp_path / "plain")
    set_linear_kernel(adapter, "fast")
    adapter.save_pretrained(tmp_path / "fast")
    for file in (tmp_path / "plain").iterdir():
        assert (tmp_path / "fast" / file.name).read_bytes() == file.read_bytes()
