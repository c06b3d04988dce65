"""Training an `HFAdapter`: transformers' `Trainer`, checkpointing, mixed precision, compilation."""

import copy
import math

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    DynamicCache,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from hf_proxy import HFAdapter
from llm.tokenizers import BPETokenizer

LENGTHS = [5, 12, 8, 3, 10, 7, 4, 11]
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture
def dataset(random_rows):
    """Rows of uneven lengths; of some, the first tokens are no targets."""
    return [
        {"input_ids": row, "labels": [-100] * (i % 3) + row[i % 3 :]}
        for i, row in enumerate(random_rows(*LENGTHS))
    ]


def collate(rows):
    """Pad on the right: with 0, a mask of 0, and labels of -100."""
    length = max(len(row["input_ids"]) for row in rows)
    batch = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        missing = length - len(row["input_ids"])
        batch["input_ids"].append(row["input_ids"] + [0] * missing)
        batch["attention_mask"].append([1] * len(row["input_ids"]) + [0] * missing)
        batch["labels"].append(row["labels"] + [-100] * missing)
    return {name: torch.tensor(values) for name, values in batch.items()}


@pytest.fixture
def make_trainer(tmp_path, dataset):
    def make(model, *, folder="run", data=None, collator=collate, **options):
        options = {
            "per_device_train_batch_size": 4,
            "max_steps": 4,
            "learning_rate": 0.01,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "train_sampling_strategy": "sequential",
            **options,
        }
        return Trainer(
            model=model,
            args=TrainingArguments(output_dir=str(tmp_path / folder), **options),
            train_dataset=dataset if data is None else data,
            eval_dataset=dataset,
            data_collator=collator,
        )

    return make


