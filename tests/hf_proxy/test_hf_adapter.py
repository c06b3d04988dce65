"""`HFAdapter`: wrapping, the forward pass and the configuration."""

import dataclasses
import importlib
import itertools
import json
import typing

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    DynamicCache,
    GPT2LMHeadModel,
    PreTrainedModel,
    StaticCache,
)

import hf_proxy
from hf_proxy import HFAdapter, HFAdapterConfig, HFAdapterModel
from llm.models import ARCHITECTURES
from llm.models.gpt import GPT2, GPT2Config

MAX_LENGTH = 40
EXACT = {"atol": 0, "rtol": 0}
CLOSE = {"atol": 1e-5, "rtol": 0}


def parameter_ids(module):
    return {id(parameter) for parameter in module.parameters()}


def modes(module):
    return [part.training for part in module.modules()]


@torch.no_grad()
def logits_of(model, *args, **inputs):
    return model(*args, **inputs).logits


class TestWrap:
    @pytest.mark.parametrize("tied", [True, False])
    def test_shares_the_very_same_parameters_with_their_values(
        self, make_model, weights_of, model_type, tied
    ):
        model = make_model(model_type, tie_embeddings=tied)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        before = weights_of(model)
        adapter = HFAdapter.from_llm_model(model)
        assert parameter_ids(adapter) == parameter_ids(model)
        assert all(isinstance(parameter, nn.Parameter) for parameter in adapter.parameters())
        assert (adapter.lm_head.weight is adapter.get_input_embeddings().weight) == tied
        assert adapter.get_output_embeddings() is adapter.lm_head
        assert adapter.get_decoder() is adapter.model.get_decoder() is adapter.base_model
        for parameter in adapter.parameters():
            assert torch.equal(parameter, before[names[id(parameter)]])

    def test_gives_the_logits_of_the_model(self, make_model, random_ids, model_type):
        model, input_ids = make_model(model_type), random_ids(3, 11)
        adapter = HFAdapter.from_llm_model(model)
        assert isinstance(adapter, PreTrainedModel)
        with torch.no_grad():
            torch.testing.assert_close(adapter(input_ids).logits, model(input_ids), **CLOSE)
            hidden_states = adapter.base_model(input_ids).last_hidden_state
            torch.testing.assert_close(hidden_states, model.hidden_states(input_ids), **CLOSE)

    def test_what_changes_one_changes_the_other(self, make_model, random_ids, model_type):
        model, input_ids = make_model(model_type), random_ids(1, 5)
        adapter = HFAdapter.from_llm_model(model)
        before = logits_of(adapter, input_ids)
        with torch.no_grad():
            model.decoder.blocks[1].attention.qkv_proj.weight.mul_(2)
            changed = model(input_ids)
        assert not torch.allclose(changed, before, atol=1e-3)
        torch.testing.assert_close(logits_of(adapter, input_ids), changed, **CLOSE)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_keeps_the_dtype(self, make_model, random_ids, model_type, dtype):
        model, input_ids = make_model(model_type).to(dtype), random_ids(2, 7)
        adapter = HFAdapter.from_llm_model(model)
        assert {parameter.dtype for parameter in adapter.parameters()} == {dtype}
        assert adapter.dtype == adapter.config.dtype == dtype
        logits = logits_of(adapter, input_ids)
        assert logits.dtype == dtype
        with torch.no_grad():
            torch.testing.assert_close(logits, model(input_ids), **CLOSE)
        assert {p.dtype for p in adapter.to_llm_model().parameters()} == {dtype}

    @pytest.mark.parametrize("training", [True, False])
    def test_keeps_the_mode_of_every_part(self, make_model, model_type, training):
        model = make_model(model_type).train(training)
        adapter = HFAdapter.from_llm_model(model)
        assert set(modes(adapter)) == {training}
        assert set(modes(adapter.to_llm_model())) == {training}
        assert set(modes(model)) == {training}

    def test_keeps_a_part_in_eval_mode(self, make_model, model_type):
        model = make_model(model_type).train()
        model.decoder.blocks[1].eval()
        adapter = HFAdapter.from_llm_model(model)
        assert adapter.training
        first, second = adapter.model.decoder.blocks[:2]
        assert set(modes(first)) == {True}
        assert set(modes(second)) == {False}
        assert not adapter.to_llm_model().decoder.blocks[1].training

    def test_keeps_what_is_frozen(self, make_model, model_type):
        model = make_model(model_type)
        model.decoder.token_embeddings.requires_grad_(False)
        adapter = HFAdapter.from_llm_model(model)
        assert not adapter.get_input_embeddings().weight.requires_grad
        assert adapter.num_parameters(only_trainable=True) == model.num_parameters(
            trainable_only=True
        )
        assert adapter.num_parameters() == model.num_parameters()

    def test_modules_are_the_adapters_own(self, make_model, model_type):
        model = make_model(model_type)
        adapter = HFAdapter.from_llm_model(model)
        again = HFAdapter.from_llm_model(model)
        back = adapter.to_llm_model()
        kinds = [{id(part) for part in m.modules()} for m in (model, adapter, again, back)]
        assert len(set.union(*kinds)) == sum(map(len, kinds))

    def test_what_is_done_to_its_modules_is_not_done_to_the_model(
        self, make_model, random_ids, model_type
    ):
        model, input_ids = make_model(model_type), random_ids(2, 6)
        keys = list(model.state_dict())
        with torch.no_grad():
            expected = model(input_ids)
        adapter = HFAdapter.from_llm_model(model)
        wrapped = adapter.to_llm_model()
        attention = adapter.get_submodule("model.decoder.blocks.0.block.attention")
        attention.qkv_proj = nn.Sequential(attention.qkv_proj, nn.Tanh())
        adapter.model.decoder.final_norm = nn.Tanh()
        adapter.resize_token_embeddings(70)
        adapter.register_forward_pre_hook(lambda *_: pytest.fail("the hook is the adapter's"))
        for untouched in (model, wrapped):
            with torch.no_grad():
                torch.testing.assert_close(untouched(input_ids), expected, **CLOSE)
            assert list(untouched.state_dict()) == keys

    def test_tied_weights_stay_tied_after_the_adapter_is_resized(self, make_model, model_type):
        model = make_model(model_type)
        HFAdapter.from_llm_model(model).resize_token_embeddings(70)
        assert model.lm_head.weight is model.decoder.token_embeddings.weight
        assert model.decoder.token_embeddings.weight.shape[0] == 67

    @pytest.mark.parametrize("tied", [True, False])
    def test_gives_the_model_back(self, make_model, random_ids, model_type, tied):
        model = make_model(
            model_type, tie_embeddings=tied, dropout=0.25, norm_eps=1e-4, eos_token_id=1
        )
        back = HFAdapter.from_llm_model(model).to_llm_model()
        assert type(back) is type(model)
        assert back.config == model.config
        assert list(back.state_dict()) == list(model.state_dict())
        for name, parameter in model.named_parameters():
            assert back.get_parameter(name) is parameter
        assert (back.lm_head.weight is back.decoder.token_embeddings.weight) == tied
        with torch.no_grad():
            assert torch.equal(back(random_ids(2, 5)), model(random_ids(2, 5)))

    @pytest.mark.parametrize("wrong", [nn.Linear(2, 2), None, "gpt2"])
    def test_of_what_is_no_model_of_ours_is_a_type_error(self, wrong):
        with pytest.raises(TypeError, match=type(wrong).__name__):
            HFAdapter.from_llm_model(wrong)

    def test_of_an_adapter_is_a_type_error(self, make_adapter, model_type):
        with pytest.raises(TypeError, match="HFAdapter"):
            HFAdapter.from_llm_model(make_adapter(model_type))

    def test_of_an_unknown_architecture_is_a_value_error(self, make_model):
        unknown = dataclasses.make_dataclass("Unknown", [], bases=(GPT2Config,), frozen=True)
        unknown.model_type = "nothing"
        model = make_model("gpt2")
        model.config = unknown.from_dict(model.config.to_dict())
        with pytest.raises(ValueError, match=r"'nothing'.*gpt2"):
            HFAdapter.from_llm_model(model)
        with pytest.raises(ValueError, match=r"'nothing'.*gpt2"):
            HFAdapterConfig.from_llm_config(model.config)
        with pytest.raises(ValueError, match=r"'nothing'.*gpt2"):
            HFAdapter(HFAdapterConfig(llm_model_type="nothing"))

    def test_of_an_architecture_of_ones_own(self, monkeypatch, random_ids, tmp_path):
        @dataclasses.dataclass(frozen=True, kw_only=True)
        class OwnConfig(GPT2Config):
            model_type = "own"
            scale: float = 1.0

        class Own(GPT2):
            def __init__(self, config):
                config = OwnConfig.of(config)
                super().__init__(config)
                self.decoder.final_norm = nn.Sequential(
                    self.decoder.final_norm, Times(config.scale)
                )

        class Times(nn.Module):
            def __init__(self, factor):
                super().__init__()
                self.factor = factor

            def forward(self, x):
                return x * self.factor

        own = ARCHITECTURES["gpt2"]._replace(config=OwnConfig, model=Own)
        monkeypatch.setitem(ARCHITECTURES, "own", own)
        config = OwnConfig(
            vocab_size=67, embed_dim=24, num_heads=3, num_layers=2, max_position_embeddings=9,
            scale=3.0,
        )  # fmt: skip
        model = Own(config).eval()
        HFAdapter.from_llm_model(model).save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert loaded.to_llm_model().config == config
        with torch.no_grad():
            expected = model(random_ids(1, 9))
        torch.testing.assert_close(logits_of(loaded, random_ids(1, 9)), expected, **CLOSE)

    def test_importing_it_again_is_harmless(self, make_adapter, random_ids, model_type, tmp_path):
        adapter = make_adapter(model_type)
        importlib.reload(hf_proxy)
        importlib.reload(hf_proxy)
        adapter.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(loaded) is hf_proxy.HFAdapter is HFAdapter
        ids = random_ids(1, 4)
        assert torch.equal(logits_of(loaded, ids), logits_of(adapter, ids))


