"""Maps and lens against transformers' own model of the same weights, opened from its folder."""

import os

import numpy as np
import pytest
import torch

from llm.inspection import attention_maps, logit_lens

os.environ["HF_HUB_OFFLINE"] = "1"

import transformers


@pytest.fixture
def theirs(model, tokenizer, text, tmp_path):
    """What transformers' model gives for the text, written out as the plain equations."""
    model.save_pretrained(tmp_path)
    stock = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager"
    ).eval()
    assert "llm" not in type(stock).__module__.split(".")
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    with torch.no_grad():
        return stock, stock(ids, output_attentions=True, output_hidden_states=True)


def test_equal_attention_maps(model, tokenizer, text, theirs):
    _, outputs = theirs
    maps = attention_maps(model, tokenizer, text)
    expected = torch.cat(outputs.attentions).numpy()  # (layers, H, T, T)
    assert maps.weights.shape == expected.shape
    np.testing.assert_allclose(maps.weights, expected, atol=1e-6, rtol=0)


def test_equal_lens(model, tokenizer, text, theirs):
    """Their last hidden state has its final norm already, and the others have none."""
    stock, outputs = theirs
    lens = logit_lens(model, tokenizer, text)
    assert len(outputs.hidden_states) == len(lens.depths)
    norm = getattr(stock.transformer, "ln_f", torch.nn.Identity())
    assert isinstance(norm, torch.nn.LayerNorm) == (stock.config.model_type == "gpt2")
    for depth, state in enumerate(outputs.hidden_states):
        last = depth == len(lens.depths) - 1
        with torch.no_grad():
            expected = stock.lm_head(state if last else norm(state))[0].numpy()
        np.testing.assert_allclose(lens.logits[depth], expected, atol=1e-5, rtol=0)