def losses_of(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@torch.no_grad()
def mean_loss(model, rows):
    """Of a model of ours, in nats a target, row by row: no padding, no averages of averages."""
    losses = []
    for row in rows:
        log_probs = model(torch.tensor([row["input_ids"]]))[0].double().log_softmax(-1)
        losses += [
            -log_probs[i, target].item()
            for i, target in enumerate(row["labels"][1:])
            if target != -100
        ]
    return sum(losses) / len(losses)


def assert_same_weights(actual, expected, **tolerance):
    expected = dict(expected.named_parameters())
    for name, parameter in actual.named_parameters():
        torch.testing.assert_close(
            parameter, expected[name], **tolerance, msg=lambda m, n=name: n + m
        )


class TestTrainer:
    def test_loss_falls_and_the_model_has_learned(
        self, make_model, make_trainer, dataset, model_type
    ):
        model = make_model(model_type)
        before = mean_loss(model, dataset)
        trainer = make_trainer(HFAdapter.from_llm_model(model), max_steps=30)
        trainer.train()
        losses = losses_of(trainer)
        assert losses[-1] < 0.5 * losses[0]
        assert mean_loss(model.eval(), dataset) < 0.5 * before

    @pytest.mark.parametrize("accumulation", [1, 2])
    def test_logged_loss_is_that_of_the_targets(
        self, make_model, make_trainer, dataset, model_type, accumulation
    ):
        model = make_model(model_type)
        # without a step's change, each batch's loss can be computed at the end
        trainer = make_trainer(
            HFAdapter.from_llm_model(model),
            learning_rate=0.0,
            max_steps=2,
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
        )
        trainer.train()
        expected = [mean_loss(model.eval(), dataset[:4]), mean_loss(model, dataset[4:])]
        assert losses_of(trainer) == pytest.approx(expected, abs=1e-4)

    def test_logged_loss_is_that_of_the_targets_with_bfloat16_weights(
        self, make_model, make_trainer, dataset, model_type
    ):
        model = make_model(model_type)
        expected = mean_loss(model, dataset[:4])
        half = copy.deepcopy(model).to(torch.bfloat16)
        trainer = make_trainer(HFAdapter.from_llm_model(half), max_steps=20)
        trainer.train()
        losses = losses_of(trainer)
        assert losses[0] == pytest.approx(expected, abs=0.05)
        assert losses[-1] < 0.7 * losses[0]
        assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}

    @pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 2])
    def test_accumulated_gradients_equal_those_of_the_whole_batch(
        self, make_adapter, make_trainer, model_type, size
    ):
        whole, parts = make_adapter(model_type), make_adapter(model_type)
        options = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0, "max_steps": 3}
        make_trainer(whole, **options).train()
        make_trainer(
            parts,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=4 // size,
            **options,
        ).train()
        assert_same_weights(parts, whole, atol=1e-6, rtol=0)
        start = make_adapter(model_type)
        assert (whole.lm_head.weight - start.lm_head.weight).abs().max() > 1e-3

    def test_steps_equal_those_by_hand(
        self, make_adapter, make_model, make_trainer, dataset, hand_loss, model_type
    ):
        adapter, model = make_adapter(model_type), make_model(model_type)
        make_trainer(
            adapter, optim="sgd", learning_rate=0.1, max_grad_norm=0, max_steps=2,
            lr_scheduler_type="constant", per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
        ).train()  # fmt: skip
        for rows in (dataset[:4], dataset[4:]):
            batch = collate(rows)
            logits = model(batch["input_ids"], attention_mask=batch["attention_mask"])
            model.zero_grad()
            hand_loss(logits, batch["labels"]).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
        assert_same_weights(adapter.to_llm_model(), model, atol=1e-6, rtol=0)

    def test_evaluates_to_the_loss_of_the_targets(
        self, make_model, make_trainer, dataset, model_type
    ):
        # in train mode and with dropout: evaluation must do without
        model = make_model(model_type, dropout=0.3).train()
        trainer = make_trainer(
            HFAdapter.from_llm_model(model), per_device_eval_batch_size=len(dataset)
        )
        metrics = trainer.evaluate()
        assert metrics["eval_loss"] == pytest.approx(mean_loss(model.eval(), dataset), abs=1e-4)

    def test_predicts_the_logits(self, make_adapter, make_trainer, dataset, model_type):
        adapter = make_adapter(model_type)
        rows = [dataset[0], dataset[0]]
        trainer = make_trainer(adapter)
        # which the Trainer has turned off
        adapter.config.use_cache = True
        prediction = trainer.predict(rows)
        # logits alone, with no cache beside them
        assert prediction.predictions.shape == (2, 5, 67)
        with torch.no_grad():
            expected = adapter(torch.tensor([dataset[0]["input_ids"]])).logits
        torch.testing.assert_close(torch.tensor(prediction.predictions[:1]), expected, **CLOSE)

    def test_resumes_to_the_very_same_weights(
        self, make_adapter, make_trainer, tmp_path, model_type
    ):
        options = {
            "max_steps": 6,
            "per_device_train_batch_size": 2,
            "train_sampling_strategy": "random",
            "save_strategy": "steps",
            "save_steps": 2,
            "seed": 3,
        }
        whole = make_adapter(model_type, dropout=0.2)
        make_trainer(whole, folder="whole", **options).train()
        checkpoint = tmp_path / "whole" / "checkpoint-2"
        resumed = make_adapter(model_type, dropout=0.2, seed=1)
        trainer = make_trainer(resumed, folder="resumed", **options)
        trainer.train(resume_from_checkpoint=str(checkpoint))
        assert len(losses_of(trainer)) == 6
        assert_same_weights(resumed, whole, atol=0, rtol=0)
        loaded = AutoModelForCausalLM.from_pretrained(checkpoint)
        assert not torch.equal(loaded.lm_head.weight, whole.lm_head.weight)

    def test_resumed_weights_are_those_of_the_model_wrapped(
        self, make_model, make_trainer, tmp_path, model_type
    ):
        options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        first = make_model(model_type)
        make_trainer(HFAdapter.from_llm_model(first), folder="first", **options).train()
        second = make_model(model_type, seed=1)
        make_trainer(HFAdapter.from_llm_model(second), folder="second", **options).train(
            resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-2")
        )
        assert_same_weights(second, first, atol=0, rtol=0)

    def test_best_model_is_loaded_at_the_end(self, make_model, make_trainer, dataset, model_type):
        # it gets better and better, and the best is said to be the worst
        model = make_model(model_type)
        trainer = make_trainer(
            HFAdapter.from_llm_model(model),
            max_steps=3,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            load_best_model_at_end=True,
            greater_is_better=True,
            per_device_eval_batch_size=len(dataset),
        )
        trainer.train()
        losses = [e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e]
        assert losses[0] == max(losses) > losses[-1] + 0.01
        assert mean_loss(model.eval(), dataset) == pytest.approx(losses[0], abs=1e-4)

    def test_label_smoothing_equals_one_by_hand(
        self, make_model, make_trainer, dataset, model_type
    ):
        model, epsilon = make_model(model_type), 0.2
        trainer = make_trainer(
            HFAdapter.from_llm_model(model),
            max_steps=1,
            learning_rate=0.0,
            label_smoothing_factor=epsilon,
        )
        trainer.train()
        plain, smooth = [], []
        for row in dataset[:4]:
            with torch.no_grad():
                log_probs = model.eval()(torch.tensor([row["input_ids"]]))[0].log_softmax(-1)
            for i, target in enumerate(row["labels"][1:]):
                if target != -100:
                    plain.append(-log_probs[i, target].item())
                    smooth.append(-log_probs[i].mean().item())
        count = len(plain)
        expected = (1 - epsilon) * sum(plain) / count + epsilon * sum(smooth) / count
        assert losses_of(trainer) == pytest.approx([expected], abs=1e-4)

    @pytest.mark.parametrize("options", [{"use_reentrant": True}, {"use_reentrant": False}])
    def test_with_gradient_checkpointing_ends_in_the_same_weights(
        self, make_adapter, make_trainer, model_type, options
    ):
        plain, checkpointed = make_adapter(model_type), make_adapter(model_type)
        make_trainer(plain).train()
        trainer = make_trainer(
            checkpointed, gradient_checkpointing=True, gradient_checkpointing_kwargs=options
        )
        trainer.train()
        assert checkpointed.is_gradient_checkpointing
        assert_same_weights(checkpointed, plain, atol=1e-6, rtol=0)

    def test_in_mixed_precision_stays_near_float32(self, make_adapter, make_trainer, model_type):
        plain, mixed = make_adapter(model_type), make_adapter(model_type)
        first, second = make_trainer(plain, max_steps=10), make_trainer(
            mixed, max_steps=10, bf16=True
        )
        first.train()
        second.train()
        assert {parameter.dtype for parameter in mixed.parameters()} == {torch.float32}
        assert losses_of(second) == pytest.approx(losses_of(first), rel=0.02)
        assert losses_of(second) != losses_of(first)

    @pytest.mark.slow
    def test_compiled_equals_plain(self, make_adapter, make_trainer, model_type):
        torch.compiler.reset()
        plain, compiled = make_adapter(model_type), make_adapter(model_type)
        make_trainer(plain, max_steps=2).train()
        trainer = make_trainer(
            compiled, max_steps=2, torch_compile=True, torch_compile_backend="eager"
        )
        trainer.train()
        assert_same_weights(compiled, plain, atol=1e-6, rtol=0)

    def test_collator_of_transformers_gives_the_loss_of_the_targets(
        self, make_model, make_trainer, model_type
    ):
        bpe = BPETokenizer()
        texts = ["The cat sat.", "The dog lay by the door, and slept.", "Сидела кошка."]
        bpe.train(texts, vocab_size=280, special_tokens=["<pad>"], show_progress=False)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(bpe.to_json()), pad_token="<pad>"
        )
        ids = [bpe.encode(text) for text in texts]
        assert len({len(row) for row in ids}) == 3
        model = make_model(model_type, vocab_size=len(tokenizer))
        trainer = make_trainer(
            HFAdapter.from_llm_model(model),
            data=[{"input_ids": row} for row in ids],
            collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
            max_steps=1,
            learning_rate=0.0,
        )
        trainer.train()
        expected = mean_loss(model.eval(), [{"input_ids": row, "labels": row} for row in ids])
        assert losses_of(trainer) == pytest.approx([expected], abs=1e-4)