class TestAutoClasses:
    def test_know_it(self, make_adapter, tmp_path, model_type):
        adapter = make_adapter(model_type)
        assert adapter.config.architectures == ["HFAdapter"]
        adapter.save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path)) is HFAdapterConfig
        assert type(AutoModel.from_pretrained(tmp_path)) is HFAdapterModel
        assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is HFAdapter
        assert type(AutoModelForCausalLM.from_config(adapter.config)) is HFAdapter
        assert type(AutoModel.from_config(adapter.config)) is HFAdapterModel
        assert type(AutoConfig.for_model("llm")) is HFAdapterConfig
        assert HFAdapter.can_generate()
        written = json.loads((tmp_path / "config.json").read_text())
        assert written["architectures"] == ["HFAdapter"]
        assert written["llm_model_type"] == model_type

    @pytest.mark.parametrize("tied", [True, False])
    def test_trunk_is_loaded_from_a_folder_with_a_head(
        self, make_adapter, random_ids, tmp_path, model_type, tied
    ):
        adapter, input_ids = make_adapter(model_type, tie_embeddings=tied), random_ids(2, 6)
        adapter.save_pretrained(tmp_path)
        trunk, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        assert set(info["unexpected_keys"]) == (set() if tied else {"lm_head.weight"})
        with torch.no_grad():
            expected = adapter.base_model(input_ids).last_hidden_state
            assert torch.equal(trunk(input_ids).last_hidden_state, expected)

    @pytest.mark.parametrize("tied", [True, False])
    def test_head_is_loaded_from_a_folder_of_a_trunk(
        self, make_adapter, random_ids, tmp_path, model_type, tied
    ):
        adapter, input_ids = make_adapter(model_type, tie_embeddings=tied), random_ids(2, 6)
        assert adapter.base_model is adapter.model is getattr(adapter, adapter.base_model_prefix)
        adapter.base_model.save_pretrained(tmp_path)
        loaded, info = HFAdapter.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["missing_keys"]) == (set() if tied else {"lm_head.weight"})
        assert not info["unexpected_keys"]
        if tied:
            assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
            assert torch.equal(logits_of(loaded, input_ids), logits_of(adapter, input_ids))
        else:
            # initialised as the architecture does, N(0, 0.02), and not with what was in memory
            assert loaded.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.1)
        with torch.no_grad():
            expected = adapter.base_model(input_ids).last_hidden_state
            assert torch.equal(loaded.base_model(input_ids).last_hidden_state, expected)


