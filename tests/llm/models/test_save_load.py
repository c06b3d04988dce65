"""The folders: written by ours and opened by stock transformers, and the other way round."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import torch
import transformers

from llm.models import ARCHITECTURES, load_pretrained

ATOL = 1e-5
EXPORTABLE = {"intermediate_dim": None}  # openai-gpt has no other width

OPEN_IN_STOCK = """
import json, os, pathlib, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import safetensors.torch, torch
from transformers import AutoModelForCausalLM

for home in map(pathlib.Path, sys.argv[1:]):
    model, info = AutoModelForCausalLM.from_pretrained(home / "model", output_loading_info=True)
    input_ids = safetensors.torch.load_file(home / "ids.safetensors")["input_ids"]
    with torch.no_grad():
        logits = model.eval()(input_ids).logits
    safetensors.torch.save_file({"logits": logits}, home / "logits.safetensors")
    ours = [name for name in sys.modules if name.split(".")[0] in ("llm", "hf_proxy")]
    report = {
        "class": type(model).__name__,
        "dtype": str(model.dtype),
        "info": {key: sorted(map(str, value)) for key, value in info.items()},
        "eos_token_id": model.generation_config.eos_token_id,
        "bos_token_id": model.generation_config.bos_token_id,
        "pad_token_id": model.generation_config.pad_token_id,
        "tied": model.lm_head.weight is model.get_input_embeddings().weight,
        "project_modules": ours,
    }
    (home / "report.json").write_text(json.dumps(report))
"""

CASES = {
    "plain": {},
    "tokens": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3},
    "untied": {"tie_embeddings": False},
    "dropout": {"dropout": 0.3, "attention_dropout": 0.0, "norm_eps": 1e-3},
    "activation": {"activation": "relu"},
    "bfloat16": {},
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory, make_model, random_ids):
    """(model, ids, what a process without this project made of its folder), per case."""
    root = tmp_path_factory.mktemp("ours")
    models, homes = {}, []
    for model_type in ARCHITECTURES:
        for case, fields in CASES.items():
            model = make_model(model_type, **{**EXPORTABLE, **fields})
            if case == "bfloat16":
                model.to(torch.bfloat16)
            home = root / f"{model_type}-{case}"
            model.save_pretrained(home / "model")
            ids = random_ids(model.config.vocab_size, 3, model.config.max_position_embeddings)
            safetensors.torch.save_file({"input_ids": ids}, home / "ids.safetensors")
            homes.append(str(home))
            models[model_type, case] = model, ids, home
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", OPEN_IN_STOCK, *homes], check=True, cwd=root, env=environment
    )
    return {
        key: (
            model,
            ids,
            json.loads((home / "report.json").read_text()),
            safetensors.torch.load_file(home / "logits.safetensors")["logits"],
        )
        for key, (model, ids, home) in models.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_stock_transformers_opens_our_folder_without_this_project(
    opened, model_type, case, record_property
):
    model, ids, report, logits = opened[model_type, case]
    assert report["project_modules"] == []
    assert report["class"] == {"gpt": "OpenAIGPTLMHeadModel", "gpt2": "GPT2LMHeadModel"}[model_type]
    for kind, names in report["info"].items():
        assert names == [], kind
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= set(report["info"])
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert report[token] == getattr(model.config, token)
    assert report["tied"] == model.config.tie_embeddings
    assert report["dtype"] == str(model.lm_head.weight.dtype)
    with torch.no_grad():
        expected = model(ids)
    difference = (logits - expected).abs().max().item()
    if case == "bfloat16":
        assert difference / expected.abs().max().item() < 0.05
    else:
        record_property("max_abs_diff exported", difference)
        assert difference <= ATOL


def test_the_files_are_those_that_stock_writes(model_type, pair_folders):
    """Same files, same tensors to the bit, same metadata, nothing stored twice."""
    theirs, ours = pair_folders(model_type)
    names = {"config.json", "generation_config.json", "model.safetensors"}
    assert {path.name for path in ours.iterdir()} == names
    assert {path.name for path in theirs.iterdir()} >= names
    a = safetensors.torch.load_file(theirs / "model.safetensors")
    b = safetensors.torch.load_file(ours / "model.safetensors")
    assert {n: (t.dtype, t.shape) for n, t in a.items()} == {
        n: (t.dtype, t.shape) for n, t in b.items()
    }
    assert all(torch.equal(a[name], b[name]) for name in a)
    with (
        safetensors.safe_open(theirs / "model.safetensors", "pt") as x,
        safetensors.safe_open(ours / "model.safetensors", "pt") as y,
    ):
        assert x.metadata() == y.metadata()


def test_the_configuration_files_agree_with_stocks(model_type, pair_folders):
    theirs, ours = pair_folders(model_type)
    a = json.loads((theirs / "config.json").read_text())
    b = json.loads((ours / "config.json").read_text())
    for key in set(a) & set(b) - {"transformers_version"}:
        assert a[key] == b[key], key
    assert {"model_type", "architectures", "dtype", "n_embd", "n_layer", "n_head"} <= set(b)
    generation = transformers.GenerationConfig.from_pretrained(ours)
    assert generation.eos_token_id == b["eos_token_id"] == 6


@pytest.fixture
def pair_folders(make_stock, tmp_path):
    """A folder that stock wrote and one that ours wrote after loading it."""

    def make(model_type):
        stock = make_stock(model_type, eos_token_id=6, bos_token_id=5, pad_token_id=4)
        stock.save_pretrained(tmp_path / "theirs")
        load_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
        return tmp_path / "theirs", tmp_path / "ours"

    return make


def test_importing_saving_and_loading_import_no_transformers(tmp_path, tiny):
    code = f"""
