"""Pipelines, exports with their certificate, arrivals, and the model card."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
)

from hf_proxy import (
    HFAdapter,
    HFTokenizerAdapter,
    create_hf_pipeline,
    export_native,
    load_llm_model,
)
from llm.models import ARCHITECTURES
from llm.tokenizers import BPETokenizer

NATIVE = {"gpt": "OpenAIGPTLMHeadModel", "gpt2": "GPT2LMHeadModel"}
TEXTS = ["The cat sat on the mat.", "Кошка сидела на окне."] * 20
PROMPT = torch.tensor([[5, 291, 7, 280, 11]])


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = BPETokenizer()
    special_tokens = ["<pad>", "<unk>", "<bos>", "<eos>"]
    tokenizer.train(TEXTS, vocab_size=298, special_tokens=special_tokens, show_progress=False)
    return tokenizer


@pytest.fixture(params=["gpt", "gpt2"])
def model(request, tokenizer):
    return make(request.param, tokenizer)


def make(model_type, tokenizer, **changes):
    torch.manual_seed(1)
    config = {
        "vocab_size": len(tokenizer),
        "embed_dim": 24,
        "num_heads": 3,
        "num_layers": 2,
        "max_position_embeddings": 40,
        "dropout": 0.1,
        # untrained models of small weights choose one token for ever
        "initializer_range": 0.3,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **changes,
    }
    return ARCHITECTURES[model_type].model(config)


def greedy(model):
    generated = model.generate(PROMPT, max_new_tokens=20, eos_token_id=())
    return generated[0].tolist()


@pytest.mark.slow
def test_an_export_opens_in_plain_transformers_with_the_same_logits_and_tokens(
    model, tokenizer, tmp_path
):
    model_type = model.config.model_type
    certificate = export_native(model, tmp_path, tokenizer)
    assert certificate.architecture == NATIVE[model_type]
    assert certificate.largest_logit_difference <= 1e-5
    assert certificate.greedy_tokens == certificate.greedy_tokens_equal == 4 * 20
    assert certificate.texts == certificate.texts_equal == 4
    code = f"""
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}).eval()
tokenizer = AutoTokenizer.from_pretrained({str(tmp_path)!r})
ids = torch.tensor({PROMPT.tolist()})
generated = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None)
assert "hf_proxy" not in sys.modules and "llm" not in sys.modules
print(json.dumps([model(ids).logits.tolist(), generated[0].tolist(),
                  tokenizer("Кошка <eos>\\n\\n  🙂")["input_ids"], tokenizer.eos_token]))