class TestForward:
    def test_equals_the_stock_class(self, make_adapter, make_stock, random_ids, model_type):
        input_ids = random_ids(3, MAX_LENGTH)
        expected = logits_of(make_stock(model_type), input_ids)
        torch.testing.assert_close(
            logits_of(make_adapter(model_type), input_ids), expected, **CLOSE
        )

    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("activation", ["gelu_tanh", "relu", "silu"])
    def test_of_other_fields_equals_the_stock_class(
        self, make_adapter, make_stock, random_ids, model_type, activation, tied
    ):
        options = {
            "activation": activation,
            "norm_eps": 0.1,
            "tie_embeddings": tied,
            "num_heads": 4,
            "num_layers": 1,
        }
        input_ids = random_ids(2, 8)
        expected = logits_of(make_stock(model_type, **options), input_ids)
        actual = logits_of(make_adapter(model_type, **options), input_ids)
        torch.testing.assert_close(actual, expected, **CLOSE)

    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_hidden_states_are_those_of_the_stock_class(
        self, make_adapter, make_stock, random_ids, model_type, implementation
    ):
        input_ids = random_ids(2, 9)
        adapter = make_adapter(model_type)
        adapter.set_attn_implementation(implementation)
        with torch.no_grad():
            expected = make_stock(model_type)(input_ids, output_hidden_states=True)
            actual = adapter(input_ids, output_hidden_states=True)
            last = adapter.base_model(input_ids).last_hidden_state
        assert len(actual.hidden_states) == len(expected.hidden_states) == 3 + 1
        for ours, theirs in zip(actual.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)
        assert torch.equal(actual.hidden_states[-1], last)
        assert adapter(input_ids).hidden_states is None

    def test_attentions_are_causal_and_those_of_the_stock_class(
        self, make_adapter, make_stock, random_ids, model_type
    ):
        input_ids = random_ids(2, 9)
        adapter = make_adapter(model_type)
        adapter.set_attn_implementation("eager")
        with torch.no_grad():
            expected = make_stock(model_type)(input_ids, output_attentions=True)
            actual = adapter(input_ids, output_attentions=True)
        assert len(actual.attentions) == len(expected.attentions) == 3
        for ours, theirs in zip(actual.attentions, expected.attentions, strict=True):
            assert ours.shape == (2, 3, 9, 9)
            torch.testing.assert_close(ours.sum(-1), torch.ones(2, 3, 9), **CLOSE)
            assert not ours.triu(1).any()
            torch.testing.assert_close(ours, theirs, **CLOSE)
        assert adapter(input_ids).attentions is None
        torch.testing.assert_close(actual.logits, expected.logits, **CLOSE)

    def test_attentions_leave_padding_out(self, make_adapter, random_rows, pad, model_type):
        rows = random_rows(4, 9)
        input_ids, attention_mask = pad(rows)
        adapter = make_adapter(model_type)
        adapter.set_attn_implementation("eager")
        with torch.no_grad():
            padded = adapter(input_ids, attention_mask=attention_mask, output_attentions=True)
            alone = adapter(torch.tensor([rows[0]]), output_attentions=True)
        for ours, expected in zip(padded.attentions, alone.attentions, strict=True):
            assert not ours[0, :, 5:, :5].any()
            torch.testing.assert_close(ours[:1, :, 5:, 5:], expected, **CLOSE)

    def test_attentions_of_a_cached_step_are_the_last_row(
        self, make_adapter, random_ids, model_type
    ):
        input_ids = random_ids(2, 7)
        adapter = make_adapter(model_type)
        adapter.set_attn_implementation("eager")
        with torch.no_grad():
            whole = adapter(input_ids, output_attentions=True)
            past = adapter(input_ids[:, :6], use_cache=True).past_key_values
            step = adapter(input_ids[:, 6:], past_key_values=past, output_attentions=True)
        for ours, expected in zip(step.attentions, whole.attentions, strict=True):
            torch.testing.assert_close(ours, expected[:, :, 6:], **CLOSE)

    def test_without_return_dict_is_a_tuple(self, make_adapter, random_ids, model_type):
        adapter, input_ids = make_adapter(model_type), random_ids(2, 5)
        adapter.set_attn_implementation("eager")
        options = {"output_hidden_states": True, "output_attentions": True}
        with torch.no_grad():
            named = adapter(input_ids, labels=input_ids, **options)
            loss, logits, cache, hidden_states, attentions = adapter(
                input_ids, labels=input_ids, return_dict=False, **options
            )
            bare = adapter(input_ids, use_cache=False, return_dict=False)
            trunk = adapter.base_model(input_ids, use_cache=False, return_dict=False)
        assert torch.equal(loss, named.loss)
        assert torch.equal(logits, named.logits)
        assert cache.get_seq_length() == 5
        assert all(map(torch.equal, hidden_states, named.hidden_states))
        assert all(map(torch.equal, attentions, named.attentions))
        assert len(bare) == len(trunk) == 1
        assert torch.equal(bare[0], named.logits)
        assert torch.equal(trunk[0], named.hidden_states[-1])

    def test_of_embeddings_equals_that_of_ids(self, make_adapter, random_rows, pad, model_type):
        input_ids, attention_mask = pad(random_rows(5, 8))
        adapter = make_adapter(model_type)
        embeddings = adapter.get_input_embeddings()(input_ids)
        expected = logits_of(adapter, input_ids, attention_mask=attention_mask)
        actual = logits_of(adapter, inputs_embeds=embeddings, attention_mask=attention_mask)
        assert torch.equal(actual, expected)

    def test_wants_either_ids_or_embeddings(self, make_adapter, random_ids, model_type):
        adapter, input_ids = make_adapter(model_type), random_ids(1, 3)
        embeddings = adapter.get_input_embeddings()(input_ids)
        with pytest.raises(ValueError, match=r"input_ids.*inputs_embeds"):
            adapter(input_ids, inputs_embeds=embeddings)
        with pytest.raises(ValueError, match=r"input_ids.*inputs_embeds"):
            adapter()

    @pytest.mark.parametrize("wrong", [-1, 67])
    def test_refuses_ids_outside_the_vocabulary(self, make_adapter, model_type, wrong):
        with pytest.raises(ValueError, match=f"{wrong}.*66"):
            make_adapter(model_type)(torch.tensor([[3, wrong, 4]]))

    @pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 4, 2])])
    def test_keeps_the_logits_asked_for(self, make_adapter, random_ids, model_type, keep):
        adapter, input_ids = make_adapter(model_type), random_ids(2, 6)
        whole = logits_of(adapter, input_ids)
        expected = whole[:, -keep:] if isinstance(keep, int) else whole[:, keep]
        actual = logits_of(adapter, input_ids, logits_to_keep=keep)
        torch.testing.assert_close(actual, expected, **CLOSE)
        assert logits_of(adapter, input_ids, logits_to_keep=0).shape == whole.shape

    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_with_dropout_equals_the_stock_class_of_the_same_seed(
        self, make_adapter, make_stock, random_ids, model_type, implementation
    ):
        # the two draw in the same order: embeddings, then attention and the rest layer by layer
        dropouts = {"embedding_dropout": 0.1, "attention_dropout": 0.3, "residual_dropout": 0.2}
        if implementation == "sdpa":
            # whose own dropout of weights draws in another order on the CPU
            dropouts["attention_dropout"] = 0.0
        adapter, input_ids = make_adapter(model_type, **dropouts).train(), random_ids(4, 12)
        adapter.set_attn_implementation(implementation)
        stock = make_stock(model_type, **dropouts).train()
        torch.manual_seed(1)
        actual = logits_of(adapter, input_ids)
        torch.manual_seed(1)
        torch.testing.assert_close(actual, logits_of(stock, input_ids), **CLOSE)
        assert not torch.allclose(actual, logits_of(adapter.eval(), input_ids), atol=0.1)

    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_drops_attention_weights_in_train_mode_only(
        self, make_adapter, random_ids, model_type, implementation
    ):
        adapter, input_ids = make_adapter(model_type, attention_dropout=0.5), random_ids(4, 12)
        adapter.set_attn_implementation(implementation)
        plain = make_adapter(model_type)
        torch.testing.assert_close(
            logits_of(adapter, input_ids), logits_of(plain, input_ids), **CLOSE
        )
        adapter.train()
        once, twice = logits_of(adapter, input_ids), logits_of(adapter, input_ids)
        assert (once - twice).abs().max() > 0.1


