"""What a HuggingFace model is used with: the real PEFT, TRL, Accelerate and lm-eval."""

import json
import math
import warnings

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    DataCollatorWithFlattening,
    Trainer,
    TrainingArguments,
)

from hf_proxy import HFAdapter, HFTokenizerAdapter
from llm.models import ARCHITECTURES, load_pretrained
from llm.tokenizers import BPETokenizer

every_architecture = pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
# where a test takes long, and nothing in it depends on the architecture
one_architecture = pytest.mark.parametrize("model_type", ["gpt2"])

PROJECTIONS = ["qkv_proj", "out_proj", "up_proj", "down_proj"]
NUM_LAYERS = 2
NUM_VIRTUAL = 3
MAX_LENGTH = 64
PAD, UNK, BOS, EOS = range(4)
TEXTS = [
    "The cat sat on the mat, and the dog lay by the door.",
    "Кошка сидела на коврике, а собака лежала у двери.",
    "A small model learns a small book by heart.",
    "Маленькая модель учит маленькую книгу наизусть.",
    "The dog sat by the book.",
    "Собака сидела у книги.",
]


@pytest.fixture(scope="module")
def peft():
    import peft

    return peft


@pytest.fixture(scope="module")
def bpe():
    tokenizer = BPETokenizer()
    special = ["<pad>", "<unk>", "<bos>", "<eos>"]
    tokenizer.train(TEXTS, vocab_size=300, special_tokens=special, show_progress=False)
    return tokenizer


@pytest.fixture
def tokenizer(bpe):
    return HFTokenizerAdapter(bpe)


@pytest.fixture
def make_llm(bpe):
    """A tiny model of ours in eval mode, its weights large enough for all of them to matter."""

    def make(model_type, seed=0, **overrides):
        config = {
            "vocab_size": len(bpe),
            "embed_dim": 32,
            "num_heads": 4,
            "num_layers": NUM_LAYERS,
            "max_position_embeddings": MAX_LENGTH,
            "dropout": 0.0,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
        }
        model = ARCHITECTURES[model_type].model({**config, **overrides}).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator) * 0.1
                is_norm_scale = parameter.dim() == 1 and name.endswith("weight")
                parameter.copy_(noise + 1 if is_norm_scale else noise)
        return model

    return make


@pytest.fixture
def rows(bpe):
    """Token ids of sentences of different lengths."""
    return [bpe.encode(text)[:length] for text, length in zip(TEXTS, (9, 14, 6, 11), strict=False)]


@pytest.fixture
def batch(rows):
    """Four rows of six tokens, and the loss's labels."""
    input_ids = torch.tensor([row[:6] for row in rows])
    return {"input_ids": input_ids, "labels": input_ids.clone()}


def left_padded(rows):
    length = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[PAD] * (length - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor(
            [[0] * (length - len(row)) + [1] * len(row) for row in rows]
        ),
    }