"""
    logits, generated, ids, eos_token = run_alone(code)
    model.eval()
    torch.testing.assert_close(torch.tensor(logits), model(PROMPT), atol=1e-5, rtol=0)
    assert generated == greedy(model)
    assert len(set(generated)) > 5
    assert ids == tokenizer.encode("Кошка <eos>\n\n  🙂", allowed_special="all")
    assert eos_token == "<eos>"


def run_alone(code):
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_a_certificate_says_what_was_compared(model, tokenizer, tmp_path):
    text = str(export_native(model, tmp_path, tokenizer))
    assert str(tmp_path) in text
    assert NATIVE[model.config.model_type] in text
    assert re.search(r"largest logit difference +\d\.\de-0\d", text)
    assert "80 of 80" in text
    assert "4 of 4" in text
    assert "texts" not in str(export_native(model, tmp_path))


def test_what_was_trained_through_the_adapter_is_what_is_exported(model, tokenizer, tmp_path):
    adapter = HFAdapter.from_llm_model(model)
    adapter.generation_config.max_new_tokens = 7
    with torch.no_grad():
        adapter.lm_head.weight.add_(0.1)
    hf_tokenizer = HFTokenizerAdapter(tokenizer, chat_template="{{ messages[0].content }}!")
    export_native(adapter, tmp_path, hf_tokenizer)
    stranger = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(stranger).__name__ == NATIVE[model.config.model_type]
    assert stranger.generation_config.max_new_tokens == 7
    torch.testing.assert_close(
        stranger(PROMPT).logits, adapter.eval()(PROMPT).logits, atol=1e-5, rtol=0
    )
    chat = [{"role": "user", "content": "Привет"}]
    template = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template
    assert template(chat, tokenize=False) == "Привет!"


def test_half_precision_is_exported_as_it_is(model, tmp_path):
    certificate = export_native(model.bfloat16(), tmp_path)
    assert certificate.largest_logit_difference <= 1e-5 * max(certificate.largest_logit, 1)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16
    assert model.lm_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("model_type", "changes", "field"),
    [
        ("gpt", {"intermediate_dim": 50}, "intermediate_dim"),
        ("gpt", {"activation": "gelu"}, "activation"),
    ],
)
def test_what_the_native_class_cannot_express_is_named(
    model_type, changes, field, tokenizer, tmp_path
):
    with pytest.raises(ValueError, match=field):
        export_native(make(model_type, tokenizer, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_lacks_bytes_is_refused(model, tokenizer, tmp_path):
    document = json.loads(tokenizer.to_json())
    vocab = {name: i for i, name in enumerate([*tokenizer.special_tokens, *"abc"])}
    document["model"].update(vocab=vocab, merges=[])
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    lacking = BPETokenizer.load(tmp_path)
    for given in (lacking, HFTokenizerAdapter(lacking)):
        with pytest.raises(ValueError, match="no token for 253 bytes, such as 0x00"):
            export_native(model, tmp_path / "out", given)
    assert not (tmp_path / "out").exists()


def test_a_head_with_a_bias_is_named(model, tmp_path):
    adapter = HFAdapter.from_llm_model(model)
    weight = adapter.lm_head.weight
    adapter.lm_head = nn.Linear(24, model.config.vocab_size)
    adapter.lm_head.weight = weight
    with pytest.raises(ValueError, match=r"lm_head\.bias"):
        export_native(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_that_is_no_longer_tied_is_named(model, tmp_path):
    model.lm_head.weight = nn.Parameter(model.lm_head.weight + 1)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs"):
        export_native(model, tmp_path / "out")


def test_an_untied_head_is_exported(tokenizer, tmp_path):
    model = make("gpt2", tokenizer, tie_embeddings=False)
    assert not torch.equal(model.lm_head.weight, model.decoder.token_embeddings.weight)
    assert export_native(model, tmp_path).largest_logit_difference <= 1e-5


def test_an_export_that_differs_is_an_error(model, tmp_path, monkeypatch):
    save = type(model).save_pretrained

    def save_another(self, folder):
        with torch.no_grad():
            self.lm_head.weight[0, 0] += 1
            save(self, folder)
            self.lm_head.weight[0, 0] -= 1

    monkeypatch.setattr(type(model), "save_pretrained", save_another)
    with pytest.raises(ValueError, match="not the model that was exported"):
        export_native(model, tmp_path)


def test_other_kinds_of_models_and_tokenizers_are_refused(model, tmp_path):
    with pytest.raises(TypeError, match="Linear"):
        export_native(nn.Linear(2, 2), tmp_path)
    with pytest.raises(TypeError, match="str"):
        export_native(model, tmp_path, "tokenizer.json")


@pytest.mark.parametrize("kind", ["adapter", "native", "llm"])
def test_a_folder_of_any_kind_arrives(kind, model, tokenizer, tmp_path):
    if kind == "adapter":
        HFAdapter.from_llm_model(model).save_pretrained(tmp_path)
        HFTokenizerAdapter(tokenizer).save_pretrained(tmp_path)
    elif kind == "native":
        export_native(model, tmp_path, tokenizer)
    else:
        model.save_pretrained(tmp_path)
        tokenizer.save(tmp_path)
    loaded, loaded_tokenizer = load_llm_model(str(tmp_path))
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert not loaded.training
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True)
    )
    assert loaded_tokenizer.get_vocab() == tokenizer.get_vocab()
    text = "Кошка <eos> sat"
    assert loaded_tokenizer.encode(text) == tokenizer.encode(text)
    assert loaded_tokenizer.eos_token == "<eos>"


@pytest.mark.parametrize(
    ("config", "model_class"),
    [
        (GPT2Config(n_embd=24, n_head=3, n_layer=2, n_positions=40, vocab_size=70,
                    bos_token_id=1, eos_token_id=1), GPT2LMHeadModel),
        (OpenAIGPTConfig(n_embd=24, n_head=3, n_layer=2, n_positions=40, vocab_size=70),
         OpenAIGPTLMHeadModel),
    ],
    ids=["gpt2", "openai-gpt"],
)  # fmt: skip
def test_a_strangers_model_arrives(config, model_class, tmp_path):
    stranger = model_class(config).eval()
    stranger.save_pretrained(tmp_path, max_shard_size="20KB")
    model, tokenizer = load_llm_model(tmp_path)
    assert tokenizer is None
    ids = torch.randint(70, (2, 30), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(ids), stranger(ids).logits, atol=1e-5, rtol=0)


def test_the_files_that_gpt2_was_released_with_arrive(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    reference = tokenizer.to_json()
    document = json.loads(reference)["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(document["vocab"]), "utf-8")
    merges = "\n".join(" ".join(pair) for pair in document["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", "utf-8")
    _, loaded = load_llm_model(tmp_path)
    assert loaded.encode("The cat сидела") == tokenizer.encode("The cat сидела")
    assert load_llm_model(tmp_path, with_tokenizer=False)[1] is None


def test_a_source_that_is_nothing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no/such/folder"):
        load_llm_model("no/such/folder")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_llm_model(tmp_path)


def test_a_hub_id_is_downloaded_without_pickles(model, tokenizer, tmp_path, monkeypatch):
    export_native(model, tmp_path, tokenizer)
    asked = []

    def snapshot(repo_id, *, allow_patterns):
        asked.append((repo_id, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("hf_proxy.hf_utils.snapshot_download", snapshot)
    loaded, _ = load_llm_model("someone/model")
    assert loaded.config == model.config
    ((repo_id, patterns),) = asked
    assert repo_id == "someone/model"
    assert not any(pattern.endswith((".bin", "*", ".pt")) for pattern in patterns)


def test_a_pipeline_continues_text_in_both_languages(model, tokenizer):
    model.train()
    pipe = create_hf_pipeline(model, tokenizer)
    results = pipe(["The cat", "Кошка"], do_sample=False)
    assert model.training
    model.eval()
    for prompt, (result,) in zip(["The cat", "Кошка"], results, strict=True):
        ids = torch.tensor([tokenizer.encode(prompt)])
        expected = model.generate(ids, max_new_tokens=20)[0]
        assert result["generated_text"] == tokenizer.decode(expected, skip_special_tokens=True)


def test_a_pipeline_takes_what_is_wrapped_already_and_options(model, tokenizer):
    adapter = HFAdapter.from_llm_model(model)
    pipe = create_hf_pipeline(adapter, HFTokenizerAdapter(tokenizer), max_new_tokens=3)
    assert pipe.model is adapter
    (result,) = pipe("The", return_tensors=True, do_sample=False)
    assert len(result["generated_token_ids"]) == len(tokenizer.encode("The")) + 3


def test_the_model_card_is_filled_in_and_an_old_one_stays(model, monkeypatch):
    pushed = {}
    state = {"has_card": False}

    class Repo:
        repo_id = "me/my-model"

    def upload(self, *, repo_id, folder_path, **_):
        files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        pushed.update(files=files, repo_id=repo_id)
        return "the commit"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: Repo)
    monkeypatch.setattr(HfApi, "file_exists", lambda self, *_, **__: state["has_card"])
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    adapter = HFAdapter.from_llm_model(model)
    assert adapter.push_to_hub("my-model", tags=["tiny"]) == "the commit"
    assert pushed["repo_id"] == "me/my-model"
    assert {"config.json", "model.safetensors", "README.md"} <= set(pushed["files"])
    card = ModelCard(pushed["files"]["README.md"].decode())
    assert card.data.pipeline_tag == "text-generation"
    assert {"tiny", model.config.model_type} <= set(card.data.tags)
    assert f"{model.num_parameters():,}" in card.text
    assert type(model).__name__ in card.text
    assert 'from_pretrained("me/my-model")' in card.text
    state["has_card"] = True
    adapter.push_to_hub("my-model")
    assert "README.md" not in pushed["files"]


@pytest.mark.slow
def test_a_saved_folder_can_carry_its_code(model, tmp_path):
    adapter = HFAdapter.from_llm_model(model).eval()
    code = f"""