class TestLoss:
    def labels(self, input_ids):
        labels = input_ids.clone()
        labels[0, :4] = -100
        labels[1, 6:] = -100
        labels[2, 3] = -100
        return labels

    def test_equals_one_computed_by_hand(self, make_adapter, random_ids, hand_loss, model_type):
        adapter, input_ids = make_adapter(model_type), random_ids(3, 9)
        labels = self.labels(input_ids)
        output = adapter(input_ids, labels=labels)
        assert output.loss.item() == pytest.approx(
            hand_loss(output.logits, labels).item(), abs=1e-5
        )
        assert torch.equal(output.logits, adapter(input_ids).logits)
        assert adapter(input_ids).loss is None

    def test_is_that_of_the_stock_class(self, make_adapter, make_stock, random_ids, model_type):
        input_ids = random_ids(3, 9)
        labels = self.labels(input_ids)
        expected = make_stock(model_type)(input_ids, labels=labels).loss
        actual = make_adapter(model_type)(input_ids, labels=labels).loss
        torch.testing.assert_close(actual, expected, **CLOSE)

    def test_is_divided_by_the_number_of_targets_given(
        self, make_adapter, random_ids, hand_loss, model_type
    ):
        adapter, input_ids = make_adapter(model_type), random_ids(3, 9)
        labels = self.labels(input_ids)
        output = adapter(input_ids, labels=labels, num_items_in_batch=50)
        expected = hand_loss(output.logits, labels, total=50)
        assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)

    def test_of_shifted_labels_is_that_of_unshifted_ones(
        self, make_adapter, random_ids, model_type
    ):
        adapter, input_ids = make_adapter(model_type), random_ids(3, 9)
        labels = self.labels(input_ids)
        shifted = torch.cat([labels[:, 1:], torch.full((3, 1), -100)], dim=1)
        expected = adapter(input_ids, labels=labels).loss
        actual = adapter(input_ids, labels=labels, shift_labels=shifted).loss
        torch.testing.assert_close(actual, expected, **CLOSE)

    def test_gradients_are_those_of_the_model(self, make_model, random_ids, hand_loss, model_type):
        ours, wrapped, input_ids = make_model(model_type), make_model(model_type), random_ids(3, 9)
        labels = self.labels(input_ids)
        HFAdapter.from_llm_model(wrapped)(input_ids, labels=labels).loss.backward()
        hand_loss(ours(input_ids), labels).backward()
        for name, parameter in ours.named_parameters():
            assert parameter.grad.any(), name
            actual = wrapped.get_parameter(name).grad
            torch.testing.assert_close(actual, parameter.grad, atol=1e-6, rtol=1e-4)

    def test_is_computed_in_float32(self, make_adapter, random_ids, hand_loss, model_type):
        adapter, input_ids = make_adapter(model_type).to(torch.bfloat16), random_ids(3, 9)
        output = adapter(input_ids, labels=input_ids)
        assert output.loss.dtype == torch.float32
        assert output.loss.item() == pytest.approx(
            hand_loss(output.logits, input_ids).item(), abs=1e-5
        )