import sys
from llm.models import ARCHITECTURES, load_pretrained
for model_type, config in {({t: tiny(t, **EXPORTABLE) for t in sorted(ARCHITECTURES)})!r}.items():
    model = ARCHITECTURES[model_type].model(config)
    model.save_pretrained({str(tmp_path)!r} + "/" + model_type)
    load_pretrained({str(tmp_path)!r} + "/" + model_type)
    ARCHITECTURES[model_type].model.from_pretrained({str(tmp_path)!r} + "/" + model_type)
import llm.generation
found = [name for name in sys.modules if name.split(".")[0] in ("transformers", "tokenizers")]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------- folders that transformers wrote


def test_a_folder_of_transformers_opens_in_ours(pair, tmp_path, random_ids, record_property):
    model_type, stock, _ = pair
    stock.save_pretrained(tmp_path)
    for loaded in (
        ARCHITECTURES[model_type].model.from_pretrained(tmp_path),
        load_pretrained(tmp_path),
    ):
        assert type(loaded) is ARCHITECTURES[model_type].model
        ids = random_ids(loaded.config.vocab_size, 3, loaded.config.max_position_embeddings)
        with torch.no_grad():
            difference = (loaded.eval()(ids) - stock(ids).logits).abs().max().item()
        record_property("max_abs_diff imported", difference)
        assert difference <= ATOL


def test_a_path_may_be_a_string(model_type, make_model, tmp_path):
    model = make_model(model_type, **EXPORTABLE)
    model.save_pretrained(str(tmp_path / "new" / "folder"))
    assert load_pretrained(str(tmp_path / "new" / "folder")).config == model.config


def same_weights(model, other):
    a, b = model.state_dict(), other.state_dict()
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
def test_a_sharded_folder_opens(model_type, cached_pair, tmp_path):
    stock, ours = cached_pair(model_type, 0)
    stock.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert same_weights(load_pretrained(tmp_path), ours)