def weights_of(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def changed(before, module):
    """Names of the weights that are not bit for bit what they were."""
    return {name for name, now in module.state_dict().items() if not torch.equal(before[name], now)}


@torch.no_grad()
def logits_of(model, input_ids, **inputs):
    return model(input_ids, **inputs).logits


def train(model, batch, steps=12, lr=0.02):
    """Losses of a plain loop, the first before any step."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.0)
    losses = []
    model.train()
    for _ in range(steps):
        loss = model(**batch).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return losses


@torch.no_grad()
def greedy(forward, row, num_tokens):
    """The ids that follow a row of ids, each the likeliest; no padding, no cache."""
    ids = list(row)
    for _ in range(num_tokens):
        ids.append(int(forward(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(row) :]


# --- PEFT ---


def lora_config(peft, **options):
    options = {"r": 4, "lora_alpha": 16, "target_modules": PROJECTIONS, **options}
    return peft.LoraConfig(task_type="CAUSAL_LM", **options)


def with_lora(peft, adapter, **options):
    torch.manual_seed(0)
    return peft.get_peft_model(adapter, lora_config(peft, **options))


def lora_modules(peft, model):
    tuner = peft.tuners.lora.LoraLayer
    return {name for name, module in model.named_modules() if isinstance(module, tuner)}


def is_lora(name):
    return "lora_" in name


class TestLora:
    @every_architecture
    @pytest.mark.parametrize("targets", [PROJECTIONS, "all-linear"])
    def test_attaches_to_every_projection_and_nothing_else(
        self, peft, make_llm, model_type, targets
    ):
        adapter = HFAdapter.from_llm_model(make_llm(model_type))
        model = with_lora(peft, adapter, target_modules=targets)
        expected = {
            f"base_model.model.model.decoder.blocks.{i}.block.{part}.{name}"
            for i in range(NUM_LAYERS)
            for part, name in [
                ("attention", "qkv_proj"),
                ("attention", "out_proj"),
                ("feed_forward", "up_proj"),
                ("feed_forward", "down_proj"),
            ]
        }
        assert lora_modules(peft, model) == expected
        trainable = {name for name, p in model.named_parameters() if p.requires_grad}
        assert trainable
        assert all(map(is_lora, trainable))

    @every_architecture
    def test_fresh_one_leaves_logits_alone(self, peft, make_llm, batch, model_type):
        adapter = HFAdapter.from_llm_model(make_llm(model_type))
        before = logits_of(adapter, batch["input_ids"])
        model = with_lora(peft, adapter)
        assert torch.equal(logits_of(model, batch["input_ids"]), before)

    @every_architecture
    def test_training_changes_only_its_weights(self, peft, make_llm, batch, model_type):
        llm = make_llm(model_type)
        modules_before = [(name, type(module)) for name, module in llm.named_modules()]
        with torch.no_grad():
            llm_before = llm(batch["input_ids"])
        model = with_lora(peft, HFAdapter.from_llm_model(llm))
        before = weights_of(model)
        losses = train(model, batch)
        assert losses[-1] < 0.7 * losses[0]
        assert changed(before, model) == set(filter(is_lora, before))
        # what it is attached to is the adapter, not the model
        assert [(name, type(module)) for name, module in llm.named_modules()] == modules_before
        with torch.no_grad():
            assert torch.equal(llm(batch["input_ids"]), llm_before)
        assert (logits_of(model, batch["input_ids"]) - llm_before).abs().max() > 0.1

    @pytest.mark.slow
    @every_architecture
    def test_trainer_trains_only_its_weights(self, peft, make_llm, rows, tmp_path, model_type):
        model = with_lora(peft, HFAdapter.from_llm_model(make_llm(model_type)))
        before = weights_of(model)
        row = {"input_ids": rows[0], "labels": rows[0]}
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(tmp_path),
                max_steps=12,
                per_device_train_batch_size=2,
                learning_rate=0.02,
                logging_steps=1,
                save_steps=12,
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
            ),
            train_dataset=[row] * 24,
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert len(losses) == 12
        assert losses[-1] < 0.7 * losses[0]
        assert changed(before, model) == set(filter(is_lora, before))
        # its checkpoint is the adapter
        base = HFAdapter.from_llm_model(make_llm(model_type))
        loaded = peft.PeftModel.from_pretrained(base, tmp_path / "checkpoint-12")
        input_ids = torch.tensor([rows[0]])
        assert torch.equal(logits_of(loaded, input_ids), logits_of(model.eval(), input_ids))

    @every_architecture
    def test_saved_and_loaded_gives_the_same_logits(
        self, peft, make_llm, batch, tmp_path, model_type
    ):
        adapter = HFAdapter.from_llm_model(make_llm(model_type))
        adapter.save_pretrained(tmp_path / "base")
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        model = with_lora(peft, base)
        train(model, batch, steps=3)
        expected = logits_of(model, batch["input_ids"])
        model.save_pretrained(tmp_path / "lora")
        loaded = {
            "onto a base": peft.PeftModel.from_pretrained(adapter, tmp_path / "lora"),
            "by peft's Auto": peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "lora"),
            "by transformers' Auto": AutoModelForCausalLM.from_pretrained(tmp_path / "lora"),
        }
        for how, again in loaded.items():
            assert torch.equal(logits_of(again, batch["input_ids"]), expected), how

    @every_architecture
    @pytest.mark.parametrize("safe_merge", [False, True])
    def test_merged_gives_the_same_logits_and_a_model_of_ours(
        self, peft, make_llm, batch, tmp_path, model_type, safe_merge
    ):
        llm = make_llm(model_type)
        model = with_lora(peft, HFAdapter.from_llm_model(llm))
        train(model, batch, steps=3)
        expected = logits_of(model, batch["input_ids"])
        merged = model.merge_and_unload(safe_merge=safe_merge)
        assert type(merged) is HFAdapter
        assert not lora_modules(peft, merged)
        torch.testing.assert_close(
            logits_of(merged, batch["input_ids"]), expected, atol=1e-5, rtol=0
        )
        back = merged.to_llm_model()
        assert type(back) is ARCHITECTURES[model_type].model
        with torch.no_grad():
            ours = back(batch["input_ids"])
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
            # merging writes to the weights, which are shared with the model that was wrapped
            assert torch.equal(llm(batch["input_ids"]), ours)
        back.save_pretrained(tmp_path)
        with torch.no_grad():
            assert torch.equal(load_pretrained(tmp_path)(batch["input_ids"]), ours)

    @every_architecture
    def test_unloaded_gives_the_base_back(self, peft, make_llm, batch, model_type):
        adapter = HFAdapter.from_llm_model(make_llm(model_type))
        before = logits_of(adapter, batch["input_ids"])
        names = list(adapter.state_dict())
        model = with_lora(peft, adapter)
        train(model, batch, steps=3)
        base = model.unload()
        assert torch.equal(logits_of(base, batch["input_ids"]), before)
        assert list(base.state_dict()) == names

    @every_architecture
    def test_can_be_disabled(self, peft, make_llm, batch, model_type):
        model = with_lora(peft, HFAdapter.from_llm_model(make_llm(model_type)))
        before = logits_of(model, batch["input_ids"])
        train(model, batch, steps=3)
        trained = logits_of(model, batch["input_ids"])
        assert not torch.allclose(trained, before, atol=1e-2)
        with model.disable_adapter():
            assert torch.equal(logits_of(model, batch["input_ids"]), before)
        assert torch.equal(logits_of(model, batch["input_ids"]), trained)

    @every_architecture
    def test_two_of_them_are_kept_apart(self, peft, make_llm, batch, model_type):
        model = with_lora(peft, HFAdapter.from_llm_model(make_llm(model_type)))
        train(model, batch, steps=3)
        first = logits_of(model, batch["input_ids"])
        model.add_adapter("second", lora_config(peft, r=2, target_modules=["qkv_proj"]))
        model.set_adapter("second")
        train(model, {**batch, "labels": batch["labels"].flip(1)}, steps=3)
        second = logits_of(model, batch["input_ids"])
        assert not torch.allclose(first, second, atol=1e-2)
        model.set_adapter("default")
        assert torch.equal(logits_of(model, batch["input_ids"]), first)

    @every_architecture
    def test_transformers_own_interface(self, peft, make_llm, batch, tmp_path, model_type):
        adapter = HFAdapter.from_llm_model(make_llm(model_type))
        before = logits_of(adapter, batch["input_ids"])
        adapter.add_adapter(lora_config(peft))
        train(adapter, batch, steps=3)
        trained = logits_of(adapter, batch["input_ids"])
        adapter.save_pretrained(tmp_path)
        adapter.disable_adapters()
        assert torch.equal(logits_of(adapter, batch["input_ids"]), before)
        again = HFAdapter.from_llm_model(make_llm(model_type))
        again.load_adapter(str(tmp_path))
        assert torch.equal(logits_of(again, batch["input_ids"]), trained)

    @every_architecture
    @pytest.mark.parametrize("reentrant", [False, True])
    def test_gradients_are_those_without_checkpointing(
        self, peft, make_llm, batch, model_type, reentrant
    ):
        model = with_lora(peft, HFAdapter.from_llm_model(make_llm(model_type)))
        train(model, batch, steps=2)

        def gradients():
            model.train()
            model(**batch).loss.backward()
            found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            model.zero_grad()
            return found

        expected = gradients()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        runs = []
        block = model.get_submodule("base_model.model.model.decoder.blocks.0.block.attention")
        block.register_forward_hook(lambda *_: runs.append(1))
        actual = gradients()
        assert len(runs) == 2  # once forwards, once more backwards
        assert (
            set(actual) == set(expected) == {n for n, _ in model.named_parameters() if is_lora(n)}
        )
        for name, gradient in expected.items():
            torch.testing.assert_close(actual[name], gradient, atol=1e-6, rtol=1e-5)

    @every_architecture
    def test_generates_as_merged(self, peft, make_llm, batch, rows, model_type):
        model = with_lora(peft, HFAdapter.from_llm_model(make_llm(model_type)))
        train(model, batch, steps=3)
        inputs = left_padded(rows)
        options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
        unmerged = model.generate(**inputs, **options)
        expected = [
            greedy(lambda ids: logits_of(model, ids), row, options["max_new_tokens"])
            for row in rows
        ]
        assert unmerged[:, inputs["input_ids"].shape[1] :].tolist() == expected
        merged = model.merge_and_unload()
        assert torch.equal(merged.generate(**inputs, **options), unmerged)
        ours = merged.to_llm_model()
        assert [greedy(ours, row, 8) for row in rows] == expected


KINDS = {
    "DoRA": lambda peft: lora_config(peft, use_dora=True),
    "rank-stabilised LoRA": lambda peft: lora_config(peft, use_rslora=True),
    "PiSSA": lambda peft: lora_config(peft, init_lora_weights="pissa"),
    "IA3": lambda peft: peft.IA3Config(
        task_type="CAUSAL_LM",
        target_modules=["qkv_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
    "LoHa": lambda peft: peft.LoHaConfig(task_type="CAUSAL_LM", target_modules=PROJECTIONS),
}


@pytest.mark.slow
@every_architecture
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_kin_of_lora_are_trained_and_merged(peft, make_llm, batch, model_type, kind):
    llm = make_llm(model_type)
    with torch.no_grad():
        before = llm(batch["input_ids"])
    torch.manual_seed(0)
    model = peft.get_peft_model(HFAdapter.from_llm_model(llm), KINDS[kind](peft))
    torch.testing.assert_close(logits_of(model, batch["input_ids"]), before, atol=1e-4, rtol=0)
    losses = train(model, batch)
    assert losses[-1] < losses[0] - 0.1
    expected = logits_of(model, batch["input_ids"])
    ours = model.merge_and_unload().to_llm_model()
    with torch.no_grad():
        torch.testing.assert_close(ours(batch["input_ids"]), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
@every_architecture
@pytest.mark.parametrize("kind", ["lora", "prompt", "prefix"])
def test_over_a_model_in_bfloat16(peft, make_llm, batch, rows, model_type, kind):
    adapter = HFAdapter.from_llm_model(make_llm(model_type).to(torch.bfloat16))
    model = with_lora(peft, adapter) if kind == "lora" else with_prompt(peft, adapter, kind)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert logits_of(model, batch["input_ids"]).dtype == torch.bfloat16
    losses = train(model, batch, steps=12, lr=0.1)
    assert losses[-1] < 0.95 * losses[0]
    inputs = left_padded(rows)
    output = model.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 3


@pytest.mark.slow
class TestLoraBeyondTheProjections:
    @every_architecture
    @pytest.mark.parametrize("name", ["lm_head", "token_embeddings"])
    @pytest.mark.parametrize("tied", [False, True])
    def test_whole_modules_are_trained_and_saved_with_it(
        self, peft, make_llm, batch, tmp_path, model_type, name, tied
    ):
        llm = make_llm(model_type, tie_embeddings=tied)
        with torch.no_grad():
            before = llm(batch["input_ids"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft has its say about tied weights
            model = with_lora(peft, HFAdapter.from_llm_model(llm), modules_to_save=[name])
        assert torch.equal(logits_of(model, batch["input_ids"]), before)
        weights = weights_of(model)
        losses = train(model, batch)
        assert losses[-1] < 0.7 * losses[0]
        trained = {n for n in changed(weights, model) if not is_lora(n)}
        assert trained
        assert all(f"{name}.modules_to_save" in n for n in trained)
        with torch.no_grad():
            assert torch.equal(llm(batch["input_ids"]), before)
        expected = logits_of(model, batch["input_ids"])
        model.save_pretrained(tmp_path)
        again = HFAdapter.from_llm_model(make_llm(model_type, tie_embeddings=tied))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = peft.PeftModel.from_pretrained(again, tmp_path)
        assert torch.equal(logits_of(loaded, batch["input_ids"]), expected)

    @every_architecture
    @pytest.mark.parametrize("name", ["lm_head", "token_embeddings"])
    @pytest.mark.parametrize("tied", [False, True])
    def test_merged_model_of_ours_keeps_them(
        self, peft, make_llm, batch, tmp_path, model_type, name, tied
    ):
        adapter = HFAdapter.from_llm_model(make_llm(model_type, tie_embeddings=tied))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = with_lora(peft, adapter, modules_to_save=[name])
            train(model, batch, steps=3)
            expected = logits_of(model, batch["input_ids"])
            ours = model.merge_and_unload().to_llm_model()
        # trained apart, they are tied no longer
        assert not ours.config.tie_embeddings
        ours.save_pretrained(tmp_path)
        for again in (ours, load_pretrained(tmp_path)):
            with torch.no_grad():
                actual = again(batch["input_ids"])
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)

    @every_architecture
    @pytest.mark.parametrize("tied", [False, True])
    def test_of_the_embeddings(self, peft, make_llm, batch, model_type, tied):
        adapter = HFAdapter.from_llm_model(make_llm(model_type, tie_embeddings=tied))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = with_lora(peft, adapter, target_modules=["token_embeddings", "qkv_proj"])
        assert any(name.endswith("token_embeddings") for name in lora_modules(peft, model))
        losses = train(model, batch)
        assert losses[-1] < 0.8 * losses[0]
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert any("token_embeddings.lora_embedding" in n for n in trained)

    @every_architecture
    @pytest.mark.parametrize("tied", [False, True])
    def test_chosen_tokens_alone_can_be_trained(self, peft, make_llm, batch, model_type, tied):
        llm = make_llm(model_type, tie_embeddings=tied)
        adapter = HFAdapter.from_llm_model(llm)
        chosen = sorted({int(i) for i in batch["input_ids"][0]})
        model = with_lora(peft, adapter, trainable_token_indices={"token_embeddings": chosen})
        before = adapter.get_input_embeddings()(torch.arange(len(llm.lm_head.weight)))
        losses = train(model, batch)
        assert losses[-1] < 0.8 * losses[0]
        expected = logits_of(model, batch["input_ids"])
        merged = model.merge_and_unload()
        torch.testing.assert_close(
            logits_of(merged, batch["input_ids"]), expected, atol=1e-5, rtol=0
        )
        after = merged.get_input_embeddings().weight
        moved = (after != before).any(-1).nonzero().flatten().tolist()
        assert moved == chosen
        assert (merged.lm_head.weight is merged.get_input_embeddings().weight) == tied


# what each kind of prompt learning is told, and how the virtual tokens come in
PROMPT_LEARNING = {
    "prompt": ("PromptTuningConfig", {}),
    "prefix": ("PrefixTuningConfig", {}),
    "prefix, projected": (
        "PrefixTuningConfig",
        {"prefix_projection": True, "encoder_hidden_size": 16},
    ),
    "p-tuning": ("PromptEncoderConfig", {"encoder_hidden_size": 16}),
}
every_prompt = pytest.mark.parametrize("kind", sorted(PROMPT_LEARNING))


def with_prompt(peft, adapter, kind):
    torch.manual_seed(0)
    name, options = PROMPT_LEARNING[kind]
    config = getattr(peft, name)(task_type="CAUSAL_LM", num_virtual_tokens=NUM_VIRTUAL, **options)
    return peft.get_peft_model(adapter, config)


@torch.no_grad()
def prompted(model, llm, input_ids):
    """Logits of a row of ids by our own model, behind the virtual tokens of `model`."""
    encoder = model.prompt_encoder["default"]
    prompt = encoder(torch.arange(NUM_VIRTUAL)[None])
    if type(encoder).__name__ != "PrefixEncoder":
        embeddings = torch.cat([prompt, llm.decoder.token_embeddings(input_ids)], dim=1)
        positions = torch.arange(embeddings.shape[1])[None]
        return llm.lm_head(llm.decoder(embeddings, position_ids=positions))
    heads = llm.config.num_heads
    prompt = prompt.view(1, NUM_VIRTUAL, 2 * NUM_LAYERS, heads, -1).permute(2, 0, 3, 1, 4)
    cache = llm.make_cache(1, MAX_LENGTH)
    for layer in range(NUM_LAYERS):
        cache.update(prompt[2 * layer], prompt[2 * layer + 1], layer)
    return llm(input_ids, cache=cache)


class TestPromptLearning:
    @every_architecture
    @every_prompt
    def test_virtual_tokens_come_first(self, peft, make_llm, batch, model_type, kind):
        llm = make_llm(model_type)
        model = with_prompt(peft, HFAdapter.from_llm_model(llm), kind)
        train(model, batch, steps=3)
        for row in batch["input_ids"]:
            actual = logits_of(model, row[None])
            torch.testing.assert_close(
                actual, prompted(model, llm, row[None]), atol=1e-5, rtol=1e-5
            )
        # and change what follows
        assert (actual[:, -6:] - logits_of(model.get_base_model(), row[None])).abs().max() > 0.01

    @every_architecture
    @every_prompt
    def test_left_padding_changes_nothing(self, peft, make_llm, batch, rows, model_type, kind):
        llm = make_llm(model_type)
        model = with_prompt(peft, HFAdapter.from_llm_model(llm), kind)
        train(model, batch, steps=3)
        padded = logits_of(model, **left_padded(rows))
        for row, actual in zip(rows, padded, strict=True):
            expected = prompted(model, llm, torch.tensor([row]))[0]
            torch.testing.assert_close(
                actual[-len(row) :], expected[-len(row) :], atol=1e-5, rtol=1e-5
            )

    @pytest.mark.slow
    @every_architecture
    @every_prompt
    def test_training_changes_only_the_prompt(self, peft, make_llm, batch, model_type, kind):
        llm = make_llm(model_type)
        with torch.no_grad():
            before = llm(batch["input_ids"])
        model = with_prompt(peft, HFAdapter.from_llm_model(llm), kind)
        weights = weights_of(model)
        losses = train(model, batch, steps=20, lr=0.1)
        assert losses[-1] < losses[0] - 0.1
        trained = changed(weights, model)
        assert trained
        assert all(name.startswith("prompt_encoder.") for name in trained)
        with torch.no_grad():
            assert torch.equal(llm(batch["input_ids"]), before)

    @every_architecture
    @every_prompt
    def test_generates_from_left_padded_rows(self, peft, make_llm, batch, rows, model_type, kind):
        llm = make_llm(model_type)
        model = with_prompt(peft, HFAdapter.from_llm_model(llm), kind)
        train(model, batch, steps=3)
        expected = [greedy(lambda ids: prompted(model, llm, ids), row, 8) for row in rows]
        inputs = left_padded(rows)
        options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
        length = inputs["input_ids"].shape[1]
        assert model.generate(**inputs, **options)[:, length:].tolist() == expected
        alone = torch.tensor([rows[0]])
        together = model.generate(input_ids=alone, attention_mask=torch.ones_like(alone), **options)
        assert together[0, len(rows[0]) :].tolist() == expected[0]

    @every_architecture
    @every_prompt
    def test_saved_and_loaded_gives_the_same_logits(
        self, peft, make_llm, batch, tmp_path, model_type, kind
    ):
        model = with_prompt(peft, HFAdapter.from_llm_model(make_llm(model_type)), kind)
        train(model, batch, steps=3)
        expected = logits_of(model, batch["input_ids"])
        model.save_pretrained(tmp_path)
        base = HFAdapter.from_llm_model(make_llm(model_type))
        loaded = peft.PeftModel.from_pretrained(base, tmp_path)
        torch.testing.assert_close(
            logits_of(loaded, batch["input_ids"]), expected, atol=1e-6, rtol=0
        )

    @every_architecture
    @every_prompt
    def test_can_be_disabled(self, peft, make_llm, batch, model_type, kind):
        llm = make_llm(model_type)
        model = with_prompt(peft, HFAdapter.from_llm_model(llm), kind)
        with model.disable_adapter(), torch.no_grad():
            actual = logits_of(model, batch["input_ids"])
            torch.testing.assert_close(actual, llm(batch["input_ids"]), atol=1e-6, rtol=0)

    @every_architecture
    @pytest.mark.parametrize("kind", ["prompt", "p-tuning"])
    def test_gradients_are_those_without_checkpointing(
        self, peft, make_llm, batch, model_type, kind
    ):
        model = with_prompt(peft, HFAdapter.from_llm_model(make_llm(model_type)), kind)

        def gradients():
            model.train()
            model(**batch).loss.backward()
            found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            model.zero_grad()
            return found

        expected = gradients()
        model.get_base_model().gradient_checkpointing_enable()
        actual = gradients()
        assert expected
        assert actual.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(actual[name], gradient, atol=1e-6, rtol=1e-5)

    @every_architecture
    def test_prefix_is_refused_with_checkpointing(self, peft, make_llm, batch, model_type):
        model = with_prompt(peft, HFAdapter.from_llm_model(make_llm(model_type)), "prefix")
        model.get_base_model().gradient_checkpointing_enable()
        model.train()
        with pytest.raises(ValueError, match="gradient checkpointing"):
            model(**batch)

    @every_architecture
    @every_prompt
    def test_virtual_tokens_count_towards_the_longest_sequence(
        self, peft, make_llm, model_type, kind
    ):
        model = with_prompt(peft, HFAdapter.from_llm_model(make_llm(model_type)), kind).eval()
        longest = torch.full((1, MAX_LENGTH - NUM_VIRTUAL), 7)
        assert logits_of(model, longest).isfinite().all()
        with pytest.raises(ValueError, match="max_position_embeddings=64"):
            logits_of(model, torch.full((1, MAX_LENGTH - NUM_VIRTUAL + 1), 7))


# --- TRL ---


@pytest.fixture(scope="module")
def trl():
    import trl

    return trl


@torch.no_grad()
def mean_nll(model, documents):
    """Of a model of ours: nats a target token, over [(ids, number of leading non-targets)]."""
    total, count = 0.0, 0
    for ids, skipped in documents:
        log_probs = model(torch.tensor([ids]))[0, :-1].log_softmax(-1)
        targets = torch.tensor(ids[1:])
        losses = -log_probs.gather(-1, targets[:, None])[max(skipped - 1, 0) :]
        total, count = total + losses.sum().item(), count + len(losses)
    return total / count


def trl_options(tmp_path, **options):
    return {
        "output_dir": str(tmp_path),
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_steps": 5,
        "learning_rate": 0.02,
        "per_device_train_batch_size": 6,
        **options,
    }


def run_trainer(trainer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def dataset_of(rows):
    return Dataset.from_list(rows)


SHORT_TEXTS = [text.split(",")[0] for text in TEXTS]
QUESTIONS = [("The cat sat", " on the mat."), ("Кошка", " сидела."), ("The dog", " by the door.")]
# of packing and of leaving out padding; every one computes the same loss
SFT_WAYS = {
    "padded": {},
    "packed": {"packing": True, "per_device_train_batch_size": 20},
    "unpadded": {"padding_free": True, "max_length": None},
}


@pytest.mark.slow
class TestSFT:
    def sft(self, trl, model, tokenizer, dataset, tmp_path, **options):
        options = {"max_length": MAX_LENGTH, "gradient_checkpointing": False, **options}
        return trl.SFTTrainer(
            model=model,
            args=trl.SFTConfig(**trl_options(tmp_path, **options)),
            train_dataset=dataset_of(dataset),
            processing_class=tokenizer,
        )

    @every_architecture
    @pytest.mark.parametrize("way", sorted(SFT_WAYS))
    def test_documents_are_learned_each_for_itself(
        self, trl, bpe, tokenizer, make_llm, tmp_path, model_type, way
    ):
        documents = [([*bpe.encode(text), EOS], 0) for text in SHORT_TEXTS]
        assert max(len(ids) for ids, _ in documents) <= MAX_LENGTH
        llm = make_llm(model_type)
        expected = mean_nll(llm, documents)
        adapter = HFAdapter.from_llm_model(llm)
        dataset = [{"text": text} for text in SHORT_TEXTS]
        trainer = self.sft(trl, adapter, tokenizer, dataset, tmp_path, **SFT_WAYS[way])
        log = run_trainer(trainer)
        # nothing is seen of the neighbours in a packed row
        assert log[0]["loss"] == pytest.approx(expected, abs=1e-4)
        assert log[-1]["loss"] < 0.8 * log[0]["loss"]
        # and it is the wrapped model that has learned
        assert mean_nll(llm, documents) < 0.8 * expected

    @every_architecture
    def test_transformers_own_packing(self, bpe, make_llm, tmp_path, model_type):
        documents = [([*bpe.encode(text), EOS], 0) for text in SHORT_TEXTS]
        llm = make_llm(model_type)
        trainer = Trainer(
            model=HFAdapter.from_llm_model(llm),
            args=TrainingArguments(**trl_options(tmp_path, max_steps=1)),
            train_dataset=[{"input_ids": ids} for ids, _ in documents],
            data_collator=DataCollatorWithFlattening(),
        )
        expected = mean_nll(llm, documents)
        assert run_trainer(trainer)[0]["loss"] == pytest.approx(expected, abs=1e-4)

    @one_architecture
    def test_only_completions_are_learned(
        self, trl, bpe, tokenizer, make_llm, tmp_path, model_type
    ):
        documents = [
            ([*bpe.encode(prompt), *bpe.encode(completion), EOS], len(bpe.encode(prompt)))
            for prompt, completion in QUESTIONS
        ]
        llm = make_llm(model_type)
        expected = mean_nll(llm, documents)
        assert expected != pytest.approx(
            mean_nll(llm, [(ids, 0) for ids, _ in documents]), abs=0.01
        )
        dataset = [{"prompt": p, "completion": c} for p, c in QUESTIONS]
        log = run_trainer(
            self.sft(trl, HFAdapter.from_llm_model(llm), tokenizer, dataset, tmp_path)
        )
        assert log[0]["loss"] == pytest.approx(expected, abs=1e-4)
        assert log[-1]["loss"] < 0.8 * log[0]["loss"]

    @one_architecture
    @pytest.mark.parametrize(
        "space",
        [
            "",
            " ",
        ],
    )
    def test_only_the_assistant_is_learned(
        self, trl, bpe, tokenizer, make_llm, tmp_path, model_type, space
    ):
        conversations = [(q, space + a.strip()) for q, a in QUESTIONS]
        tokenizer.chat_template = (
            "{% for message in messages %}{% if message.role == 'assistant' %}"
            "{% generation %}{{ message.content }}<eos>{% endgeneration %}"
            "{% else %}<bos>{{ message.content }}{% endif %}{% endfor %}"
        )
        documents = [
            ([BOS, *bpe.encode(question), *bpe.encode(answer), EOS], 1 + len(bpe.encode(question)))
            for question, answer in conversations
        ]
        llm = make_llm(model_type)
        expected = mean_nll(llm, documents)
        dataset = [
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ]
            }
            for question, answer in conversations
        ]
        adapter = HFAdapter.from_llm_model(llm)
        log = run_trainer(
            self.sft(trl, adapter, tokenizer, dataset, tmp_path, assistant_only_loss=True)
        )
        assert log[0]["loss"] == pytest.approx(expected, abs=1e-4)
        assert log[-1]["loss"] < 0.8 * log[0]["loss"]

    @every_architecture
    def test_with_lora_by_default_checkpointed(
        self, trl, peft, bpe, tokenizer, make_llm, tmp_path, model_type
    ):
        llm = make_llm(model_type)
        before = weights_of(llm)
        trainer = trl.SFTTrainer(
            model=HFAdapter.from_llm_model(llm),
            args=trl.SFTConfig(**trl_options(tmp_path, max_length=MAX_LENGTH)),
            train_dataset=dataset_of([{"text": text} for text in SHORT_TEXTS]),
            processing_class=tokenizer,
            peft_config=lora_config(peft),
        )
        assert trainer.args.gradient_checkpointing
        log = run_trainer(trainer)
        documents = [([*bpe.encode(text), EOS], 0) for text in SHORT_TEXTS]
        assert log[0]["loss"] == pytest.approx(mean_nll(llm, documents), abs=1e-4)
        assert log[-1]["loss"] < 0.95 * log[0]["loss"]
        assert not changed(before, llm)

    @one_architecture
    def test_saved_by_the_trainer_it_is_loaded_as_a_model_of_ours(
        self, trl, tokenizer, make_llm, rows, tmp_path, model_type
    ):
        adapter = HFAdapter.from_llm_model(make_llm(model_type))
        dataset = [{"text": text} for text in SHORT_TEXTS]
        trainer = self.sft(trl, adapter, tokenizer, dataset, tmp_path, max_steps=1)
        run_trainer(trainer)
        trainer.save_model(tmp_path / "saved")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").to_llm_model()
        input_ids = torch.tensor([rows[0]])
        with torch.no_grad():
            assert torch.equal(loaded(input_ids), logits_of(adapter.eval(), input_ids))


PREFERENCES = [
    {"prompt": "The cat sat", "chosen": " on the mat.", "rejected": " by the book."},
    {"prompt": "The dog", "chosen": " lay.", "rejected": " learns a small book."},
    {"prompt": "Кошка", "chosen": " сидела на коврике.", "rejected": " у двери."},
    {"prompt": "A small model", "chosen": " learns.", "rejected": " sat."},
]


@pytest.mark.slow
class TestPreferences:
    def dpo(self, trl, model, tokenizer, tmp_path, ref_model=None, peft_config=None, **options):
        options = {"max_length": MAX_LENGTH, "learning_rate": 0.005, "beta": 0.5, **options}
        return trl.DPOTrainer(
            model=model,
            ref_model=ref_model,
            args=trl.DPOConfig(**trl_options(tmp_path, **options)),
            train_dataset=dataset_of(PREFERENCES),
            processing_class=tokenizer,
            peft_config=peft_config,
        )

    @one_architecture
    @pytest.mark.parametrize(
        "reference",
        [
            "precomputed",
            "handed in",
            "without lora",
            "loaded",
        ],
    )
    def test_dpo_learns_them(self, trl, peft, tokenizer, make_llm, tmp_path, model_type, reference):
        adapter = HFAdapter.from_llm_model(make_llm(model_type))
        options = {}
        if reference == "loaded":
            adapter.save_pretrained(tmp_path / "model")
            adapter = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        elif reference == "precomputed":
            options = {"precompute_ref_log_probs": True}
        elif reference == "handed in":
            options = {"ref_model": HFAdapter.from_llm_model(make_llm(model_type))}
        else:
            options = {"peft_config": lora_config(peft), "learning_rate": 0.02}
        log = run_trainer(self.dpo(trl, adapter, tokenizer, tmp_path, **options))
        # as long as it is its own reference, neither answer is preferred
        assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert log[-1]["loss"] < 0.5 * math.log(2)
        assert log[-1]["rewards/accuracies"] == 1

    @every_architecture
    def test_dropout_can_be_turned_off(self, trl, make_llm, batch, model_type):
        from trl.trainer.utils import disable_dropout_in_model

        adapter = HFAdapter.from_llm_model(make_llm(model_type, dropout=0.5))
        expected = logits_of(adapter.eval(), batch["input_ids"])
        adapter.train()
        assert not torch.allclose(logits_of(adapter, batch["input_ids"]), expected, atol=1e-3)
        disable_dropout_in_model(adapter)
        actual = logits_of(adapter, batch["input_ids"])
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


@pytest.mark.slow
class TestGRPO:
    @one_architecture
    def test_reward_rises(self, trl, tokenizer, make_llm, tmp_path, model_type):
        seen = []

        def reward(completions, completion_ids, **_):
            assert tokenizer.batch_decode(completion_ids, skip_special_tokens=True) == completions
            rewards = [sum(i % 2 for i in ids) / len(ids) for ids in completion_ids]
            seen.append(sum(rewards) / len(rewards))
            return rewards

        trainer = trl.GRPOTrainer(
            model=HFAdapter.from_llm_model(make_llm(model_type)),
            reward_funcs=reward,
            args=trl.GRPOConfig(
                **trl_options(
                    tmp_path,
                    max_steps=12,
                    per_device_train_batch_size=16,
                    num_generations=8,
                    max_completion_length=8,
                    learning_rate=0.01,
                )
            ),
            train_dataset=dataset_of([{"prompt": p} for p, _ in QUESTIONS] * 8),
            processing_class=tokenizer,
        )
        log = run_trainer(trainer)
        assert all(math.isfinite(entry["loss"]) for entry in log)
        assert sum(seen[-3:]) > sum(seen[:3]) + 0.3

    @every_architecture
    def test_two_steps_change_the_model(self, trl, peft, tokenizer, make_llm, tmp_path, model_type):
        llm = make_llm(model_type)
        before = weights_of(llm)
        trainer = trl.GRPOTrainer(
            model=HFAdapter.from_llm_model(llm),
            reward_funcs=lambda completion_ids, **_: [float(sum(ids)) for ids in completion_ids],
            args=trl.GRPOConfig(
                **trl_options(
                    tmp_path,
                    max_steps=2,
                    per_device_train_batch_size=2,
                    num_generations=2,
                    max_completion_length=5,
                    beta=0.1,
                )
            ),
            train_dataset=dataset_of([{"prompt": p} for p, _ in QUESTIONS]),
            processing_class=tokenizer,
            peft_config=lora_config(peft),
        )
        log = run_trainer(trainer)
        assert [math.isfinite(entry["loss"]) for entry in log] == [True, True]
        # still the model it began as: there is nothing to be held back from
        assert log[0]["kl"] == pytest.approx(0, abs=1e-5)
        assert log[1]["kl"] > 1e-4
        assert not changed(before, llm)


# --- accelerate ---


@pytest.fixture
def accelerate():
    import accelerate as library
    from accelerate.state import AcceleratorState, GradientState

    def forget():
        # a process has one state, with one precision
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    forget()
    yield library
    forget()


def accelerated_steps(accelerator, model, optimizer, batch, steps):
    losses = []
    model.train()
    for _ in range(steps):
        loss = model(**batch).loss
        losses.append(loss.item())
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return losses


class TestAccelerate:
    @every_architecture
    @pytest.mark.parametrize("precision", ["no", "bf16"])
    def test_prepared_loop_learns(self, accelerate, make_llm, batch, model_type, precision):
        llm = make_llm(model_type)
        with torch.no_grad():
            log_probs = llm(batch["input_ids"])[:, :-1].log_softmax(-1)
        expected = -log_probs.gather(-1, batch["input_ids"][:, 1:, None]).mean().item()
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
        adapter = HFAdapter.from_llm_model(llm)
        seen = []
        adapter.get_submodule("model.decoder.blocks.0.block.attention").register_forward_hook(
            lambda _, __, output: seen.append(output.dtype)
        )
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.01)
        model, optimizer = accelerator.prepare(adapter, optimizer)
        losses = accelerated_steps(accelerator, model, optimizer, batch, steps=8)
        assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert losses[0] == pytest.approx(expected, rel=0.01 if precision == "bf16" else 1e-5)
        assert losses[-1] < 0.6 * losses[0]
        assert {p.dtype for p in llm.parameters()} == {torch.float32}
        assert accelerator.unwrap_model(model) is adapter

    @every_architecture
    def test_state_is_resumed_exactly(self, accelerate, make_llm, batch, tmp_path, model_type):
        accelerator = accelerate.Accelerator(cpu=True)
        # dropout, so that random numbers have to go on too
        adapter = HFAdapter.from_llm_model(make_llm(model_type, dropout=0.1))
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.01)
        model, optimizer = accelerator.prepare(adapter, optimizer)
        accelerated_steps(accelerator, model, optimizer, batch, steps=3)
        accelerator.save_state(tmp_path)
        losses = accelerated_steps(accelerator, model, optimizer, batch, steps=3)
        weights = weights_of(adapter)
        accelerator.load_state(tmp_path)
        assert changed(weights, adapter)
        assert accelerated_steps(accelerator, model, optimizer, batch, steps=3) == losses
        assert not changed(weights, adapter)
        assert adapter.lm_head.weight is adapter.get_input_embeddings().weight

    @every_architecture
    def test_blocks_are_placed_whole(self, accelerate, make_llm, model_type):
        adapter = HFAdapter.from_llm_model(make_llm(model_type))
        total = sum(p.numel() * p.element_size() for p in adapter.parameters())
        sizes = set()
        for share in (0.3, 0.5, 0.7, 0.9):
            devices = accelerate.infer_auto_device_map(
                adapter,
                max_memory={"cpu": int(share * total)},
                no_split_module_classes=adapter._no_split_modules,
            )
            # each block goes to one device as a whole
            assert not [name for name in devices if ".block." in name]
            # what is tied stays together
            head = devices.get("lm_head")
            embeddings = devices.get("model.decoder.token_embeddings", head)
            assert head == embeddings
            sizes.add(len([name for name, device in devices.items() if device == "disk"]))
        assert len(sizes) > 1

    @every_architecture
    @pytest.mark.parametrize("place", ["memory", "disk", "dispatched", "loaded"])
    def test_offloaded_weights_give_the_same_logits_and_text(
        self, accelerate, make_llm, rows, tmp_path, model_type, place
    ):
        reference = HFAdapter.from_llm_model(make_llm(model_type))
        model = HFAdapter.from_llm_model(make_llm(model_type))
        device_map = {
            "model.decoder.token_embeddings": "cpu",
            "model.decoder.position_embeddings": "cpu",
            "model.decoder.embedding_dropout": "cpu",
            "model.decoder.blocks.0": "cpu",
            "model.decoder.blocks.1": "disk",
            "model.decoder.final_norm": "disk",
            "lm_head": "cpu",
        }
        if place == "memory":
            model = accelerate.cpu_offload(model, execution_device="cpu")
        elif place == "disk":
            accelerate.disk_offload(model, str(tmp_path), execution_device="cpu")
        elif place == "dispatched":
            model = accelerate.dispatch_model(
                model, device_map, main_device="cpu", offload_dir=str(tmp_path)
            )
        else:
            reference.save_pretrained(tmp_path / "model")
            model = AutoModelForCausalLM.from_pretrained(
                tmp_path / "model", device_map=device_map, offload_folder=str(tmp_path / "disk")
            )
        away = [name for name, p in model.named_parameters() if p.device.type == "meta"]
        assert any("blocks.1." in name for name in away)
        assert any("blocks.0." in name for name in away) == (place in ("memory", "disk"))
        inputs = left_padded(rows)
        options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
        assert torch.equal(logits_of(model, **inputs), logits_of(reference, **inputs))
        assert torch.equal(
            model.generate(**inputs, **options), reference.generate(**inputs, **options)
        )


# --- lm-eval ---


@pytest.fixture(scope="module")
def lm_eval():
    import lm_eval

    return lm_eval


def requests(kind, arguments):
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type=kind, doc={}, arguments=given, idx=i)
        for i, given in enumerate(arguments)
    ]


@torch.no_grad()
def log_likelihood(llm, context, continuation):
    """Of ids after ids: nats, and whether each is the likeliest."""
    log_probs = llm(torch.tensor([context + continuation]))[0, :-1].log_softmax(-1)
    log_probs = log_probs[-len(continuation) :]
    targets = torch.tensor(continuation)
    total = log_probs.gather(-1, targets[:, None]).sum().item()
    return total, bool((log_probs.argmax(-1) == targets).all())


class TestLMEval:
    @pytest.fixture(params=sorted(ARCHITECTURES))
    def llm(self, make_llm, request):
        return make_llm(request.param)

    @pytest.fixture(params=["live", pytest.param("saved", marks=pytest.mark.slow)])
    def make_harness(self, lm_eval, llm, tokenizer, tmp_path, request):
        """lm-eval's model, of an adapter or of the folder that it was saved to."""
        from lm_eval.models.huggingface import HFLM

        adapter = HFAdapter.from_llm_model(llm)
        if request.param == "live":
            return lambda batch_size: HFLM(adapter, tokenizer=tokenizer, batch_size=batch_size)
        adapter.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return lambda batch_size: HFLM(str(tmp_path / "model"), device="cpu", batch_size=batch_size)

    @pytest.mark.parametrize("batch_size", [1, 4])
    def test_log_likelihoods(self, make_harness, llm, bpe, batch_size):
        harness = make_harness(batch_size)
        assert harness.max_length == MAX_LENGTH
        arguments = [
            ("The cat sat", " on the mat."),
            ("The cat sat", " by the door."),
            ("Кошка сидела", " у книги."),
            ("", "A small model"),
            ("The dog lay by the", " b"),
        ]
        # the likeliest continuation that survives the way through text
        prompt = bpe.encode("The dog")
        likeliest = greedy(llm, prompt, 1)
        if bpe.encode("The dog" + bpe.decode(likeliest)) == prompt + likeliest:
            arguments.append(("The dog", bpe.decode(likeliest)))
        expected = []
        for context, continuation in arguments:
            ids = bpe.encode(context) or [BOS]
            expected.append(log_likelihood(llm, ids, bpe.encode(continuation)))
        actual = harness.loglikelihood(requests("loglikelihood", arguments), disable_tqdm=True)
        assert [value for value, _ in actual] == pytest.approx(
            [value for value, _ in expected], abs=1e-4
        )
        assert [is_greedy for _, is_greedy in actual] == [is_greedy for _, is_greedy in expected]

    @pytest.mark.parametrize("batch_size", [1, 4])
    def test_rolling_log_likelihoods(self, make_harness, llm, bpe, batch_size):
        short, long = TEXTS[4], " ".join(TEXTS)
        ids = bpe.encode(long)
        while len(ids) > 2 * MAX_LENGTH:
            long = long[:-5]
            ids = bpe.encode(long)
        rest = len(ids) - MAX_LENGTH
        assert 0 < rest < MAX_LENGTH
        expected = [
            log_likelihood(llm, [BOS], bpe.encode(short))[0],
            # what does not fit follows in a second window, behind as much as fits there
            _window(llm, [BOS, *ids[: MAX_LENGTH - 1]], ids[:MAX_LENGTH])
            + _window(llm, ids[-MAX_LENGTH - 1 : -1], ids[-rest:]),
        ]
        arguments = [(short,), (long,)]
        actual = make_harness(batch_size).loglikelihood_rolling(
            requests("loglikelihood_rolling", arguments), disable_tqdm=True
        )
        assert actual == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize("batch_size", [1, 4])
    def test_generates_until(self, make_harness, llm, bpe, batch_size):
        whole = {}
        for prompt in (*TEXTS, *(text[:9] for text in TEXTS)):
            ids = greedy(llm, bpe.encode(prompt), 10)
            # special tokens are no text, neither to stop at nor to return
            if len(bpe.encode(prompt)) <= MAX_LENGTH - 10 and min(ids) > EOS:
                whole[prompt] = bpe.decode(ids)
        assert len(whole) > 4
        # stop one of them in its middle
        stop = next(text for text in whole.values() if len(text) > 3)[2:4]
        arguments = [
            (prompt, {"until": [stop], "max_gen_toks": 10, "do_sample": False}) for prompt in whole
        ]
        actual = make_harness(batch_size).generate_until(
            requests("generate_until", arguments), disable_tqdm=True
        )
        assert actual == [text.split(stop)[0] for text in whole.values()]
        assert actual != list(whole.values())

    @pytest.mark.slow
    def test_local_task(self, lm_eval, make_harness, llm, bpe, tmp_path):
        from lm_eval.tasks import TaskManager

        choices = ["mat", "door", "book"]
        questions = ["The cat sat on the", "The dog lay by the", "A small", "Кошка"]
        documents = []
        for number, question in enumerate(questions):
            values = [
                log_likelihood(llm, bpe.encode(question), bpe.encode(f" {choice}"))[0]
                for choice in choices
            ]
            best = max(range(3), key=values.__getitem__)
            # the model is right about all of them but the last
            answer = best if number < 3 else (best + 1) % 3
            documents.append({"question": question, "choices": choices, "answer": answer})
        data = tmp_path / "data.jsonl"
        data.write_text("".join(json.dumps(document) + "\n" for document in documents))
        task = {
            "task": "tiny_choice",
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(data)},
                "cache_dir": str(tmp_path / "cache"),
            },
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "acc"}],
        }
        tasks = tmp_path / "tasks"
        tasks.mkdir()
        # JSON is YAML
        (tasks / "tiny_choice.yaml").write_text(json.dumps(task))
        results = lm_eval.simple_evaluate(
            make_harness(2),
            tasks=["tiny_choice"],
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            bootstrap_iters=0,
        )
        assert results["results"]["tiny_choice"]["acc,none"] == 0.75

    @pytest.mark.slow
    def test_lora_over_a_saved_model(self, lm_eval, peft, llm, bpe, tokenizer, batch, tmp_path):
        from lm_eval.models.huggingface import HFLM

        adapter = HFAdapter.from_llm_model(llm)
        adapter.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        model = with_lora(peft, adapter)
        train(model, batch, steps=3)
        model.save_pretrained(tmp_path / "lora")
        harness = HFLM(
            str(tmp_path / "model"), peft=str(tmp_path / "lora"), device="cpu", batch_size=1
        )
        arguments = [("The cat sat", " on the mat.")]
        [(actual, _)] = harness.loglikelihood(
            requests("loglikelihood", arguments), disable_tqdm=True
        )
        ids = [bpe.encode(text) for text in arguments[0]]
        before, _ = log_likelihood(llm, *ids)
        expected, _ = log_likelihood(model.merge_and_unload().to_llm_model(), *ids)
        assert actual == pytest.approx(expected, abs=1e-4)
        assert actual != pytest.approx(before, abs=0.01)


@torch.no_grad()
def _window(llm, inputs, targets):
    """Nats of targets, the last of what a window of inputs predicts."""
    log_probs = llm(torch.tensor([inputs]))[0, -len(targets) :].log_softmax(-1)
    return log_probs.gather(-1, torch.tensor(targets)[:, None]).sum().item()
