"""The README of a model on the HuggingFace hub, filled in from the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, ModelCardData

if TYPE_CHECKING:
    from hf_proxy.hf_adapter import HFAdapter

HOMEPAGE = "llm-arch-research"


def model_card(model: HFAdapter, repo_id: str, tags: list[str] | None = None) -> ModelCard:
    """What the model is, how large, and how to load it.

    Args:
        model: the model that is published.
        repo_id: where.
        tags: besides those that say what it is.
    """
    config = model.config
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[HOMEPAGE, config.llm_model_type, *(tags or [])],
    )
    rows = {
        "Architecture": f"`{type(model.to_llm_model()).__name__}` of {HOMEPAGE}",
        "Parameters": f"{model.num_parameters():,}",
        "Layers": config.num_hidden_layers,
        "Attention heads": config.num_attention_heads,
        "Width": config.hidden_size,
        "Vocabulary": f"{config.vocab_size:,} tokens",
        "Context": f"{config.max_position_embeddings:,} tokens",
        "Output projection": "tied to the embeddings" if config.tie_word_embeddings else "its own",
        "Precision": str(model.dtype).removeprefix("torch."),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return ModelCard(f"""---
{data.to_yaml()}
---

# {repo_id.split("/")[-1]}

A decoder-only language model, made with {HOMEPAGE}.

| | |
|---|---|
{table}

## How to load it

With `llm` and `hf-proxy` installed:

```python
import hf_proxy
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{repo_id}")
tokenizer = AutoTokenizer.from_pretrained("{repo_id}")
inputs = tokenizer("The", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))
```

As a model of `llm` itself: `hf_proxy.load_llm_model("{repo_id}")`.
""")