# the last compiles its kernels where it can, which takes a minute
IMPLEMENTATIONS = ["eager", "sdpa", pytest.param("flex_attention", marks=pytest.mark.slow)]


class TestAttention:
    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    def test_every_implementation_equals_the_model(
        self, make_model, random_rows, pad, model_type, implementation
    ):
        model = make_model(model_type)
        input_ids, attention_mask = pad(random_rows(4, 9, 7))
        adapter = HFAdapter.from_llm_model(model)
        adapter.set_attn_implementation(implementation)
        assert adapter.config._attn_implementation == implementation
        real = attention_mask.bool()
        with torch.no_grad():
            expected = model(input_ids, attention_mask=attention_mask)
            actual = adapter(input_ids, attention_mask=attention_mask).logits
            torch.testing.assert_close(actual[real], expected[real], **CLOSE)
            torch.testing.assert_close(adapter(input_ids).logits, model(input_ids), **CLOSE)

    def test_an_implementation_registered_by_name_is_used(
        self, make_adapter, random_ids, model_type
    ):
        from transformers import AttentionInterface

        layers = []

        def first_value_only(module, query, key, value, attention_mask, **options):
            layers.append((module.layer_idx, options["scaling"], module.is_causal))
            return value[:, :, :1].expand(query.shape).transpose(1, 2), None

        AttentionInterface.register("first_value_only", first_value_only)
        adapter, input_ids = make_adapter(model_type), random_ids(1, 4)
        before = logits_of(adapter, input_ids)
        adapter.set_attn_implementation("first_value_only")
        assert not torch.allclose(logits_of(adapter, input_ids), before, atol=0.1)
        assert layers == [(i, 8**-0.5, True) for i in range(3)]

    def test_no_implementation_is_refused_by_the_class(self, make_adapter, model_type):
        adapter = make_adapter(model_type)
        assert adapter._supports_flash_attn
        assert adapter._supports_sdpa
        assert adapter._supports_flex_attn
        # what vLLM and others with attention of their own ask
        assert adapter._supports_attention_backend

    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padded_rows_equal_unpadded_ones(
        self, make_adapter, random_rows, pad, model_type, implementation, side
    ):
        rows = random_rows(4, 9, 1)
        input_ids, attention_mask = pad(rows, side)
        adapter = make_adapter(model_type)
        adapter.set_attn_implementation(implementation)
        padded = logits_of(adapter, input_ids, attention_mask=attention_mask)
        assert padded.isfinite().all()
        for i, row in enumerate(rows):
            expected = logits_of(adapter, torch.tensor([row]))[0]
            torch.testing.assert_close(padded[i, attention_mask[i].bool()], expected, **CLOSE)

    # flex_attention is left out: PyTorch 2.15 generates C++ that does not compile for this mask
    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_left_padded_rows_continue_from_a_cache(
        self, make_adapter, random_rows, pad, model_type, implementation
    ):
        rows = random_rows(4, 9)
        input_ids, attention_mask = pad(rows)
        adapter = make_adapter(model_type)
        adapter.set_attn_implementation(implementation)
        with torch.no_grad():
            whole = adapter(input_ids, attention_mask=attention_mask).logits
            past = adapter(
                input_ids[:, :6], attention_mask=attention_mask[:, :6], use_cache=True
            ).past_key_values
            rest = adapter(
                input_ids[:, 6:], attention_mask=attention_mask, past_key_values=past
            ).logits
        torch.testing.assert_close(rest, whole[:, 6:], **CLOSE)

    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    @pytest.mark.parametrize("use_cache", [False, None])
    def test_packed_sequences_equal_separate_ones(
        self, make_adapter, random_rows, model_type, implementation, use_cache
    ):
        rows = random_rows(5, 1, 8)
        adapter = make_adapter(model_type)
        adapter.set_attn_implementation(implementation)
        packed = torch.tensor([list(itertools.chain(*rows))])
        position_ids = torch.tensor([[i for row in rows for i in range(len(row))]])
        options = {} if use_cache is None else {"use_cache": use_cache}
        actual = logits_of(adapter, packed, position_ids=position_ids, **options)[0]
        expected = torch.cat([logits_of(adapter, torch.tensor([row]))[0] for row in rows])
        if use_cache is False:
            torch.testing.assert_close(actual, expected, **CLOSE)
        else:
            # transformers looks for packing only where nothing is cached
            torch.testing.assert_close(actual[:5], expected[:5], **CLOSE)

    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_a_ready_mask_is_used_as_it_is(
        self, make_adapter, random_rows, model_type, implementation
    ):
        rows = random_rows(5, 4)
        adapter = make_adapter(model_type)
        adapter.set_attn_implementation(implementation)
        blocks = torch.block_diag(*(torch.ones(len(row), len(row)).tril() for row in rows))
        mask = blocks.bool()[None, None]
        if implementation == "eager":
            mask = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
        position_ids = torch.tensor([[*range(5), *range(4)]])
        actual = logits_of(
            adapter,
            torch.tensor([list(itertools.chain(*rows))]),
            position_ids=position_ids,
            attention_mask=mask,
        )[0]
        expected = torch.cat([logits_of(adapter, torch.tensor([row]))[0] for row in rows])
        torch.testing.assert_close(actual, expected, **CLOSE)