def gradients(adapter, batch, **options):
    adapter.train()
    adapter.zero_grad()
    torch.manual_seed(0)
    adapter(**batch, **options).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in adapter.named_parameters()}


class TestCheckpointing:
    @pytest.mark.parametrize("reentrant", [True, False])
    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    @pytest.mark.parametrize("dropout", [0.0, 0.2])
    def test_gradients_are_those_without(
        self, make_adapter, dataset, model_type, reentrant, implementation, dropout
    ):
        adapter, batch = make_adapter(model_type, dropout=dropout), collate(dataset)
        adapter.set_attn_implementation(implementation)
        expected = gradients(adapter, batch, use_cache=False)
        adapter.gradient_checkpointing_enable({"use_reentrant": reentrant})
        calls = []
        part = adapter.model.decoder.blocks[1].block.feed_forward
        part.register_forward_pre_hook(lambda *_: calls.append(1))
        actual = gradients(adapter, batch, use_cache=False)
        # computed again in the backward pass
        assert len(calls) == 2
        for name, gradient in expected.items():
            assert gradient.any(), name
            torch.testing.assert_close(actual[name], gradient, atol=1e-7, rtol=1e-5)
        adapter.gradient_checkpointing_disable()
        gradients(adapter, batch, use_cache=False)
        assert len(calls) == 3

    def test_gradients_are_those_without_where_a_cache_is_the_default(
        self, make_adapter, dataset, model_type
    ):
        adapter, batch = make_adapter(model_type), collate(dataset)
        assert adapter.config.use_cache
        expected = gradients(adapter, batch)
        adapter.gradient_checkpointing_enable()
        actual = gradients(adapter, batch)
        for name, gradient in expected.items():
            torch.testing.assert_close(actual[name], gradient, atol=1e-7, rtol=1e-5)

    def test_gradients_of_a_model_wrapped_in_eval_mode_are_those_without(
        self, make_adapter, dataset, model_type
    ):
        batch = collate(dataset)
        plain, adapter = make_adapter(model_type), make_adapter(model_type)
        adapter.gradient_checkpointing_enable()
        # nothing is checkpointed in eval mode, so that a cache is filled once
        for each in (plain, adapter):
            each(**batch, use_cache=True).loss.backward()
        for name, parameter in plain.named_parameters():
            actual = adapter.get_parameter(name).grad
            torch.testing.assert_close(actual, parameter.grad, atol=1e-7, rtol=1e-5)

    def test_records_what_is_asked_for(self, make_adapter, random_ids, model_type):
        adapter, input_ids = make_adapter(model_type).train(), random_ids(2, 7)
        adapter.set_attn_implementation("eager")
        options = {"use_cache": False, "output_hidden_states": True, "output_attentions": True}
        plain = adapter(input_ids, **options)
        adapter.gradient_checkpointing_enable()
        output = adapter(input_ids, **options)
        output.logits.sum().backward()
        for name in ("hidden_states", "attentions"):
            assert len(output[name]) == len(plain[name])
            for ours, expected in zip(output[name], plain[name], strict=True):
                torch.testing.assert_close(ours, expected, **CLOSE)

    def test_generates_right_tokens_in_train_mode_or_none(
        self, make_adapter, random_ids, model_type
    ):
        adapter, input_ids = make_adapter(model_type), random_ids(2, 6)
        options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        expected = adapter.generate(input_ids, **options)
        adapter.train()
        adapter.gradient_checkpointing_enable()
        # checkpointing and a cache do not go together: better no tokens than wrong ones
        with pytest.raises(ValueError, match="checkpointing"):
            adapter.generate(input_ids, **options)
        assert torch.equal(adapter.generate(input_ids, use_cache=False, **options), expected)
        assert torch.equal(adapter.eval().generate(input_ids, **options), expected)

    def test_of_a_cache_handed_in_is_an_error_that_says_so(
        self, make_adapter, random_ids, model_type
    ):
        adapter = make_adapter(model_type).train()
        adapter.gradient_checkpointing_enable()
        cache = DynamicCache(config=adapter.config)
        with pytest.raises(ValueError, match=r"checkpointing.*past_key_values"):
            adapter(random_ids(1, 4), past_key_values=cache)

    def test_inputs_can_require_gradients(self, make_adapter, dataset, model_type):
        # as with frozen embeddings, where the first block has nothing to send gradients to
        batch = collate(dataset)
        adapter = make_adapter(model_type, tie_embeddings=False)
        adapter.get_input_embeddings().requires_grad_(False)
        adapter.model.decoder.position_embeddings.requires_grad_(False)
        weight = adapter.model.decoder.blocks[0].block.attention.qkv_proj.weight

        def gradient():
            adapter.zero_grad()
            adapter.train()(**batch, use_cache=False).loss.backward()
            return weight.grad.clone()

        expected = gradient()
        assert expected.any()
        adapter.gradient_checkpointing_enable({"use_reentrant": True})
        adapter.enable_input_require_grads()
        torch.testing.assert_close(gradient(), expected, atol=1e-7, rtol=1e-5)


