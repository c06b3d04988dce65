"""The model of ours within an adapter can be looked into as any other."""

import numpy as np
import pytest
import torch

from hf_proxy import HFAdapter
from llm.inspection import attention_maps, gradient_norms, logit_lens
from llm.models.gpt import GPT, GPT2
from llm.tokenizers import BPETokenizer


@pytest.mark.parametrize("model_class", [GPT, GPT2])
def test_the_model_of_an_adapter_gives_what_the_adapter_records(model_class):
    tokenizer = BPETokenizer()
    tokenizer.train(["Кошка сидела на окне."], 270, show_progress=False)
    torch.manual_seed(0)
    config = {"vocab_size": 270, "embed_dim": 24, "num_heads": 3, "num_layers": 2}
    model = model_class({**config, "max_position_embeddings": 16, "dropout": 0.1}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    adapter = HFAdapter.from_llm_model(model)
    adapter.config._attn_implementation = "eager"
    ids = tokenizer.encode("на окне", add_special_tokens=False)
    with torch.no_grad():
        outputs = adapter(torch.tensor([ids]), output_attentions=True)
    with pytest.raises(TypeError, match="to_llm_model"):
        attention_maps(adapter, tokenizer, ids)
    inside = adapter.to_llm_model()
    maps = attention_maps(inside, tokenizer, ids)
    expected = torch.cat(outputs.attentions).numpy()
    np.testing.assert_allclose(maps.weights, expected, atol=1e-6, rtol=0)
    lens = logit_lens(inside, tokenizer, ids)
    np.testing.assert_allclose(lens.logits[-1], outputs.logits[0].numpy(), atol=1e-5, rtol=0)
    batch = {"input_ids": torch.tensor([ids]), "labels": torch.tensor([ids])}
    ours, theirs = gradient_norms(model, batch), gradient_norms(inside, batch)
    assert ours.names == theirs.names
    np.testing.assert_array_equal(ours.norms, theirs.norms)
