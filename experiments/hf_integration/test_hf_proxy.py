"""A tour of hf_proxy: each stop shows a promise and checks it.

uv run python experiments/hf_integration/test_hf_proxy.py
uv run pytest experiments/hf_integration/test_hf_proxy.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from experiments.shared.console import run_script
from experiments.shared.sentences import SENTENCES

if TYPE_CHECKING:
    from hf_proxy import HFAdapter, HFTokenizerAdapter
    from llm.models.gpt import GPT2
    from llm.tokenizers import BPETokenizer

CONTEXT = 32


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    """A byte-level BPE tokenizer of the built-in sentences."""
    return make_tokenizer()


@pytest.fixture
def model(tokenizer: BPETokenizer) -> GPT2:
    """A small GPT-2, not trained yet."""
    return make_model(tokenizer)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a stop may leave files."""
    return tmp_path


def test_the_wrapped_model_is_the_model(model: GPT2, tokenizer: BPETokenizer) -> None:
    """Wrapping shares every parameter and computes the same logits."""
    hf_model, hf_tokenizer = wrap(model, tokenizer)
    shared = zip(hf_model.parameters(), model.parameters(), strict=True)
    assert all(theirs is ours for theirs, ours in shared)
    inputs = hf_tokenizer("The cat sleeps", return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == tokenizer.encode("The cat sleeps")
    difference = (hf_model(**inputs).logits - model(inputs["input_ids"])).abs().max().item()
    assert difference < 1e-5
    say(f"{hf_model.num_parameters():,} parameters, shared; logits differ by {difference:.1e}")


def test_training_the_one_trains_the_other(model: GPT2, tokenizer: BPETokenizer) -> None:
    """A loop around the HuggingFace model trains ours."""
    before, after = train(model, tokenizer, steps=30)
    assert after < before / 2
    say(f"loss {before:.2f} before 30 steps, {after:.2f} after")


def test_a_padded_batch_changes_nothing(model: GPT2, tokenizer: BPETokenizer) -> None:
    """HuggingFace's `generate` on a padded batch gives what ours gives on single prompts."""
    import torch

    train(model, tokenizer, steps=60)
    hf_model, hf_tokenizer = wrap(model, tokenizer)
    prompts = ["The cat", "Кошка спит", "In winter the river"]
    batch = hf_tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    generated = hf_model.generate(**batch, max_new_tokens=10, do_sample=False)
    for prompt, row in zip(prompts, generated, strict=True):
        text = hf_tokenizer.decode(row, skip_special_tokens=True)
        ids = torch.tensor([tokenizer.encode(prompt)])
        assert text == tokenizer.decode(
            model.generate(ids, max_new_tokens=10)[0], skip_special_tokens=True
        )
        say(text)


def test_transformers_opens_the_folder(model: GPT2, tokenizer: BPETokenizer, folder: Path) -> None:
    """`save_pretrained` and `Auto*.from_pretrained` are inverse."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hf_model, hf_tokenizer = wrap(model, tokenizer)
    hf_model.save_pretrained(folder)
    hf_tokenizer.save_pretrained(folder)
    again = AutoModelForCausalLM.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)("Кошка пьёт молоко", return_tensors="pt")
    assert torch.equal(again(**inputs).logits, hf_model(**inputs).logits)
    say(f"{', '.join(sorted(path.name for path in folder.iterdir()))}: equal logits")


def test_a_stranger_opens_the_export(model: GPT2, tokenizer: BPETokenizer, folder: Path) -> None:
    """`export_native` writes transformers' own format, and proves it."""
    from hf_proxy import export_native, load_llm_model

    certificate = export_native(model, folder, tokenizer)
    assert certificate.architecture == "GPT2LMHeadModel"
    assert certificate.greedy_tokens_equal == certificate.greedy_tokens
    say(str(certificate))
    back, tokenizer_back = load_llm_model(folder)
    assert back.config == model.config
    assert tokenizer_back == tokenizer


def test_a_pipeline_takes_it(model: GPT2, tokenizer: BPETokenizer) -> None:
    """One call from a model and tokenizer of ours to a text-generation pipeline."""
    from hf_proxy import create_hf_pipeline

    train(model, tokenizer, steps=60)
    pipe = create_hf_pipeline(model, tokenizer)
    (result,) = pipe("Собака", max_new_tokens=10, do_sample=False)
    assert result["generated_text"].startswith("Собака")
    say(result["generated_text"])


def make_tokenizer() -> BPETokenizer:
    """A byte-level BPE tokenizer of the built-in sentences."""
    from llm.tokenizers import BPETokenizer

    tokenizer = BPETokenizer()
    special_tokens = ["<pad>", "<unk>", "<bos>", "<eos>"]
    tokenizer.train(SENTENCES, vocab_size=500, special_tokens=special_tokens, show_progress=False)
    return tokenizer


def make_model(tokenizer: BPETokenizer) -> GPT2:
    """A small GPT-2, not trained yet."""
    import torch

    from llm.models.gpt import GPT2

    torch.manual_seed(0)
    return GPT2(
        {
            "vocab_size": len(tokenizer),
            "embed_dim": 64,
            "num_heads": 4,
            "num_layers": 2,
            "max_position_embeddings": CONTEXT,
            "dropout": 0.0,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    ).eval()


def wrap(model: GPT2, tokenizer: BPETokenizer) -> tuple[HFAdapter, HFTokenizerAdapter]:
    """Both, as HuggingFace's tools take them."""
    from hf_proxy import HFAdapter, HFTokenizerAdapter

    return (
        HFAdapter.from_llm_model(model),
        HFTokenizerAdapter(tokenizer, model_max_length=CONTEXT),
    )


def train(model: GPT2, tokenizer: BPETokenizer, *, steps: int) -> tuple[float, float]:
    """Train ours through the wrapped model; the losses before and after."""
    import torch

    hf_model, hf_tokenizer = wrap(model, tokenizer)
    batch = hf_tokenizer(list(SENTENCES), return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        loss = hf_model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses[0], losses[-1]


def say(text: str) -> None:
    """Print what a stop of the tour has to show."""
    print("  " + text.replace("\n", "\n  "))


def main(arguments: list[str]) -> None:
    """Make every stop of the tour in turn."""
    if arguments:
        raise ValueError(f"{arguments[0]}: the tour takes no arguments")
    tokenizer = make_tokenizer()
    for name, stop in list(globals().items()):
        if name.startswith("test_"):
            print(stop.__doc__)
            options = {"model": make_model(tokenizer), "tokenizer": tokenizer}
            with tempfile.TemporaryDirectory() as temporary:
                if "folder" in stop.__annotations__:
                    options["folder"] = Path(temporary)
                stop(**options)
    print("All of it holds.")


if __name__ == "__main__":
    run_script(main)