@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
def test_saving_over_a_sharded_folder_leaves_the_new_weights(
    model_type, cached_pair, make_model, tmp_path
):
    stock, _ = cached_pair(model_type, 0)
    stock.save_pretrained(tmp_path, max_shard_size="20KB")
    model = make_model(model_type, **EXPORTABLE)
    model.save_pretrained(tmp_path)
    assert same_weights(load_pretrained(tmp_path), model)
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    stock.save_pretrained(tmp_path / "as stock reads it")
    assert same_weights(load_pretrained(tmp_path / "as stock reads it"), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
def test_weights_keep_their_dtype(model_type, make_stock, tmp_path, dtype):
    stock = make_stock(model_type).to(dtype)
    stock.save_pretrained(tmp_path / "theirs")
    ours = load_pretrained(tmp_path / "theirs")
    assert {parameter.dtype for parameter in ours.parameters()} == {dtype}
    ours.save_pretrained(tmp_path / "ours")
    a = safetensors.torch.load_file(tmp_path / "theirs" / "model.safetensors")
    b = safetensors.torch.load_file(tmp_path / "ours" / "model.safetensors")
    assert set(a) == set(b)
    assert all(torch.equal(a[name], b[name]) and b[name].dtype == dtype for name in a)


@pytest.fixture
def folder(tmp_path, make_stock):
    """A folder of transformers, and a way to edit its weights."""

    class Folder:
        def __init__(self, model_type):
            self.path = tmp_path / "model"
            self.stock = make_stock(model_type)
            self.stock.save_pretrained(self.path)
            self.weights = safetensors.torch.load_file(self.path / "model.safetensors")
            self.model = ARCHITECTURES[model_type].model
            self.expected = self.model.from_pretrained(self.path)

        def write(self, weights):
            safetensors.torch.save_file(
                weights, self.path / "model.safetensors", metadata={"format": "pt"}
            )

        def edit_config(self, **changes):
            config = json.loads((self.path / "config.json").read_text())
            (self.path / "config.json").write_text(json.dumps({**config, **changes}))

        def load(self):
            loaded = self.model.from_pretrained(self.path)
            return same_weights(loaded, self.expected)

    return Folder


def trunk(weights):
    """The names of a saved trunk, as the published GPT-2 file has them."""
    return {name.removeprefix("transformer."): weight for name, weight in weights.items()}


def with_buffers(weights, prefix=""):
    for i in range(2):
        weights[f"{prefix}h.{i}.attn.bias"] = torch.ones(32, 32).tril()[None, None]
        weights[f"{prefix}h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    return weights


@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
def test_a_trunk_without_the_prefix_opens(folder, model_type):
    place = folder(model_type)
    assert all(name.startswith("transformer.") for name in place.weights)
    place.write(trunk(place.weights))
    assert place.load()


@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
def test_the_buffers_of_old_files_are_ignored(folder, model_type):
    place = folder(model_type)
    place.write(with_buffers(dict(place.weights), "transformer."))
    assert place.load()
    place.write(with_buffers(trunk(place.weights)))
    assert place.load()


@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
def test_a_file_that_stores_the_tied_head_too_opens(folder, model_type):
    place = folder(model_type)
    head = place.stock.lm_head.weight.detach().clone()
    place.write({**place.weights, "lm_head.weight": head})
    assert place.load()


# ---------------------------------------------------------------------- errors

SOME_WEIGHT = {"gpt": "h.1.mlp.c_fc.bias", "gpt2": "h.1.ln_2.weight"}
EMBEDDING = {"gpt": "tokens_embed.weight", "gpt2": "wte.weight"}
PREFIXED = pytest.mark.parametrize("prefix", ["transformer.", ""])


@PREFIXED
@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
@pytest.mark.parametrize("which", [SOME_WEIGHT, EMBEDDING])
def test_a_missing_weight_is_an_error_naming_it(folder, model_type, prefix, which):
    place = folder(model_type)
    weights = place.weights if prefix else trunk(place.weights)
    del weights[prefix + which[model_type]]
    place.write(weights)
    with pytest.raises(ValueError, match=re.escape(which[model_type])):
        place.load()


def test_a_missing_untied_head_is_an_error_naming_it(folder):
    place = folder("gpt2")
    place.edit_config(tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        place.load()


@pytest.mark.parametrize(
    "name",
    [
        "transformer.h.7.ln_1.weight",
        "transformer.h.0.crossattention.c_attn.weight",
        "score.weight",
        "transformer.h.0.attn.rotary.inv_freq",
    ],
)
@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
def test_an_unused_weight_is_an_error_naming_it(folder, model_type, name):
    place = folder(model_type)
    place.write({**place.weights, name: torch.zeros(3)})
    with pytest.raises(ValueError, match=re.escape(name.removeprefix("transformer."))):
        place.load()


@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
def test_a_wrong_shape_is_an_error_naming_the_weight_and_both_shapes(folder, model_type):
    place = folder(model_type)
    name = "transformer." + EMBEDDING[model_type]
    place.write({**place.weights, name: place.weights[name][:-1].contiguous()})
    with pytest.raises(ValueError, match=r"(?s)(?=.*(embed|wte))(?=.*\b96\b)(?=.*\b97\b)"):
        place.load()


@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
def test_a_square_weight_of_the_wrong_shape_is_an_error(folder, model_type):
    place = folder(model_type)
    name = "transformer.h.0.attn.c_attn.weight"
    place.write({**place.weights, name: place.weights[name].T.contiguous()})
    with pytest.raises(ValueError, match=r"(?s)(?=.*\b32\b)(?=.*\b96\b)"):
        place.load()


@pytest.mark.parametrize(("model_type", "other"), [("gpt", "gpt2"), ("gpt2", "gpt")])
def test_the_folder_of_another_model_is_an_error_naming_both(folder, model_type, other):
    place = folder(model_type)
    names = {"gpt": "openai-gpt", "gpt2": "gpt2"}
    with pytest.raises(ValueError, match=rf"(?s)(?=.*{names[model_type]})(?=.*{names[other]})"):
        ARCHITECTURES[other].model.from_pretrained(place.path)


def test_an_unknown_model_type_is_an_error_naming_it_and_the_known_ones(folder):
    place = folder("gpt2")
    place.edit_config(model_type="t5")
    with pytest.raises(ValueError, match=r"(?s)(?=.*\bt5\b)(?=.*openai-gpt)(?=.*gpt2)"):
        load_pretrained(place.path)


def test_a_configuration_without_a_model_type_is_an_error_naming_it(folder):
    place = folder("gpt2")
    (place.path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="model_type"):
        load_pretrained(place.path)


@pytest.mark.parametrize("load", [load_pretrained, ARCHITECTURES["gpt2"].model.from_pretrained])
def test_a_missing_folder_is_an_error_naming_it(load, tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such-folder"):
        load(tmp_path / "no-such-folder")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
def test_a_missing_file_is_an_error_naming_it(folder, model_type, name):
    place = folder(model_type)
    (place.path / name).unlink()
    for load in (load_pretrained, place.model.from_pretrained):
        with pytest.raises(FileNotFoundError, match=re.escape(name)):
            load(place.path)


def test_a_missing_generation_configuration_is_none(folder):
    """The weights and their configuration are the model; published folders may have no more."""
    place = folder("gpt2")
    (place.path / "generation_config.json").unlink()
    assert place.load()


def test_a_missing_shard_is_an_error_naming_it(make_stock, tmp_path):
    make_stock("gpt2").save_pretrained(tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(shard.name)):
        load_pretrained(tmp_path)


def test_a_pickle_alone_is_an_error_naming_it(folder):
    place = folder("gpt2")
    (place.path / "model.safetensors").unlink()
    torch.save(place.stock.state_dict(), place.path / "pytorch_model.bin")
    with pytest.raises(
        (ValueError, FileNotFoundError), match=r"(?s)(?=.*pytorch_model\.bin)(?=.*safetensors)"
    ):
        place.load()


@pytest.mark.parametrize("damage", ["truncated", "empty", "header", "noise"])
def test_a_damaged_weight_file_is_an_error_naming_it(folder, damage):
    place = folder("gpt2")
    path = place.path / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(
        {
            "truncated": data[:-100],
            "empty": b"",
            "header": data[:8] + b"#" + data[9:],
            "noise": bytes(range(256)) * 40,
        }[damage]
    )
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        place.load()


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_damaged_configuration_is_an_error_naming_it(folder, text):
    place = folder("gpt2")
    (place.path / "config.json").write_text(text)
    for load in (load_pretrained, place.model.from_pretrained):
        with pytest.raises(ValueError, match=r"config\.json"):
            load(place.path)


def test_a_failed_export_leaves_what_was_there(make_model, tmp_path):
    """What cannot be written is found out before anything is."""
    good = make_model("gpt", **EXPORTABLE)
    good.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="intermediate_dim"):
        make_model("gpt", intermediate_dim=50).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    shutil.rmtree(tmp_path)
    with pytest.raises(ValueError, match="intermediate_dim"):
        make_model("gpt", intermediate_dim=50).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
def test_weights_of_whole_numbers_are_refused(folder, model_type):
    place = folder(model_type)
    weights = {name: weight.to(torch.int8) for name, weight in place.weights.items()}
    place.write(weights)
    with pytest.raises(ValueError, match=r"torch\.int8, not floating point"):
        place.load()


@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
def test_a_loaded_model_does_not_change_with_its_file(folder, model_type):
    place = folder(model_type)
    loaded = place.model.from_pretrained(place.path)
    path = place.path / "model.safetensors"
    with open(path, "r+b") as file:
        file.seek(-1000, 2)
        file.write(bytes(1000))
    assert same_weights(loaded, place.expected)


@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_a_matrix_of_the_wrong_shape_is_named(folder, model_type, shape):
    place = folder(model_type)
    place.write({**place.weights, "transformer.h.1.mlp.c_fc.weight": torch.zeros(shape)})
    with pytest.raises(ValueError, match=r"blocks\.1\.feed_forward\.up_proj\.weight has shape"):
        place.load()
