"""Saving, loading, resizing, copying and placing an `HFAdapter`."""

import copy
import json
import pickle
from collections import Counter

import pytest
import torch
from accelerate import cpu_offload, disk_offload, init_empty_weights, load_checkpoint_and_dispatch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from hf_proxy import HFAdapter, HFAdapterConfig, HFAdapterModel
from llm.models import ARCHITECTURES

CLOSE = {"atol": 1e-5, "rtol": 0}
EMBEDDINGS = "model.decoder.token_embeddings.weight"


@torch.no_grad()
def logits_of(model, *args, **inputs):
    return model(*args, **inputs).logits


def tensors_in(folder):
    """Names of the tensors in all weight files, and how often."""
    names = Counter()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names.update(file.keys())
    return names


def same_weights(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


class TestRoundTrip:
    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_gives_the_model_back_bit_for_bit(
        self, make_model, random_ids, tmp_path, model_type, tied, dtype
    ):
        model = make_model(
            model_type,
            tie_embeddings=tied,
            dropout=0.1,
            attention_dropout=0.3,
            activation="relu",
            norm_eps=1e-3,
            initializer_range=0.05,
            eos_token_id=3,
        ).to(dtype)
        HFAdapter.from_llm_model(model).save_pretrained(tmp_path)
        loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert not any(part.training for part in loaded.modules())
        back = loaded.to_llm_model()
        assert type(back) is type(model)
        assert back.config == model.config
        assert same_weights(back, model)
        assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
        with torch.no_grad():
            assert torch.equal(loaded(random_ids(2, 7)).logits, model(random_ids(2, 7)))

    @pytest.mark.parametrize("tied", [True, False])
    def test_sharded_files_hold_every_tensor_once(self, make_adapter, tmp_path, model_type, tied):
        adapter = make_adapter(model_type, tie_embeddings=tied)
        adapter.save_pretrained(tmp_path, max_shard_size="8KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 3
        assert (tmp_path / "model.safetensors.index.json").exists()
        assert set(tensors_in(tmp_path).values()) == {1}
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert same_weights(loaded, adapter)
        assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied

    @pytest.mark.parametrize("tied", [True, False])
    def test_one_file_holds_every_tensor_once(self, make_adapter, tmp_path, model_type, tied):
        adapter = make_adapter(model_type, tie_embeddings=tied)
        adapter.save_pretrained(tmp_path)
        names = tensors_in(tmp_path)
        assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
        assert names == Counter(name for name, _ in adapter.named_parameters())
        assert ("lm_head.weight" in names) != tied
        stored = load_file(tmp_path / "model.safetensors")
        assert sum(tensor.numel() for tensor in stored.values()) == adapter.num_parameters()

    def test_dtype_is_kept_or_the_one_asked_for(self, make_adapter, tmp_path, model_type):
        make_adapter(model_type).to(torch.bfloat16).save_pretrained(tmp_path)
        for options, dtype in [
            ({}, torch.bfloat16),
            ({"dtype": "auto"}, torch.bfloat16),
            ({"dtype": torch.float32}, torch.float32),
            ({"dtype": torch.float16}, torch.float16),
        ]:
            loaded = AutoModelForCausalLM.from_pretrained(tmp_path, **options)
            assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
            assert loaded.dtype == dtype

    def test_config_can_be_changed_while_loading(
        self, make_adapter, random_ids, tmp_path, model_type
    ):
        make_adapter(model_type).save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(
            tmp_path, attention_dropout=0.5, use_cache=False, attn_implementation="eager"
        )
        dropouts = {m.p for m in loaded.modules() if isinstance(m, torch.nn.Dropout)}
        assert 0.5 in dropouts
        assert loaded.to_llm_model().config.attention_dropout == 0.5
        assert loaded.config._attn_implementation == "eager"
        assert loaded(random_ids(1, 3)).past_key_values is None

    def test_generation_config_is_kept(self, make_adapter, tmp_path, model_type):
        adapter = make_adapter(model_type, eos_token_id=5, pad_token_id=6)
        adapter.generation_config.max_new_tokens = 9
        adapter.generation_config.do_sample = True
        adapter.generation_config.temperature = 0.7
        adapter.save_pretrained(tmp_path)
        written = json.loads((tmp_path / "generation_config.json").read_text())
        assert (written["temperature"], written["eos_token_id"]) == (0.7, 5)
        config = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
        assert (config.max_new_tokens, config.do_sample, config.temperature) == (9, True, 0.7)
        assert (config.eos_token_id, config.pad_token_id) == (5, 6)

    def test_state_dict_of_the_adapter_is_loaded(self, make_adapter, model_type):
        adapter, other = make_adapter(model_type), make_adapter(model_type, seed=1)
        assert not same_weights(adapter, other)
        other.load_state_dict(adapter.state_dict())
        assert same_weights(adapter, other)

    def test_after_training_holds_the_trained_weights(
        self, make_model, random_ids, tmp_path, model_type
    ):
        model = make_model(model_type)
        adapter = HFAdapter.from_llm_model(model).train()
        adapter(random_ids(2, 6), labels=random_ids(2, 6)).loss.backward()
        torch.optim.SGD(adapter.parameters(), lr=0.5).step()
        adapter.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert same_weights(loaded.to_llm_model(), model)
        assert not same_weights(model, make_model(model_type))


class TestPartialFolders:
    """What a folder lacks begins as the architecture's, and what it has is kept."""

    @pytest.fixture(autouse=True)
    def wide(self, make_adapter, tmp_path, model_type):
        """A saved model of which statistics can be taken."""
        self.adapter = make_adapter(
            model_type, embed_dim=96, num_layers=2, initializer_range=0.03, num_heads=4
        )
        self.adapter.save_pretrained(tmp_path)
        self.folder = tmp_path

    def without(self, *parts):
        path = self.folder / "model.safetensors"
        weights = load_file(path)
        missing = {name for name in weights if any(part in name for part in parts)}
        assert missing
        kept = {name: weights[name] for name in weights if name not in missing}
        save_file(kept, path, {"format": "pt"})
        return missing, kept

    @pytest.mark.parametrize(
        "part", ["blocks.1.", "up_proj", "out_proj", "down_proj", "norm", "bias"]
    )
    def test_missing_weights_are_reported_and_initialised(self, model_type, part):
        missing, kept = self.without(part)
        loaded, info = HFAdapter.from_pretrained(self.folder, output_loading_info=True)
        assert set(info["missing_keys"]) == missing
        assert not info["unexpected_keys"]
        assert not info["mismatched_keys"]
        state = loaded.state_dict()
        for name, tensor in kept.items():
            assert torch.equal(state[name], tensor), name
        residual = 0.03 / 2 if model_type == "gpt2" else 0.03
        for name in missing:
            if "norm" in name:
                assert (state[name] == float(name.endswith("weight"))).all(), name
            elif name.endswith("bias"):
                assert not state[name].any(), name
            else:
                into_the_stream = "out_proj" in name or "down_proj" in name
                std = residual if into_the_stream else 0.03
                assert state[name].std().item() == pytest.approx(std, rel=0.05), name
                assert state[name].mean().item() == pytest.approx(0, abs=0.002)

    def test_missing_embeddings_are_reported_and_initialised(self):
        missing, kept = self.without("token_embeddings")
        loaded, info = HFAdapter.from_pretrained(self.folder, output_loading_info=True)
        assert missing <= set(info["missing_keys"])
        assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
        assert loaded.lm_head.weight.std().item() == pytest.approx(0.03, rel=0.05)
        for name, tensor in kept.items():
            assert torch.equal(loaded.state_dict()[name], tensor)

    def test_unknown_weights_are_reported(self):
        path = self.folder / "model.safetensors"
        save_file({**load_file(path), "model.other": torch.ones(2)}, path, {"format": "pt"})
        loaded, info = HFAdapter.from_pretrained(self.folder, output_loading_info=True)
        assert set(info["unexpected_keys"]) == {"model.other"}
        assert same_weights(loaded, self.adapter)

    def test_weights_of_another_shape_are_an_error_or_initialised(self):
        path = self.folder / "model.safetensors"
        name = "model.decoder.blocks.0.block.feed_forward.up_proj.weight"
        weights = load_file(path)
        weights[name] = torch.full((7, 96), 5.0)
        save_file(weights, path, {"format": "pt"})
        with pytest.raises(RuntimeError, match=r"mismatch|shape"):
            HFAdapter.from_pretrained(self.folder)
        loaded, info = HFAdapter.from_pretrained(
            self.folder, output_loading_info=True, ignore_mismatched_sizes=True
        )
        assert {key[0] for key in info["mismatched_keys"]} == {name}
        state = loaded.state_dict()
        assert state[name].std().item() == pytest.approx(0.03, rel=0.05)
        for other in weights.keys() - {name}:
            assert torch.equal(state[other], weights[other])


class TestFromScratch:
    @pytest.mark.parametrize("tied", [True, False])
    def test_begins_as_a_model_of_ours(self, model_type, tied):
        fields = {
            "vocab_size": 500,
            "embed_dim": 96,
            "num_heads": 4,
            "num_layers": 3,
            "max_position_embeddings": 200,
            "initializer_range": 0.04,
            "tie_embeddings": tied,
        }
        model = ARCHITECTURES[model_type].model(fields)
        adapter = HFAdapter(HFAdapterConfig.from_llm_config(model.config))
        assert (adapter.lm_head.weight is adapter.get_input_embeddings().weight) == tied
        back = adapter.to_llm_model()
        assert back.config == model.config
        names = {}
        for name, expected in model.named_parameters():
            actual = back.get_parameter(name)
            names[name] = actual
            if not expected.std():
                assert torch.equal(actual, expected), name
            else:
                assert actual.std().item() == pytest.approx(expected.std().item(), rel=0.05), name
                assert not torch.equal(actual, expected)
        scaled = names["decoder.blocks.1.attention.out_proj.weight"].std().item()
        assert scaled == pytest.approx(0.04 / (6**0.5 if model_type == "gpt2" else 1), rel=0.05)

    def test_is_repeated_by_its_seed(self, make_adapter, model_type):
        config = make_adapter(model_type).config
        adapters = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            adapters.append(AutoModelForCausalLM.from_config(config))
        assert same_weights(adapters[0], adapters[1])
        assert not same_weights(adapters[0], adapters[2])

    def test_on_meta_has_no_values_and_takes_them_from_a_folder(
        self, make_adapter, random_ids, tmp_path, model_type
    ):
        adapter = make_adapter(model_type)
        adapter.save_pretrained(tmp_path)
        with init_empty_weights():
            empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
        assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
        empty.tie_weights()
        filled = load_checkpoint_and_dispatch(empty, tmp_path, device_map={"": "cpu"}).eval()
        assert {parameter.device.type for parameter in filled.parameters()} == {"cpu"}
        assert torch.equal(
            logits_of(filled, random_ids(2, 5)), logits_of(adapter, random_ids(2, 5))
        )

    def test_loading_leaves_nothing_on_meta(self, make_adapter, tmp_path, model_type):
        adapter = make_adapter(model_type)
        adapter.save_pretrained(tmp_path)
        for kind in (HFAdapter, HFAdapterModel):
            loaded = kind.from_pretrained(tmp_path, low_cpu_mem_usage=True)
            tensors = [*loaded.parameters(), *loaded.buffers()]
            assert {tensor.device.type for tensor in tensors} == {"cpu"}


class TestResize:
    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("size", [40, 67, 90])
    def test_logits_of_old_tokens_are_the_same_and_the_model_has_the_new_size(
        self, make_model, random_ids, tmp_path, model_type, tied, size
    ):
        model = make_model(model_type, tie_embeddings=tied)
        input_ids = random_ids(2, 6, vocab_size=40)
        with torch.no_grad():
            expected = model(input_ids)
        adapter = HFAdapter.from_llm_model(model)
        embeddings = adapter.resize_token_embeddings(size)
        assert embeddings is adapter.get_input_embeddings()
        assert adapter.config.vocab_size == adapter.vocab_size == size
        kept = min(size, 67)

        def check(resized):
            logits = logits_of(resized, input_ids)
            assert logits.shape == (2, 6, size)
            torch.testing.assert_close(logits[..., :kept], expected[..., :kept], **CLOSE)
            weights = (resized.lm_head.weight, resized.get_input_embeddings().weight)
            assert (weights[0] is weights[1]) == tied

        check(adapter)
        back = adapter.to_llm_model()
        assert back.config.vocab_size == size
        assert back.decoder.token_embeddings.weight.shape == (size, 24)
        with torch.no_grad():
            assert torch.equal(back(input_ids), logits_of(adapter, input_ids))
            # the model that was wrapped is as it was
            assert torch.equal(model(input_ids), expected)
        assert (back.lm_head.weight is back.decoder.token_embeddings.weight) == tied
        adapter.save_pretrained(tmp_path)
        check(AutoModelForCausalLM.from_pretrained(tmp_path))
        newest = torch.tensor([[size - 1]])
        assert logits_of(adapter, newest, labels=newest).isfinite().all()
        with pytest.raises(ValueError, match=f"{size}.*{size - 1}"):
            adapter(torch.tensor([[size]]))

    def test_to_a_multiple(self, make_adapter, model_type):
        adapter = make_adapter(model_type)
        adapter.resize_token_embeddings(pad_to_multiple_of=32)
        assert adapter.config.vocab_size == 96
        assert adapter.to_llm_model().config.vocab_size == 96

    def test_shares_on_where_nothing_changes(self, make_model, model_type):
        model = make_model(model_type)
        adapter = HFAdapter.from_llm_model(model)
        adapter.resize_token_embeddings(67)
        assert adapter.lm_head.weight is model.lm_head.weight

    def test_trains_after_it(self, make_adapter, random_ids, model_type):
        adapter = make_adapter(model_type).train()
        adapter.resize_token_embeddings(70)
        input_ids = torch.full((1, 4), 69)
        loss = adapter(input_ids, labels=input_ids).loss
        loss.backward()
        assert adapter.lm_head.weight.grad[69].any()
        torch.optim.SGD(adapter.parameters(), lr=0.1).step()
        assert adapter(input_ids, labels=input_ids).loss < loss

    def test_keeps_frozen_embeddings_frozen(self, make_adapter, model_type):
        adapter = make_adapter(model_type, tie_embeddings=False)
        adapter.get_input_embeddings().requires_grad_(False)
        adapter.resize_token_embeddings(70)
        assert not adapter.get_input_embeddings().weight.requires_grad
        assert adapter.lm_head.weight.requires_grad


class TestCopies:
    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize(
        "duplicate",
        [copy.deepcopy, lambda adapter: pickle.loads(pickle.dumps(adapter))],
        ids=["deepcopy", "pickle"],
    )
    def test_are_independent_and_give_the_same_logits(
        self, make_adapter, random_ids, model_type, duplicate, tied
    ):
        adapter, input_ids = make_adapter(model_type, tie_embeddings=tied), random_ids(2, 7)
        expected = logits_of(adapter, input_ids)
        twin = duplicate(adapter)
        assert not {id(p) for p in twin.parameters()} & {id(p) for p in adapter.parameters()}
        assert (twin.lm_head.weight is twin.get_input_embeddings().weight) == tied
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.zero_()
        assert torch.equal(logits_of(twin, input_ids), expected)
        output = twin.generate(input_ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
        assert output.shape == (2, 10)
        assert twin.to_llm_model().config == adapter.to_llm_model().config

    @pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
    def test_exported_program_gives_the_same_logits(
        self, make_adapter, random_ids, model_type, strict
    ):
        adapter = make_adapter(model_type)
        length = torch.export.Dim("length", min=2, max=40)
        inputs = {"input_ids": random_ids(2, 7)}
        program = torch.export.export(
            adapter,
            (),
            {**inputs, "use_cache": False},
            dynamic_shapes={
                "input_ids": {1: length}, "use_cache": None,
            },
            strict=strict,
        )  # fmt: skip
        for n in (7, 11):
            actual = program.module()(input_ids=random_ids(2, n), use_cache=False).logits
            torch.testing.assert_close(actual, logits_of(adapter, random_ids(2, n)), **CLOSE)


class TestPlacement:
    @pytest.mark.parametrize("kind", ["device_map", "cpu", "disk"])
    @pytest.mark.parametrize("tied", [True, False])
    def test_gives_the_same_logits_and_tokens(
        self, make_adapter, random_ids, tmp_path, model_type, kind, tied
    ):
        adapter, input_ids = make_adapter(model_type, tie_embeddings=tied), random_ids(2, 6)
        options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
        expected = logits_of(adapter, input_ids), adapter.generate(input_ids, **options)
        adapter.save_pretrained(tmp_path / "model")
        if kind == "device_map":
            placed = AutoModelForCausalLM.from_pretrained(
                tmp_path / "model", device_map={"": "cpu"}
            )
            assert {parameter.device.type for parameter in placed.parameters()} == {"cpu"}
        else:
            placed = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
            if kind == "cpu":
                cpu_offload(placed, execution_device=torch.device("cpu"))
            else:
                disk_offload(placed, tmp_path / "offload", execution_device=torch.device("cpu"))
            weight = placed.model.decoder.blocks[0].block.attention.qkv_proj.weight
            assert weight.device.type == "meta"
        torch.testing.assert_close(logits_of(placed, input_ids), expected[0], **CLOSE)
        assert torch.equal(placed.generate(input_ids, **options), expected[1])

    def test_a_block_is_never_split(self, make_adapter, model_type):
        from accelerate import infer_auto_device_map

        adapter = make_adapter(model_type)
        block = sum(p.numel() * 4 for p in adapter.model.decoder.blocks[0].parameters())
        rest = sum(p.numel() * 4 for p in adapter.parameters()) - 3 * block
        device_map = infer_auto_device_map(
            adapter,
            max_memory={"cpu": int(rest + 2.5 * block), "disk": 10**9},
            no_split_module_classes=adapter._no_split_modules,
        )
        blocks = [name for name in device_map if ".blocks." in name]
        assert {name.split(".blocks.")[1] for name in blocks} <= {"0", "1", "2"}
        assert len(set(device_map.values())) == 2