class TestCompiled:
    @pytest.mark.parametrize(
        "backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)]
    )
    def test_forward_and_gradients_are_one_graph_with_the_same_results(
        self, make_adapter, dataset, model_type, backend
    ):
        torch.compiler.reset()
        adapter, batch = make_adapter(model_type).train(), collate(dataset)
        expected = gradients(adapter, batch, use_cache=False)
        loss = adapter(**batch, use_cache=False).loss
        compiled = torch.compile(adapter, fullgraph=True, backend=backend)
        adapter.zero_grad()
        output = compiled(**batch, use_cache=False)
        output.loss.backward()
        torch.testing.assert_close(output.loss, loss, **CLOSE)
        for name, gradient in expected.items():
            actual = adapter.get_parameter(name).grad
            torch.testing.assert_close(actual, gradient, atol=1e-6, rtol=1e-4)

    def test_logits_over_growing_lengths(self, make_adapter, random_ids, model_type):
        torch.compiler.reset()
        adapter = make_adapter(model_type)
        graphs = []

        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward

        compiled = torch.compile(adapter, fullgraph=True, backend=backend, dynamic=True)
        with torch.no_grad():
            for length in (4, 7, 9, 12):
                input_ids = random_ids(2, length)
                expected = adapter(input_ids, use_cache=False).logits
                actual = compiled(input_ids, use_cache=False).logits
                torch.testing.assert_close(actual, expected, **CLOSE)
        assert len(graphs) == 1