class TestCache:
    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    @pytest.mark.parametrize("chunks", [[7, 1, 1, 1], [3, 4, 3], [1] * 10])
    def test_cached_equals_uncached(
        self, make_adapter, random_ids, model_type, implementation, chunks
    ):
        adapter, input_ids = make_adapter(model_type), random_ids(2, 10)
        adapter.set_attn_implementation(implementation)
        whole = logits_of(adapter, input_ids, use_cache=False)
        cache, start, pieces = None, 0, []
        with torch.no_grad():
            for length in chunks:
                output = adapter(
                    input_ids[:, start : start + length], past_key_values=cache, use_cache=True
                )
                cache, start = output.past_key_values, start + length
                assert cache.get_seq_length() == start
                pieces.append(output.logits)
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, **CLOSE)

    def test_of_fixed_size_equals_none(self, make_adapter, random_ids, model_type):
        adapter, input_ids = make_adapter(model_type), random_ids(2, 10)
        whole = logits_of(adapter, input_ids, use_cache=False)
        cache = StaticCache(config=adapter.config, max_cache_len=16)
        first = logits_of(adapter, input_ids[:, :7], past_key_values=cache)
        second = logits_of(adapter, input_ids[:, 7:], past_key_values=cache)
        torch.testing.assert_close(torch.cat([first, second], dim=1), whole, **CLOSE)

    def test_can_be_cut_back(self, make_adapter, random_ids, model_type):
        adapter, input_ids = make_adapter(model_type), random_ids(1, 10)
        whole = logits_of(adapter, input_ids, use_cache=False)
        cache = DynamicCache(config=adapter.config)
        logits_of(adapter, torch.cat([input_ids[:, :6], random_ids(1, 3, seed=9)], 1),
                  past_key_values=cache)  # fmt: skip
        cache.crop(-3)
        rest = logits_of(adapter, input_ids[:, 6:], past_key_values=cache)
        torch.testing.assert_close(rest, whole[:, 6:], **CLOSE)

    def test_is_returned_as_asked(self, make_adapter, random_ids, model_type):
        adapter, input_ids = make_adapter(model_type), random_ids(1, 3)
        assert adapter(input_ids).past_key_values.get_seq_length() == 3
        assert adapter(input_ids, use_cache=False).past_key_values is None
        cache = DynamicCache(config=adapter.config)
        output = adapter(input_ids, past_key_values=cache, use_cache=False)
        assert output.past_key_values is None
        adapter.config.use_cache = False
        assert adapter(input_ids).past_key_values is None
        assert adapter(input_ids, use_cache=True).past_key_values.get_seq_length() == 3