import json, sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)
print(json.dumps(model(torch.tensor({PROMPT.tolist()})).logits.tolist()))
"""
    config_class = type(adapter.config)
    try:
        config_class.register_for_auto_class()
        HFAdapter.register_for_auto_class("AutoModelForCausalLM")
        adapter.save_pretrained(tmp_path)
    finally:
        config_class._auto_class = HFAdapter._auto_class = None
    logits = torch.tensor(run_alone(code))
    torch.testing.assert_close(logits, adapter(PROMPT).logits)


def test_an_adapter_folder_that_is_not_whole_is_an_error(model, tmp_path):
    from safetensors.torch import load_file, save_file

    HFAdapter.from_llm_model(model).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    lost = "model.decoder.blocks.1.block.attention.out_proj.weight"
    del weights[lost]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=re.escape(lost)):
        load_llm_model(tmp_path)


def test_a_tokenizer_of_another_kind_is_not_passed_over(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "llm_tokenizer").write_text("{}", "utf-8")
    with pytest.raises(ValueError, match="no BPETokenizer"):
        load_llm_model(tmp_path)
    assert load_llm_model(tmp_path, with_tokenizer=False)[0].config == model.config


def test_an_export_replaces_the_chat_template_and_refuses_several(model, tokenizer, tmp_path):
    export_native(model, tmp_path, HFTokenizerAdapter(tokenizer, chat_template="old"))
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == "old"
    export_native(model, tmp_path, tokenizer)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template is None
    several = HFTokenizerAdapter(tokenizer)
    several.chat_template = {"default": "a", "tool_use": "b"}
    with pytest.raises(ValueError, match="chat_template"):
        export_native(model, tmp_path / "other", several)
    assert not (tmp_path / "other").exists()


def test_what_a_tool_hangs_on_the_adapter_does_not_stop_the_way_back(model):
    import threading

    adapter = HFAdapter.from_llm_model(model)
    adapter.lock = threading.Lock()
    back = adapter.to_llm_model()
    assert back.lm_head.weight is model.lm_head.weight is back.decoder.token_embeddings.weight


def test_a_model_of_nan_gets_no_certificate(model, tmp_path):
    with torch.no_grad():
        model.decoder.token_embeddings.weight[3] = math.nan
    with pytest.raises(ValueError, match="not the model that was exported"):
        export_native(model, tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(model, tokenizer, tmp_path):
    larger = HFTokenizerAdapter(tokenizer)
    larger.add_special_tokens({"extra_special_tokens": ["<|im_start|>"]})
    with pytest.raises(ValueError, match=f"{len(tokenizer) + 1} tokens and the model"):
        export_native(model, tmp_path / "out", larger)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="resize_token_embeddings"):
        create_hf_pipeline(model, larger)


def test_an_export_that_fails_leaves_the_one_before_whole(model, tokenizer, tmp_path):
    folder = tmp_path / "out"
    export_native(model, folder, tokenizer)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    broken = make(model.config.model_type, tokenizer, num_layers=1)
    with torch.no_grad():
        broken.lm_head.weight[0] = math.inf
    with pytest.raises(ValueError, match="not the model"):
        export_native(broken, folder, tokenizer)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