class TestMixedPrecision:
    def test_under_autocast_stays_near_float32(self, make_adapter, dataset, model_type):
        adapter, batch = make_adapter(model_type), collate(dataset)
        expected = adapter(**batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = adapter(**batch)
        assert output.logits.dtype == torch.bfloat16
        assert output.loss.dtype == torch.float32
        assert output.loss.item() == pytest.approx(expected.loss.item(), rel=0.02)
        output.loss.backward()
        assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in adapter.parameters())

    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_with_bfloat16_weights_stays_near_float32(
        self, make_adapter, dataset, model_type, implementation
    ):
        adapter, batch = make_adapter(model_type), collate(dataset)
        expected = adapter(**batch).loss.item()
        half = make_adapter(model_type).to(torch.bfloat16)
        half.set_attn_implementation(implementation)
        loss = half(**batch).loss
        loss.backward()
        assert loss.item() == pytest.approx(expected, rel=0.02)
        assert not math.isnan(loss.item())
        assert all(p.grad.isfinite().all() and p.grad.any() for p in half.parameters())


class TestPlainLoop:
    def test_optimizer_over_the_adapter_trains_the_model(self, make_model, dataset, model_type):
        model = make_model(model_type)
        adapter = HFAdapter.from_llm_model(model).train()
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.01)
        before, batch = mean_loss(model, dataset), collate(dataset)
        for _ in range(20):
            adapter(**batch).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        assert mean_loss(model.eval(), dataset) < 0.5 * before
        assert mean_loss(adapter.to_llm_model().eval(), dataset) == mean_loss(model, dataset)