class TestLength:
    def test_the_longest_sequence_is_read(self, make_adapter, make_stock, random_ids, model_type):
        input_ids = random_ids(1, MAX_LENGTH)
        expected = logits_of(make_stock(model_type), input_ids)
        adapter = make_adapter(model_type)
        torch.testing.assert_close(logits_of(adapter, input_ids), expected, **CLOSE)
        # padding is no part of it
        padded = torch.cat([torch.zeros(1, 5, dtype=torch.int64), input_ids], dim=1)
        mask = torch.ones_like(padded)
        mask[:, :5] = 0
        actual = logits_of(adapter, padded, attention_mask=mask)[:, 5:]
        torch.testing.assert_close(actual, expected, **CLOSE)

    @pytest.mark.parametrize("given", ["ids", "embeddings", "mask", "position", "cache"])
    def test_past_it_is_an_error_that_names_it(self, make_adapter, random_ids, model_type, given):
        adapter, input_ids = make_adapter(model_type), random_ids(1, MAX_LENGTH + 1)
        inputs = {"input_ids": input_ids}
        if given == "embeddings":
            inputs = {"inputs_embeds": adapter.get_input_embeddings()(input_ids)}
        elif given == "mask":
            inputs["attention_mask"] = torch.ones_like(input_ids)
        elif given == "position":
            inputs = {"input_ids": input_ids[:, :1], "position_ids": torch.tensor([[MAX_LENGTH]])}
        elif given == "cache":
            cache = DynamicCache(config=adapter.config)
            logits_of(adapter, input_ids[:, :-1], past_key_values=cache)
            inputs = {"input_ids": input_ids[:, -1:], "past_key_values": cache}
        with pytest.raises(ValueError, match=f"max_position_embeddings={MAX_LENGTH}"):
            adapter(**inputs)


class TestConfig:
    # every field with another value than its default
    fields: typing.ClassVar = {
        "vocab_size": 71,
        "embed_dim": 32,
        "num_heads": 4,
        "num_layers": 5,
        "max_position_embeddings": 33,
        "dropout": 0.11,
        "initializer_range": 0.03,
        "tie_embeddings": False,
        "bos_token_id": 5,
        "eos_token_id": 6,
        "pad_token_id": 7,
        "intermediate_dim": 36,
        "activation": "silu",
        "embedding_dropout": 0.12,
        "attention_dropout": 0.13,
        "residual_dropout": 0.14,
        "norm_eps": 2e-5,
    }

    def llm_config(self, model_type):
        config = ARCHITECTURES[model_type].config.from_dict(self.fields)
        defaults = {f.name: f.default for f in dataclasses.fields(config)}
        assert not [name for name, value in config.to_dict().items() if defaults[name] == value]
        return config

    def test_keeps_every_field(self, tmp_path, model_type):
        config = self.llm_config(model_type)
        ours = HFAdapterConfig.from_llm_config(config)
        assert ours.to_llm_config() == config
        assert (
            HFAdapterConfig.from_dict(json.loads(ours.to_json_string())).to_llm_config() == config
        )
        ours.save_pretrained(tmp_path)
        assert AutoConfig.from_pretrained(tmp_path).to_llm_config() == config
        assert type(ours.to_llm_config()) is ARCHITECTURES[model_type].config

    def test_keeps_every_default(self, model_type):
        required = ("vocab_size", "embed_dim", "num_heads", "num_layers", "max_position_embeddings")
        config = ARCHITECTURES[model_type].config(**{name: self.fields[name] for name in required})
        assert HFAdapterConfig.from_llm_config(config).to_llm_config() == config

    def test_has_the_names_of_both(self, model_type):
        ours = HFAdapterConfig.from_llm_config(self.llm_config(model_type))
        assert ours.embed_dim == ours.hidden_size == 32
        assert ours.num_heads == ours.num_attention_heads == 4
        assert ours.num_layers == ours.num_hidden_layers == 5
        assert ours.tie_embeddings is ours.tie_word_embeddings is False
        assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (5, 6, 7)
        given = HFAdapterConfig(
            llm_model_type=model_type, embed_dim=8, num_heads=2, num_layers=1, tie_embeddings=False
        )
        assert (given.hidden_size, given.num_attention_heads) == (8, 2)
        assert (given.num_hidden_layers, given.tie_word_embeddings) == (1, False)
        given.hidden_size = 16
        assert given.to_llm_config().embed_dim == 16

    def test_takes_changes(self, model_type):
        config = self.llm_config(model_type)
        assert HFAdapterConfig.from_llm_config(config, use_cache=False).use_cache is False
        changed = HFAdapterConfig.from_llm_config(config).to_llm_config(dropout=0.5)
        assert changed == dataclasses.replace(config, dropout=0.5)

    def test_of_what_the_model_cannot_have_is_an_error_that_names_it(
        self, make_adapter, model_type
    ):
        with pytest.raises(ValueError, match="num_heads"):
            HFAdapter(HFAdapterConfig(llm_model_type=model_type, hidden_size=10, num_heads=3))
        adapter = make_adapter(model_type)
        adapter.config.eos_token_id = [1, 2]
        with pytest.raises(ValueError, match="eos_token_id"):
            adapter.to_llm_model()

    def test_a_model_begins_from_it(self, model_type):
        adapter = HFAdapter(HFAdapterConfig.from_llm_config(self.llm_config(model_type)))
        model = adapter.to_llm_model()
        assert model.config == self.llm_config(model_type)
        assert model.decoder.blocks[0].feed_forward.up_proj.weight.shape == (36, 32)
        assert len(model.decoder.blocks) == 5


@pytest.mark.parametrize("length", [8, 16])
def test_a_mask_over_all_of_a_static_cache_counts_as_one_of_the_tokens(make_adapter, length):
    adapter = make_adapter("gpt2")
    ids = torch.randint(1, 40, (2, 8), generator=torch.Generator().manual_seed(0))
    expected = adapter(ids, use_cache=False).logits[:, 5:]
    cache = StaticCache(config=adapter.config, max_cache_len=16)
    adapter(ids[:, :5], past_key_values=cache, use_cache=True)
    mask = (torch.arange(length) < 8).long().expand(2, -1)
    logits = adapter(ids[:, 5:], attention_mask=mask, past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_a_mask_of_the_new_tokens_alone_is_an_error_with_the_numbers(make_adapter):
    adapter = make_adapter("gpt2")
    ids = torch.randint(1, 40, (2, 8), generator=torch.Generator().manual_seed(0))
    cache = adapter(ids[:, :5], use_cache=True).past_key_values
    with pytest.raises(ValueError, match="mask of 3 tokens must cover the 5 cached ones"):
        adapter(ids[:, 5:], attention_mask=torch.ones(2, 3).long(), past_key_values=cache)


def test_flash_attention_is_told_what_the_stock_model_tells_it(make_adapter, monkeypatch, tmp_path):
    """The kernel needs a GPU: what it is called with is compared, for packed sequences."""
    calls = []

    def spy(query, key, value, attention_mask, **options):
        calls.append((query.shape, attention_mask, options))
        return torch.zeros_like(query)

    monkeypatch.setattr("transformers.integrations.flash_attention._flash_attention_forward", spy)
    adapter = make_adapter("gpt2").to(torch.bfloat16)
    adapter.to_llm_model().save_pretrained(tmp_path)
    stock = GPT2LMHeadModel.from_pretrained(tmp_path)
    ids, positions = torch.tensor([[1, 2, 3, 4, 5, 6]]), torch.tensor([[0, 1, 2, 0, 1, 2]])
    for model in (adapter, stock):
        # set where a missing kernel is not looked for
        model.config._attn_implementation_internal = "flash_attention_2"
        model(ids, position_ids=positions, use_cache=False)
    ours, theirs = calls[: len(calls) // 2], calls[len(calls) // 2 :]
    assert len(ours) == len(theirs) == adapter.config.num_hidden_layers
    for (shape, mask, options), (their_shape, their_mask, their_options) in zip(
        ours, theirs, strict=True
    ):
        assert shape == their_shape
        assert mask is their_mask is None
        assert torch.equal(options["position_ids"], positions)
        assert torch.equal(their_options["position_ids"], positions)
        for name in ("is_causal", "dropout", "softmax_scale"):
            assert options[name] == their_options[name], name
